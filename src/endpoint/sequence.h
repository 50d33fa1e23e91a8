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
 * A CTE over "tree" (id, oid), tables and their partitions: the sequences behind
 * each column, owned by it or reached from its default, also through SQL
 * functions and domains; sequence is NULL where nextval is called by a name that the catalogs do not know.
 */
#define MT_SQL_SEQUENCE_USES \
	" uses AS MATERIALIZED (SELECT DISTINCT t.id, a.attname, a.atttypid, x.sequence" \
	" FROM tree t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped" \
	" LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum" \
	" LEFT JOIN LATERAL (SELECT d.objid AS sequence FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'" \
	"  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass" \
	"  AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')" \
	"  UNION (WITH RECURSIVE needs(classid, objid) AS (SELECT 'pg_attrdef'::regclass::oid, e.oid WHERE e.oid IS NOT NULL" \
	"   UNION SELECT 'pg_type'::regclass::oid, a.atttypid WHERE e.oid IS NULL" \
	"   UNION SELECT d.refclassid, d.refobjid FROM needs n JOIN pg_depend d ON d.classid = n.classid AND d.objid = n.objid" \
	"   WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_class'::regclass)" \
	"   OR (d.refclassid = 'pg_type'::regclass AND n.classid = d.refclassid))" \
	"  SELECT s.oid FROM needs n JOIN pg_class s ON s.oid = n.objid AND s.relkind = 'S'" \
	"  WHERE n.classid = 'pg_class'::regclass)) x ON true" \
	" WHERE x.sequence IS NOT NULL OR pg_get_expr(e.adbin, e.adrelid) LIKE '%nextval(%'),"

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

/* Bodies of an anonymous block. */
extern char *mt_sequence_interleave_sql(const MtTurn *turn);

/*
 * Gives sequences (sequence InvalidOid: all that the condition on q names) their own settings again.  keep: they go on
 * after the furthest value that they or the other side gave out; else they are where they were.
 * forget: their rows go, too; else these say what was given out.
 */
extern char *mt_sequence_restore_sql(const char *condition, bool keep, const char *other, const char *other_lapped,
									 bool forget);

#endif							/* MT_SEQUENCE_SQL_H */
