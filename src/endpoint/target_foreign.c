/*
 * target_foreign.c
 *	  Brings back the foreign keys that were set aside with the keys they rest
 *	  on, when all tables are in; and tells what could not be brought back.
 *
 * Adding one takes an instant of both tables; checking its rows takes long but
 * hinders nobody.  So they are two transactions, and a foreign key that was
 * added but not checked is found again by its state.  That of a partitioned table
 * is added and checked in one, and keeps writers out meanwhile.
 */
#include "endpoint/target_block.h"

#include "utils/builtins.h"

#include "base/settings.h"
#include "endpoint/target.h"

/* A check waits for a lock that neither readers nor writers notice. */
#define VALIDATE_LOCK_TIMEOUT "5s"

/* Which foreign key: migration, relation, OID of the referring table, name. */
#define THIS_ONE \
	"migration = %1$s AND relation = %2$s AND table_oid = %3$s AND name = %4$s AND kind = 'foreign_key'"

/*
 * The three blocks of a foreign key.  The last is where it does not hold and
 * nobody insists: it is off the list, and the caller is told.
 */
static const char *const add_body =
	"DECLARE s record;\n"
	"BEGIN\n"
	"UPDATE migrate_tiers.set_aside SET state = 'added' WHERE " THIS_ONE " AND state = 'aside' RETURNING * INTO s;\n"
	"IF NOT FOUND THEN RETURN; END IF;\n"
	"EXECUTE s.build;\n"
	"%5$s"
	"END";

static const char *const validate_body =
	"DECLARE s record; statement text;\n"
	"BEGIN\n"
	"DELETE FROM migrate_tiers.set_aside WHERE " THIS_ONE " AND state = 'added' RETURNING * INTO s;\n"
	"IF NOT FOUND THEN RETURN; END IF;\n"
	"FOREACH statement IN ARRAY s.finish LOOP EXECUTE statement; END LOOP;\n"
	"%5$s"
	"END";

static const char *const tolerate =
	"EXCEPTION WHEN foreign_key_violation THEN\n"
	"UPDATE migrate_tiers.set_aside SET state = 'violated', error = SQLERRM WHERE " THIS_ONE ";\n";

/* Both in turn, for a session that has nothing else to do; what is added already is only checked. */
static const char *const check_body =
	"DECLARE s record; statement text;\n"
	"BEGIN\n"
	"PERFORM pg_catalog.set_config('lock_timeout', %5$s, true);\n"
	"UPDATE migrate_tiers.set_aside SET state = 'added' WHERE " THIS_ONE " AND state = 'aside' RETURNING * INTO s;\n"
	"IF FOUND THEN EXECUTE s.build; END IF;\n"
	"DELETE FROM migrate_tiers.set_aside WHERE " THIS_ONE " AND state = 'added' RETURNING * INTO s;\n"
	"IF NOT FOUND THEN RETURN; END IF;\n"
	"FOREACH statement IN ARRAY s.finish LOOP EXECUTE statement; END LOOP;\n" MT_TARGET_WAY_OUT("COALESCE(statement, s.build)") "END";

/* Such a session ends when its client is gone, also in the middle of a check; where the server can notice that. */
static const char *const watch_client =
	"DO $$BEGIN PERFORM pg_catalog.set_config('client_connection_check_interval', '500ms', false);"
	" EXCEPTION WHEN invalid_parameter_value THEN NULL; END$$;"
	" SET session_replication_role = replica; SET client_min_messages = 'warning'";

static MtRows *list_foreign_keys(MtRemote *remote, const MtMigration *migration);
static void run_step(MtRemote *remote, const char *body, char **key, const char *tail, const char *lock_timeout);
static void report_violated(MtRemote *remote, const MtMigration *migration);

/* mt_target_restore_foreign_keys adds them again and checks them; one that does not hold stays unchecked. */
void
mt_target_restore_foreign_keys(MtRemote *remote, const MtMigration *migration)
{
	MtRows	   *rows;

	if (!mt_target_installed(remote))
		return;
	rows = list_foreign_keys(remote, migration);
	for (int row = 0; row < rows->count; row++)
		run_step(remote, add_body, rows->values[row], tolerate, mt_lock_timeout_text());
	for (int row = 0; row < rows->count; row++)
		run_step(remote, validate_body, rows->values[row], tolerate, VALIDATE_LOCK_TIMEOUT);
	report_violated(remote, migration);
}

