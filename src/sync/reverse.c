/*
 * reverse.c
 *	  One round of reverse sync: everything committed between two snapshots of
 *	  the target, applied in one transaction of the source.
 *
 * The same tick as forward with the sides exchanged.  The target's transaction is
 * REPEATABLE READ with snapshot T: what its queues hold that the reverse mark does
 * not see, and the rows of those keys, are read under T.  Our transaction takes
 * all of it and T as the new mark.  A crash anywhere repeats a tick.
 */
#include "sync/merge.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/settings.h"
#include "endpoint/statements_queue.h"
#include "sync/apply.h"
#include "sync/cancelled.h"
#include "sync/look.h"

/* How long to wait before the target's log is looked at again. */
#define FLUSH_WAIT_MS 5

/* Few keys are looked up one by one, whatever the target's planner thinks of its queue. */
#define BY_INDEX \
	"SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;" \
	" SET LOCAL max_parallel_workers_per_gather = 0"
#define BY_ANY_PATH "SET LOCAL enable_seqscan = on"

static bool begin_target(MtSync *sync, char **new_mark, TimestampTz *snapshot_time, char **touched);
static TimestampTz parse_time(const char *text);
static List *table_relations(MtSync *sync);
static void collect(MtSync *sync, char *touched);
static void collect_entry(void *arg, MtTable *table, const MtTargetEntry *entry);
static void spare_keys(MtTable *table);
static void show_mark(MtSync *sync);
static void finish(MtSync *sync, const char *new_mark, TimestampTz snapshot_time);
static void reset_tables(MtSync *sync);

