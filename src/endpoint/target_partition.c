/*
 * target_partition.c
 *	  Partitions of a captured table of the target that come and go while it is written.
 *
 * The row triggers come to a new partition by themselves, the TRUNCATE trigger
 * does not; and neither rows that are attached with a partition, nor those that go
 * when one is detached or dropped, fire any trigger.  So it is known which
 * leaf partitions there were, with their bounds, and of the difference all keys
 * are noted that can be concerned: entries say where to look, not what is there,
 * so that one too many does no harm.
 *
 * A leaf is known by its oid and that of the row trigger in it, which is made anew
 * whenever it is attached: one that was detached and attached again has gone and
 * come, whatever was done to it meanwhile.  Until it has the TRUNCATE trigger, which
 * needs a lock that may not be had for long, a TRUNCATE is told by the new file that it
 * gives the table.
 *
 * What is found is noted before the next tick reads: see reverse.c.
 */
#include "endpoint/target_capture.h"

#include "utils/builtins.h"

#include "base/settings.h"
#include "endpoint/target_block.h"
#include "endpoint/target_reverse.h"

/* Leaf partitions of the table named by the first literal that have the trigger named by the second. */
#define LEAVES(table, trigger) \
	"WITH RECURSIVE tree(oid, relkind) AS (SELECT c.oid, c.relkind FROM pg_catalog.pg_class c\n" \
	"  WHERE c.oid = pg_catalog.to_regclass(" table ") UNION ALL SELECT c.oid, c.relkind FROM tree t\n" \
	"  JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending\n" \
	"  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE t.relkind = 'p'),\n" \
	"leaves AS (SELECT t.oid AS leaf, g.oid AS trigger_oid, c.relfilenode AS file,\n" \
	"  pg_catalog.pg_get_partition_constraintdef(t.oid) AS bound FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid\n" \
	"  JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid AND g.tgname = " trigger " WHERE t.relkind = 'r')\n"

/*
 * Those that went come first: one that is attached again is among both.  A hash bound names a
 * parent by its number, which means nothing on the other side.  A partition whose file is not its first
 * one may have been truncated before it was seen.
 */
static const char *const cover_body =
	"DECLARE\n"
	"  d record;\n"
	"  range text;\n"
	"  emptied boolean;\n"
	"  noted boolean := false;\n"
	"BEGIN\n"
	/* Bounds are for the source to read. */
	"PERFORM set_config('quote_all_identifiers', 'on', true);\n"
	"FOR d IN " LEAVES("%4$s", "%5$s") "  SELECT n.leaf, n.trigger_oid, n.file, n.bound, l.leaf AS known, l.trigger_oid AS known_trigger, l.bound AS known_bound, l.file AS known_file\n"
									   "  FROM leaves n FULL JOIN (SELECT * FROM migrate_tiers.leaf WHERE migration = %3$s AND relation = %2$d) l\n"
									   "    ON l.leaf = n.leaf AND l.trigger_oid = n.trigger_oid\n"
									   "  WHERE n.leaf IS NULL OR l.leaf IS NULL OR l.bound IS DISTINCT FROM n.bound OR l.file <> n.file AND NOT l.covered\n"
									   "  ORDER BY n.leaf NULLS FIRST LOOP\n"
									   "  IF d.leaf IS NULL THEN\n"
									   "    DELETE FROM migrate_tiers.leaf l WHERE l.migration = %3$s AND l.relation = %2$d AND l.leaf = d.known AND l.trigger_oid = d.known_trigger;\n"
									   /* Somebody else has seen to it. */
									   "    CONTINUE WHEN NOT FOUND;\n"
									   "  ELSE\n"
									   "    INSERT INTO migrate_tiers.leaf AS l (migration, relation, leaf, trigger_oid, file, bound)\n"
									   "      VALUES (%3$s, %2$d, d.leaf, d.trigger_oid, d.file, d.bound)\n"
									   "      ON CONFLICT (migration, relation, leaf) DO UPDATE SET file = excluded.file, bound = excluded.bound;\n"
									   "  END IF;\n"
									   "  emptied := CASE WHEN d.leaf IS NULL THEN true WHEN d.known IS NULL THEN d.file <> d.leaf ELSE d.file <> d.known_file END;\n"
									   "  CONTINUE WHEN d.leaf = d.known AND NOT emptied;\n"
									   "  range := CASE WHEN d.leaf IS NULL THEN d.known_bound ELSE d.bound END;\n"
									   "  IF range ~ 'satisfies_hash_partition' THEN range := NULL; END IF;\n"
									   "  IF emptied THEN\n"
									   "    INSERT INTO migrate_tiers.queue_%1$.8s_%2$d (kind, condition) VALUES (CASE WHEN range IS NULL THEN 1 ELSE 2 END, range);\n"
									   "  END IF;\n"
									   "  EXECUTE %6$s || CASE WHEN emptied THEN 'true' ELSE 'c.tableoid = ' || d.leaf END || coalesce(' AND ' || range, '');\n"
									   "  noted := true;\n"
									   "END LOOP;\n"
									   "PERFORM set_config('quote_all_identifiers', 'off', true);\n"
									   "IF noted THEN\n"
									   "  INSERT INTO migrate_tiers.writer_%1$.8s VALUES (pg_current_xact_id(), clock_timestamp(), current_setting('application_name'));\n"
									   "END IF;\n"
									   "DELETE FROM migrate_tiers.armed a WHERE a.migration = %3$s AND a.relation = %2$d AND a.name IS NULL\n"
									   "  AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g JOIN migrate_tiers.leaf l ON l.leaf = g.tgrelid\n"
									   "    WHERE g.oid = a.trigger_oid AND l.migration = a.migration AND l.relation = a.relation);\n"
									   "%7$s\n"
									   "END";

