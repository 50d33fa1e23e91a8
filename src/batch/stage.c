/*
 * stage.c
 *	  The stage of a push: see stage.h.
 *
 * On this side it belongs to the owner of the pushed table, as whom ANALYZE and an index run the code of
 * the types; and so its comment is no more than he says.
 */
#include "batch/stage.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "endpoint/statements.h"

static char *name_stage(const MtPush *push);
static bool exists(MtPush *push, const char *table);
static void give_to_owner(MtPush *push, const MtStage *stage);
static void index_stage(MtPush *push, const MtStage *stage);
static bool are_whole(const MtRows *bounds);
static bool has_signature(MtPush *push, MtStage *stage);
static char *describe_stage(const MtStage *stage, const MtRows *bounds);
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
	give_to_owner(push, stage);
	index_stage(push, stage);
	mt_side_commit(push->receiver);
	stage->bounds = mt_ranges_read_bounds(push, push->receiver,
										  psprintf("obj_description(%s::regclass, 'pg_class')::jsonb", quote_literal_cstr(stage->table)));
	if (!are_whole(stage->bounds))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the comment of table %s is not as it was written", stage->table),
				 errhint("Run DROP TABLE %s.", stage->table)));
	return stage;
}

/* are_whole says whether no value of a bound is missing. */
static bool
are_whole(const MtRows *bounds)
{
	for (int row = 0; bounds != NULL && row < bounds->count; row++)
		for (int i = 0; i < bounds->columns; i++)
			if (bounds->values[row][i] == NULL)
				return false;
	return true;
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
	mt_side_begin(push->receiver);
	mt_side_manage(push->receiver, sql.data);
	give_to_owner(push, stage);
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

/* give_to_owner makes the stage the property of whom the table belongs to now. */
static void
give_to_owner(MtPush *push, const MtStage *stage)
{
	if (push->receiver->remote == NULL)
		mt_side_manage(push->receiver, psprintf("ALTER TABLE %s OWNER TO %s", stage->table, push->owner));
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
	char	   *match = mt_stage_key_match(push);
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

static char *
key_columns(const MtPush *push)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&text, "%s%s", i ? ", " : "", push->key->columns[i]);
	return text.data;
}

/* mt_stage_key_match writes the condition that rows t and s have the same key. */
char *
mt_stage_key_match(const MtPush *push)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&text, "%st.%s %s s.%s", i ? " AND " : "", push->key->columns[i], push->key->operators[i],
						 push->key->columns[i]);
	return text.data;
}
