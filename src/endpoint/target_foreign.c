/*
 * target_foreign.c
 *	  Brings back the foreign keys that were set aside with the keys they rest
 *	  on, when all tables are in; and tells what could not be brought back.
 *
 * Adding one takes an instant of both tables; checking its rows takes long but
 * hinders nobody.  So they are two transactions, and a foreign key that was
 * added but not checked is found again by its state.
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

static void run_step(MtRemote *remote, const char *body, char **key, bool strict, const char *lock_timeout);
static void report_violated(MtRemote *remote, const MtMigration *migration);

/*
 * mt_target_restore_foreign_keys adds the foreign keys again and checks them.
 * With strict false one that does not hold is kept unchecked, with a WARNING.
 */
void
mt_target_restore_foreign_keys(MtRemote *remote, const MtMigration *migration, bool strict)
{
	MtRows	   *rows;

	if (!mt_target_installed(remote))
		return;
	mt_remote_query(remote,
					"DELETE FROM migrate_tiers.set_aside WHERE migration = $1"
					" AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = table_oid)",
					MT_PARAMS(migration->ident));
	rows = mt_remote_query(remote,
						   "SELECT pg_catalog.quote_literal(migration), relation, table_oid, pg_catalog.quote_literal(name)"
						   " FROM migrate_tiers.set_aside WHERE migration = $1 AND kind = 'foreign_key'"
						   " ORDER BY relation, table_oid, name",
						   MT_PARAMS(migration->ident));
	for (int row = 0; row < rows->count; row++)
		run_step(remote, add_body, rows->values[row], strict, mt_lock_timeout_text());
	for (int row = 0; row < rows->count; row++)
		run_step(remote, validate_body, rows->values[row], strict, VALIDATE_LOCK_TIMEOUT);
	if (!strict)
		report_violated(remote, migration);
}

static void
run_step(MtRemote *remote, const char *body, char **key, bool strict, const char *lock_timeout)
{
	const char *tail = strict ? "" : psprintf(tolerate, key[0], key[1], key[2], key[3]);

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
