/*
 * stage.c
 *	  The stage of a push: see stage.h.
 *
 * Rows are applied in an order that suits every unique index: what the sender does
 * not have goes first.  Where a second one could refuse an UPDATE, since rows
 * exchange their values, rows that differ go, too, and come again.
 */
#include "batch/stage.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "endpoint/statements.h"

/* How rows of the stage are applied. */
typedef struct MtApply
{
	MtPush	   *push;
	MtStage    *stage;
	bool		update;			/* else what differs is deleted and inserted */
	char	   *match;			/* t and s have the same key */
} MtApply;

static int64 delete_absent(const MtApply *apply, const MtRange *range);
static int64 change_different(const MtApply *apply, const MtRange *range);
static int64 insert_missing(const MtApply *apply, const MtRange *range);
static char *name_stage(const MtPush *push);
static bool exists(MtPush *push, const char *table);
static void index_stage(MtPush *push, const MtStage *stage);
static bool has_signature(MtPush *push, MtStage *stage);
static char *describe_stage(const MtStage *stage, const MtRows *bounds);
static bool can_update(MtPush *push);
static char *key_match(const MtPush *push);
static char *key_columns(const MtPush *push);

/* mt_stage_find looks for the stage of a push that was cut off. */
MtStage *
mt_stage_find(MtPush *push)
{
	MtStage    *stage = palloc0(sizeof(MtStage));

	stage->table = name_stage(push);
	/* Ranges of a key that is not ordered may have brought rows twice. */
	stage->signature = psprintf("%s; %s%s", key_columns(push), push->digest, push->key->ordered ? "" : "; one range");
	stage->exists = exists(push, stage->table);
	if (stage->exists && !has_signature(push, stage))
	{
		mt_side_begin(push->receiver);
		mt_stage_drop(push, stage);
		mt_side_commit(push->receiver);
	}
	stage->reused = stage->exists;
	if (!stage->reused)
		return stage;
	mt_side_begin(push->receiver);
	index_stage(push, stage);
	mt_side_commit(push->receiver);
	stage->bounds = mt_ranges_read_bounds(push, push->receiver,
										  psprintf("obj_description(%s::regclass, 'pg_class')::jsonb", quote_literal_cstr(stage->table)));
	return stage;
}

static char *
name_stage(const MtPush *push)
{
	return psprintf("migrate_tiers.%s",
					quote_identifier(psprintf("stage_%.8s_%d", push->migration->ident, push->relation->id)));
}

static bool
exists(MtPush *push, const char *table)
{
	return mt_side_query(push->receiver, psprintf("SELECT 1 WHERE to_regclass(%s) IS NOT NULL", quote_literal_cstr(table)))
			   ->count > 0;
}

/* mt_stage_forget drops a stage that this push has no use for. */
void
mt_stage_forget(MtPush *push)
{
	MtStage		stage = {.table = name_stage(push)};

	if (exists(push, stage.table))
		mt_stage_drop(push, &stage);
}

/* mt_push_clean drops the stages of a migration that are here; those on the target go with what is ours there. */
void
mt_push_clean(const MtMigration *migration)
{
	MtSpiScope	scope;
	char	   *names;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relnamespace = 'migrate_tiers'::regnamespace"
				" AND relkind = 'r' AND starts_with(relname, $1)",
				MT_ARGS(MT_TEXT(psprintf("stage_%.8s_", migration->ident))));
	names = mt_spi_text(&scope, 0, 1);
	if (names != NULL)
		mt_spi_exec(SPI_OK_UTILITY, psprintf("DROP TABLE %s", names), MT_NO_ARGS);
	mt_spi_end(&scope);
}

/* has_signature says whether a stage is of such a push, and of columns that the receiver's table has still. */
static bool
has_signature(MtPush *push, MtStage *stage)
{
	MtRows	   *rows = mt_side_query(push->receiver,
									 psprintf("SELECT obj_description(%1$s::regclass, 'pg_class')::jsonb->>'signature' = %2$s"
											  " AND NOT EXISTS (SELECT FROM pg_attribute AS s JOIN pg_attribute AS t USING (attname)"
											  "  WHERE s.attrelid = %1$s::regclass AND t.attrelid = %3$s::regclass AND s.attnum > 0"
											  "  AND (s.atttypid, s.atttypmod, s.attcollation) <> (t.atttypid, t.atttypmod, t.attcollation))",
											  quote_literal_cstr(stage->table), quote_literal_cstr(stage->signature),
											  quote_literal_cstr(push->into)));

	return rows->values[0][0] != NULL && rows->values[0][0][0] == 't';
}

