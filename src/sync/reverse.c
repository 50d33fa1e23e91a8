/*
 * reverse.c
 *	  One round of reverse sync: everything committed between two snapshots of
 *	  the target, applied in one transaction of the source.
 *
 * The same tick as forward with the sides exchanged.  The target's transaction is
 * REPEATABLE READ with snapshot T: what its queues hold that the reverse mark does
 * not see, and the rows of those keys, are read under T.  Our transaction takes
 * all of it and T as the new mark.  A crash anywhere repeats a tick.
 *
 * What a small tick costs is round trips.  So what it asks for goes in pipelines
 * of prepared statements: the snapshot and which queues have something; then their
 * entries and rows; and at the end the new mark, and whether there is more.
 */
#include "sync/merge.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/settings.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements_queue.h"
#include "sync/apply.h"
#include "sync/cancelled.h"
#include "sync/files.h"
#include "sync/gather.h"
#include "sync/leaves.h"
#include "sync/look.h"

/* Few keys are looked up one by one, whatever the target's planner thinks of its queue. */
#define BY_INDEX \
	"SELECT pg_catalog.set_config(s, CASE WHEN s OPERATOR(pg_catalog.~) '^enable' THEN 'off' ELSE '0' END, true)" \
	" FROM pg_catalog.unnest(ARRAY['enable_hashjoin', 'enable_mergejoin', 'max_parallel_workers_per_gather']) AS s"
#define PUBLISH_MARK \
	"UPDATE migrate_tiers.migration SET reverse_mark = $1::pg_catalog.pg_snapshot," \
	" reverse_mark_time = $2::pg_catalog.timestamptz WHERE ident = $3::pg_catalog.uuid"
#define REPAIR_MARK \
	"UPDATE migrate_tiers.migration SET reverse_mark = $1::pg_catalog.text::pg_catalog.pg_snapshot" \
	" WHERE ident = $2::pg_catalog.uuid AND reverse_mark::pg_catalog.text IS DISTINCT FROM $1::pg_catalog.text"
#define BY_ANY_PATH "SET LOCAL enable_seqscan = on"

/* What the target says at the beginning of a tick. */
typedef struct MtBegun
{
	MtSync	   *sync;
	char	   *mark;			/* its snapshot */
	TimestampTz time;
	char	   *touched;		/* tables that have entries, and how many: "1:5 3:12 " */
	char	   *leaves;			/* state of its leaf partitions */
} MtBegun;

static void repair_mark(MtSync *sync);
static void begin_target(MtSync *sync, MtBegun *begun);
static void take_begun(void *arg, const MtField *fields, int count);
static TimestampTz parse_time(const char *text);
static List *table_relations(MtSync *sync);
static List *touched_tables(MtSync *sync, char *touched);
static void collect(MtSync *sync, List *tables);
static void collect_entry(void *arg, MtTable *table, const MtTargetEntry *entry);
static void take_mark(MtSync *sync, const char *new_mark, TimestampTz snapshot_time);
static void show_mark(MtSync *sync);
static void finish(MtSync *sync);
static void reset_tables(MtSync *sync);

