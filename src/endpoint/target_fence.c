/*
 * target_fence.c
 *	  The fence: refuses writes of applications to tables of the target while
 *	  its flag is closed.
 *
 * Statement triggers, enabled always, on each table and on each of its
 * partitions, since a partition can be written directly.  They stay from
 * syncing on; what a change of phase flips is a flag, so that no table is locked
 * then.  The flag is the last value of a sequence: reads of it are not bound to a snapshot.
 *
 * A table that stands below another one can be written by way of that, which fires its row triggers
 * only.  There is one more on it, whose name comes before those that note keys: who has noted is taken for let through.
 *
 * Nobody may write unseen by whoever closes the fence.  So a writer finds the
 * flag open, takes a shared advisory lock until the end of its transaction, and
 * looks at the flag again; who closes sets the flag, and then waits for the
 * exclusive lock.  Either the writer's second look finds the flag closed, or
 * the closer finds the lock taken.  A transaction that was let through and has
 * written goes on to its end.
 *
 * It is all in the function, in one expression: the condition of a trigger is
 * parsed and planned by each statement anew, which costs several times as much.  It
 * acts as the writer and pins no search_path, which would cost as much again, so
 * every name and operator in it is qualified; who does not simply pass is
 * seen to by a second function.
 *
 * Our own sessions are known by the migration's token, of which others can only
 * read a hash.  Creating a trigger waits for the transactions that are writing
 * the table.  A trigger's name holds the migration and the table's number: it is
 * found again on a partition that was detached and on a table that was renamed.
 */
#include "endpoint/target_block.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/settings.h"
#include "catalog/option.h"
#include "endpoint/target.h"
#include "endpoint/target_reverse.h"

/* First key of the advisory locks: 'MT'. */
#define LOCK_CLASS "19796"

/* Last value of the sequence. */
#define CLOSED "1"
#define OPEN   "2"

const char *const mt_target_fence_functions =
	/* Every writer calls it; for others it does nothing, or fails. */
	"CREATE FUNCTION migrate_tiers.refuse_write(ident text, key integer, table_schema name, table_name name) RETURNS void\n"
	"LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$\n"
	"DECLARE\n"
	"  flag regclass := 'migrate_tiers.fence_' || left(ident::uuid::text, 8);\n"
	"  writer regclass := to_regclass('migrate_tiers.writer_' || left(ident::uuid::text, 8));\n"
	"  deadline timestamptz := clock_timestamp() + interval '1 s';\n"
	"  written boolean := false;\n"
	"BEGIN\n"
	/* The lock is not to be had for an instant where a fence that was being closed is opened again. */
	"  WHILE pg_sequence_last_value(flag) = " OPEN " LOOP\n"
	"    IF pg_try_advisory_xact_lock_shared(" LOCK_CLASS ", key) THEN\n"
	"      IF pg_sequence_last_value(flag) = " OPEN " THEN RETURN; END IF;\n"
	"    ELSIF clock_timestamp() > deadline THEN\n"
	"      RAISE EXCEPTION USING ERRCODE = '55P03',\n"
	"        MESSAGE = format('somebody holds advisory lock (" LOCK_CLASS ", %s) of a migration', key),\n"
	"        HINT = 'Look for it in pg_locks, and end that session.';\n"
	"    ELSE\n"
	"      PERFORM pg_sleep(0.005);\n"
	"    END IF;\n"
	"  END LOOP;\n"
	/* What it has written cannot be forged, as a lock can be. */
	"  IF writer IS NOT NULL AND pg_current_xact_id_if_assigned() IS NOT NULL THEN\n"
	"    EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE xid = pg_current_xact_id())', writer) INTO written;\n"
	"  END IF;\n"
	"  IF written THEN RETURN; END IF;\n"
	"  RAISE EXCEPTION USING ERRCODE = 'MT005',\n"
	"    MESSAGE = format('writes of table %I.%I go to the source database while migration \"%s\" is in phase %s',\n"
	"      $3, $4, (SELECT m.name FROM migrate_tiers.migration m WHERE m.ident = $1::uuid),\n"
	"      coalesce((SELECT m.phase FROM migrate_tiers.migration m WHERE m.ident = $1::uuid), 'syncing')),\n"
	"    HINT = 'Write to the source database; here the table is filled by the migration.';\n"
	"END $f$;\n"
	/* Waits for one lock_timeout, so that whoever waits can be interrupted and leaves no request behind. */
	"CREATE FUNCTION migrate_tiers.await_writers(integer) RETURNS boolean LANGUAGE plpgsql AS $f$\n"
	"BEGIN\n"
	"  PERFORM pg_catalog.pg_advisory_xact_lock(" LOCK_CLASS ", $1);\n"
	"  RETURN true;\n"
	"EXCEPTION WHEN lock_not_available THEN\n"
	"  RETURN false;\n"
	"END $f$;\n"
	"REVOKE ALL ON FUNCTION migrate_tiers.await_writers(integer) FROM PUBLIC;\n";

