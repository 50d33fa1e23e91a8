/*
 * target_schema.c
 *	  Our schema on the target: the tables and functions that all migrations
 *	  that lead there share, made by the first of them and removed with the last.
 *
 * Tables from which rows are deleted, here and elsewhere on the target, have a primary key or
 * REPLICA IDENTITY FULL: under a publication FOR ALL TABLES nothing could be deleted otherwise.
 *
 * Migrations from several sources may come and go at the same moment: they
 * take turns by an advisory lock of the target.  Whatever the schema holds
 * belongs to exactly one migration or to all, so each removes its own and only
 * its own.  Nothing here cascades: what somebody else has built upon our schema
 * ends the removal with an error that names it.
 */
#include "endpoint/target_block.h"

#include "utils/builtins.h"

#include "endpoint/target.h"

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
	"  mark pg_catalog.pg_snapshot, mark_time timestamptz, timeline bigint,\n"
	/* Who ticked last: sync/claim.c. */
	"  session uuid, session_timeline bigint,\n"
	"  ticks bigint NOT NULL DEFAULT 0, rows bigint NOT NULL DEFAULT 0,\n"
	"  phase text, reverse_mark pg_catalog.pg_snapshot, reverse_mark_time timestamptz,\n"
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
	/* build makes an index, or adds a foreign key; finish turns it into what it was. */
	"CREATE TABLE migrate_tiers.set_aside (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  relation integer NOT NULL,\n"
	"  kind text NOT NULL CHECK (kind IN ('index', 'constraint', 'foreign_key')),\n"
	"  table_oid oid NOT NULL, table_schema name NOT NULL, table_name name NOT NULL, name name NOT NULL,\n"
	"  tablespace name, build text, finish text[] NOT NULL DEFAULT '{}',\n"
	"  state text NOT NULL DEFAULT 'aside' CHECK (state IN ('aside', 'built', 'added', 'violated')),\n"
	"  error text,\n"
	"  PRIMARY KEY (migration, relation, kind, table_oid, name));\n"
	/* What forward ticks found, until the worker has carried it; numbers may begin again, tokens do not. */
	"CREATE TABLE migrate_tiers.conflict (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  id bigint GENERATED ALWAYS AS IDENTITY, token uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),\n"
	"  relation integer NOT NULL, key jsonb NOT NULL,\n"
	"  winner text NOT NULL CHECK (winner IN ('source', 'target')), policy text NOT NULL,\n"
	"  source_row jsonb, target_row jsonb, source_written timestamptz, target_written timestamptz,\n"
	"  PRIMARY KEY (migration, id));\n"
	/* What batch tables looked like here when they were last equal to the source's: batch/imprint.h. */
	"CREATE TABLE migrate_tiers.imprint (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  relation integer NOT NULL, token uuid NOT NULL, shape text NOT NULL, horizon bigint NOT NULL, own bigint NOT NULL,\n"
	"  PRIMARY KEY (migration, relation));\n"
	/* Leaf partitions of captured tables, as they were last seen: target_partition.c. */
	"CREATE TABLE migrate_tiers.leaf (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  relation integer NOT NULL, leaf oid NOT NULL, trigger_oid oid NOT NULL, file oid NOT NULL, bound text,\n"
	"  covered boolean NOT NULL DEFAULT false, PRIMARY KEY (migration, relation, leaf));\n"
	/* Capture triggers, which version of each, and of a table's own its name: target_armed.c. */
	"CREATE TABLE migrate_tiers.armed (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  relation integer NOT NULL, trigger_oid oid NOT NULL, version xid NOT NULL, name text,\n"
	"  PRIMARY KEY (migration, relation, trigger_oid));\n"
	"CREATE TABLE migrate_tiers.instance_report (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  name text NOT NULL, phase text NOT NULL,\n"
	"  reported timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),\n"
	"  PRIMARY KEY (migration, name));\n"
	/* What sequences were before they took turns with the source's: sequence.h. */
	"CREATE TABLE migrate_tiers.sequence (\n"
	"  migration uuid NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,\n"
	"  sequence oid PRIMARY KEY, relation integer NOT NULL, source oid NOT NULL,\n"
	"  start bigint NOT NULL, increment bigint NOT NULL, minimum bigint NOT NULL, maximum bigint NOT NULL,\n"
	"  cache bigint NOT NULL, cycle boolean NOT NULL, last_value bigint NOT NULL, is_called boolean NOT NULL,\n"
	"  begun bigint NOT NULL, restored boolean NOT NULL DEFAULT false, handed bigint, lapped boolean);\n"
	/* A mark that is not the one that was read: somebody else writes here in the migration's name. */
	"CREATE FUNCTION migrate_tiers.store_mark(uuid, pg_catalog.pg_snapshot, timestamptz, bigint, text, bigint)\n"
	"RETURNS void LANGUAGE plpgsql AS $f$\n"
	"BEGIN\n"
	"  UPDATE migrate_tiers.migration SET mark = $2, mark_time = $3, timeline = $6, ticks = ticks + 1, rows = rows + $4\n"
	"    WHERE ident = $1 AND coalesce(mark::text, '') = $5;\n"
	"  IF NOT FOUND THEN\n"
	"    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'the mark of the migration was moved by somebody else',\n"
	"      HINT = 'Look for a copy of the source database whose worker writes this target, too.';\n"
	"  END IF;\n"
	"END $f$;\n"
	"REVOKE ALL ON FUNCTION migrate_tiers.store_mark(uuid, pg_catalog.pg_snapshot, timestamptz, bigint, text, bigint) FROM PUBLIC;\n"
	"%s%s"
	"END";

