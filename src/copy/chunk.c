/*
 * chunk.c
 *	  Copies one chunk: see copy.h for which rows belong to it.
 *
 * A frozen row version keeps its transaction's id, of 32 bits.  If that is one of
 * those that S0 does not see, the version may be new, or any number of times
 * around the counter old: it is in doubt.  It is left out, as a new one
 * would be, and its key is noted in the queue, as a new one's is: sync brings it.
 * The notes must be there before the chunk counts as copied, so a chunk in which
 * there was doubt is read again, at once: ids below task->noted are then not doubted.
 *
 * Rows may be frozen while it is read again, as those of a busy table under VACUUM
 * (FREEZE) are: with ids that were given out since the first reading.  So that reading
 * doubts ids ahead of the counter as well.  A row that carries one of them was there
 * already, frozen in a round before, and is noted; one that gets it later is new.
 * Hence the second reading is the last, unless as many ids were given out meanwhile.
 */
#include "copy/copy.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/lock.h"
#include "base/mark.h"
#include "base/row.h"
#include "catalog/key.h"
#include "catalog/queue.h"
#include "endpoint/statements.h"
#include "endpoint/remote_copy.h"

/* How far ahead of the counter ids are doubted. */
#define IDS_AHEAD 1048576

typedef enum MtRowAge
{
	MT_ROW_OLD,					/* S0 sees it: it is copied */
	MT_ROW_NEW,					/* sync brings it */
	MT_ROW_IN_DOUBT				/* left out and noted */
} MtRowAge;

typedef struct MtChunk
{
	MtCopyTask *task;
	const MtRelation *relation;
	MtMark	   *captured_from;
	TransactionId first;		/* no id given out since S0 is before it */
	TransactionId limit;		/* nor at or after this one, until all ids before it are noted */
	MtKeyDesc	key;
	MtQueue		queue;
	StringInfoData doubts;		/* entries of a queue row */
	StringInfoData key_bytes;
	MtCopyStream stream;
} MtChunk;

static void check_readable(Oid table, Oid owner);
static void stream_rows(Relation table, MtChunk *chunk);
static TransactionId doubt_limit(const MtChunk *chunk);
static MtRowAge row_age(const MtChunk *chunk, HeapTupleHeader header);
static void note_doubt(MtChunk *chunk, TupleTableSlot *slot);
static void flush_doubts(MtChunk *chunk);
static void send_piece(void *arg, const char *data, int length);

/* mt_copy_chunk copies one chunk into the target's table, in the transaction that is open there. */
int64
mt_copy_chunk(const MtMigration *migration, MtRemote *remote, const MtRelation *relation,
			  MtCopyTask *task, int64 *bytes)
{
	Relation	table = table_open(task->table, NoLock);
	MtColumns  *columns = mt_columns_describe(RelationGetDescr(table));
	MtChunk		chunk = {.task = task, .relation = relation};
	Oid			saved_user;
	int			saved_context;

	check_readable(task->table, migration->owner);
	chunk.captured_from = mt_mark_parse(relation->captured_from);
	mt_key_describe(&chunk.key, RelationGetDescr(table), relation->nkeys, relation->key_columns);
	if (!mt_queue_load(migration->id, &chunk.queue))
		elog(ERROR, "migration %d does not exist", migration->id);
	GetUserIdAndSecContext(&saved_user, &saved_context);
	SetUserIdAndSecContext(migration->owner, saved_context | SECURITY_LOCAL_USERID_CHANGE);
	mt_remote_copy_begin(remote, mt_sql_copy(relation, columns));
	mt_copy_stream_begin(&chunk.stream, columns, send_piece, remote);
	stream_rows(table, &chunk);
	mt_copy_stream_end(&chunk.stream);
	SetUserIdAndSecContext(saved_user, saved_context);
	if (mt_remote_copy_end(remote) != chunk.stream.rows)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the target took another number of rows of table \"%s\" than were sent",
						RelationGetRelationName(table)),
				 errhint("Look for a BEFORE trigger or a rule that is enabled ALWAYS on the target's table.")));
	*bytes += chunk.stream.bytes;
	table_close(table, NoLock);
	return chunk.stream.rows;
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
				 errmsg("row security hides rows of table %s from the owner of the migration",
						mt_table_name(table)),
				 errhint("Let the migration belong to a role with BYPASSRLS.")));
}

