/*
 * tag.h
 *	  Sorts tables into tiers.
 */
#ifndef MT_TAG_H
#define MT_TAG_H

#include "catalog/identity.h"
#include "catalog/relation.h"

/* A relation of the source that somebody wants to tag. */
typedef struct MtCandidate
{
	Oid			relid;
	Oid			schema_oid;
	char	   *schema;
	char	   *name;
	char		kind;			/* relkind */
	char		persistence;	/* relpersistence */
	Oid			owner;
	char	   *extension;		/* that it is a member of, or NULL */
	char	   *root;			/* of a partition: its topmost parent, quoted, or NULL */
	bool		hypertable;		/* TimescaleDB keeps its rows in chunks */
} MtCandidate;

/* Why a relation cannot have a tier. */
typedef struct MtObstacle
{
	int			sqlstate;
	char	   *message;
	char	   *hint;
} MtObstacle;

/* What mt_tag_schema did with one relation. */
typedef struct MtTagged
{
	Oid			relid;
	const char *tier;			/* NULL when it has none */
	char	   *note;
} MtTagged;

extern MtCandidate *mt_candidate_read(Oid relid);
extern char *mt_candidate_name(const MtCandidate *candidate);	/* qualified and quoted */

/* NULL when the relation can have the tier; sets *key for the realtime tier. */
extern MtObstacle *mt_candidate_obstacle(const MtCandidate *candidate, const char *tier, MtIdentity **key);

/* The migration is locked by the caller; target is NULL or [schema.]table. */
extern void mt_tag_table(const MtMigration *migration, Oid relid, const char *tier, const char *target);
extern List *mt_tag_schema(const MtMigration *migration, const char *schema, const char *tier);
extern void mt_untag_table(const MtMigration *migration, Oid relid);

#endif							/* MT_TAG_H */
