/*
 * target_aside.c
 *	  Sets indexes and keys of an empty table aside, so that its copy need not
 *	  maintain them, and builds them again.
 *
 * What is dropped is written down in migrate_tiers.set_aside by the transaction
 * that drops it, and taken off that list by the one that brings it back: at no
 * moment is an index neither in the table nor on the list.  A row holds
 * statements made from the catalogs of that moment, in two parts: build makes
 * the index and may run beside others; finish turns it into what it was
 * (constraint, comments, statistics targets, cluster and replica identity
 * marks) and needs the table for an instant.
 */
#include "endpoint/target_block.h"

#include "utils/builtins.h"

#include "base/settings.h"
#include "endpoint/target.h"

/*
 * A build asks for a lock that readers do not notice, and writers are refused
 * by the fence; so it may wait until an autovacuum gives way.
 */
#define BUILD_LOCK_TIMEOUT "5s"

/*
 * The indexes of table t.  An exclusion constraint, or a key that is more than
 * a unique B-tree, cannot be made from an index: it has no build part.  One in a
 * tablespace where we may make nothing stays where it is.
 */
#define INDEXES \
	"SELECT i.indexrelid, x.relname, s.spcname, con.conname," \
	" CASE WHEN con.conname IS NULL THEN 'index' ELSE 'constraint' END AS kind," \
	" CASE WHEN con.whole THEN NULL ELSE pg_catalog.pg_get_indexdef(i.indexrelid) END AS build," \
	" CASE WHEN con.conname IS NULL THEN 'DROP INDEX ' || q.index_name" \
	"  ELSE pg_catalog.format('ALTER TABLE ONLY %s DROP CONSTRAINT %I', t, con.conname) END AS removal," \
	" pg_catalog.array_remove(ARRAY[" \
	"  CASE WHEN con.whole THEN pg_catalog.format('ALTER TABLE ONLY %s ADD CONSTRAINT %I %s', t, con.conname, con.def)" \
	"   WHEN con.conname IS NOT NULL THEN pg_catalog.format('ALTER TABLE ONLY %s ADD CONSTRAINT %I %s USING INDEX %I%s', t," \
	"   con.conname, con.kind, x.relname, con.deferral) END," \
	"  CASE WHEN con.whole AND con.contype <> 'x' AND x.reloptions IS NOT NULL THEN pg_catalog.format('ALTER INDEX %s SET (%s)'," \
	"   q.index_name, pg_catalog.array_to_string(x.reloptions, ', ')) END," \
	"  CASE WHEN con.conname IS NOT NULL THEN pg_catalog.format('COMMENT ON CONSTRAINT %I ON %s IS ', con.conname, t) END" \
	"   || pg_catalog.quote_literal(pg_catalog.obj_description(con.oid, 'pg_constraint'))," \
	"  pg_catalog.format('COMMENT ON INDEX %s IS ', q.index_name)" \
	"   || pg_catalog.quote_literal(pg_catalog.obj_description(i.indexrelid, 'pg_class'))," \
	"  CASE WHEN i.indisclustered THEN pg_catalog.format('ALTER TABLE ONLY %s CLUSTER ON %I', t, x.relname) END," \
	"  CASE WHEN i.indisreplident THEN pg_catalog.format('ALTER TABLE ONLY %s REPLICA IDENTITY USING INDEX %I', t, x.relname) END" \
	" ] || ARRAY(SELECT pg_catalog.format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', q.index_name, a.attnum, a.attstattarget)" \
	"  FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indexrelid AND a.attstattarget >= 0)" \
	" || ARRAY(SELECT pg_catalog.format('ALTER INDEX %s DEPENDS ON EXTENSION %I', q.index_name, e.extname)" \
	"  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid" \
	"  WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid AND d.deptype = 'x'" \
	"  AND d.refclassid = 'pg_catalog.pg_extension'::regclass), NULL) AS finish" \
	" FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid" \
	" JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace" \
	" JOIN pg_catalog.pg_am am ON am.oid = x.relam" \
	" CROSS JOIN LATERAL pg_catalog.format('%I.%I', n.nspname, x.relname) AS q(index_name)" \
	" LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = x.reltablespace" \
	" LEFT JOIN LATERAL (SELECT c.oid, c.conname, c.contype, i.indisexclusion OR am.amname <> 'btree' AS whole," \
	"  CASE c.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END AS kind," \
	"  CASE WHEN c.condeferrable THEN ' DEFERRABLE' ELSE '' END ||" \
	"  CASE WHEN c.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END AS deferral, pg_catalog.pg_get_constraintdef(c.oid) AS def" \
	"  FROM pg_catalog.pg_constraint c WHERE c.conindid = i.indexrelid AND c.conrelid = i.indrelid" \
	"  AND c.contype IN ('p', 'u', 'x')) con ON true" \
	" WHERE i.indrelid = t AND i.indisvalid" \
	" AND (x.reltablespace = 0 OR pg_catalog.has_tablespace_privilege(x.reltablespace, 'CREATE'))"

