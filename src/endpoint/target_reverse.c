/*
 * target_reverse.c
 *	  What all captured tables of a migration share on the target, and the
 *	  removal of capture there.
 *
 * A transaction that writes has a row in migrate_tiers.writer_<ident>: noted by
 * the first trigger that fires, which a setting of the transaction remembers;
 * and a second one, with the time, when it commits.  That is done by a deferred
 * constraint trigger, which forgets the first: what fires later still (other
 * deferred triggers that write, or everything after SET CONSTRAINTS ALL
 * IMMEDIATE) notes the transaction again.  The latest time counts.
 */
#include "endpoint/target_capture.h"

#include "utils/builtins.h"

#include "base/mark.h"
#include "base/settings.h"
#include "catalog/queue.h"
#include "endpoint/statements_queue.h"
#include "endpoint/target_block.h"
#include "endpoint/target_reverse.h"

static const char *const install_body =
	"BEGIN\n"
	"IF pg_catalog.to_regclass('migrate_tiers.writer_%1$.8s') IS NOT NULL THEN RETURN; END IF;\n"
	"CREATE TABLE migrate_tiers.writer_%1$.8s (xid xid8 NOT NULL, committed timestamptz, application text)\n"
	"  WITH (" MT_QUEUE_STORAGE ");\n"
	"CREATE INDEX ON migrate_tiers.writer_%1$.8s (xid);\n"
	"ALTER TABLE migrate_tiers.writer_%1$.8s REPLICA IDENTITY FULL;\n"
	"CREATE FUNCTION migrate_tiers.commit_%1$.8s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $f$\n"
	"DECLARE\n"
	"  noted pg_catalog.text;\n"
	"BEGIN\n"
	"  INSERT INTO migrate_tiers.writer_%1$.8s VALUES (NEW.xid, pg_catalog.clock_timestamp(), NEW.application);\n"
	/* An assignment, since that needs no executor. */
	"  noted := pg_catalog.set_config('migrate_tiers.xid', '', true);\n"
	"  RETURN NULL;\n"
	"END $f$;\n"
	"REVOKE ALL ON FUNCTION migrate_tiers.commit_%1$.8s() FROM PUBLIC;\n"
	"CREATE CONSTRAINT TRIGGER committed AFTER INSERT ON migrate_tiers.writer_%1$.8s DEFERRABLE INITIALLY DEFERRED\n"
	"  FOR EACH ROW WHEN (NEW.committed IS NULL) EXECUTE FUNCTION migrate_tiers.commit_%1$.8s();\n"
	"ALTER TABLE migrate_tiers.writer_%1$.8s ENABLE ALWAYS TRIGGER committed;\n"
	/* The functions of the schema, which may be another migration's role's, read it. */
	"EXECUTE pg_catalog.format('GRANT SELECT ON migrate_tiers.writer_%1$.8s TO %%I', (SELECT pg_catalog.pg_get_userbyid(nspowner)\n"
	"  FROM pg_catalog.pg_namespace WHERE nspname = 'migrate_tiers'));\n"
	"END";

/* Functions, then tables, of a migration or of one of its tables; by the end of their names. */
static const char *const drop_body =
	"FOR statement IN SELECT pg_catalog.format('DROP FUNCTION migrate_tiers.%%I()', p.proname) FROM pg_catalog.pg_proc p\n"
	"  WHERE p.pronamespace = pg_catalog.to_regnamespace('migrate_tiers')::oid AND p.proname ~ '^(capture|key|truncate)_%1$s$' LOOP\n"
	"  EXECUTE statement;\n"
	"END LOOP;\n"
	"FOR statement IN SELECT pg_catalog.format('DROP TABLE migrate_tiers.%%I', c.relname) FROM pg_catalog.pg_class c\n"
	"  WHERE c.relnamespace = pg_catalog.to_regnamespace('migrate_tiers')::oid AND c.relkind = 'r' AND c.relname ~ '^queue_%1$s$' LOOP\n"
	"  EXECUTE statement;\n"
	"END LOOP;\n"
	"DELETE FROM migrate_tiers.armed WHERE migration = %2$s%3$s;\n"
	"DELETE FROM migrate_tiers.leaf WHERE migration = %2$s%3$s;\n";

static const char *const drop_writer_body =
	"DROP TABLE IF EXISTS migrate_tiers.writer_%1$.8s;\n"
	"DROP FUNCTION IF EXISTS migrate_tiers.commit_%1$.8s();\n";

static void drop_triggers(MtRemote *remote, const MtMigration *migration, const char *pattern);

/* mt_target_reverse_install makes the table of writing transactions. */
void
mt_target_reverse_install(MtRemote *remote, const MtMigration *migration)
{
	mt_target_block(remote, psprintf(install_body, migration->ident), mt_lock_timeout_text());
}

/*
 * mt_target_reverse_mark returns what is certainly here of the target.
 *
 * A target that was promoted from a standby that lacked the end of the log, or set back, gives out ids again that the
 * reverse mark sees.  It has a copy of that mark itself, from after each tick: whatever its rows
 * tell has ids that were in its log before.  What both see is certain; "1:1:" sees nothing.
 */
