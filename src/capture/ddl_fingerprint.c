/*
 * ddl_fingerprint.c
 *	  Writes down the structure of captured tables and tells what changed.
 *
 * A fingerprint is a JSON object with one member a facet of the structure, so
 * that comparing two of them is comparing members, and a member that differs
 * says what to tell the user.  Only what matters to the migration is in it: what
 * is not, like defaults, statistics or privileges, may change.  All of it is
 * read with a snapshot of the moment: a transaction may be older than the
 * change of somebody else that it builds upon.
 */
#include "capture/ddl_fingerprint.h"

#include "access/stratnum.h"

#include "base/spi.h"

/* The operators by which keys are compared, which an extension may take to another schema. */
#define EQUALITY \
	"  UNION ALL SELECT 'equality', jsonb_agg(DISTINCT format('%I.%s', n.nspname, o.oprname))" \
	"   FROM r JOIN pg_index x ON x.indexrelid = migrate_tiers.key_index(r.relation)" \
	"   CROSS JOIN LATERAL unnest((x.indclass::oid[])[0:x.indnkeyatts - 1]) k(opclass) JOIN pg_opclass c ON c.oid = k.opclass" \
	"   JOIN pg_amop s ON s.amopfamily = c.opcfamily AND s.amoplefttype = c.opcintype AND s.amoprighttype = c.opcintype" \
	"   JOIN pg_operator o ON o.oid = s.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace" \
	"  WHERE s.amopstrategy = " CppAsString2(BTEqualStrategyNumber)

/*
 * The facets of table $1 of ours.  A member's name is the kind of facet, then
 * the number of a column (it survives a renaming), type or table.
 */
#define FACETS \
	"WITH RECURSIVE r AS (SELECT id, relation, fingerprint::jsonb AS facets, partitions, fenced FROM migrate_tiers.relation WHERE id = $1)," \
	" tree(oid) AS (SELECT relation FROM r UNION ALL SELECT i.inhrelid FROM tree t" \
	"  JOIN pg_class p ON p.oid = t.oid AND p.relkind = 'p'" \
	"  JOIN pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending)," \
	" leaf(oid) AS (SELECT c.oid FROM tree t JOIN pg_class c USING (oid), r WHERE c.relkind <> 'p' AND c.oid <> r.relation)," \
	" columns AS (SELECT a.* FROM pg_attribute a JOIN r ON a.attrelid = r.relation WHERE a.attnum > 0 AND NOT a.attisdropped)," \
	" used(oid) AS (SELECT atttypid FROM columns UNION SELECT s.oid FROM used u JOIN pg_type t ON t.oid = u.oid" \
	"  CROSS JOIN LATERAL (SELECT t.typelem UNION ALL SELECT t.typbasetype" \
	"   UNION ALL SELECT g.rngsubtype FROM pg_range g WHERE t.oid IN (g.rngtypid, g.rngmultitypid)" \
	"   UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid" \
	"    AND a.attnum > 0 AND NOT a.attisdropped) AS s(oid) WHERE s.oid <> 0)," \
	" facet(name, value) AS (" \
	"  SELECT 'name', to_jsonb(format('%I.%I', n.nspname, c.relname))" \
	"   FROM r JOIN pg_class c ON c.oid = r.relation JOIN pg_namespace n ON n.oid = c.relnamespace" \
	"  UNION ALL SELECT 'parent', to_jsonb(i.inhparent::text)" \
	"   FROM r JOIN pg_class c ON c.oid = r.relation AND c.relispartition JOIN pg_inherits i ON i.inhrelid = c.oid" \
	"  UNION ALL SELECT 'persistence', to_jsonb(c.relpersistence) FROM r JOIN pg_class c ON c.oid = r.relation" \
	"  UNION ALL SELECT 'security', to_jsonb(c.relrowsecurity) FROM r JOIN pg_class c ON c.oid = r.relation" \
	"  UNION ALL SELECT 'key', to_jsonb(" MT_DDL_KEY ") FROM r" EQUALITY \
	"  UNION ALL SELECT 'column ' || attnum, jsonb_build_object('name', attname, 'type', format_type(atttypid, atttypmod)," \
	"   'layout', format('%s %s %s %s', atttypid, atttypmod, attcollation, attgenerated), 'identity', attidentity) FROM columns" \
	"  UNION ALL SELECT 'type ' || t.oid, jsonb_build_object('name', format_type(t.oid, NULL)," \
	"   'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)," \
	"   'attributes', (SELECT jsonb_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)" \
	"    FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)," \
	"   'base', format_type(nullif(t.typbasetype, 0), t.typtypmod))" \
	"   FROM used u JOIN pg_type t USING (oid) WHERE t.typnamespace <> 'pg_catalog'::regnamespace AND t.typelem = 0" \
	"  UNION ALL SELECT 'capture ' || t.oid, COALESCE((SELECT jsonb_agg(format('%I %s', g.tgname, g.tgenabled) ORDER BY g.tgname)" \
	"   FROM pg_trigger g WHERE g.tgrelid = t.oid AND g.tgfoid = 'migrate_tiers.capture()'::regprocedure" \
	"   AND g.tgname IN ('migrate_tiers_capture', 'migrate_tiers_capture_truncate')), '[]') FROM tree t" \
	"  UNION ALL SELECT 'fence ' || t.oid, COALESCE((SELECT jsonb_agg(format('%I %s', g.tgname, g.tgenabled) ORDER BY g.tgname)" \
	"   FROM pg_trigger g WHERE g.tgrelid = t.oid AND g.tgfoid = 'migrate_tiers.fence()'::regprocedure), '[]') FROM tree t, r WHERE r.fenced)"

