/*
 * resolve.c
 *	  Settles a conflict: see resolve.h.
 *
 * The row that lost is written into the source's table as the migration's owner,
 * and captured as any change: so it gets to the target, and if somebody
 * changes the row there meanwhile, that is a conflict again.  Triggers and
 * foreign keys do not act: the row is to be what it was.
 */
#include "sync/resolve.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_type_d.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/errors.h"
#include "base/pin.h"
#include "base/row.h"
#include "base/spi.h"
#include "catalog/applying.h"
#include "catalog/journal.h"
#include "catalog/relation.h"
#include "endpoint/statements.h"

typedef struct MtKept
{
	int32		relation;
	char	   *winner;
	char	   *key;			/* jsonb text */
	char	   *row;			/* of the side that is chosen, NULL: absent */
} MtKept;

static void read_conflict(const MtMigration *migration, int64 id, const char *winner, MtKept *kept);
static void check_sent(const MtMigration *migration, int64 id, const char *winner);
static void write_row(const MtMigration *migration, const MtKept *kept);
static void execute_kept(const MtMigration *migration, const MtRelation *relation, const MtKept *kept);
static char *upsert_sql(const MtRelation *relation, const MtColumns *columns);
static char *delete_sql(const MtRelation *relation, const MtColumns *columns);
static char *value_sql(const MtColumns *columns, const char *name);

/* mt_resolve_run takes the row of a side. */
void
mt_resolve_run(const MtMigration *migration, int64 id, const char *winner)
{
	MtKept		kept;
	MtSpiScope	scope;

	if (strcmp(winner, "source") != 0 && strcmp(winner, "target") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown side \"%s\"", winner),
				 errhint("Sides are source and target.")));
	read_conflict(migration, id, winner, &kept);
	if (strcmp(kept.winner, winner) != 0)
	{
		check_sent(migration, id, winner);
		write_row(migration, &kept);
	}
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.conflict SET resolved = clock_timestamp(), resolution = $2 WHERE id = $1",
				MT_ARGS(MT_INT8(id), MT_TEXT(winner)));
	mt_spi_end(&scope);
}

static void
read_conflict(const MtMigration *migration, int64 id, const char *winner, MtKept *kept)
{
	MtSpiScope	scope;
	bool		found;
	bool		resolved = false;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_SELECT,
						"SELECT relation, winner, key, CASE $3 WHEN 'source' THEN source_row ELSE target_row END,"
						" resolved IS NOT NULL FROM migrate_tiers.conflict WHERE id = $1 AND migration = $2 FOR UPDATE",
						MT_ARGS(MT_INT8(id), MT_INT4(migration->id), MT_TEXT(winner))) > 0;
	if (found)
	{
		kept->relation = (int32) mt_spi_int8(0, 1);
		kept->winner = mt_spi_text(&scope, 0, 2);
		kept->key = mt_spi_text(&scope, 0, 3);
		kept->row = mt_spi_text(&scope, 0, 4);
		resolved = mt_spi_bool(0, 5);
	}
	mt_spi_end(&scope);
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("migration \"%s\" has no conflict " INT64_FORMAT, migration->name, id),
				 errhint("SELECT * FROM migrate_tiers.conflicts shows all of them.")));
	if (resolved)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("conflict " INT64_FORMAT " was settled before", id),
				 errhint("The row can be changed by an UPDATE, as any other.")));
}

/* check_sent refuses to write a row that is not sent on any more: after what drains the source for the last time. */
static void
check_sent(const MtMigration *migration, int64 id, const char *winner)
{
	MtPhase		from;
	MtPhase		to;

	if (migration->phase != MT_FINISHED && !(mt_journal_open(migration, &from, &to) && to == MT_FINISHED))
		return;
	ereport(ERROR,
			(errcode(MT_ERRCODE_WRONG_PHASE),
			 errmsg("the row of the %s cannot be taken in phase %s", winner, mt_phase_name(MT_FINISHED)),
			 errdetail("It would be written on the source, and nothing is sent to the target any more."),
			 errhint("Write it on the target yourself: SELECT %s_row FROM migrate_tiers.conflicts WHERE id = " INT64_FORMAT ". Then settle the conflict with the side that won.",
					 winner, id)));
}

