/*
 * target_leftover.c
 *	  Brings back what is still set aside when a migration ends: of tables
 *	  that left it, or of a migration that is dropped in the middle.
 *
 * The end of a migration must not hang on an index that cannot be built any
 * more.  So each is tried alone, and of one that cannot be brought back the
 * statements are told before they are forgotten.
 */
#include "endpoint/target_block.h"

#include "utils/builtins.h"

#include "base/xact.h"
#include "endpoint/target.h"
#include "endpoint/target_reverse.h"
#include "endpoint/target_sequence.h"

/* Builds may take a while for the lock: see target_aside.c. */
#define LEFTOVER_LOCK_TIMEOUT "5s"

/* What the rows (class 23) or the table (class 42) do not allow any more is noted; all else is an error. */
static const char *const restore_body =
	"DECLARE s record; statement text;\n"
	"BEGIN\n"
	"DELETE FROM migrate_tiers.set_aside WHERE migration = %1$s AND relation = %2$s AND kind = %3$s\n"
	"  AND table_oid = %4$s AND name = %5$s RETURNING * INTO s;\n"
	"PERFORM pg_catalog.set_config('default_tablespace', COALESCE(s.tablespace, ''), true);\n"
	"IF s.state = 'aside' AND s.build IS NOT NULL THEN EXECUTE s.build; END IF;\n"
	"FOREACH statement IN ARRAY s.finish LOOP EXECUTE statement; END LOOP;\n"
	"EXCEPTION WHEN integrity_constraint_violation OR syntax_error_or_access_rule_violation THEN\n"
	"UPDATE migrate_tiers.set_aside SET error = SQLERRM WHERE migration = %1$s AND relation = %2$s\n"
	"  AND kind = %3$s AND table_oid = %4$s AND name = %5$s;\n"
	"END";

/* What is set aside of tables that still exist; of one of ours only, foreign keys are no part of it. */
#define LEFTOVERS \
	" FROM migrate_tiers.set_aside s WHERE migration = $1" \
	" AND ($2::integer IS NULL OR relation = $2 AND kind <> 'foreign_key')" \
	" AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.table_oid)" \
	" ORDER BY kind = 'foreign_key', relation, name"

/* The same by hand: what cannot be brought back ends it, so that nothing is forgotten. */
static const char *const uninstall_body =
	"DECLARE s record; statement text;\n"
	"BEGIN\n"
	"IF to_regclass('migrate_tiers.set_aside') IS NULL THEN RETURN; END IF;\n"
	"FOR s IN SELECT * FROM migrate_tiers.set_aside AS a WHERE migration = %1$s"
	" AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = a.table_oid)"
	" ORDER BY kind = 'foreign_key', relation, name LOOP\n"
	"  PERFORM set_config('default_tablespace', COALESCE(s.tablespace, ''), true);\n"
	"  IF s.state = 'aside' AND s.build IS NOT NULL THEN EXECUTE s.build; END IF;\n"
	"  FOREACH statement IN ARRAY s.finish LOOP EXECUTE statement; END LOOP;\n"
	"END LOOP;\n"
	"FOR statement IN SELECT format('DROP TRIGGER %%I ON %%s', tgname, tgrelid::regclass) FROM pg_trigger"
	" WHERE tgname ~ '^migrate_tiers_(fence|reverse)_%2$.8s_' AND tgparentid = 0 LOOP\n"
	"  EXECUTE statement;\n"
	"END LOOP;\n"
	"%3$s%4$s;\n"
	"%5$s"
	"FOR statement IN SELECT format('DROP TABLE %%s', oid::regclass) FROM pg_class"
	" WHERE relnamespace = 'migrate_tiers'::regnamespace AND relkind = 'r' AND starts_with(relname::text, 'stage_%2$.8s_') LOOP\n"
	"  EXECUTE statement;\n"
	"END LOOP;\n"
	"DROP FUNCTION IF EXISTS migrate_tiers.check_write_%2$.8s();\n"
	"DROP SEQUENCE IF EXISTS migrate_tiers.fence_%2$.8s;\n"
	"DELETE FROM migrate_tiers.migration WHERE ident = %1$s;\n"
	"IF NOT EXISTS (SELECT FROM migrate_tiers.migration) THEN DROP SCHEMA migrate_tiers CASCADE; END IF;\n"
	"END";