/* mt_reverse_run runs one tick from the target and returns whether anything was sent. */
bool
mt_reverse_run(MtSync *sync)
{
	MemoryContext previous;
	MtBegun		begun = {.sync = sync};
	TimestampTz asked = GetCurrentTimestamp();
	bool		done;

	if (!sync->whole)
		elog(ERROR, "a tick begins with tables that are not open");
	MemoryContextReset(sync->tick_context);
	previous = MemoryContextSwitchTo(sync->tick_context);
	reset_tables(sync);
	sync->keys = 0;
	sync->reverse_rows = 0;
	sync->early = NULL;
	repair_mark(sync);
	if (!sync->target_unsent && !sync->target_active && !mt_look_target_unsent(sync))
	{
		sync->reverse_oldest = 0;
		sync->reverse_seen = asked;
		MemoryContextSwitchTo(previous);
		return false;
	}
	begin_target(sync, &begun);
	while (!mt_leaves_known(sync, begun.leaves))
	{
		mt_remote_run(sync->remote, "ROLLBACK");
		mt_leaves_cover(sync, begun.leaves);
		begin_target(sync, &begun);
	}
	/* What it has not answered is not known: until then, what it said last grows old. */
	sync->reverse_seen = asked;
	if (begun.touched[0] == '\0' && sync->reverse_oldest == 0)
	{
		sync->target_unsent = false;
		mt_remote_run(sync->remote, "COMMIT");
		MemoryContextSwitchTo(previous);
		return false;
	}
	StartTransactionCommand();
	MemoryContextSwitchTo(sync->tick_context);
	PushActiveSnapshot(GetTransactionSnapshot());
	sync->cancelled = false;
	mt_cancelled_load(sync);
	sync->merge = mt_merge_begin(sync, false, InvalidSnapshot);
	collect(sync, touched_tables(sync, begun.touched));
	done = mt_apply_run(sync, mt_reverse_apply, begun.mark, begun.time);
	sync->merge = NULL;
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (done)
		take_mark(sync, begun.mark, begun.time);
	MemoryContextSwitchTo(sync->tick_context);
	if (done)
	{
		show_mark(sync);
		finish(sync);
	}
	else
		mt_remote_run(sync->remote, "ROLLBACK");
	MemoryContextSwitchTo(previous);
	return true;
}

/* repair_mark tells the target a mark that it may not know, since who took it died, or failed, before he told it. */
static void
repair_mark(MtSync *sync)
{
	if (sync->reverse_mark_told || sync->reverse_mark == NULL)
		return;
	mt_remote_query(sync->remote, REPAIR_MARK, MT_PARAMS(sync->reverse_mark, sync->migration->ident));
	sync->reverse_mark_told = true;
}

/* take_mark takes what is committed here as it is, before anything can fail: nothing of it may be taken for unsent. */
static void
take_mark(MtSync *sync, const char *new_mark, TimestampTz snapshot_time)
{
	char	   *old = sync->reverse_mark;

	sync->reverse_mark = MemoryContextStrdup(sync->context, new_mark);
	sync->reverse_mark_time = snapshot_time;
	sync->reverse_mark_told = false;
	if (old)
		pfree(old);
}

