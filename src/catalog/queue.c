/*
 * queue.c
 *	  The queue's segments and how a row enters: see queue.h.
 *
 * The insertion is made by C and not by SQL, so that the privileges, the role
 * and the snapshot of the writer do not matter.
 */
#include "catalog/queue.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/hio.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "base/spi.h"

#define ENTRY_KIND_BITS 2

/* mt_queue_create creates the segments of a migration where it has none. */
void
mt_queue_create(MtMigration *migration)
{
	MtSpiScope	scope;

	if (OidIsValid(migration->queue[0]))
		return;
	mt_spi_begin(&scope);
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
	{
		char	   *name = psprintf("queue_%d_%d", migration->id, i);

		mt_spi_exec(SPI_OK_UTILITY,
					psprintf("CREATE TABLE migrate_tiers.%s (xid xid8 NOT NULL, committed timestamptz NOT NULL,"
							 " application text NOT NULL, entries bytea NOT NULL)"
							 " USING heap WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off,"
							 " vacuum_truncate = off, toast_tuple_target = 8160)",
							 name),
					MT_NO_ARGS);
		mt_spi_exec(SPI_OK_UTILITY,
					psprintf("ALTER TABLE migrate_tiers.%s ALTER entries SET STORAGE EXTERNAL", name), MT_NO_ARGS);
		mt_spi_exec(SPI_OK_UTILITY,
					psprintf("ALTER EXTENSION migrate_tiers ADD TABLE migrate_tiers.%s", name), MT_NO_ARGS);
		migration->queue[i] = mt_extension_table(name);
	}
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.migration SET queue = ARRAY[$2, $3, $4] WHERE id = $1",
				MT_ARGS(MT_INT4(migration->id), MT_OID(migration->queue[0]),
						MT_OID(migration->queue[1]), MT_OID(migration->queue[2])));
	mt_migration_invalidate();
	mt_spi_end(&scope);
}

/* mt_queue_drop drops the segments; no table may be captured any more. */
void
mt_queue_drop(MtMigration *migration)
{
	MtSpiScope	scope;

	if (!OidIsValid(migration->queue[0]))
		return;
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.migration SET queue = '{}' WHERE id = $1",
				MT_ARGS(MT_INT4(migration->id)));
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
	{
		char	   *name = psprintf("queue_%d_%d", migration->id, i);

		mt_spi_exec(SPI_OK_UTILITY,
					psprintf("ALTER EXTENSION migrate_tiers DROP TABLE migrate_tiers.%s", name), MT_NO_ARGS);
		mt_spi_exec(SPI_OK_UTILITY, psprintf("DROP TABLE migrate_tiers.%s", name), MT_NO_ARGS);
		migration->queue[i] = InvalidOid;
	}
	mt_migration_invalidate();
	mt_spi_end(&scope);
}