/*
 * The foreign keys that rest on index k.indexrelid.  One of a partitioned table
 * cannot be added without being checked at once; one that was never checked, or is not
 * enforced, says so in its definition.
 */
#define FOREIGN_KEYS \
	"SELECT fk.conname, fk.conrelid, c.relname, n.nspname, q.name AS table_name, v.later," \
	" pg_catalog.format('ALTER TABLE %s%s ADD CONSTRAINT %I %s%s', CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END," \
	"  q.name, fk.conname, pg_catalog.pg_get_constraintdef(fk.oid), CASE WHEN v.later THEN ' NOT VALID' ELSE '' END)" \
	" || COALESCE(pg_catalog.format('; COMMENT ON CONSTRAINT %I ON %s IS ', fk.conname, q.name)" \
	"  || pg_catalog.quote_literal(pg_catalog.obj_description(fk.oid, 'pg_constraint')), '') AS build" \
	" FROM pg_catalog.pg_constraint fk JOIN pg_catalog.pg_class c ON c.oid = fk.conrelid" \
	" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace" \
	" CROSS JOIN LATERAL pg_catalog.format('%I.%I', n.nspname, c.relname) AS q(name)" \
	" CROSS JOIN LATERAL (SELECT fk.convalidated AND c.relkind <> 'p') AS v(later)" \
	" WHERE fk.conindid = k.indexrelid AND fk.contype = 'f' AND fk.conparentid = 0"

/* What a set-aside block does for a table t that it has found fit; %2$s is the migration, %3$d the table. */
static const char *const set_aside_body =
	"DECLARE\n"
	"  t pg_catalog.regclass; k record; f record; filled boolean;\n"
	"BEGIN\n"
	"SELECT c.oid INTO t FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%1$s)\n"
	"  AND c.relkind = 'r' AND NOT c.relispartition AND pg_catalog.pg_has_role(c.relowner, 'USAGE')\n"
	"  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid)\n"
	"  AND EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid);\n"
	"IF t IS NULL THEN RETURN; END IF;\n"
	"EXECUTE 'LOCK TABLE ONLY ' || t || ' IN ACCESS EXCLUSIVE MODE';\n"
	"EXECUTE 'SELECT EXISTS (SELECT FROM ONLY ' || t || ')' INTO filled;\n"
	"IF filled THEN RETURN; END IF;\n"
	/* A copy that starts over finds indexes that were built but not finished. */
	"FOR k IN SELECT s.name, s.table_schema FROM migrate_tiers.set_aside s\n"
	"  WHERE s.migration = %2$s AND s.relation = %3$d AND s.kind <> 'foreign_key' AND s.state = 'built' LOOP\n"
	"  EXECUTE pg_catalog.format('DROP INDEX %%I.%%I', k.table_schema, k.name);\n"
	"END LOOP;\n"
	"UPDATE migrate_tiers.set_aside SET state = 'aside'\n"
	"  WHERE migration = %2$s AND relation = %3$d AND kind <> 'foreign_key' AND state = 'built';\n"
	"FOR k IN %4$s LOOP\n"
	"  BEGIN\n"
	"    FOR f IN %5$s LOOP\n"
	"      INSERT INTO migrate_tiers.set_aside (migration, relation, kind, table_oid, table_schema, table_name, name, build, finish)\n"
	"      VALUES (%2$s, %3$d, 'foreign_key', f.conrelid, f.nspname, f.relname, f.conname, f.build,\n"
	"        CASE WHEN f.later THEN ARRAY[pg_catalog.format('ALTER TABLE ONLY %%s VALIDATE CONSTRAINT %%I', f.table_name, f.conname)] ELSE '{}' END)\n"
	"      ON CONFLICT ON CONSTRAINT set_aside_pkey DO UPDATE SET state = 'aside';\n"
	"      EXECUTE pg_catalog.format('ALTER TABLE %%s DROP CONSTRAINT %%I', f.table_name, f.conname);\n"
	"    END LOOP;\n"
	"    INSERT INTO migrate_tiers.set_aside (migration, relation, kind, table_oid, table_schema, table_name, name, tablespace, build, finish)\n"
	"    SELECT %2$s, %3$d, k.kind, t, n.nspname, c.relname, k.relname, k.spcname, k.build, k.finish\n"
	"    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = t\n"
	/* One on the list may have been made again by hand. */
	"    ON CONFLICT ON CONSTRAINT set_aside_pkey DO UPDATE SET (tablespace, build, finish, state)\n"
	"      = (excluded.tablespace, excluded.build, excluded.finish, 'aside');\n"
	"    EXECUTE k.removal;\n"
	/* What a view needs, an extension owns or somebody else has made stays where it is. */
	"  EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL;\n"
	"  END;\n"
	"END LOOP;\n"
	"END";

