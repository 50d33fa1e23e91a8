/*
 * status.c
 *	  What the views show that is not in a table: how far behind the target is,
 *	  and what the queue holds.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "api/result.h"
#include "base/spi.h"
#include "catalog/key.h"
#include "catalog/queue_read.h"
#include "catalog/relation.h"
#include "catalog/shared.h"
#include "catalog/worker.h"

PG_FUNCTION_INFO_V1(mt_sync_state);
PG_FUNCTION_INFO_V1(mt_pending_entries);

PGDLLEXPORT Datum mt_sync_state(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_pending_entries(PG_FUNCTION_ARGS);

/* A table of the migration, as far as the queue's entries are to be understood. */
typedef struct MtPendingTable
{
	MtRelation *relation;
	MtMark	   *captured_from;
	bool		joined;
	bool		described;
	MtKeyDesc	key;
} MtPendingTable;

typedef struct MtPending
{
	FunctionCallInfo fcinfo;	/* NULL: count only */
	MemoryContext context;		/* of one entry that is given */
	List	   *tables;
	int64		entries;
	TimestampTz oldest;			/* of tables that have joined, 0: none */
} MtPending;

/* A worker that has not asked the target for so long does not know. */
#define UNSEEN_MS 2000

static void set_reverse(const MtMigration *migration, Datum *values, bool *nulls);
static void read_pending(const MtMigration *migration, MtPending *pending);
static MtMark *known_mark(const MtMigration *migration, MtQueueReader *reader, bool everything);
static List *list_tables(int32 migration);
static MtPendingTable *find_table(MtPending *pending, int32 id);
static void take_row(void *arg, const MtQueueRow *row);
static void give_entry(MtPending *pending, MtPendingTable *table, const MtQueueRow *row, const MtEntry *entry);
static char *key_text(MtPendingTable *table, const MtEntry *entry);

/* mt_sync_state returns a row for a migration: running, lag, keys pending, bytes of the queue. */
Datum
mt_sync_state(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_migration_by_id(PG_GETARG_INT32(0), false);
	MtPending	pending = {NULL};
	TupleDesc	tupdesc;
	Datum		values[6];
	bool		nulls[6] = {false};
	int64		bytes = 0;

	mt_migration_check_owner(migration);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		if (OidIsValid(migration->queue[i]))
			bytes += DatumGetInt64(DirectFunctionCall1(pg_total_relation_size, ObjectIdGetDatum(migration->queue[i])));
	read_pending(migration, &pending);
	values[0] = BoolGetDatum(mt_worker_pid(migration->id, MT_WORKER_SYNC) != 0);
	nulls[1] = !migration->syncing;
	values[1] = nulls[1] ? (Datum) 0 :
		DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(pending.oldest ? GetCurrentTimestamp() : 0),
											   TimestampTzGetDatum(pending.oldest));
	nulls[2] = !migration->syncing;
	values[2] = Int64GetDatum(pending.entries);
	values[3] = Int64GetDatum(bytes);
	set_reverse(migration, values + 4, nulls + 4);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/* set_reverse sets lag and pending keys of the way back, as the worker has them. */
static void
set_reverse(const MtMigration *migration, Datum *values, bool *nulls)
{
	MtShared   *shared = migration->reversing ? mt_shared_attach(migration->worker_shared) : NULL;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz since = now;

	nulls[0] = nulls[1] = true;
	if (shared == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_SHARED);
	if (shared->reverse_seen != 0)
	{
		nulls[0] = false;
		values[1] = Int64GetDatum(shared->reverse_pending);
		if (shared->reverse_oldest != 0)
			since = shared->reverse_oldest;
		else if (TimestampDifferenceExceeds(shared->reverse_seen, now, UNSEEN_MS))
			since = shared->reverse_seen;
		/* That nothing waits is not known while the target does not answer. */
		nulls[1] = shared->reverse_pending == 0 && since != now;
	}
	LWLockRelease(&shared->lock);
	values[0] = DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(now), TimestampTzGetDatum(Min(since, now)));
}

/* mt_pending_entries returns the queue of a migration, decoded. */
Datum
mt_pending_entries(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_migration_by_id(PG_GETARG_INT32(0), false);
	MtPending	pending = {fcinfo};

	mt_migration_check_owner(migration);
	InitMaterializedSRF(fcinfo, 0);
	pending.context = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers pending entry", ALLOCSET_SMALL_SIZES);
	read_pending(migration, &pending);
	MemoryContextDelete(pending.context);
	return (Datum) 0;
}

/* read_pending reads what the target does not have yet. */
static void
read_pending(const MtMigration *migration, MtPending *pending)
{
	MtQueueReader *reader;
	MtMark	   *mark;
	ListCell   *cell;
	bool		everything = false;
	Snapshot	snapshot;

	if (!OidIsValid(migration->queue[0]))
		return;
	pending->tables = list_tables(migration->id);
	foreach(cell, pending->tables)
		everything = everything || !((MtPendingTable *) lfirst(cell))->joined;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(snapshot);
	reader = mt_queue_reader_create(migration);
	mark = known_mark(migration, reader, everything);
	mt_queue_read(reader, snapshot, mark, everything, take_row, pending);
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
}