/* mt_reverse_run runs one tick from the target and returns whether anything was sent. */
bool
mt_reverse_run(MtSync *sync)
{
	MemoryContext previous;
	char	   *new_mark;
	char	   *touched;
	TimestampTz snapshot_time;

	MemoryContextReset(sync->tick_context);
	previous = MemoryContextSwitchTo(sync->tick_context);
	reset_tables(sync);
	sync->keys = 0;
	sync->reverse_rows = 0;
	sync->reverse_oldest = 0;
	sync->reverse_seen = GetCurrentTimestamp();
	if (!mt_look_target_unsent(sync) || !begin_target(sync, &new_mark, &snapshot_time, &touched))
	{
		MemoryContextSwitchTo(previous);
		return false;
	}
	StartTransactionCommand();
	MemoryContextSwitchTo(sync->tick_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	sync->cancelled = false;
	mt_cancelled_load(sync);
	sync->merge = mt_merge_begin(sync, false, InvalidSnapshot);
	collect(sync, touched);
	mt_apply_run(sync, mt_reverse_apply, new_mark, snapshot_time);
	sync->merge = NULL;
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(sync->tick_context);
	show_mark(sync);
	finish(sync, new_mark, snapshot_time);
	MemoryContextSwitchTo(previous);
	return true;
}

/* show_mark shows whoever asks for it what is here now, beside the target's snapshot. */
static void
show_mark(MtSync *sync)
{
	TimestampTz time = GetCurrentTimestamp();

	if (sync->at_reverse_mark == NULL)
		return;
	StartTransactionCommand();
	XactIsoLevel = XACT_REPEATABLE_READ;
	XactReadOnly = true;
	MemoryContextSwitchTo(sync->tick_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	sync->at_reverse_mark(sync, GetActiveSnapshot(), time, sync->at_mark_arg);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(sync->tick_context);
}

/* begin_target takes the target's snapshot, and asks which tables have something. */
static bool
begin_target(MtSync *sync, char **new_mark, TimestampTz *snapshot_time, char **touched)
{
	MtRows	   *rows;
	const char *mark = sync->reverse_mark ? sync->reverse_mark : "0:0:";

	/* What is sent already stays in the queues for a while: only their indexes find the rest at once. */
	mt_remote_run(sync->remote, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = off");
	rows = mt_remote_query(sync->remote, mt_sql_queues_unsent(sync->migration, table_relations(sync)),
						   MT_PARAMS(mark));
	*new_mark = rows->values[0][0];
	*snapshot_time = parse_time(rows->values[0][1]);
	if (rows->values[0][2] != NULL)
		sync->reverse_oldest = parse_time(rows->values[0][2]);
	*touched = rows->values[0][3];
	sync->target_lsn = rows->values[0][4];
	return true;
}

static TimestampTz
parse_time(const char *text)
{
	return DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
												   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

static List *
table_relations(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	List	   *relations = NIL;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		relations = lappend(relations, table->relation);
	return relations;
}

/* collect reads the entries of the tables that have some; their numbers come separated by spaces. */
static void
collect(MtSync *sync, char *touched)
{
	char	   *at = touched;

	while (*at != '\0')
	{
		char	   *end;
		int32		id = (int32) strtol(at, &end, 10);
		MtTable    *table = hash_search(sync->tables, &id, HASH_FIND, NULL);

		mt_look_entries(sync, table, false, collect_entry, sync);
		if (table->both.spare_by != NULL)
			spare_keys(table);
		sync->keys += table->keys ? mt_keys_count(table->keys) : 0;
		at = *end == ' ' ? end + 1 : end;
	}
	mt_remote_run(sync->remote, sync->keys <= (uint64) mt_small_tick ? BY_INDEX : BY_ANY_PATH);
}

static void
collect_entry(void *arg, MtTable *table, const MtTargetEntry *entry)
{
	MtSync	   *sync = (MtSync *) arg;
	MtEntry		local = {.relation = table->id, .kind = entry->kind};
	MtUnsentKey *key;

	switch (entry->kind)
	{
		case MT_ENTRY_KEY:
			local.bytes = entry->key;
			local.length = entry->length;
			break;
		case MT_ENTRY_TRUNCATE:
		case MT_ENTRY_TRUNCATE_WHERE:
			local.bytes = entry->condition;
			local.length = entry->condition ? strlen(entry->condition) : 0;
			mt_writers_add(&table->both.truncates, entry->xid, entry->written, sync->tick_context);
			break;
		case MT_TARGET_SPARE:
			if (table->both.spare_by == NULL)
				table->both.spare_by = mt_unsent_create(table, sync->tick_context);
			key = mt_unsent_enter(table->both.spare_by, entry->key, entry->length);
			mt_writers_parse(&key->writers, entry->condition, sync->tick_context);
			return;
		default:
			elog(ERROR, "unknown kind %d in a queue of the target", entry->kind);
	}
	mt_table_note(table, &local, sync->tick_context);
}

/* spare_keys lists the keys that no truncation of this tick concerns. */
static void
spare_keys(MtTable *table)
{
	ListCell   *cell;

	foreach(cell, table->both.spare_by->all)
	{
		MtUnsentKey *key = (MtUnsentKey *) lfirst(cell);
		bool		all = table->both.truncates.count > 0;

		for (int i = 0; i < table->both.truncates.count && all; i++)
			all = mt_writers_has(&key->writers, table->both.truncates.xids[i]);
		if (!all)
			continue;
		if (table->both.spare == NULL)
			table->both.spare = mt_keys_create(CurrentMemoryContext);
		(void) mt_keys_add(table->both.spare, key->bytes, key->length);
	}
}

/*
 * mt_reverse_flush waits until what the tick has read survives a crash of the target: see
 * mt_apply_flush.  There it can only be waited for, a fraction of a second at most.
 */
void
mt_reverse_flush(MtSync *sync)
{
	for (;;)
	{
		MtRows	   *rows = mt_remote_query(sync->remote,
										   "SELECT pg_catalog.pg_current_wal_flush_lsn() OPERATOR(pg_catalog.>=) $1::pg_catalog.pg_lsn",
										   MT_PARAMS(sync->target_lsn));

		if (strcmp(rows->values[0][0], "t") == 0)
			return;
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, FLUSH_WAIT_MS, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
}

/* finish ends the target's transaction and tells it how far we are. */
static void
finish(MtSync *sync, const char *new_mark, TimestampTz snapshot_time)
{
	char	   *old = sync->reverse_mark;

	sync->reverse_rows = sync->rows;
	sync->reverse_oldest = 0;
	sync->reverse_mark = MemoryContextStrdup(sync->context, new_mark);
	sync->reverse_mark_time = snapshot_time;
	if (old)
		pfree(old);
	reset_tables(sync);
	mt_remote_run(sync->remote,
				  psprintf("COMMIT; UPDATE migrate_tiers.migration SET reverse_mark = %s, reverse_mark_time = %s WHERE ident = %s",
						   quote_literal_cstr(new_mark), quote_literal_cstr(timestamptz_to_str(snapshot_time)),
						   quote_literal_cstr(sync->migration->ident)));
}

static void
reset_tables(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		mt_table_reset(table);
}
