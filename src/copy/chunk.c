/*
 * chunk.c
 *	  Copies one chunk: see copy.h for which rows belong to it.
 */
#include "copy/copy.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/lock.h"
#include "base/mark.h"
#include "base/row.h"
#include "endpoint/statements.h"

static void check_readable(Oid table, Oid owner);
static int64 stream_rows(Relation table, const MtCopyTask *task, const MtMark *captured_from, MtCopyStream *stream);
static bool seen(const MtMark *captured_from, HeapTupleHeader header, TransactionId next);
static void send_piece(void *arg, const char *data, int length);

/* mt_copy_chunk copies one chunk into the target's table, in the transaction that is open there. */
int64
mt_copy_chunk(const MtMigration *migration, MtRemote *remote, const MtRelation *relation,
			  const MtCopyTask *task, int64 *bytes)
{
	Relation	table = table_open(task->table, NoLock);
	MtColumns  *columns = mt_columns_describe(RelationGetDescr(table));
	MtMark	   *captured_from = mt_mark_parse(relation->captured_from);
	MtCopyStream stream;
	Oid			saved_user;
	int			saved_context;
	int64		rows;

	check_readable(task->table, migration->owner);
	GetUserIdAndSecContext(&saved_user, &saved_context);
	SetUserIdAndSecContext(migration->owner, saved_context | SECURITY_LOCAL_USERID_CHANGE);
	mt_remote_copy_begin(remote, mt_sql_copy(relation, columns));
	mt_copy_stream_begin(&stream, columns, send_piece, remote);
	rows = stream_rows(table, task, captured_from, &stream);
	mt_copy_stream_end(&stream);
	SetUserIdAndSecContext(saved_user, saved_context);
	if (mt_remote_copy_end(remote) != rows)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the target took another number of rows of table \"%s\" than were sent",
						RelationGetRelationName(table)),
				 errhint("Look for a BEFORE trigger or a rule that is enabled ALWAYS on the target's table.")));
	*bytes += stream.bytes;
	table_close(table, NoLock);
	return rows;
}

/* check_readable refuses a table that its migration's owner may not read whole. */
static void
check_readable(Oid table, Oid owner)
{
	AclResult	allowed = pg_class_aclcheck(table, owner, ACL_SELECT);

	if (allowed != ACLCHECK_OK)
		aclcheck_error(allowed, OBJECT_TABLE, get_rel_name(table));
	if (check_enable_rls(table, owner, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security hides rows of table \"%s\" from the owner of the migration",
						get_rel_name(table)),
				 errhint("Let the migration belong to a role with BYPASSRLS.")));
}

/* stream_rows sends the rows of the chunk that S0 sees, and counts them. */
static int64
stream_rows(Relation table, const MtCopyTask *task, const MtMark *captured_from, MtCopyStream *stream)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan_strat(table, snapshot, 0, NULL, true, false);
	TupleTableSlot *slot = table_slot_create(table, NULL);
	int64		last = Min(task->last_block, (int64) RelationGetNumberOfBlocks(table));
	TransactionId next = ReadNextTransactionId();

	PushActiveSnapshot(snapshot);
	/* Trailing empty pages may have been given back since the chunks were cut. */
	if (task->first_block < last)
	{
		heap_setscanlimits(scan, task->first_block, last - task->first_block);
		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			HeapTuple	tuple = ((HeapTupleTableSlot *) slot)->tuple;

			CHECK_FOR_INTERRUPTS();
			if (!seen(captured_from, tuple->t_data, next))
				continue;
			slot_getallattrs(slot);
			mt_copy_stream_put(stream, slot->tts_values, slot->tts_isnull);
		}
	}
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	return stream->rows;
}

/*
 * seen says whether S0 sees a row version.
 *
 * A frozen one keeps its transaction's id, which may be any number of times around
 * the counter old: it is new only if the id is one that was given out since S0.
 */
static bool
seen(const MtMark *captured_from, HeapTupleHeader header, TransactionId next)
{
	TransactionId first = (TransactionId) captured_from->xmin;
	TransactionId xmin = HeapTupleHeaderGetRawXmin(header);

	if (HeapTupleHeaderXminFrozen(header) && (uint32) (xmin - first) >= (uint32) (next - first))
		return true;
	return mt_mark_sees_tuple_xid(captured_from, xmin);
}

static void
send_piece(void *arg, const char *data, int length)
{
	mt_remote_copy_send((MtRemote *) arg, data, length);
}