/* With the lock that the trigger took, nobody truncates; whoever did before has to be noted first. */
#define COVERED \
	"UPDATE migrate_tiers.leaf l SET covered = true FROM pg_catalog.pg_class c" \
	" WHERE l.migration = %s AND l.relation = %d AND l.leaf = %s AND c.oid = l.leaf AND c.relfilenode = l.file;"

static char *leaf_name(const MtMigration *migration, const MtRelation *relation);
static bool cover_truncate(MtRemote *remote, const MtMigration *migration, const MtRelation *relation, bool patient);

/* mt_target_leaves_sql returns what notes the leaf partitions of a table that is captured from now on. */
char *
mt_target_leaves_sql(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("SET LOCAL quote_all_identifiers TO on; "
					"INSERT INTO migrate_tiers.leaf (migration, relation, leaf, trigger_oid, file, bound) " LEAVES("%1$s", "%2$s") "SELECT %3$s, %4$d, * FROM leaves ON CONFLICT DO NOTHING; SET LOCAL quote_all_identifiers TO off;",
					mt_target_table_literal(relation), leaf_name(migration, relation),
					quote_literal_cstr(migration->ident), relation->id);
}

static char *
leaf_name(const MtMigration *migration, const MtRelation *relation)
{
	return quote_literal_cstr(mt_target_reverse_trigger(migration, relation, "row"));
}

/* mt_target_cover_partitions notes what came and went with leaf partitions, and gives new ones the TRUNCATE trigger. */
bool
mt_target_cover_partitions(MtRemote *remote, const MtMigration *migration, const MtRelation *relation,
						   bool patient)
{
	char	   *statement = psprintf("INSERT INTO migrate_tiers.queue_%.8s_%d (kind, %s) SELECT 0, %s FROM %s c WHERE ",
									 migration->ident, relation->id, mt_target_queue_columns(relation),
									 mt_target_key_columns(relation, "c."), mt_relation_target_sql(relation));

	mt_target_block(remote,
					psprintf(cover_body, migration->ident, relation->id, quote_literal_cstr(migration->ident),
							 mt_target_table_literal(relation), leaf_name(migration, relation),
							 quote_literal_cstr(statement), mt_target_arm_sql(migration, relation)),
					mt_lock_timeout_text());
	return cover_truncate(remote, migration, relation, patient);
}

/* cover_truncate makes the TRUNCATE triggers that are missing; true when none is any more. */
static bool
cover_truncate(MtRemote *remote, const MtMigration *migration, const MtRelation *relation, bool patient)
{
	const char *bare = "SELECT l.leaf, l.leaf::pg_catalog.regclass FROM migrate_tiers.leaf l"
					   " JOIN pg_catalog.pg_class c ON c.oid = l.leaf"
					   " WHERE l.migration = $1 AND l.relation = $2 AND NOT l.covered ORDER BY l.leaf";
	char	   *id = psprintf("%d", relation->id);
	MtRows	   *rows = mt_remote_query(remote, bare, MT_PARAMS(migration->ident, id));

	for (int row = 0; row < rows->count; row++)
	{
		char	   *sql = psprintf("%s%s%s" COVERED,
								   mt_target_truncate_trigger(migration, relation, rows->values[row][1]),
								   mt_target_disarm_leaf_sql(migration, relation, rows->values[row][0]),
								   mt_target_arm_sql(migration, relation), quote_literal_cstr(migration->ident),
								   relation->id, rows->values[row][0]);

		if (patient)
			mt_target_block(remote,
							psprintf("BEGIN %s EXCEPTION WHEN lock_not_available OR undefined_table"
									 " OR insufficient_privilege THEN NULL; END",
									 sql),
							mt_lock_timeout_text());
		else
			mt_target_locking(remote, sql, mt_lock_timeout_text());
	}
	return rows->count == 0 || mt_remote_query(remote, bare, MT_PARAMS(migration->ident, id))->count == 0;
}