/* mt_stage_create makes the stage; a push that changes nothing never has one. */
void
mt_stage_create(MtPush *push, MtStage *stage, const MtRows *bounds)
{
	StringInfoData sql;

	if (stage->exists)
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE UNLOGGED TABLE %s AS SELECT %s FROM %s AS t WITH NO DATA; COMMENT ON TABLE %s IS %s",
					 stage->table, mt_push_columns(push, "t."), push->to, stage->table,
					 quote_literal_cstr(describe_stage(stage, bounds)));
	if (push->receiver->remote == NULL)
		appendStringInfo(&sql, "; GRANT ALL ON %s TO %s", stage->table,
						 push->owner);
	mt_side_begin(push->receiver);
	mt_side_manage(push->receiver, sql.data);
	mt_side_commit(push->receiver);
	stage->exists = true;
}

static char *
describe_stage(const MtStage *stage, const MtRows *bounds)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"signature\": ");
	escape_json(&json, stage->signature);
	appendStringInfo(&json, ", \"bounds\": %s}", mt_ranges_bounds_json(bounds));
	return json.data;
}

/* mt_stage_drop drops it, in the transaction that is open. */
void
mt_stage_drop(MtPush *push, MtStage *stage)
{
	mt_side_manage(push->receiver, psprintf("DROP TABLE %s", stage->table));
	stage->exists = false;
}

/* mt_stage_fill brings the rows of a range, in a transaction of their own. */
int64
mt_stage_fill(MtPush *push, MtStage *stage, const MtRange *range)
{
	int64		rows;

	mt_side_begin(push->receiver);
	if (stage->reused)
		(void) mt_side_execute(push->receiver, psprintf("DELETE FROM %s AS s WHERE %s", stage->table, mt_range_condition(push, range, "s.")));
	rows = mt_side_transfer(push->sender,
							psprintf("SELECT %s FROM %s AS t WHERE %s", mt_push_columns(push, "t."), push->from,
									 mt_range_condition(push, range, "t.")),
							push->receiver, stage->table, push->columns, &push->pace);
	mt_side_commit(push->receiver);
	return rows;
}

/* mt_stage_has compares a range by its digest. */
bool
mt_stage_has(MtPush *push, MtStage *stage, const MtRanges *ranges, int number)
{
	const MtRange *range = &ranges->ranges[number];
	MtRows	   *staged;

	if (!stage->reused)
		return range->sender_rows == 0;
	staged = mt_side_query(push->receiver, mt_ranges_digest_sql(push, ranges, &number, 1, stage->table, "false"));
	return strtoll(staged->values[0][1], NULL, 10) == range->sender_rows &&
		strcmp(staged->values[0][2], range->sender_digest) == 0;
}

/* index_stage makes the stage's index, unless a push that was cut off did. */
static void
index_stage(MtPush *push, const MtStage *stage)
{
	mt_side_manage(push->receiver,
				   psprintf("CREATE UNIQUE INDEX IF NOT EXISTS %s ON %s (%s)",
							quote_identifier(psprintf("stage_%.8s_%d_key", push->migration->ident, push->relation->id)),
							stage->table, key_columns(push)));
}

/* mt_stage_finish makes the index, which rows come faster without. */
void
mt_stage_finish(MtPush *push, MtStage *stage)
{
	index_stage(push, stage);
	/* What is to be known of it is its size, and that its key is one. */
	mt_side_manage(push->receiver, psprintf("SET LOCAL default_statistics_target = 1; ANALYZE %s", stage->table));
}

/* mt_stage_compare compares each range with the receiver's rows. */
void
mt_stage_compare(MtPush *push, MtStage *stage, MtRanges *ranges)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext step = AllocSetContextCreate(outer, "migrate_tiers ranges", ALLOCSET_DEFAULT_SIZES);
	char	   *differ = mt_sql_differs(NULL, push->columns, "t.", "s.");
	char	   *match = key_match(push);
	char	   *key = push->key->columns[0];

	MemoryContextSwitchTo(step);
	for (int i = 0; i < ranges->count; i++)
	{
		MtRange    *range = &ranges->ranges[i];
		char	  **row;

		row = mt_side_query(push->receiver,
							psprintf("SELECT count(t.%s), count(*) FILTER (WHERE t.%s IS NOT DISTINCT FROM NULL OR s.%s IS NOT DISTINCT FROM NULL OR %s)"
									 " FROM (SELECT * FROM %s AS t WHERE %s) AS t FULL JOIN (SELECT * FROM %s AS s WHERE %s) AS s ON %s",
									 key, key, key, differ, push->to, mt_range_condition(push, range, "t."),
									 stage->table, mt_range_condition(push, range, "s."), match))
				  ->values[0];
		range->receiver_rows = strtoll(row[0], NULL, 10);
		range->differs = strcmp(row[1], "0") != 0;
		if (range->differs)
		{
			MtRows	   *sent = mt_side_query(push->receiver,
											 mt_ranges_digest_sql(push, ranges, &i, 1, stage->table, "false"));

			range->sender_digest = MemoryContextStrdup(outer, sent->values[0][2]);
		}
		MemoryContextReset(step);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(outer);
	MemoryContextDelete(step);
}