/* Of one migration: the flag of its fence, closed from the start. */
static const char *const own_body =
	"BEGIN\n"
	"PERFORM pg_catalog.pg_advisory_xact_lock(" MT_TARGET_LOCK ");\n"
	/* What applications call on the target knows a migration by its name. */
	"IF EXISTS (SELECT FROM migrate_tiers.migration AS m WHERE m.name = %2$s AND m.ident <> %1$s)\n"
	"  AND NOT EXISTS (SELECT FROM migrate_tiers.migration AS m WHERE m.ident = %1$s) THEN\n"
	"  RAISE EXCEPTION USING ERRCODE = 'duplicate_object',\n"
	"    MESSAGE = 'another migration to this database has the name ' || pg_catalog.quote_ident(%2$s), DETAIL = 'It comes from another source.',\n"
	"    HINT = 'SELECT migrate_tiers.drop_migration() there, or here and create this one under another name.';\n"
	"END IF;\n"
	"INSERT INTO migrate_tiers.migration AS m (ident, name, token, phase) VALUES (%1$s, %2$s, %3$s, 'syncing')\n"
	"  ON CONFLICT (ident) DO UPDATE SET name = excluded.name, token = excluded.token\n"
	"  WHERE (m.name, m.token) IS DISTINCT FROM (excluded.name, excluded.token);\n"
	"IF pg_catalog.to_regclass('migrate_tiers.fence_%4$.8s') IS NULL THEN\n"
	"  CREATE SEQUENCE migrate_tiers.fence_%4$.8s MINVALUE 1 MAXVALUE 2;\n"
	"  GRANT SELECT ON SEQUENCE migrate_tiers.fence_%4$.8s TO PUBLIC;\n"
	"  PERFORM pg_catalog.setval('migrate_tiers.fence_%4$.8s', 1);\n"
	"END IF;\n"
	"%5$s"
	"END";

static const char *const uninstall_body =
	"BEGIN\n"
	"PERFORM pg_catalog.pg_advisory_xact_lock(" MT_TARGET_LOCK ");\n"
	"IF pg_catalog.to_regclass('migrate_tiers.set_aside') IS NULL THEN RETURN; END IF;\n"
	"EXECUTE (SELECT coalesce('DROP TABLE ' || pg_catalog.string_agg(oid::pg_catalog.regclass::text, ', '), 'SELECT 1')\n"
	"  FROM pg_catalog.pg_class WHERE relnamespace = 'migrate_tiers'::pg_catalog.regnamespace AND relkind = 'r'\n"
	"  AND pg_catalog.starts_with(relname::text, 'stage_%2$.8s_'));\n"
	"DROP FUNCTION IF EXISTS migrate_tiers.check_write_%2$.8s();\n"
	"DROP SEQUENCE IF EXISTS migrate_tiers.fence_%2$.8s;\n"
	"DELETE FROM migrate_tiers.migration WHERE ident = %1$s;\n"
	"IF EXISTS (SELECT FROM migrate_tiers.migration) THEN RETURN; END IF;\n"
	"DROP VIEW migrate_tiers.routing;\n"
	"DROP FUNCTION migrate_tiers.refuse_write(text, integer, name, name),\n"
	"  migrate_tiers.await_writers(integer), migrate_tiers.sync_token(name),\n"
	"  migrate_tiers.store_mark(uuid, pg_catalog.pg_snapshot, timestamptz, bigint, text, bigint), migrate_tiers.find_migration(name),\n"
	"  migrate_tiers.report_instance(text, text, name), migrate_tiers.wait_for_sync(text, interval, name);\n"
	"DROP TABLE migrate_tiers.sequence, migrate_tiers.instance_report, migrate_tiers.armed, migrate_tiers.leaf, migrate_tiers.imprint,\n"
	"  migrate_tiers.conflict, migrate_tiers.set_aside, migrate_tiers.joined, migrate_tiers.chunk, migrate_tiers.migration;\n"
	"DROP SCHEMA migrate_tiers;\n"
	"END";

/* mt_target_schema_create makes what is shared where it is missing, and what this migration has of its own. */
void
mt_target_schema_create(MtRemote *remote, const MtMigration *migration)
{
	if (!mt_target_installed(remote))
		mt_target_block(remote, psprintf(install_body, mt_target_fence_functions, mt_target_routines), INSTALL_TIMEOUT);
	mt_target_block(remote,
					psprintf(own_body, quote_literal_cstr(migration->ident), quote_literal_cstr(migration->name),
							 quote_literal_cstr(migration->token), migration->ident,
							 mt_target_fence_function(migration)),
					INSTALL_TIMEOUT);
}

/* mt_target_schema_drop removes what is this migration's, and the schema with the last one. */
void
mt_target_schema_drop(MtRemote *remote, const MtMigration *migration)
{
	mt_target_block(remote,
					psprintf(uninstall_body, quote_literal_cstr(migration->ident), migration->ident),
					INSTALL_TIMEOUT);
}