/* Of a migration: its ident, the second key of its lock, the hash of its token. */
static const char *const check_function =
	"CREATE OR REPLACE FUNCTION migrate_tiers.check_write_%1$.8s() RETURNS trigger LANGUAGE plpgsql AS $f$\n"
	"BEGIN\n"
	"  IF " MT_TARGET_SESSION " OPERATOR(pg_catalog.=) %3$s\n"
	"    OR pg_catalog.pg_sequence_last_value('migrate_tiers.fence_%1$.8s'::pg_catalog.regclass) OPERATOR(pg_catalog.=) " OPEN "\n"
	"    AND pg_catalog.pg_try_advisory_xact_lock_shared(" LOCK_CLASS ", %2$s)\n"
	"    AND pg_catalog.pg_sequence_last_value('migrate_tiers.fence_%1$.8s'::pg_catalog.regclass) OPERATOR(pg_catalog.=) " OPEN "\n"
	"  THEN RETURN NULL; END IF;\n"
	"  PERFORM migrate_tiers.refuse_write('%1$s', %2$s, TG_TABLE_SCHEMA, TG_TABLE_NAME);\n"
	"  RETURN NULL;\n"
	"END $f$;\n"
	"REVOKE ALL ON FUNCTION migrate_tiers.check_write_%1$.8s() FROM PUBLIC;\n";

/* The table and all its partitions, without a lock on any of them; and whether statement triggers can be passed by. */
#define TREE \
	"WITH RECURSIVE tree(oid) AS (SELECT pg_catalog.to_regclass($1)::oid" \
	" UNION ALL SELECT i.inhrelid FROM tree t" \
	" JOIN pg_catalog.pg_class p ON p.oid = t.oid AND p.relkind = 'p'" \
	" JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)," \
	" below(oid) AS (SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhrelid = pg_catalog.to_regclass($1)::oid LIMIT 1) "

static char *trigger_name(const MtMigration *migration, const MtRelation *relation);
static void fence_table(MtRemote *remote, const MtMigration *migration, const char *trigger, const char *table,
						bool below);
static void drop_triggers(MtRemote *remote, const char *pattern);
static char *lock_key(const MtMigration *migration);
static void set_flag(MtRemote *remote, const MtMigration *migration, const char *value);
static void raise_writers(MtRemote *remote, const MtMigration *migration);

/* mt_target_fence_function returns what makes the function of a migration's fence. */
char *
mt_target_fence_function(const MtMigration *migration)
{
	return psprintf(check_function, migration->ident, lock_key(migration), quote_literal_cstr(migration->token_hash));
}

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
						   TREE "SELECT c.oid::pg_catalog.regclass, b.oid IS NOT NULL FROM tree t JOIN pg_catalog.pg_class c USING (oid) "
								"LEFT JOIN below b USING (oid) WHERE c.relkind IN ('r', 'p') AND "
								"CASE WHEN b.oid IS NULL THEN 2 ELSE 3 END > (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger g "
								"WHERE g.tgrelid = c.oid AND g.tgenabled = 'A' AND (g.tgname::text IN ($2::text, $2::text || '_truncate') "
								"OR g.tgname::text = $2::text || '_row' AND b.oid IS NOT NULL))",
						   MT_PARAMS(mt_relation_target_name(relation), trigger));
	for (int row = 0; row < rows->count; row++)
		fence_table(remote, migration, trigger, rows->values[row][0], rows->values[row][1][0] == 't');
}

/* mt_target_has_fence says whether a table, or a partition of it, has the fence; wherever it is now. */
bool
mt_target_has_fence(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc f ON f.oid = g.tgfoid"
						   " WHERE g.tgname = $1 AND f.pronamespace = pg_catalog.to_regnamespace('migrate_tiers'))",
						   MT_PARAMS(trigger_name(migration, relation)));
	return rows->values[0][0][0] == 't';
}

/* mt_target_unfence takes the fence of a table off, wherever the table and its partitions are now. */
void
mt_target_unfence(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	char	   *trigger = trigger_name(migration, relation);

	drop_triggers(remote, psprintf("^%s(_truncate|_row)?$", trigger));
}

/* mt_target_unfence_all takes every fence of the migration off. */
void
mt_target_unfence_all(MtRemote *remote, const MtMigration *migration)
{
	drop_triggers(remote, psprintf("^migrate_tiers_fence_%.8s_", migration->ident));
}

/* trigger_name returns the name of a table's write trigger; the others' have a suffix. */
static char *
trigger_name(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("migrate_tiers_fence_%.8s_%d", migration->ident, relation->id);
}

/*
 * fence_table puts the triggers on one table; the name of the table comes quoted.
 *
 * That by row is cloned to partitions.  An AFTER trigger of rows, it keeps each row in mind until the statement ends:
 * its condition spares our own sessions that, which copy.
 */