/* mt_queue_load reads what a writer needs, past the snapshot of its transaction. */
bool
mt_queue_load(int32 migration, MtQueue *queue)
{
	Oid			table = mt_extension_table("migration");
	Relation	relation;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;
	bool		may_drop = false;
	bool		reversing = false;

	if (!OidIsValid(table))
		return false;
	relation = table_open(table, AccessShareLock);
	scan = systable_beginscan(relation, InvalidOid, false, NULL, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[MaxHeapAttributeNumber];
		bool		nulls[MaxHeapAttributeNumber];
		TupleDesc	tupdesc = RelationGetDescr(relation);

		heap_deform_tuple(tuple, tupdesc, values, nulls);
		if (DatumGetInt32(values[0]) != migration)
			continue;
		found = true;
		memset(queue, 0, sizeof(*queue));
		queue->migration = migration;
		for (int i = 1; i < tupdesc->natts; i++)
		{
			const char *name = NameStr(TupleDescAttr(tupdesc, i)->attname);

			if (nulls[i])
				continue;
			if (strcmp(name, "syncing") == 0)
				queue->worker_wanted = queue->worker_wanted || DatumGetBool(values[i]);
			else if (strcmp(name, "paused") == 0)
				queue->worker_wanted = queue->worker_wanted && !DatumGetBool(values[i]);
			else if (strcmp(name, "fenced") == 0)
				queue->fenced = DatumGetBool(values[i]);
			else if (strcmp(name, "queue_limit") == 0)
				queue->limit = DatumGetInt64(values[i]);
			else if (strcmp(name, "phase") == 0)
				may_drop = mt_phase_parse(TextDatumGetCString(values[i])) <= MT_SYNCING;
			else if (strcmp(name, "reversing") == 0)
				reversing = DatumGetBool(values[i]);
			else if (strcmp(name, "worker_pid") == 0)
				queue->worker_pid = DatumGetInt32(values[i]);
			else if (strcmp(name, "queue_retention") == 0)
			{
				Interval   *interval = DatumGetIntervalP(values[i]);

				queue->retention = interval->time + (interval->day + interval->month * INT64CONST(30)) * USECS_PER_DAY;
			}
			else if (strcmp(name, "queue") == 0)
			{
				ArrayType  *array = DatumGetArrayTypeP(values[i]);

				if (ARR_NDIM(array) == 1 && ARR_DIMS(array)[0] == MT_QUEUE_SEGMENTS)
					memcpy(queue->segments, ARR_DATA_PTR(array), sizeof(queue->segments));
			}
		}
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	/* Where the target may be written, or is about to be, no table can be copied again: nothing may be dropped. */
	if (found && (!may_drop || reversing))
		queue->limit = 0;
	queue->valid = found;
	return found;
}

/* mt_queue_exists looks for a migration that has segments, past the snapshot of the transaction. */
bool
mt_queue_exists(void)
{
	Relation	relation = table_open(mt_extension_table("migration"), AccessShareLock);
	AttrNumber	column = get_attnum(RelationGetRelid(relation), "queue");
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	bool		found = false;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		queue = heap_getattr(tuple, column, RelationGetDescr(relation), &isnull);

		found = !isnull && ARR_NDIM(DatumGetArrayTypeP(queue)) > 0;
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return found;
}

/* mt_queue_insert inserts one row of entries; true when it began a page: then the queue has grown. */
bool
mt_queue_insert(const MtQueue *queue, const char *entries, int length)
{
	TimestampTz now = GetCurrentTimestamp();
	Oid			segment = queue->segments[mt_queue_segment_at(queue->retention, now)];
	Relation	relation = table_open(segment, RowExclusiveLock);
	struct varlena *bytes = palloc(length + VARHDRSZ);
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};
	HeapTuple	tuple;
	bool		began;

	SET_VARSIZE(bytes, length + VARHDRSZ);
	memcpy(VARDATA(bytes), entries, length);
	values[0] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	values[1] = TimestampTzGetDatum(now);
	values[2] = CStringGetTextDatum(application_name ? application_name : "");
	values[3] = PointerGetDatum(bytes);
	tuple = heap_form_tuple(RelationGetDescr(relation), values, nulls);
	/* Forget the page that this backend used last: only the last page of all may take the row. */
	RelationSetTargetBlock(relation, InvalidBlockNumber);
	heap_insert(relation, tuple, GetCurrentCommandId(true), HEAP_INSERT_SKIP_FSM, NULL);
	began = ItemPointerGetOffsetNumber(&tuple->t_self) == FirstOffsetNumber;
	heap_freetuple(tuple);
	pfree(bytes);
	pfree(DatumGetPointer(values[2]));
	table_close(relation, RowExclusiveLock);
	return began;
}

/* mt_queue_bytes adds up the segments, with what is out of line. */
int64
mt_queue_bytes(const Oid *segments)
{
	int64		blocks = 0;

	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		if (OidIsValid(segments[i]))
		{
			Relation	relation = table_open(segments[i], AccessShareLock);

			blocks += RelationGetNumberOfBlocks(relation);
			if (OidIsValid(relation->rd_rel->reltoastrelid))
			{
				Relation	toast = table_open(relation->rd_rel->reltoastrelid, AccessShareLock);

				blocks += RelationGetNumberOfBlocks(toast);
				table_close(toast, AccessShareLock);
			}
			table_close(relation, AccessShareLock);
		}
	return blocks * BLCKSZ;
}

/* mt_entry_append appends an entry to the bytes of a row. */
void
mt_entry_append(StringInfo to, int32 relation, MtEntryKind kind, const char *bytes, int length)
{
	enlargeStringInfo(to, MT_ENTRY_HEAD_MAX + length);
	to->len += mt_varint_write(to->data + to->len, ((uint32) relation << ENTRY_KIND_BITS) | kind);
	to->len += mt_varint_write(to->data + to->len, length);
	memcpy(to->data + to->len, bytes, length);
	to->len += length;
}

/* mt_entry_next reads the entry at *at; false when there is none left. */
bool
mt_entry_next(const char **at, const char *end, MtEntry *entry)
{
	uint32		head;

	if (*at >= end)
		return false;
	head = mt_varint_read(at, end);
	entry->relation = (int32) (head >> ENTRY_KIND_BITS);
	entry->kind = (MtEntryKind) (head & ((1 << ENTRY_KIND_BITS) - 1));
	entry->length = (int) mt_varint_read(at, end);
	entry->bytes = *at;
	if (entry->length > end - *at)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a row of the queue cannot be decoded")));
	*at += entry->length;
	return true;
}

/* mt_queue_segment_at returns which segment is written at a moment. */
int
mt_queue_segment_at(int64 retention, TimestampTz now)
{
	return (int) ((now / Max(retention, USECS_PER_SEC)) % MT_QUEUE_SEGMENTS);
}