char *
mt_target_reverse_mark(MtRemote *remote, const MtMigration *migration, uint32 *timeline)
{
	MtRows	   *rows = mt_remote_query(remote,
									   "SELECT " MT_TARGET_TIMELINE ", reverse_mark,"
									   " pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())"
									   " FROM migrate_tiers.migration WHERE ident = $1",
									   MT_PARAMS(migration->ident));
	char	  **values = rows->count > 0 ? rows->values[0] : NULL;
	MtMark	   *mark;

	*timeline = values ? mt_target_parse_timeline(values[0]) : 0;
	if (migration->reverse_mark == NULL || values == NULL)
		return migration->reverse_mark;
	mark = mt_mark_parse(migration->reverse_mark);
	if (*timeline == migration->reverse_timeline && mark->xmax <= strtou64(values[2], NULL, 10))
		return migration->reverse_mark;
	return mt_mark_format(mt_mark_intersect(mark, mt_mark_parse(values[1] ? values[1] : "1:1:")));
}

/* mt_target_parse_timeline reads MT_TARGET_TIMELINE. */
uint32
mt_target_parse_timeline(const char *text)
{
	return (uint32) strtoul(text, NULL, 16);
}

/* mt_target_capturing tells whether changes of the target are noted. */
bool
mt_target_capturing(MtRemote *remote, const MtMigration *migration)
{
	MtRows	   *rows = mt_remote_query(remote, "SELECT pg_catalog.to_regclass($1)",
									   MT_PARAMS(psprintf("migrate_tiers.writer_%.8s", migration->ident)));

	return rows->values[0][0] != NULL;
}

/* mt_target_forget_truncates takes what tells of them out of the queue. */
bool
mt_target_forget_truncates(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	MtRows	   *rows = mt_remote_query(remote,
									   psprintf("DELETE FROM %s WHERE kind IN (%d, %d) RETURNING 1",
												mt_sql_queue_name(migration, relation),
												MT_ENTRY_TRUNCATE, MT_ENTRY_TRUNCATE_WHERE),
									   MT_NO_PARAMS);

	return rows->count > 0;
}

/* mt_target_reverse_detach removes a table's triggers, wherever its partitions are now, and its queue. */
void
mt_target_reverse_detach(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	if (!mt_target_installed(remote))
		return;
	drop_triggers(remote, migration, psprintf("^%s", mt_target_reverse_trigger(migration, relation, "")));
	mt_target_block(remote,
					psprintf("DECLARE statement text;\nBEGIN\n%sEND",
							 psprintf(drop_body, psprintf("%.8s_%d", migration->ident, relation->id),
									  quote_literal_cstr(migration->ident),
									  psprintf(" AND relation = %d", relation->id))),
					mt_lock_timeout_text());
}

/* mt_target_reverse_uninstall removes capture from every table, also from those that left the migration. */
void
mt_target_reverse_uninstall(MtRemote *remote, const MtMigration *migration)
{
	if (!mt_target_installed(remote))
		return;
	drop_triggers(remote, migration, psprintf("^migrate_tiers_reverse_%.8s_", migration->ident));
	mt_target_block(remote,
					psprintf("DECLARE statement text;\nBEGIN\n%sEND", mt_target_reverse_drop_sql(migration)),
					mt_lock_timeout_text());
}

/* mt_target_reverse_drop_sql returns what drops functions and tables, once the triggers are gone. */
char *
mt_target_reverse_drop_sql(const MtMigration *migration)
{
	return psprintf("%s%s",
					psprintf(drop_body, psprintf("%.8s_[0-9]+", migration->ident),
							 quote_literal_cstr(migration->ident), ""),
					psprintf(drop_writer_body, migration->ident));
}

/*
 * drop_triggers drops triggers by name, one table a transaction; clones go with their parent's.
 *
 * In the same one it is forgotten that they were there: those that stay, since a lock is not to be had, are guarded
 * on, and what was taken away is not taken for disturbed.
 */
static void
drop_triggers(MtRemote *remote, const MtMigration *migration, const char *pattern)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT pg_catalog.string_agg(pg_catalog.format('DROP TRIGGER IF EXISTS %I ON %s;', g.tgname,"
						   " g.tgrelid::pg_catalog.regclass), ' ')"
						   " || pg_catalog.format(' DELETE FROM migrate_tiers.armed WHERE migration = %1$L AND trigger_oid = ANY (%2$L);"
						   " UPDATE migrate_tiers.leaf l SET covered = false, file = c.relfilenode FROM pg_catalog.pg_class c"
						   " WHERE l.migration = %1$L AND l.leaf = %3$s AND c.oid = l.leaf;', $2::text, pg_catalog.array_agg(g.oid), g.tgrelid)"
						   " FROM pg_catalog.pg_trigger g"
						   " WHERE g.tgname ~ $1 AND g.tgparentid = 0 GROUP BY g.tgrelid ORDER BY g.tgrelid",
						   MT_PARAMS(pattern, migration->ident));
	for (int row = 0; row < rows->count; row++)
		mt_target_locking(remote, rows->values[row][0], mt_lock_timeout_text());
}
