/*
 * target_fence.c
 *	  The fence: refuses writes of applications to tables of the target that
 *	  this migration fills.
 *
 * Statement triggers, enabled always, on each table and on each of its
 * partitions, since a partition can be written directly.  Their condition lets
 * our own sessions pass, which are known by the migration's token.  Creating
 * one waits for the transactions that are writing the table, so that nobody is
 * still writing once it is there.  A trigger's name holds the migration and
 * the table's number: it is found again on a partition that was detached and on
 * a table that was renamed.
 */
#include "endpoint/target_block.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/settings.h"
#include "endpoint/target.h"

/* The table and all its partitions, without a lock on any of them. */
#define TREE \
	"WITH RECURSIVE tree(oid) AS (SELECT pg_catalog.to_regclass($1)::oid" \
	" UNION ALL SELECT i.inhrelid FROM tree t" \
	" JOIN pg_catalog.pg_class p ON p.oid = t.oid AND p.relkind = 'p'" \
	" JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid) "

static char *trigger_name(const MtMigration *migration, const MtRelation *relation);
static void fence_table(MtRemote *remote, const MtMigration *migration, const char *trigger,
						const char *table);
static void drop_triggers(MtRemote *remote, const char *pattern);

/*
 * mt_target_fence puts the fence on a table and its partitions.  Each table is
 * a transaction of its own, and one that has the fence already is not locked.
 */
void
mt_target_fence(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	char	   *trigger = trigger_name(migration, relation);
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   TREE "SELECT c.oid::pg_catalog.regclass FROM tree t JOIN pg_catalog.pg_class c USING (oid) "
								"WHERE c.relkind IN ('r', 'p') AND 2 > (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger g "
								"WHERE g.tgrelid = c.oid AND g.tgname::text IN ($2::text, $2::text || '_truncate') AND g.tgenabled = 'A')",
						   MT_PARAMS(mt_relation_target_name(relation), trigger));
	for (int row = 0; row < rows->count; row++)
		fence_table(remote, migration, trigger, rows->values[row][0]);
}

/* mt_target_unfence takes the fence of a table off, wherever the table and its partitions are now. */
void
mt_target_unfence(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	char	   *trigger = trigger_name(migration, relation);

	drop_triggers(remote, psprintf("^%s(_truncate)?$", trigger));
}

/* mt_target_unfence_all takes every fence of the migration off. */
void
mt_target_unfence_all(MtRemote *remote, const MtMigration *migration)
{
	drop_triggers(remote, psprintf("^migrate_tiers_fence_%.8s_", migration->ident));
}

/* trigger_name returns the name of a table's write trigger; the other's has a suffix. */
static char *
trigger_name(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("migrate_tiers_fence_%.8s_%d", migration->ident, relation->id);
}

/* fence_table puts both triggers on one table; the name of the table comes quoted. */
static void
fence_table(MtRemote *remote, const MtMigration *migration, const char *trigger, const char *table)
{
	static const char *const events[][2] = {{"", "INSERT OR UPDATE OR DELETE"}, {"_truncate", "TRUNCATE"}};
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < lengthof(events); i++)
	{
		appendStringInfo(&sql,
						 "CREATE OR REPLACE TRIGGER %s%s BEFORE %s ON %s FOR EACH STATEMENT "
						 "WHEN (pg_catalog.current_setting('migrate_tiers.session', true) IS DISTINCT FROM %s) "
						 "EXECUTE FUNCTION migrate_tiers.refuse_write(%s, %s);",
						 trigger, events[i][0], events[i][1], table,
						 quote_literal_cstr(migration->token), quote_literal_cstr(migration->name),
						 quote_literal_cstr(mt_phase_name(MT_SYNCING)));
		appendStringInfo(&sql, "ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %s%s;", table, trigger, events[i][0]);
	}
	mt_target_locking(remote, sql.data, mt_lock_timeout_text());
}

/* drop_triggers drops the fence's triggers whose name matches, one table a transaction. */
static void
drop_triggers(MtRemote *remote, const char *pattern)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT pg_catalog.string_agg(pg_catalog.format('DROP TRIGGER IF EXISTS %I ON %s', g.tgname, "
						   "g.tgrelid::pg_catalog.regclass), '; ') FROM pg_catalog.pg_trigger g "
						   "WHERE g.tgname ~ $1 AND g.tgfoid = pg_catalog.to_regprocedure('migrate_tiers.refuse_write()') "
						   "GROUP BY g.tgrelid ORDER BY g.tgrelid",
						   MT_PARAMS(pattern));
	for (int row = 0; row < rows->count; row++)
		mt_target_locking(remote, rows->values[row][0], mt_lock_timeout_text());
}