/* mt_target_add_foreign_keys adds again those that an instant is enough for, and lists what is to be checked. */
List *
mt_target_add_foreign_keys(MtRemote *remote, const MtMigration *migration)
{
	MtRows	   *rows = list_foreign_keys(remote, migration);
	List	   *checks = NIL;

	for (int row = 0; row < rows->count; row++)
	{
		char	  **key = rows->values[row];
		bool		partitioned = strcmp(key[5], "t") == 0;
		MtForeignCheck *check = palloc(sizeof(MtForeignCheck));
		char	   *timeout = quote_literal_cstr(partitioned ? mt_lock_timeout_text() : VALIDATE_LOCK_TIMEOUT);

		if (!partitioned)
			run_step(remote, add_body, key, MT_TARGET_WAY_OUT("s.build"), mt_lock_timeout_text());
		check->relation = (int32) strtol(key[1], NULL, 10);
		check->name = key[4];
		check->keeps_writers_out = partitioned;
		check->sql = psprintf(check_body, key[0], key[1], key[2], key[3], timeout);
		check->sql = psprintf("DO %s", quote_literal_cstr(check->sql));
		checks = lappend(checks, check);
	}
	return checks;
}

/* mt_target_check_alone prepares a session that checks foreign keys and nothing else. */
void
mt_target_check_alone(MtRemote *remote)
{
	mt_remote_run(remote, watch_client);
}

/* list_foreign_keys lists what is set aside; what somebody has dropped is forgotten. */
static MtRows *
list_foreign_keys(MtRemote *remote, const MtMigration *migration)
{
	mt_remote_query(remote,
					"DELETE FROM migrate_tiers.set_aside AS s WHERE migration = $1"
					" AND (NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.table_oid)"
					" OR state = 'added' AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k"
					" WHERE k.conrelid = s.table_oid AND k.conname = s.name AND k.contype = 'f'))",
					MT_PARAMS(migration->ident));
	return mt_remote_query(remote,
						   "SELECT pg_catalog.quote_literal(s.migration), s.relation, s.table_oid, pg_catalog.quote_literal(s.name),"
						   " pg_catalog.format('%I of %I.%I', s.name, s.table_schema, s.table_name), c.relkind = 'p'"
						   " FROM migrate_tiers.set_aside AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.table_oid"
						   " WHERE s.migration = $1 AND s.kind = 'foreign_key' ORDER BY s.relation, s.table_oid, s.name",
						   MT_PARAMS(migration->ident));
}

/* run_step runs the block of a foreign key; the tail says what it does with one that does not hold. */
static void
run_step(MtRemote *remote, const char *body, char **key, const char *tail, const char *lock_timeout)
{
	tail = psprintf(tail, key[0], key[1], key[2], key[3]);
	mt_target_block(remote, psprintf(body, key[0], key[1], key[2], key[3], tail), lock_timeout);
}

/* report_violated warns of foreign keys that do not hold, and takes them off the list. */
static void
report_violated(MtRemote *remote, const MtMigration *migration)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT s.name, pg_catalog.format('%I.%I', s.table_schema, s.table_name), s.error, s.build, c.oid IS NOT NULL"
						   " FROM migrate_tiers.set_aside s LEFT JOIN pg_catalog.pg_constraint c"
						   " ON c.conrelid = s.table_oid AND c.conname = s.name"
						   " WHERE s.migration = $1 AND s.state = 'violated'",
						   MT_PARAMS(migration->ident));
	for (int row = 0; row < rows->count; row++)
	{
		char	  **value = rows->values[row];
		bool		there = strcmp(value[4], "t") == 0;

		ereport(WARNING,
				(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
				 there ? errmsg("foreign key \"%s\" of target table %s does not hold and stays NOT VALID",
								value[0], value[1])
				 : errmsg("foreign key \"%s\" of target table %s does not hold and could not be restored",
						  value[0], value[1]),
				 errdetail_internal("%s", value[2]),
				 there ? errhint("Mend the rows in the target database, then run ALTER TABLE %s VALIDATE CONSTRAINT %s there.",
								 value[1], quote_identifier(value[0]))
				 : errhint("Mend the rows in the target database, then run there: %s", value[3])));
	}
	mt_remote_query(remote, "DELETE FROM migrate_tiers.set_aside WHERE migration = $1 AND state = 'violated'",
					MT_PARAMS(migration->ident));
}