/* write_row puts the kept row into the source's table, through its fence if there is one. */
static void
write_row(const MtMigration *migration, const MtKept *kept)
{
	MtRelation *relation = mt_relation_by_id(kept->relation, false);
	/* What was kept as text is read as it was written, whatever the session's own settings; and triggers keep still. */
	int			guc_level = mt_pin_begin();

	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
	mt_fence_pass = true;
	PG_TRY();
	{
		execute_kept(migration, relation, kept);
	}
	PG_FINALLY();
	{
		mt_fence_pass = false;
	}
	PG_END_TRY();
	mt_pin_end(guc_level);
}

static void
execute_kept(const MtMigration *migration, const MtRelation *relation, const MtKept *kept)
{
	Relation	opened = table_open(relation->relid, RowExclusiveLock);
	MtColumns  *columns = mt_columns_describe(RelationGetDescr(opened));
	MtSpiScope	scope;

	mt_spi_begin_table(&scope, migration->owner, relation->relid, true);
	if (kept->row != NULL)
		mt_spi_exec(SPI_OK_INSERT, upsert_sql(relation, columns), MT_ARGS(MT_TEXT(kept->row)));
	else
		mt_spi_exec(SPI_OK_DELETE, delete_sql(relation, columns), MT_ARGS(MT_TEXT(kept->key)));
	mt_spi_end(&scope);
	table_close(opened, NoLock);
}

/* upsert_sql makes the row of the key equal to a jsonb. */
static char *
upsert_sql(const MtRelation *relation, const MtColumns *columns)
{
	char	   *table = quote_qualified_identifier(relation->schema, relation->name);
	StringInfoData names;
	StringInfoData values;
	StringInfoData set;
	StringInfoData key;

	initStringInfo(&names);
	initStringInfo(&values);
	initStringInfo(&set);
	initStringInfo(&key);
	for (int i = 0; i < columns->count; i++)
	{
		const MtColumn *column = &columns->columns[i];
		const char *name = quote_identifier(column->name);

		appendStringInfo(&names, "%s%s", i ? ", " : "", name);
		appendStringInfo(&values, "%s%s", i ? ", " : "", value_sql(columns, column->name));
		if (!column->identity_always)
			appendStringInfo(&set, "%s%s = excluded.%s", set.len ? ", " : "", name, name);
	}
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&key, "%s%s", i ? ", " : "", quote_identifier(relation->key_columns[i]));
	return psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s"
					" ON CONFLICT (%s) DO %s%s",
					table, names.data, values.data, key.data, set.len ? "UPDATE SET " : "NOTHING",
					set.len ? set.data : "");
}

static char *
delete_sql(const MtRelation *relation, const MtColumns *columns)
{
	StringInfoData match;

	initStringInfo(&match);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&match, "%st.%s %s %s", i ? " AND " : "", quote_identifier(relation->key_columns[i]),
						 relation->key_operators[i], value_sql(columns, relation->key_columns[i]));
	return psprintf("DELETE FROM %s AS t WHERE %s", mt_relation_source_name(relation), match.data);
}

/* value_sql reads a column's value out of a jsonb: see mt_sql_row_image. */
static char *
value_sql(const MtColumns *columns, const char *name)
{
	char	   *label = quote_literal_cstr(name);

	for (int i = 0; i < columns->count; i++)
	{
		const MtColumn *column = &columns->columns[i];

		if (strcmp(column->name, name) != 0)
			continue;
		if (column->type == JSONBOID)
			return psprintf("($1::pg_catalog.jsonb OPERATOR(pg_catalog.->) %s)", label);
		/* Read by the type's input: a cast might be a user's own.  What is json at bottom would get the quotes, too. */
		if (column->type >= FirstNormalObjectId && getBaseType(column->type) != JSONOID)
			return psprintf("(SELECT r.%1$s FROM pg_catalog.jsonb_to_record($1::pg_catalog.jsonb) AS r(%1$s %2$s))",
							quote_identifier(name), mt_sql_type(column->type));
		return psprintf("($1::pg_catalog.jsonb OPERATOR(pg_catalog.->>) %s)::%s", label, mt_sql_type(column->type));
	}
	elog(ERROR, "column \"%s\" does not travel", name);
	return NULL;
}
