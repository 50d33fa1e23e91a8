/*
 * relation.h
 *	  A table of a migration: a row of migrate_tiers.relation.
 */
#ifndef MT_RELATION_H
#define MT_RELATION_H

#include "catalog/migration.h"

typedef struct MtRelation
{
	int32		id;
	int32		migration;
	Oid			relid;
	char	   *schema;			/* on the source, now; '' when the table was dropped */
	char	   *name;
	char	   *target_schema;
	char	   *target_name;
	char	   *tier;
	char	   *state;
	int			nkeys;
	char	  **key_columns;
	char	  **key_operators;	/* OPERATOR(schema.=), one a column */
	bool		captured;
	char	   *captured_from;	/* S0 as text, or NULL */
	int32		incarnation;	/* which copy: counts its S0 */
	bool		fenced;			/* has the source's fence */
	bool		partitioned;	/* relkind 'p' on the source */
	bool		target_partitioned;	/* known only after somebody asked the target */
} MtRelation;

/* What the capture trigger has to know of a table. */
typedef struct MtRelationKey
{
	int32		id;
	int32		migration;
	Oid			relid;
	int			nkeys;
	char	  **key_columns;
} MtRelationKey;

extern List *mt_relation_list(int32 migration, const char *tier);	/* of MtRelation; tier NULL: all */
extern MtRelation *mt_relation_by_id(int32 id, bool missing_ok);
extern MtRelation *mt_relation_by_relid(Oid relid);	/* NULL when it is not tagged */
extern void mt_relation_set_state(int32 id, const char *state);
extern void mt_relation_recopy(int32 id, const char *why);
extern void mt_relation_uncaptured(int32 id);	/* the target's changes of it may be missing up to now */

/* Which captured table one is, or is a partition of, whatever the snapshot; false when of none. */
extern bool mt_relation_find_key(Oid relid, MtRelationKey *found);

/* The table that one is a partition of, or InvalidOid. */
extern Oid	mt_relation_parent(Oid relid);

/* The same table as what goes the other way sees it: source and target exchanged. */
extern MtRelation *mt_relation_mirror(const MtRelation *relation);

/* The table with the ONLY that it needs: never children by inheritance, always partitions. */
extern char *mt_table_name(Oid relid);	/* for messages */
extern char *mt_relation_source_name(const MtRelation *relation);
extern char *mt_relation_target_name(const MtRelation *relation);	/* for messages and regclass */
extern char *mt_relation_target_sql(const MtRelation *relation);	/* in statements; without ONLY */

/*
 * Locks a table with its partitions, for a query that reads it in a scope of mt_spi_begin_table, and returns what it
 * is called by now, with that ONLY; NULL when it is no table any more.  A name that was read before may be a view's.
 */
extern char *mt_table_lock_reading(Oid relid);

#endif							/* MT_RELATION_H */
