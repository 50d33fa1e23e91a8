/*
 * target_armed.c
 *	  Whether capture on the target was disturbed: whoever owns a table may disable its
 *	  triggers, write, and enable them again, and there is no guard against it there.
 *
 * So it is kept which triggers there are, and in which version of their row in
 * pg_trigger: whatever is done to one makes another version of it, also where it looks as before
 * afterwards.  A table that was given the name of another one has none, while the other keeps its own: so
 * the name is kept, too.  Those of a partition may go with it, and are not ours any more
 * then; what goes with its rows is another matter (target_partition.c).  But its TRUNCATE trigger
 * can be dropped by itself.
 *
 * A table that was disturbed has a row for trigger 0, made with the triggers that replace
 * the old ones: there is no such trigger, so it counts as disturbed until the source has noted it.
 */
#include "endpoint/target_capture.h"

#include "utils/builtins.h"

#include "base/errors.h"
#include "endpoint/target_block.h"
#include "endpoint/target_reverse.h"

/* Leaf l is still that partition: its row trigger goes with the table that it was a part of. */
#define STILL_LEAF \
	"EXISTS (SELECT FROM pg_catalog.pg_trigger r WHERE r.oid = l.trigger_oid AND r.tgrelid = l.leaf)"

/* That trigger g, as it is noted in a, is not any more what it was. */
#define TOUCHED \
	"CASE WHEN a.name IS NULL THEN (g.tgenabled <> 'A' OR g.xmin <> a.version) AND EXISTS (SELECT FROM migrate_tiers.leaf l" \
	"  WHERE l.migration = a.migration AND l.relation = a.relation AND l.leaf = g.tgrelid AND " STILL_LEAF ")" \
	" ELSE g.oid IS NULL OR g.tgenabled <> 'A' OR g.xmin <> a.version" \
	"  OR g.tgrelid IS DISTINCT FROM pg_catalog.to_regclass(a.name) END"

/* That leaf l lacks the TRUNCATE trigger that it had. */
#define BARE \
	"l.covered AND " STILL_LEAF " AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = l.leaf" \
	" AND g.tgname = pg_catalog.format('migrate_tiers_reverse_%%s_%%s_truncate', pg_catalog.left(l.migration::text, 8), l.relation))"

static char *rows_of(const MtMigration *migration, const MtRelation *relation);

/* mt_target_arm_sql returns what notes the triggers of a table and of its known leaf partitions that are not yet. */
char *
mt_target_arm_sql(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("INSERT INTO migrate_tiers.armed (migration, relation, trigger_oid, version, name)"
					" SELECT %1$s, %2$d, g.oid, g.xmin, CASE WHEN g.tgrelid = pg_catalog.to_regclass(%3$s) THEN %3$s END FROM pg_catalog.pg_trigger g"
					" WHERE (g.tgrelid = pg_catalog.to_regclass(%3$s) OR g.tgrelid IN (SELECT l.leaf FROM migrate_tiers.leaf l"
					"  WHERE l.migration = %1$s AND l.relation = %2$d)) AND pg_catalog.starts_with(g.tgname, %4$s)"
					" ON CONFLICT DO NOTHING;",
					quote_literal_cstr(migration->ident), relation->id, mt_target_table_literal(relation),
					quote_literal_cstr(mt_target_reverse_trigger(migration, relation, "")));
}

/* mt_target_disarm_sql returns what forgets the triggers of a table. */
char *
mt_target_disarm_sql(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("DELETE FROM migrate_tiers.armed a WHERE %s;", rows_of(migration, relation));
}

/* mt_target_disarm_leaf_sql returns what forgets the TRUNCATE trigger of a leaf partition. */
char *
mt_target_disarm_leaf_sql(const MtMigration *migration, const MtRelation *relation, const char *leaf)
{
	return psprintf("DELETE FROM migrate_tiers.armed a USING pg_catalog.pg_trigger g"
					" WHERE %s AND g.oid = a.trigger_oid AND g.tgrelid = %s AND g.tgname = %s;",
					rows_of(migration, relation), leaf,
					quote_literal_cstr(mt_target_reverse_trigger(migration, relation, "truncate")));
}

