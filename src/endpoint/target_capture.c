/*
 * target_capture.c
 *	  Notes in a queue of the target which keys of a table changed: the queue, the
 *	  functions and the triggers of one table.
 *
 * A plain table has statement triggers with transition tables, so that a
 * statement costs one insert however many rows it changes.  In a hierarchy such a
 * trigger sees either rows that are not the table's (of an inheritance child)
 * or not all that are (of a partition that is written directly).  So there
 * rows are noted one by one: PostgreSQL clones the row triggers of a
 * partitioned table to each partition, also to those that come later.
 *
 * Either way an update notes the new key, and one more trigger notes the old one
 * where they are not equal: that condition is cheaper than the old rows of every
 * statement.  A key that is equal and looks different is the same key.
 *
 * The functions that they call are made in target_note.c.
 */
#include "endpoint/target_capture.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/name.h"
#include "base/settings.h"
#include "endpoint/target_block.h"
#include "endpoint/target_reverse.h"

/* A table of the target, as it is now. */
typedef struct MtCaptureTable
{
	char	   *oid;
	char	   *owner;			/* quoted */
	bool		partitioned;
	bool		by_row;			/* in a hierarchy */
	bool		queue;			/* its queue is there */
	bool		disturbed;		/* its triggers are not what they were made */
	bool		armed;			/* of each of its triggers it is known what it was made */
	char	   *triggers;		/* what its triggers are for, those that are enabled always */
} MtCaptureTable;

/* What triggers of a table are for, of both kinds. */
#define STATEMENT_TRIGGERS "delete insert key truncate update"
#define ROW_TRIGGERS	   "key row truncate"

static MtCaptureTable *look_at_table(MtRemote *remote, const MtMigration *migration,
									 const MtRelation *relation);
static void create_queue(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);
static char *queue_definition(MtRemote *remote, const MtRelation *relation);
static void create_triggers(MtRemote *remote, const MtMigration *migration, const MtRelation *relation,
							const MtCaptureTable *table);
static void append_trigger(StringInfo sql, const MtMigration *migration, const MtRelation *relation,
						   const char *purpose, const char *events, const char *level);
static void append_removal(StringInfo sql, const MtMigration *migration, const MtRelation *relation,
						   const char *purpose);
static char *key_changed(const MtRelation *relation);
static char *names_array(const MtRelation *relation);

/* mt_target_reverse_attach makes what is missing of a table's capture, and looks after its partitions. */
void
mt_target_reverse_attach(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	MtCaptureTable *table = look_at_table(remote, migration, relation);

	if (!table->queue)
		create_queue(remote, migration, relation);
	if (table->disturbed || strcmp(table->triggers, table->by_row ? ROW_TRIGGERS : STATEMENT_TRIGGERS) != 0)
		create_triggers(remote, migration, relation, table);
	else if (!table->armed)
		mt_remote_run(remote, mt_target_arm_sql(migration, relation));
	if (table->partitioned && !mt_target_cover_partitions(remote, migration, relation, false))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("a partition of table %s of the target was truncated while capture came to it",
						mt_relation_target_name(relation))));
}

static MtCaptureTable *
look_at_table(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	MtCaptureTable *table = palloc0(sizeof(MtCaptureTable));
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   psprintf("SELECT c.oid, pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)), c.relkind = 'p',"
									" c.relkind = 'p' OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)),"
									" pg_catalog.to_regclass($3) IS NOT NULL,"
									" COALESCE((SELECT pg_catalog.string_agg(pg_catalog.substr(g.tgname, pg_catalog.length($2) + 1), ' '"
									"  ORDER BY g.tgname COLLATE \"C\") FROM pg_catalog.pg_trigger g"
									"  WHERE g.tgrelid = c.oid AND pg_catalog.starts_with(g.tgname, $2) AND g.tgenabled = 'A'), ''),"
									" EXISTS (SELECT FROM (%s) t WHERE t.relation = $5 AND t.trigger_oid <> 0),"
									" NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND pg_catalog.starts_with(g.tgname, $2)"
									"  AND NOT EXISTS (SELECT FROM migrate_tiers.armed a WHERE a.migration = $4 AND a.relation = $5 AND a.trigger_oid = g.oid))"
									" FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)",
									mt_target_touched_sql(migration)),
						   MT_PARAMS(mt_relation_target_name(relation),
									 mt_target_reverse_trigger(migration, relation, ""),
									 psprintf("migrate_tiers.queue_%.8s_%d", migration->ident, relation->id),
									 migration->ident, psprintf("%d", relation->id)));
	if (rows->count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s does not exist on the target", mt_relation_target_name(relation))));
	table->oid = rows->values[0][0];
	table->owner = rows->values[0][1];
	table->partitioned = strcmp(rows->values[0][2], "t") == 0;
	table->by_row = strcmp(rows->values[0][3], "t") == 0;
	table->queue = strcmp(rows->values[0][4], "t") == 0;
	table->triggers = rows->values[0][5];
	table->disturbed = strcmp(rows->values[0][6], "t") == 0;
	table->armed = strcmp(rows->values[0][7], "t") == 0;
	return table;
}

