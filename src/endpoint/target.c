/*
 * target.c
 *	  Our schema on the target: made by the first migration that leads there,
 *	  shared by all, removed with the last; and the emptying of what we filled.
 *
 * Migrations from several sources may come and go at the same moment: they
 * take turns by an advisory lock of the target.  Whatever the schema holds
 * belongs to exactly one migration, so each removes its own and only its own.
 */
#include "endpoint/target_block.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/settings.h"
#include "endpoint/target.h"
#include "endpoint/target_sequence.h"

/* Waits on other installations are no waits on a user's table. */
#define INSTALL_TIMEOUT "30s"

static const char *const install_body =
	"BEGIN\n"
	"PERFORM pg_catalog.pg_advisory_xact_lock(" MT_TARGET_LOCK ");\n"
	"IF pg_catalog.to_regclass('migrate_tiers.set_aside') IS NOT NULL THEN RETURN; END IF;\n"
	"CREATE SCHEMA migrate_tiers;\n"
	"COMMENT ON SCHEMA migrate_tiers IS 'what migrations to this database keep here; drop_migration on their source removes it';\n"
	/* The mark is updated in place by each tick: room for its versions on one page. */
	"CREATE TABLE migrate_tiers.migration (\n"
	"  ident uuid PRIMARY KEY, name name NOT NULL, token uuid NOT NULL,\n"
	"  mark pg_catalog.pg_snapshot, mark_time timestamptz,\n"
	"  ticks bigint NOT NULL DEFAULT 0, rows bigint NOT NULL DEFAULT 0,\n"
	"  installed timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()) WITH (fillfactor = 10);\n"
	"CREATE TABLE migrate_tiers.chunk (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  relation integer NOT NULL, incarnation integer NOT NULL DEFAULT 0, task integer NOT NULL,\n"
	"  rows bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0,\n"
	"  finished timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),\n"
	"  PRIMARY KEY (migration, relation, task));\n"
	"CREATE TABLE migrate_tiers.joined (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  relation integer NOT NULL, PRIMARY KEY (migration, relation));\n"
	/* build makes an index; finish turns it into what it was; a foreign key has finish only. */
	"CREATE TABLE migrate_tiers.set_aside (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  relation integer NOT NULL,\n"
	"  kind text NOT NULL CHECK (kind IN ('index', 'constraint', 'foreign_key')),\n"
	"  table_oid oid NOT NULL, table_schema name NOT NULL, table_name name NOT NULL, name name NOT NULL,\n"
	"  tablespace name, build text, finish text[] NOT NULL DEFAULT '{}',\n"
	"  state text NOT NULL DEFAULT 'aside' CHECK (state IN ('aside', 'built', 'added', 'violated')),\n"
	"  error text,\n"
	"  PRIMARY KEY (migration, relation, kind, table_oid, name));\n"
	/* What sequences were before they took turns with the source's: sequence.h. */
	"CREATE TABLE migrate_tiers.sequence (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  sequence oid NOT NULL UNIQUE, relation integer NOT NULL, source oid NOT NULL,\n"
	"  start bigint NOT NULL, increment bigint NOT NULL, minimum bigint NOT NULL, maximum bigint NOT NULL,\n"
	"  cache bigint NOT NULL, cycle boolean NOT NULL, last_value bigint NOT NULL, is_called boolean NOT NULL,\n"
	"  begun bigint NOT NULL, restored boolean NOT NULL DEFAULT false, handed bigint, lapped boolean);\n"
	"CREATE FUNCTION migrate_tiers.refuse_write() RETURNS trigger LANGUAGE plpgsql AS $f$\n"
	"BEGIN\n"
	"  RAISE EXCEPTION USING ERRCODE = 'MT005',\n"
	"    MESSAGE = pg_catalog.format('writes of table %I.%I go to the source database while migration \"%s\" is in phase %s',\n"
	"      TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0], TG_ARGV[1]),\n"
	"    HINT = 'Write to the source database; here the table is filled by the migration.';\n"
	"END $f$;\n"
	"REVOKE ALL ON FUNCTION migrate_tiers.refuse_write() FROM PUBLIC;\n"
	/* A mark that is not the one that was read: somebody else writes here in the migration's name. */
	"CREATE FUNCTION migrate_tiers.store_mark(uuid, pg_catalog.pg_snapshot, timestamptz, bigint, text)\n"
	"RETURNS void LANGUAGE plpgsql AS $f$\n"
	"BEGIN\n"
	"  UPDATE migrate_tiers.migration SET mark = $2, mark_time = $3, ticks = ticks + 1, rows = rows + $4\n"
	"    WHERE ident = $1 AND coalesce(mark::text, '') = $5;\n"
	"  IF NOT FOUND THEN\n"
	"    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'the mark of the migration was moved by somebody else',\n"
	"      HINT = 'Look for a copy of the source database whose worker writes this target, too.';\n"
	"  END IF;\n"
	"END $f$;\n"
	"REVOKE ALL ON FUNCTION migrate_tiers.store_mark(uuid, pg_catalog.pg_snapshot, timestamptz, bigint, text) FROM PUBLIC;\n"
	"END";

static const char *const uninstall_body =
	"BEGIN\n"
	"PERFORM pg_catalog.pg_advisory_xact_lock(" MT_TARGET_LOCK ");\n"
	"IF pg_catalog.to_regclass('migrate_tiers.set_aside') IS NULL THEN RETURN; END IF;\n"
	"DELETE FROM migrate_tiers.migration WHERE ident = %s;\n"
	"IF EXISTS (SELECT FROM migrate_tiers.migration) THEN RETURN; END IF;\n"
	"DROP TABLE migrate_tiers.sequence, migrate_tiers.set_aside, migrate_tiers.joined, migrate_tiers.chunk, migrate_tiers.migration;\n"
	"DROP FUNCTION migrate_tiers.refuse_write();\n"
	"DROP FUNCTION migrate_tiers.store_mark(uuid, pg_catalog.pg_snapshot, timestamptz, bigint, text);\n"
	"DROP SCHEMA migrate_tiers;\n"
	"END";

static void check_schema(MtRemote *remote);
static void append_empty_block(StringInfo body, const List *relations);

/* mt_target_install makes the schema and its tables where they are missing, and this migration's row. */
void
mt_target_install(MtRemote *remote, const MtMigration *migration)
{
	check_schema(remote);
	if (!mt_target_installed(remote))
		mt_target_block(remote, install_body, INSTALL_TIMEOUT);
	mt_remote_query(remote,
					"INSERT INTO migrate_tiers.migration AS m (ident, name, token) VALUES ($1, $2, $3) "
					"ON CONFLICT (ident) DO UPDATE SET name = excluded.name, token = excluded.token "
					"WHERE (m.name, m.token) IS DISTINCT FROM (excluded.name, excluded.token)",
					MT_PARAMS(migration->ident, migration->name, migration->token));
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
	mt_target_sequences_leave(remote, migration);
	mt_target_restore_leftovers(remote, migration);
	mt_target_block(remote, psprintf(uninstall_body, quote_literal_cstr(migration->ident)),
					INSTALL_TIMEOUT);
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
						   "  FROM pg_catalog.pg_class WHERE oid IN (");
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