/* mt_target_set_aside sets aside what can be, if the table is empty, and lists what is to be built again. */
List *
mt_target_set_aside(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	mt_target_block(remote,
					psprintf(set_aside_body, mt_target_table_literal(relation),
							 quote_literal_cstr(migration->ident), relation->id, INDEXES, FOREIGN_KEYS),
					mt_lock_timeout_text());
	return mt_target_aside(remote, migration, relation);
}

/* mt_target_aside lists the indexes that wait to be built; those of a table that was dropped are forgotten. */
List *
mt_target_aside(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	List	   *names = NIL;
	MtRows	   *rows;

	if (!mt_target_installed(remote))
		return NIL;
	mt_remote_query(remote,
					"DELETE FROM migrate_tiers.set_aside WHERE migration = $1"
					" AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = table_oid)",
					MT_PARAMS(migration->ident));
	rows = mt_remote_query(remote,
						   "SELECT name FROM migrate_tiers.set_aside WHERE migration = $1 AND relation = $2"
						   " AND kind <> 'foreign_key' AND state = 'aside' AND build IS NOT NULL ORDER BY name",
						   MT_PARAMS(migration->ident, psprintf("%d", relation->id)));
	for (int row = 0; row < rows->count; row++)
		names = lappend(names, rows->values[row][0]);
	return names;
}

/* mt_target_still_aside names what is set aside of tables that exist; NULL for nothing. */
char *
mt_target_still_aside(MtRemote *remote, const MtMigration *migration)
{
	MtRows	   *rows;

	if (!mt_target_installed(remote))
		return NULL;
	rows = mt_remote_query(remote,
						   "SELECT pg_catalog.string_agg(pg_catalog.format('%s %I of %I.%I', pg_catalog.replace(kind, '_', ' '),"
						   " name, table_schema, table_name), ', ' ORDER BY relation, kind, table_oid, name)"
						   " FROM migrate_tiers.set_aside WHERE migration = $1"
						   " AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = table_oid)",
						   MT_PARAMS(migration->ident));
	return rows->values[0][0];
}

/* mt_target_build_index builds one index; nothing happens when it is built already. */
void
mt_target_build_index(MtRemote *remote, const MtMigration *migration, const MtRelation *relation,
					  const char *name)
{
	mt_target_block(remote,
					psprintf("DECLARE s record;\n"
							 "BEGIN\n"
							 "UPDATE migrate_tiers.set_aside SET state = 'built' WHERE migration = %s AND relation = %d\n"
							 "  AND name = %s AND kind <> 'foreign_key' AND state = 'aside' AND build IS NOT NULL\n"
							 "  RETURNING * INTO s;\n"
							 "IF NOT FOUND THEN RETURN; END IF;\n"
							 "PERFORM pg_catalog.set_config('default_tablespace', COALESCE(s.tablespace, ''), true);\n"
							 "EXECUTE s.build;\n" MT_TARGET_WAY_OUT("s.build") "END",
							 quote_literal_cstr(migration->ident), relation->id,
							 quote_literal_cstr(name)),
					BUILD_LOCK_TIMEOUT);
}

/* mt_target_restore_constraints finishes what was built, and adds what has no build part. */
void
mt_target_restore_constraints(MtRemote *remote, const MtMigration *migration,
							  const MtRelation *relation)
{
	if (!mt_target_installed(remote))
		return;
	mt_target_block(remote,
					psprintf("DECLARE s record; statement text;\n"
							 "BEGIN\n"
							 "FOR s IN DELETE FROM migrate_tiers.set_aside WHERE migration = %s AND relation = %d\n"
							 "  AND kind <> 'foreign_key' RETURNING * LOOP\n"
							 "  IF s.state <> 'built' AND s.build IS NOT NULL THEN\n"
							 "    RAISE object_not_in_prerequisite_state\n"
							 "      USING MESSAGE = pg_catalog.format('index %%I.%%I is not built yet', s.table_schema, s.name);\n"
							 "  END IF;\n"
							 "  PERFORM pg_catalog.set_config('default_tablespace', COALESCE(s.tablespace, ''), true);\n"
							 "  FOREACH statement IN ARRAY s.finish LOOP EXECUTE statement; END LOOP;\n"
							 "END LOOP;\n" MT_TARGET_WAY_OUT("statement") "END",
							 quote_literal_cstr(migration->ident), relation->id),
					mt_lock_timeout_text());
}