/* create_queue makes the queue of a table. */
static void
create_queue(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "CREATE TABLE migrate_tiers.queue_%1$.8s_%2$d (xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),"
					 " noted timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), kind smallint NOT NULL, condition text%3$s)"
					 " WITH (" MT_QUEUE_STORAGE "); CREATE INDEX ON migrate_tiers.queue_%1$.8s_%2$d (xid);"
					 " ALTER TABLE migrate_tiers.queue_%1$.8s_%2$d REPLICA IDENTITY FULL;\n",
					 migration->ident, relation->id, queue_definition(remote, relation));
	mt_target_locking(remote, sql.data, mt_lock_timeout_text());
}

/* queue_definition lists the key's columns as the target has them, but without limits of length. */
static char *
queue_definition(MtRemote *remote, const MtRelation *relation)
{
	StringInfoData text;
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   psprintf("SELECT pg_catalog.format_type(b.type, -1), CASE WHEN l.oid IS NOT NULL THEN"
									" pg_catalog.format(' COLLATE %%I.%%I', n.nspname, l.collname) ELSE '' END"
									" FROM pg_catalog.unnest(%s) WITH ORDINALITY k(name, number)"
									" JOIN pg_catalog.pg_attribute a ON a.attrelid = pg_catalog.to_regclass($1)"
									"  AND a.attname = k.name AND NOT a.attisdropped"
									" CROSS JOIN LATERAL (WITH RECURSIVE b(type) AS (SELECT a.atttypid UNION ALL"
									"  SELECT t.typbasetype FROM b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype = 'd')"
									"  SELECT b.type FROM b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype <> 'd') b"
									" LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation"
									" LEFT JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace ORDER BY k.number",
									names_array(relation)),
						   MT_PARAMS(mt_relation_target_name(relation)));
	if (rows->count != relation->nkeys)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table %s of the target lacks a column of the key", mt_relation_target_name(relation))));
	initStringInfo(&text);
	for (int row = 0; row < rows->count; row++)
		appendStringInfo(&text, ", k%d %s%s", row + 1, rows->values[row][0], rows->values[row][1]);
	return text.data;
}

/* create_triggers puts the triggers on a table, in one transaction, instead of those of the other kind. */
static void
create_triggers(MtRemote *remote, const MtMigration *migration, const MtRelation *relation,
				const MtCaptureTable *table)
{
	static const char *const statements[][2] = {{"insert", "NEW"}, {"update", "NEW"}, {"delete", "OLD"}};
	const char *name = mt_relation_target_sql(relation);
	StringInfoData sql;

	initStringInfo(&sql);
	if (table->disturbed)
		appendStringInfoString(&sql, mt_target_uncover_sql(migration, relation));
	appendStringInfoString(&sql,
						   mt_target_note_functions(migration, relation, table->by_row, table->oid, table->owner));
	if (table->by_row)
		append_trigger(&sql, migration, relation, "row", "INSERT OR UPDATE OR DELETE", "FOR EACH ROW");
	else if (strstr(table->triggers, "row"))
		append_removal(&sql, migration, relation, "row");
	for (int i = 0; i < lengthof(statements); i++)
	{
		if (!table->by_row)
			append_trigger(&sql, migration, relation, statements[i][0], statements[i][0],
						   psprintf("REFERENCING %s TABLE AS changed FOR EACH STATEMENT", statements[i][1]));
		else if (strstr(table->triggers, statements[i][0]))
			append_removal(&sql, migration, relation, statements[i][0]);
	}
	append_trigger(&sql, migration, relation, "key", "UPDATE", psprintf("FOR EACH ROW %s", key_changed(relation)));
	appendStringInfoString(&sql, mt_target_truncate_trigger(migration, relation, name));
	/* Leaves that came since they were noted have rows that no trigger saw. */
	if (table->partitioned && !table->disturbed)
		appendStringInfoString(&sql, mt_target_leaves_sql(migration, relation));
	appendStringInfoString(&sql, mt_target_disarm_sql(migration, relation));
	appendStringInfoString(&sql, mt_target_arm_sql(migration, relation));
	if (table->disturbed)
		appendStringInfoString(&sql, mt_target_disturbed_sql(migration, relation));
	mt_target_locking(remote, sql.data, mt_lock_timeout_text());
}

