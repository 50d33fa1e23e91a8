/*
 * target.c
 *	  Installs and removes what a migration keeps on the target, publishes its
 *	  phase there, and empties tables that we filled.
 *
 * Everything goes through blocks that are atomic of themselves, and that wait
 * for no lock on a user's table longer than lock_timeout.
 */
#include "endpoint/target_block.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/settings.h"
#include "endpoint/target.h"
#include "endpoint/target_reverse.h"
#include "endpoint/target_sequence.h"

static void check_schema(MtRemote *remote);
static void append_empty_block(StringInfo body, const List *relations);

/* mt_target_install makes the schema and its tables where they are missing, and this migration's row. */
void
mt_target_install(MtRemote *remote, const MtMigration *migration)
{
	check_schema(remote);
	mt_target_schema_create(remote, migration);
}

/* check_schema refuses a target where a schema of our name belongs to something else. */
static void
check_schema(MtRemote *remote)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'migrate_tiers'), "
						   "EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'migrate_tiers') "
						   "AND pg_catalog.to_regclass('migrate_tiers.set_aside') IS NULL, "
						   "NOT pg_catalog.pg_has_role(current_user, n.nspowner, 'USAGE'), "
						   "pg_catalog.pg_get_userbyid(n.nspowner) "
						   "FROM (VALUES (1)) v LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'migrate_tiers'",
						   MT_NO_PARAMS);
	if (strcmp(rows->values[0][0], "t") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"migrate_tiers\" is installed in the target database"),
				 errdetail("The schema of that name is needed there for the state of this migration."),
				 errhint("Run DROP EXTENSION migrate_tiers in the target database; a target needs no extension.")));
	if (strcmp(rows->values[0][1], "t") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_SCHEMA),
				 errmsg("schema \"migrate_tiers\" of the target database is not ours"),
				 errhint("Rename or drop that schema in the target database.")));
	if (rows->values[0][2] && strcmp(rows->values[0][2], "t") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schema \"migrate_tiers\" of the target database belongs to role \"%s\"",
						rows->values[0][3]),
				 errhint("Use a user mapping whose role on the target is a member of \"%s\".",
						 rows->values[0][3])));
}

/* mt_target_uninstall removes all of this migration, and the schema with the last one. */
void
mt_target_uninstall(MtRemote *remote, const MtMigration *migration)
{
	if (!mt_target_installed(remote))
		return;
	mt_target_unfence_all(remote, migration);
	mt_target_reverse_uninstall(remote, migration);
	mt_target_sequences_leave(remote, migration);
	mt_target_restore_leftovers(remote, migration);
	mt_target_schema_drop(remote, migration);
}

/* mt_target_publish_phase tells applications on the target the phase. */
void
mt_target_publish_phase(MtRemote *remote, const MtMigration *migration, MtPhase phase)
{
	mt_remote_query(remote,
					"UPDATE migrate_tiers.migration SET phase = $2 WHERE ident = $1 AND phase IS DISTINCT FROM $2",
					MT_PARAMS(migration->ident, mt_phase_name(phase)));
}

/*
 * mt_target_await_writers waits until nobody is writing a table: a copy worker that has ended may have left a
 * chunk behind that commits in this moment, and whose rows are not seen yet.
 */
void
mt_target_await_writers(MtRemote *remote, const MtRelation *relation)
{
	mt_target_locking(remote, psprintf("LOCK TABLE %s IN SHARE MODE", mt_relation_target_sql(relation)),
					  mt_lock_timeout_text());
}

/*
 * mt_target_empty empties tables that we filled, all in one transaction; where
 * every one is empty already, no lock is asked for.
 */
void
mt_target_empty(MtRemote *remote, const List *relations)
{
	StringInfoData body;

	if (relations == NIL)
		return;
	initStringInfo(&body);
	append_empty_block(&body, relations);
	mt_target_block(remote, body.data, mt_lock_timeout_text());
}

/*
 * append_empty_block writes the block that empties tables.  TRUNCATE takes all
 * of them in one statement, since they may refer to each other; it cannot where
 * a table that is not ours refers to one of them.
 */
static void
append_empty_block(StringInfo body, const List *relations)
{
	ListCell   *cell;

	appendStringInfoString(body,
						   "DECLARE\n"
						   "  name text; names text[] := '{}'; one boolean; filled boolean := false;\n"
						   "BEGIN\n"
						   "FOR name IN SELECT CASE relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || oid::pg_catalog.regclass\n"
						   "  FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND oid IN (");
	foreach(cell, relations)
		appendStringInfo(body, "%s pg_catalog.to_regclass(%s)", foreach_current_index(cell) ? "," : "",
						 mt_target_table_literal((MtRelation *) lfirst(cell)));
	appendStringInfoString(body,
						   ") LOOP\n"
						   "  EXECUTE 'SELECT EXISTS (SELECT FROM ' || name || ')' INTO one;\n"
						   "  filled := filled OR one;\n"
						   "  names := names || name;\n"
						   "END LOOP;\n"
						   "IF NOT filled THEN RETURN; END IF;\n"
						   "SET LOCAL session_replication_role = 'replica';\n"
						   "BEGIN\n"
						   "  EXECUTE 'TRUNCATE ' || pg_catalog.array_to_string(names, ', ');\n"
						   "EXCEPTION WHEN feature_not_supported OR insufficient_privilege THEN\n"
						   "  FOREACH name IN ARRAY names LOOP EXECUTE 'DELETE FROM ' || name; END LOOP;\n"
						   "END;\n"
						   "END");
}

/* mt_target_block runs the body of a block as one transaction, or as a part of the caller's. */
void
mt_target_block(MtRemote *remote, const char *body, const char *lock_timeout)
{
	mt_target_locking(remote, psprintf("DO %s", quote_literal_cstr(body)), lock_timeout);
}

/*
 * mt_target_locking runs statements that ask for locks on users' tables.  An
 * autovacuum gives way only to who waits longer than deadlock_timeout; so that
 * has to be the shorter one, where the role may set it.
 */
void
mt_target_locking(MtRemote *remote, const char *sql, const char *lock_timeout)
{
	mt_remote_run(remote,
				  psprintf("SET LOCAL lock_timeout = %s; SET LOCAL client_min_messages = 'warning';"
						   "SELECT pg_catalog.set_config('deadlock_timeout', '%dms', true)"
						   " WHERE pg_catalog.has_parameter_privilege('deadlock_timeout', 'SET');%s",
						   quote_literal_cstr(lock_timeout), Max(mt_lock_timeout / 2, 1), sql));
}

/* mt_target_installed tells whether our tables are there. */
bool
mt_target_installed(MtRemote *remote)
{
	MtRows	   *rows = mt_remote_query(remote, "SELECT pg_catalog.to_regclass('migrate_tiers.set_aside')",
									   MT_NO_PARAMS);

	return rows->values[0][0] != NULL;
}

/* mt_target_table_literal returns the table's quoted name as a literal. */
char *
mt_target_table_literal(const MtRelation *relation)
{
	return quote_literal_cstr(mt_relation_target_name(relation));
}