/* show_mark shows whoever asks for it what is here now, beside the target's snapshot, if that is held still. */
static void
show_mark(MtSync *sync)
{
	TimestampTz time = GetCurrentTimestamp();

	if (sync->at_reverse_mark == NULL || !sync->target_flushed)
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
static void
begin_target(MtSync *sync, MtBegun *begun)
{
	char	   *limit = psprintf("%d", mt_small_tick + 1);
	MtField		params[] = {mt_reverse_mark_param(sync), {.data = limit, .length = strlen(limit), .binary = false}};

	mt_look_prepare_unsent(sync);
	if (!mt_remote_prepared(sync->remote, "mt_queues"))
		mt_remote_prepare(sync->remote, "mt_queues", mt_sql_queues_unsent(sync->migration, table_relations(sync)));
	mt_pipeline_begin(sync->remote);
	mt_pipeline_query(sync->remote, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", 0, NULL);
	mt_files_ask_lock(sync);
	/* What is sent already stays in the queues for a while: only their indexes find the rest at once. */
	mt_pipeline_query(sync->remote, "SET LOCAL enable_seqscan = off", 0, NULL);
	mt_pipeline_rows(sync->remote, "mt_queues", lengthof(params), params, take_begun, begun);
	(void) mt_pipeline_finish(sync->remote);
}

/* take_begun takes the snapshot, its time, since when something is unsent, in which tables, and the log's end. */
static void
take_begun(void *arg, const MtField *fields, int count)
{
	MtBegun    *begun = (MtBegun *) arg;

	begun->mark = pstrdup(fields[0].data);
	begun->time = parse_time(fields[1].data);
	begun->sync->reverse_oldest = fields[2].data == NULL ? 0 : parse_time(fields[2].data);
	begun->touched = pstrdup(fields[3].data);
	begun->sync->target_lsn = pstrdup(fields[4].data);
	begun->leaves = pstrdup(fields[5].data);
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

/* touched_tables lists the tables that have entries, and says whether these are few. */
static List *
touched_tables(MtSync *sync, char *touched)
{
	List	   *tables = NIL;
	int64		entries = 0;
	char	   *at = touched;

	while (*at != '\0')
	{
		int32		id = (int32) strtol(at, &at, 10);
		MtTable    *table = hash_search(sync->tables, &id, HASH_FIND, NULL);

		if (table == NULL || *at != ':')
			ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("the target names an unknown queue: %s", touched)));
		entries += strtol(at + 1, &at, 10);
		tables = lappend(tables, table);
		at += *at != '\0';
	}
	sync->target_small = entries <= mt_small_tick;
	return tables;
}

/* collect reads the entries of the tables that have some. */
static void
collect(MtSync *sync, List *tables)
{
	ListCell   *cell;

	sync->target_flushed = false;
	if (sync->target_small)
	{
		foreach(cell, tables)
		{
			mt_look_prepare(sync, (MtTable *) lfirst(cell));
			mt_gather_prepare(sync, (MtTable *) lfirst(cell));
		}
		mt_files_prepare(sync);
		mt_reverse_prepare_flushed(sync);
		mt_pipeline_begin(sync->remote);
		mt_pipeline_query(sync->remote, BY_INDEX, 0, NULL);
	}
	foreach(cell, tables)
		if (sync->target_small)
			mt_look_ask(sync, (MtTable *) lfirst(cell), collect_entry, sync);
		else
			mt_look_entries(sync, (MtTable *) lfirst(cell), false, collect_entry, sync);
	if (sync->target_small)
	{
		sync->early = palloc0(sizeof(MtGathering));
		sync->early->early = true;
		foreach(cell, tables)
		{
			MtTable    *table = (MtTable *) lfirst(cell);

			mt_gather_ask(sync->early, sync, table, mt_gather_by_insert(table, false));
		}
		mt_files_ask(sync, tables);
		mt_reverse_ask_flushed(sync);
		(void) mt_pipeline_finish(sync->remote);
	}
	else
		mt_remote_run(sync->remote, BY_ANY_PATH);
	foreach(cell, tables)
	{
		MtTable    *table = (MtTable *) lfirst(cell);

		mt_truncation_spare_back(table);
		sync->keys += table->keys ? mt_keys_count(table->keys) : 0;
	}
}

static void
collect_entry(void *arg, MtTable *table, const MtTargetEntry *entry)
{
	MtSync	   *sync = (MtSync *) arg;
	MtEntry		local = {.relation = table->id, .kind = entry->kind};
	MtTruncation *truncation;
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
	truncation = mt_table_note(table, &local, sync->tick_context);
	if (truncation != NULL)
		mt_writers_add(&truncation->writers, entry->xid, entry->written, sync->tick_context);
}

/* finish ends the target's transaction, tells it how far we are, and asks whether there is more. */
static void
finish(MtSync *sync)
{
	const char *time = timestamptz_to_str(sync->reverse_mark_time);
	const char *ident = sync->migration->ident;
	MtField		fields[3];

	sync->reverse_rows = sync->rows;
	sync->reverse_oldest = 0;
	reset_tables(sync);
	fields[0] = mt_reverse_mark_param(sync);
	fields[1] = (MtField) {.data = time, .length = strlen(time), .binary = false};
	fields[2] = (MtField) {.data = ident, .length = strlen(ident), .binary = false};
	mt_pipeline_begin(sync->remote);
	mt_pipeline_query(sync->remote, "COMMIT", 0, NULL);
	mt_pipeline_query(sync->remote, PUBLISH_MARK, lengthof(fields), fields);
	mt_look_ask_unsent(sync);
	(void) mt_pipeline_finish(sync->remote);
	sync->reverse_mark_told = true;
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