/* append_trigger makes one AFTER trigger; a partitioned table's are enabled on the partitions, too. */
static void
append_trigger(StringInfo sql, const MtMigration *migration, const MtRelation *relation, const char *purpose,
			   const char *events, const char *level)
{
	const char *table = mt_relation_target_sql(relation);
	const char *trigger = mt_target_reverse_trigger(migration, relation, purpose);

	appendStringInfo(sql,
					 "CREATE OR REPLACE TRIGGER %s AFTER %s ON %s %s "
					 "EXECUTE FUNCTION migrate_tiers.%s_%.8s_%d();",
					 trigger, events, table, level, strcmp(purpose, "key") == 0 ? "key" : "capture",
					 migration->ident, relation->id);
	appendStringInfo(sql, "ALTER TABLE %s ENABLE ALWAYS TRIGGER %s;", table, trigger);
}

static void
append_removal(StringInfo sql, const MtMigration *migration, const MtRelation *relation, const char *purpose)
{
	appendStringInfo(sql, "DROP TRIGGER %s ON %s;", mt_target_reverse_trigger(migration, relation, purpose),
					 mt_relation_target_sql(relation));
}

/* mt_target_truncate_trigger returns what makes the TRUNCATE trigger of a table or partition. */
char *
mt_target_truncate_trigger(const MtMigration *migration, const MtRelation *relation, const char *table)
{
	const char *trigger = mt_target_reverse_trigger(migration, relation, "truncate");

	return psprintf("CREATE OR REPLACE TRIGGER %s BEFORE TRUNCATE ON %s FOR EACH STATEMENT "
					"WHEN (" MT_TARGET_SESSION " IS DISTINCT FROM %s) "
					"EXECUTE FUNCTION migrate_tiers.truncate_%.8s_%d();"
					"ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %s;",
					trigger, table, quote_literal_cstr(migration->token_hash), migration->ident, relation->id, table,
					trigger);
}

/* mt_target_reverse_trigger names a trigger: it is found again on a table that was renamed or detached. */
char *
mt_target_reverse_trigger(const MtMigration *migration, const MtRelation *relation, const char *purpose)
{
	return psprintf("migrate_tiers_reverse_%.8s_%d_%s", migration->ident, relation->id, purpose);
}

/* mt_target_queue_columns lists the key's columns as the queue names them. */
char *
mt_target_queue_columns(const MtRelation *relation)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&text, "%sk%d", i ? ", " : "", i + 1);
	return text.data;
}

/* mt_target_key_columns lists the key's columns as the table names them. */
char *
mt_target_key_columns(const MtRelation *relation, const char *prefix)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&text, "%s%s%s", i ? ", " : "", prefix, mt_name_quote(relation->key_columns[i]));
	return text.data;
}

/* key_changed returns the condition that an update has changed the key, by the operators of the key's index. */
static char *
key_changed(const MtRelation *relation)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&text, "%sOLD.%s %s NEW.%s", i ? " AND " : "WHEN (NOT (",
						 mt_name_quote(relation->key_columns[i]), relation->key_operators[i],
						 mt_name_quote(relation->key_columns[i]));
	appendStringInfoString(&text, "))");
	return text.data;
}

static char *
names_array(const MtRelation *relation)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&text, "%s%s", i ? ", " : "ARRAY[", quote_literal_cstr(relation->key_columns[i]));
	appendStringInfoString(&text, "]::pg_catalog.name[]");
	return text.data;
}