static void
fence_table(MtRemote *remote, const MtMigration *migration, const char *trigger, const char *table, bool below)
{
	static const char *const events[][2] = {{"", "INSERT OR UPDATE OR DELETE"}, {"_truncate", "TRUNCATE"}};
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < lengthof(events); i++)
	{
		appendStringInfo(&sql,
						 "CREATE OR REPLACE TRIGGER %s%s BEFORE %s ON %s FOR EACH STATEMENT "
						 "EXECUTE FUNCTION migrate_tiers.check_write_%.8s();",
						 trigger, events[i][0], events[i][1], table, migration->ident);
		appendStringInfo(&sql, "ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %s%s;", table, trigger, events[i][0]);
	}
	if (below)
		appendStringInfo(&sql,
						 "CREATE OR REPLACE TRIGGER %1$s_row AFTER INSERT OR UPDATE OR DELETE ON %2$s FOR EACH ROW "
						 "WHEN (" MT_TARGET_SESSION " IS DISTINCT FROM %3$s) "
						 "EXECUTE FUNCTION migrate_tiers.check_write_%4$.8s();"
						 "ALTER TABLE %2$s ENABLE ALWAYS TRIGGER %1$s_row;",
						 trigger, table, quote_literal_cstr(migration->token_hash), migration->ident);
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
						   "WHERE g.tgname ~ $1 AND g.tgparentid = 0 AND g.tgfoid IN (SELECT p.oid FROM pg_catalog.pg_proc p "
						   "WHERE p.pronamespace = pg_catalog.to_regnamespace('migrate_tiers')::pg_catalog.oid AND p.proname ~ '^check_write_') "
						   "GROUP BY g.tgrelid ORDER BY g.tgrelid",
						   MT_PARAMS(pattern));
	for (int row = 0; row < rows->count; row++)
		mt_target_locking(remote, rows->values[row][0], mt_lock_timeout_text());
}

/* mt_target_fence_is_open tells whether applications are let through. */
bool
mt_target_fence_is_open(MtRemote *remote, const MtMigration *migration)
{
	MtRows	   *rows = mt_remote_query(remote,
									   psprintf("SELECT pg_catalog.pg_sequence_last_value('migrate_tiers.fence_%.8s') = " OPEN,
												migration->ident),
									   MT_NO_PARAMS);

	return rows->values[0][0][0] == 't';
}

/* mt_target_fence_open lets applications write the target, from this instant. */
void
mt_target_fence_open(MtRemote *remote, const MtMigration *migration)
{
	set_flag(remote, migration, OPEN);
}

/*
 * mt_target_fence_close refuses new writers, and returns when those that were
 * let through have ended.  Partitions that came meanwhile get the triggers first.
 */
void
mt_target_fence_close(MtRemote *remote, const MtMigration *migration)
{
	TimestampTz deadline = GetCurrentTimestamp() + mt_option_microseconds(migration->id, "attach_timeout");
	const char *wait = psprintf("SELECT migrate_tiers.await_writers(%s)", lock_key(migration));
	List	   *relations = mt_relation_list(migration->id, "realtime");
	ListCell   *cell;

	foreach(cell, relations)
		mt_target_fence(remote, migration, (MtRelation *) lfirst(cell));
	set_flag(remote, migration, CLOSED);
	while (strcmp(mt_remote_query(remote, wait, MT_NO_PARAMS)->values[0][0], "t") != 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (GetCurrentTimestamp() >= deadline)
			raise_writers(remote, migration);
	}
	/* Partitions that came while it was closed: who writes them directly has to be refused, too. */
	foreach(cell, relations)
		mt_target_fence(remote, migration, (MtRelation *) lfirst(cell));
	/* The last thing that writers may have done unseen, before whoever closed it drains the queue. */
	if (mt_target_capturing(remote, migration))
	{
		foreach(cell, relations)
			mt_target_reverse_attach(remote, migration, (MtRelation *) lfirst(cell));
		mt_target_require_undisturbed(remote, migration, relations);
	}
}

static void
set_flag(MtRemote *remote, const MtMigration *migration, const char *value)
{
	mt_remote_query(remote,
					psprintf("SELECT pg_catalog.setval('migrate_tiers.fence_%.8s', %s)", migration->ident, value),
					MT_NO_PARAMS);
}

/* lock_key returns the second key of the fence's lock: the first four bytes of the ident. */
static char *
lock_key(const MtMigration *migration)
{
	return psprintf("%d", (int32) strtoul(pnstrdup(migration->ident, 8), NULL, 16));
}

/* raise_writers names the transactions that do not end. */
static void
raise_writers(MtRemote *remote, const MtMigration *migration)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT pg_catalog.string_agg(CASE WHEN l.pid IS NULL THEN 'a prepared transaction'"
						   " ELSE pg_catalog.format('pid %s (%s)', l.pid, a.application_name) END, ', ' ORDER BY l.pid) FROM pg_catalog.pg_locks l"
						   " LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted"
						   " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
						   " AND l.classid = " LOCK_CLASS " AND l.objid::text = $1 AND l.objsubid = 2",
						   MT_PARAMS(psprintf("%u", (uint32) atoi(lock_key(migration)))));
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("transactions that write the target do not end"),
			 rows->values[0][0] ? errdetail("They are: %s.", rows->values[0][0]) : 0,
			 errhint("End them in the target database, and call it again.")));
}