/* stream_rows sends the rows of the chunk that S0 sees, and notes those of which that is in doubt. */
static void
stream_rows(Relation table, MtChunk *chunk)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan_strat(table, snapshot, 0, NULL, true, false);
	TupleTableSlot *slot = table_slot_create(table, NULL);
	int64		first = chunk->task->first_block;
	/* Trailing empty pages may have been given back since the chunks were cut; past its own end a scan begins anew. */
	int64		last = Min(chunk->task->last_block, (int64) ((HeapScanDesc) scan)->rs_nblocks);

	chunk->task->visible_lsn = GetXLogInsertRecPtr();
	chunk->first = (TransactionId) chunk->captured_from->xmin;
	/* Asked after the snapshot: no row that it sees was written by a later one. */
	chunk->limit = doubt_limit(chunk);
	initStringInfo(&chunk->doubts);
	initStringInfo(&chunk->key_bytes);
	PushActiveSnapshot(snapshot);
	if (first < last)
	{
		heap_setscanlimits(scan, first, last - first);
		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			MtRowAge	age = row_age(chunk, ((HeapTupleTableSlot *) slot)->tuple->t_data);

			CHECK_FOR_INTERRUPTS();
			if (age == MT_ROW_OLD)
			{
				slot_getallattrs(slot);
				mt_copy_stream_put(&chunk->stream, slot->tts_values, slot->tts_isnull);
			}
			else if (age == MT_ROW_IN_DOUBT)
				note_doubt(chunk, slot);
		}
	}
	flush_doubts(chunk);
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	chunk->task->noted = chunk->limit;
}

/* doubt_limit says up to which id rows are in doubt: to where they are noted, if the counter is not there yet. */
static TransactionId
doubt_limit(const MtChunk *chunk)
{
	TransactionId next = ReadNextTransactionId();
	TransactionId noted = chunk->task->noted;

	if (TransactionIdIsValid(noted) && (uint32) (next - chunk->first) <= (uint32) (noted - chunk->first))
		return noted;
	next += IDS_AHEAD;
	/* No id: says that nothing is noted. */
	return TransactionIdIsValid(next) ? next : FirstNormalTransactionId;
}

/* row_age says whether S0 sees a row version. */
static MtRowAge
row_age(const MtChunk *chunk, HeapTupleHeader header)
{
	TransactionId xmin = HeapTupleHeaderGetRawXmin(header);
	uint32		after_first = xmin - chunk->first;

	if (!HeapTupleHeaderXminFrozen(header))
		return mt_mark_sees_tuple_xid(chunk->captured_from, xmin) ? MT_ROW_OLD : MT_ROW_NEW;
	/* What S0 sees is old, be it of now or of a round before; at an earlier reading it may not have been frozen yet. */
	if (after_first >= (uint32) (chunk->limit - chunk->first) || mt_mark_sees_tuple_xid(chunk->captured_from, xmin))
		return MT_ROW_OLD;
	if (TransactionIdIsValid(chunk->task->noted) && after_first < (uint32) (chunk->task->noted - chunk->first))
		return MT_ROW_NEW;
	return MT_ROW_IN_DOUBT;
}

static void
note_doubt(MtChunk *chunk, TupleTableSlot *slot)
{
	resetStringInfo(&chunk->key_bytes);
	mt_key_encode(&chunk->key, slot, &chunk->key_bytes);
	if (chunk->doubts.len > 0 && chunk->doubts.len + chunk->key_bytes.len > MT_QUEUE_ROW_BYTES)
		flush_doubts(chunk);
	mt_entry_append(&chunk->doubts, chunk->relation->id, MT_ENTRY_KEY, chunk->key_bytes.data, chunk->key_bytes.len);
	chunk->task->doubts++;
}

static void
flush_doubts(MtChunk *chunk)
{
	if (chunk->doubts.len > 0)
		mt_queue_insert(&chunk->queue, chunk->doubts.data, chunk->doubts.len);
	resetStringInfo(&chunk->doubts);
}

static void
send_piece(void *arg, const char *data, int length)
{
	mt_remote_copy_send((MtRemote *) arg, data, length);
}
