/*
 * sequence.h
 *	  The SQL that finds sequences, has them take turns with those of the other
 *	  side, and gives them back what they were; the same text for both sides.
 *
 * A sequence that takes turns steps by d, twice the increment, through the
 * values of its class: c, c + d, c + 2d, ...; the class of the source begins with
 * its START, that of the target one increment later.  Every block notes in
 * migrate_tiers.sequence of its side, in the same transaction, what it altered.
 */
#ifndef MT_SEQUENCE_SQL_H
#define MT_SEQUENCE_SQL_H

#include "base/compat.h"

/*
 * CTEs over "tree" (id, oid), tables and their partitions, of a WITH RECURSIVE: "uses", the sequences behind
 * each column, owned by it or reached from its default, also through SQL
 * functions and domains; sequence is NULL where nextval is called by a name that the catalogs do not know.
 */
#define MT_SQL_SEQUENCE_USES \
	" defaulted AS MATERIALIZED (SELECT DISTINCT t.id, a.attname, a.atttypid, e.oid AS expression, y.typtype = 'd' AS domain," \
	"  pg_get_expr(e.adbin, e.adrelid) LIKE '%nextval(%' AS draws FROM tree t" \
	"  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type y ON y.oid = a.atttypid" \
	"  LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum WHERE e.oid IS NOT NULL OR y.typtype = 'd')," \
	" needs(id, attname, atttypid, classid, objid) AS (SELECT id, attname, atttypid," \
	"  CASE WHEN expression IS NULL THEN 'pg_type'::regclass ELSE 'pg_attrdef'::regclass END::oid, coalesce(expression, atttypid)" \
	"  FROM defaulted UNION SELECT n.id, n.attname, n.atttypid, d.refclassid, d.refobjid FROM needs n" \
	"  JOIN pg_depend d ON d.classid = n.classid AND d.objid = n.objid WHERE n.classid <> 'pg_class'::regclass" \
	"  AND (d.refclassid IN ('pg_proc'::regclass, 'pg_class'::regclass)" \
	"  OR (d.refclassid = 'pg_type'::regclass AND n.classid = d.refclassid)))," \
	" uses AS MATERIALIZED (SELECT n.id, n.attname, n.atttypid, s.oid AS sequence FROM needs n" \
	"  JOIN pg_class s ON s.oid = n.objid AND s.relkind = 'S' WHERE n.classid = 'pg_class'::regclass" \
	" UNION SELECT t.id, a.attname, a.atttypid, s.oid FROM tree t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass" \
	"  AND d.refobjid = t.oid AND d.refobjsubid > 0 AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')" \
	"  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid" \
	" UNION SELECT f.id, f.attname, f.atttypid, NULL FROM defaulted f WHERE f.draws AND NOT EXISTS (SELECT FROM needs n" \
	"  JOIN pg_class s ON s.oid = n.objid AND s.relkind = 'S' WHERE n.classid = 'pg_class'::regclass" \
	"  AND n.id = f.id AND n.attname = f.attname)),"

/* What values the type of a column holds; none of its own: those of a sequence. */
#define MT_SQL_LOWEST(type) \
	"CASE " type " WHEN 'int2'::regtype THEN -32768 WHEN 'int4'::regtype THEN -2147483648 ELSE -9223372036854775808 END"
#define MT_SQL_HIGHEST(type) \
	"CASE " type " WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 ELSE 9223372036854775807 END"

/* Numbers are text: they may be beyond what 64 bits hold. */
typedef struct MtTurn
{
	const char *migration;		/* as a literal of the side's own type */
	int32		relation;
	Oid			sequence;
	Oid			source;			/* the one that it takes turns with, or itself */
	const char *begin;			/* c */
	const char *step;			/* d */
	const char *beyond;			/* the first value comes after this one; NULL: after its own */
	const char *lowest;
	const char *highest;
} MtTurn;

/* Bodies of an anonymous block, for the source or the target. */
extern char *mt_sequence_interleave_sql(bool on_source, const MtTurn *turn);

/*
 * Gives sequences (sequence InvalidOid: all that the condition on q names) their own settings again.  keep: they go on
 * after the furthest value that they or the other side gave out; else they are where they were.
 * forget: their rows go, too; else these say what was given out.
 */
extern char *mt_sequence_restore_sql(bool on_source, const char *condition, bool keep, const char *other,
									 const char *other_lapped, bool forget);

#endif							/* MT_SEQUENCE_SQL_H */