/* mt_target_disturbed_sql returns what notes that a table was disturbed, beside mt_target_arm_sql. */
char *
mt_target_disturbed_sql(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("INSERT INTO migrate_tiers.armed (migration, relation, trigger_oid, version, name)"
					" VALUES (%s, %d, 0, '0', %s);",
					quote_literal_cstr(migration->ident), relation->id, mt_target_table_literal(relation));
}

/* mt_target_uncover_sql returns what has TRUNCATE triggers of leaves made again that are not what they were. */
char *
mt_target_uncover_sql(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("UPDATE migrate_tiers.leaf l SET covered = false, file = c.relfilenode FROM pg_catalog.pg_class c"
					" WHERE l.migration = %2$s AND l.relation = %3$d AND c.oid = l.leaf AND (" BARE
					"  OR l.leaf IN (SELECT g.tgrelid FROM migrate_tiers.armed a JOIN pg_catalog.pg_trigger g ON g.oid = a.trigger_oid"
					"  WHERE %1$s AND (" TOUCHED ")));",
					rows_of(migration, relation), quote_literal_cstr(migration->ident), relation->id);
}

static char *
rows_of(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("a.migration = %s AND a.relation = %d", quote_literal_cstr(migration->ident), relation->id);
}

/* mt_target_touched_sql returns the query of what was touched of all tables. */
char *
mt_target_touched_sql(const MtMigration *migration)
{
	return psprintf("SELECT a.relation, a.trigger_oid FROM migrate_tiers.armed a"
					" LEFT JOIN pg_catalog.pg_trigger g ON g.oid = a.trigger_oid WHERE a.migration = %1$s AND (" TOUCHED ")"
					" UNION ALL SELECT l.relation, l.trigger_oid FROM migrate_tiers.leaf l WHERE l.migration = %1$s AND " BARE,
					quote_literal_cstr(migration->ident));
}

/* mt_target_disturbed_query returns the query of the ids of the tables that were disturbed ("3 7"); NULL for none. */
char *
mt_target_disturbed_query(const MtMigration *migration)
{
	return psprintf("SELECT pg_catalog.string_agg(DISTINCT t.relation::text, ' ') FROM (%s) t", mt_target_touched_sql(migration));
}

/* mt_target_disturbed_noted forgets that a table was disturbed, once the source has noted it. */
void
mt_target_disturbed_noted(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	mt_remote_run(remote, psprintf("DELETE FROM migrate_tiers.armed a WHERE %s AND a.trigger_oid = 0", rows_of(migration, relation)));
}

/*
 * mt_target_require_undisturbed refuses to go on where the source does not know yet that changes of one of these
 * tables may not be noted.
 */
void
mt_target_require_undisturbed(MtRemote *remote, const MtMigration *migration, const List *relations)
{
	char	   *at = mt_remote_query(remote, mt_target_disturbed_query(migration), MT_NO_PARAMS)->values[0][0];
	ListCell   *cell;

	while (at != NULL && *at != '\0')
	{
		int32		id = (int32) strtol(at, &at, 10);

		foreach(cell, relations)
		{
			const MtRelation *relation = (const MtRelation *) lfirst(cell);

			if (relation->id == id)
				ereport(ERROR,
						(errcode(MT_ERRCODE_GATE_FAILED),
						 errmsg("changes of table %s of the target may be missing on the source",
								mt_relation_target_name(relation)),
						 errdetail("The triggers that note them were disabled for a time."),
						 errhint("SELECT * FROM migrate_tiers.verify(); then migrate_tiers.repair(relation, side => 'target')"
								 " for tables that differ, and call it again.")));
		}
	}
}