/*
 * known_mark returns the mark as the worker publishes it, with how far its reader has come.
 *
 * A table that is still copied needs its entries from the queue's beginning, so there is no short cut.
 */
static MtMark *
known_mark(const MtMigration *migration, MtQueueReader *reader, bool everything)
{
	MtShared   *shared = mt_shared_attach(migration->worker_shared);
	char	   *text = NULL;

	if (shared != NULL)
	{
		LWLockAcquire(&shared->lock, LW_SHARED);
		if (shared->mark[0] != '\0')
		{
			text = pstrdup(shared->mark);
			for (int i = 0; i < MT_QUEUE_SEGMENTS && !everything; i++)
				reader->segments[i].settled = shared->settled[i];
		}
		LWLockRelease(&shared->lock);
	}
	if (text == NULL)
		text = migration->mark;
	return mt_mark_parse(text ? text : "0:0:");
}

static List *
list_tables(int32 migration)
{
	List	   *tables = NIL;
	ListCell   *cell;

	foreach(cell, mt_relation_list(migration, "realtime"))
	{
		MtPendingTable *table = palloc0(sizeof(MtPendingTable));

		table->relation = (MtRelation *) lfirst(cell);
		if (!table->relation->captured || table->relation->captured_from == NULL)
			continue;
		table->captured_from = mt_mark_parse(table->relation->captured_from);
		table->joined = strcmp(table->relation->state, "syncing") == 0;
		tables = lappend(tables, table);
	}
	return tables;
}

static MtPendingTable *
find_table(MtPending *pending, int32 id)
{
	ListCell   *cell;

	foreach(cell, pending->tables)
		if (((MtPendingTable *) lfirst(cell))->relation->id == id)
			return (MtPendingTable *) lfirst(cell);
	return NULL;
}

/* take_row counts the entries of a row that the target does not have. */
static void
take_row(void *arg, const MtQueueRow *row)
{
	MtPending  *pending = (MtPending *) arg;
	const char *at = row->entries;
	MtEntry		entry;

	while (mt_entry_next(&at, row->entries + row->length, &entry))
	{
		MtPendingTable *table = find_table(pending, entry.relation);

		if (table == NULL ||
			(table->joined ? row->sent : mt_mark_sees(table->captured_from, row->xid)))
			continue;
		if (entry.kind == MT_ENTRY_TRUNCATE_PART)
			continue;			/* no change by itself */
		pending->entries++;
		if (table->joined && (pending->oldest == 0 || row->committed < pending->oldest))
			pending->oldest = row->committed;
		if (pending->fcinfo != NULL)
			give_entry(pending, table, row, &entry);
	}
}

/* give_entry returns a row, and leaves no memory behind: there may be millions. */
static void
give_entry(MtPending *pending, MtPendingTable *table, const MtQueueRow *row, const MtEntry *entry)
{
	static const char *const kinds[] = {"key", "truncate", "truncate where"};
	MemoryContext previous = MemoryContextSwitchTo(pending->context);
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = ObjectIdGetDatum(table->relation->relid);
	values[1] = CStringGetTextDatum(kinds[entry->kind]);
	nulls[2] = entry->kind == MT_ENTRY_TRUNCATE;
	values[2] = nulls[2] ? (Datum) 0 : CStringGetTextDatum(key_text(table, entry));
	values[3] = FullTransactionIdGetDatum(FullTransactionIdFromU64(row->xid));
	values[4] = TimestampTzGetDatum(row->committed);
	values[5] = CStringGetTextDatum(row->application);
	mt_result_row(pending->fcinfo, values, nulls);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(pending->context);
}

/* key_text shows a key as "(column, column) = (value, value)", or the condition of a truncation. */
static char *
key_text(MtPendingTable *table, const MtEntry *entry)
{
	Datum		key[INDEX_MAX_KEYS];
	StringInfoData names;
	StringInfoData values;

	if (entry->kind != MT_ENTRY_KEY)
		return pnstrdup(entry->bytes, entry->length);
	if (!table->described)
	{
		Relation	opened = table_open(table->relation->relid, AccessShareLock);

		mt_key_describe(&table->key, RelationGetDescr(opened), table->relation->nkeys, table->relation->key_columns);
		table->described = true;
		table_close(opened, AccessShareLock);
	}
	mt_key_decode(&table->key, entry->bytes, entry->length, key);
	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < table->key.count; i++)
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(table->key.columns[i].type, &output, &varlena);
		appendStringInfo(&names, "%s%s", i ? ", " : "", table->relation->key_columns[i]);
		appendStringInfo(&values, "%s%s", i ? ", " : "", OidOutputFunctionCall(output, key[i]));
	}
	return psprintf("(%s)=(%s)", names.data, values.data);
}