/*
 * The differences between recorded and present facets.  What is captured of a
 * partition that came or went is a matter of the partition, a fence that came or
 * went as a whole is a matter of the phase, and a table may leave its parent.
 */
#define CHANGES \
	", change AS (SELECT split_part(name, ' ', 1) AS facet, split_part(name, ' ', 2) AS number, o.value AS o, n.value AS n" \
	"  FROM (SELECT e.key AS name, e.value FROM r, jsonb_each(r.facets) e) o FULL JOIN facet n USING (name)" \
	"  WHERE o.value IS DISTINCT FROM n.value)" \
	" SELECT facet, CASE facet" \
	"  WHEN 'name' THEN format('%s became %s', o #>> '{}', n #>> '{}')" \
	"  WHEN 'parent' THEN format('the table became a partition of %s', (n #>> '{}')::oid::regclass)" \
	"  WHEN 'persistence' THEN 'the table became ' || CASE n #>> '{}' WHEN 'u' THEN 'unlogged' ELSE 'logged' END" \
	"  WHEN 'security' THEN 'row security was ' || CASE n #>> '{}' WHEN 'true' THEN 'enabled' ELSE 'disabled' END" \
	"  WHEN 'key' THEN 'the key was changed'" \
	"  WHEN 'equality' THEN 'the operators of the key were moved or changed'" \
	"  WHEN 'capture' THEN format('a capture trigger of %s was dropped, replaced, renamed or disabled', number::oid::regclass)" \
	"  WHEN 'fence' THEN format('the fence of %s was dropped, replaced, renamed or disabled', number::oid::regclass)" \
	"  WHEN 'type' THEN format('type %s was changed', COALESCE(o, n) ->> 'name')" \
	"  WHEN 'column' THEN CASE" \
	"   WHEN n IS NULL THEN format('column \"%s\" was dropped', o ->> 'name')" \
	"   WHEN o IS NULL THEN format('column \"%s\" was added', n ->> 'name')" \
	"   WHEN o ->> 'name' <> n ->> 'name' THEN format('column \"%s\" was renamed to \"%s\"', o ->> 'name', n ->> 'name')" \
	"   WHEN o ->> 'type' <> n ->> 'type' THEN format('column \"%s\" changed from type %s to %s', n ->> 'name', o ->> 'type', n ->> 'type')" \
	"   ELSE format('column \"%s\" was changed', n ->> 'name') END" \
	"  END, facet IN ('persistence', 'key') OR facet = 'column' AND o ->> 'layout' IS DISTINCT FROM n ->> 'layout'" \
	" FROM change WHERE facet NOT IN ('parent', 'capture', 'fence', 'type', 'equality') OR facet = 'parent' AND n IS NOT NULL" \
	"  OR o IS NOT NULL AND n IS NOT NULL" \
	" UNION ALL SELECT CASE WHEN c.relkind = 'r' AND c.relpersistence = 'p' THEN 'attached' ELSE 'unwatched' END," \
	"  CASE WHEN c.relkind = 'f' THEN 'foreign ' WHEN c.relpersistence = 'u' THEN 'unlogged ' ELSE '' END" \
	"  || format('partition %s was added', c.oid::regclass), true" \
	"  FROM r, leaf l JOIN pg_class c USING (oid) WHERE c.oid <> ALL (r.partitions)" \
	" UNION ALL SELECT 'detached', COALESCE('partition ' || c.oid::regclass || ' was detached', 'a partition was dropped'), true" \
	"  FROM r, unnest(r.partitions) p(oid) LEFT JOIN pg_class c ON c.oid = p.oid WHERE p.oid NOT IN (SELECT oid FROM leaf)" \
	" ORDER BY 1, 2"

/* mt_ddl_record stores the structure of a table as it is now. */
void
mt_ddl_record(int32 relation_id)
{
	static SPIPlanPtr plan = NULL;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec_kept(&plan, SPI_OK_UPDATE,
					 FACETS " UPDATE migrate_tiers.relation SET"
							" fingerprint = (SELECT jsonb_object_agg(name, value)::text FROM facet),"
							" partitions = ARRAY(SELECT oid FROM leaf ORDER BY oid) WHERE id = $1",
					 MT_ARGS(MT_INT4(relation_id)));
	mt_spi_end(&scope);
}

/* mt_ddl_compare lists what changed since the structure was recorded. */
List *
mt_ddl_compare(int32 relation_id)
{
	static SPIPlanPtr plan = NULL;
	List	   *changes = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec_kept(&plan, SPI_OK_SELECT, FACETS CHANGES, MT_ARGS(MT_INT4(relation_id)));
	for (uint64 row = 0; row < count; row++)
	{
		MtDdlChange *change = MemoryContextAlloc(scope.caller, sizeof(MtDdlChange));
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		changes = lappend(changes, change);
		MemoryContextSwitchTo(spi);
		change->facet = mt_spi_text(&scope, row, 1);
		change->what = mt_spi_text(&scope, row, 2);
		change->moved = mt_spi_bool(row, 3);
	}
	mt_spi_end(&scope);
	return changes;
}