typedef struct MtBack
{
	MtRemote   *remote;
	const MtMigration *migration;
	const MtRelation *relation;	/* NULL: foreign keys */
} MtBack;

static void bring_back(void *arg);
static void restore(MtRemote *remote, const MtMigration *migration, const char *relation);
static void warn_left(MtRemote *remote, const MtMigration *migration, const char *relation);

/* mt_target_bring_back leaves what the rows (class 23) or the tables (42) do not allow on the list. */
void
mt_target_bring_back(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	MtBack		back = {remote, migration, relation};
	ErrorData  *error = mt_xact_try(bring_back, &back);

	if (error == NULL)
		return;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION)
		ThrowErrorData(error);
	FreeErrorData(error);
}

static void
bring_back(void *arg)
{
	const MtBack *back = (const MtBack *) arg;
	ListCell   *cell;

	if (back->relation == NULL)
	{
		mt_target_restore_foreign_keys(back->remote, back->migration);
		return;
	}
	foreach(cell, mt_target_aside(back->remote, back->migration, back->relation))
		mt_target_build_index(back->remote, back->migration, back->relation, (char *) lfirst(cell));
	mt_target_restore_constraints(back->remote, back->migration, back->relation);
}

/* mt_target_restore_leftovers brings back what it can, and warns of the rest. */
void
mt_target_restore_leftovers(MtRemote *remote, const MtMigration *migration)
{
	restore(remote, migration, NULL);
}

/* mt_target_restore_left does so for one table; its foreign keys come back with those of others, or stop as they do. */
void
mt_target_restore_left(MtRemote *remote, const MtMigration *migration, int32 relation)
{
	char	   *id = psprintf("%d", relation);

	restore(remote, migration, id);
	mt_remote_query(remote,
					"DELETE FROM migrate_tiers.set_aside WHERE migration = $1 AND relation = $2 AND kind <> 'foreign_key'",
					MT_PARAMS(migration->ident, id));
}

static void
restore(MtRemote *remote, const MtMigration *migration, const char *relation)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT pg_catalog.quote_literal(migration), relation, pg_catalog.quote_literal(kind),"
						   " table_oid, pg_catalog.quote_literal(name)" LEFTOVERS,
						   MT_PARAMS(migration->ident, relation));
	for (int row = 0; row < rows->count; row++)
	{
		char	  **key = rows->values[row];

		mt_target_block(remote, psprintf(restore_body, key[0], key[1], key[2], key[3], key[4]),
						LEFTOVER_LOCK_TIMEOUT);
	}
	warn_left(remote, migration, relation);
}

/* mt_target_uninstall_sql returns the statement that uninstalls a migration by hand. */
char *
mt_target_uninstall_sql(const MtMigration *migration, const char *sequences)
{
	return psprintf("DO $migrate_tiers$%s$migrate_tiers$",
					psprintf(uninstall_body, quote_literal_cstr(migration->ident), migration->ident, sequences,
							 mt_target_sequences_leave_sql(migration), mt_target_reverse_drop_sql(migration)));
}

static void
warn_left(MtRemote *remote, const MtMigration *migration, const char *relation)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT pg_catalog.replace(kind, '_', ' '), name, pg_catalog.format('%I.%I', table_schema, table_name), error,"
						   " pg_catalog.concat_ws('; ', VARIADIC ARRAY[CASE WHEN state = 'aside' THEN build END] || finish)" LEFTOVERS,
						   MT_PARAMS(migration->ident, relation));
	for (int row = 0; row < rows->count; row++)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" of target table %s was set aside and could not be restored",
						rows->values[row][0], rows->values[row][1], rows->values[row][2]),
				 rows->values[row][3] ? errdetail_internal("%s", rows->values[row][3]) : 0,
				 errhint("Run in the target database: %s", rows->values[row][4])));
}