/* mt_stage_apply changes what differs. */
void
mt_stage_apply(MtPush *push, MtStage *stage, const MtRanges *ranges)
{
	MtBatch    *batch = push->batch;
	MtApply		apply = {push, stage, can_update(push), key_match(push)};
	int64	   *rows = MemoryContextAllocExtended(CurrentMemoryContext, sizeof(int64) * ranges->count, MCXT_ALLOC_HUGE);

	/* A planner that takes tables which nobody has analyzed for small goes through one for each row of the other. */
	mt_side_manage(push->receiver, "SET enable_nestloop = off");
	/* All deletions come first, so that no other unique index is in the way. */
	for (int i = 0; i < ranges->count; i++)
	{
		int64		gone = delete_absent(&apply, &ranges->ranges[i]);

		batch->deleted += gone;
		rows[i] = ranges->ranges[i].receiver_rows - gone;
	}
	for (int i = 0; i < ranges->count; i++)
	{
		int64		changed = change_different(&apply, &ranges->ranges[i]);

		batch->updated += changed;
		rows[i] -= apply.update ? 0 : changed;
	}
	/* What is left are rows of the sender's keys: where there are as many, none is missing. */
	for (int i = 0; i < ranges->count; i++)
		if (rows[i] != ranges->ranges[i].sender_rows)
			batch->inserted += insert_missing(&apply, &ranges->ranges[i]);
	mt_side_manage(push->receiver, "RESET enable_nestloop");
	/* Rows that were deleted to be changed came again among those that were missing. */
	if (!apply.update)
		batch->inserted -= batch->updated;
}

/*
 * In each of these three the range is said of both tables: a planner that is told of one alone may read the
 * other from its beginning.
 */
static int64
delete_absent(const MtApply *apply, const MtRange *range)
{
	MtPush	   *push = apply->push;

	if (!range->differs || range->receiver_rows == 0)
		return 0;
	return mt_side_execute(push->receiver,
						   psprintf("DELETE FROM %s AS t WHERE %s AND NOT EXISTS (SELECT FROM %s AS s WHERE %s AND %s)",
									push->to, mt_range_condition(push, range, "t."), apply->stage->table, apply->match,
									mt_range_condition(push, range, "s.")));
}

static int64
change_different(const MtApply *apply, const MtRange *range)
{
	MtPush	   *push = apply->push;
	char	   *which;

	if (!range->differs || range->receiver_rows == 0 || range->sender_rows == 0)
		return 0;
	which = psprintf("%s AS s WHERE %s AND %s AND %s AND (%s)", apply->stage->table,
					 mt_range_condition(push, range, "s."), mt_range_condition(push, range, "t."), apply->match,
					 mt_sql_differs(NULL, push->columns, "t.", "s."));
	return mt_side_execute(push->receiver,
						   apply->update ? psprintf("UPDATE %s AS t SET %s FROM %s", push->to, mt_sql_set_list(push->columns, "s."), which) :
							   psprintf("DELETE FROM %s AS t USING %s", push->to, which));
}

static int64
insert_missing(const MtApply *apply, const MtRange *range)
{
	MtPush	   *push = apply->push;

	if (!range->differs || range->sender_rows == 0)
		return 0;
	return mt_side_execute(push->receiver,
						   psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s AS s"
									" WHERE %s AND NOT EXISTS (SELECT FROM %s AS t WHERE %s AND %s)",
									push->into, mt_push_columns(push, ""), mt_push_columns(push, "s."),
									apply->stage->table, mt_range_condition(push, range, "s."), push->to, apply->match,
									mt_range_condition(push, range, "t.")));
}

/* can_update says whether no other unique index, and no column, could refuse an UPDATE. */
static bool
can_update(MtPush *push)
{
	MtRows	   *indexes;

	for (int i = 0; i < push->columns->count; i++)
		if (push->columns->columns[i].identity_always)
			return false;
	indexes = mt_side_query(push->receiver,
							psprintf("SELECT count(*) <= 1 FROM pg_index WHERE indrelid = %s::regclass"
									 " AND (indisunique OR indisexclusion)",
									 quote_literal_cstr(push->into)));
	return mt_sql_set_list(push->columns, "s.")[0] != '\0' && indexes->values[0][0][0] == 't';
}

static char *
key_match(const MtPush *push)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&text, "%st.%s %s s.%s", i ? " AND " : "", push->key->columns[i], push->key->operators[i],
						 push->key->columns[i]);
	return text.data;
}

static char *
key_columns(const MtPush *push)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&text, "%s%s", i ? ", " : "", push->key->columns[i]);
	return text.data;
}
