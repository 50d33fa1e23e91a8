/*
 * identity.h
 *	  The key of a table: what identifies a row in the queue and on the target.
 *	  It is the primary key, or else the replica identity index.
 */
#ifndef MT_IDENTITY_H
#define MT_IDENTITY_H

#include "base/compat.h"

typedef struct MtIdentity
{
	Oid			index;
	int			ncolumns;
	char	  **columns;		/* in the order of the index, NULL-terminated */
	char	  **operators;		/* equality of each: OPERATOR(schema.=) */
} MtIdentity;

/* Finds the key of a table as it is now; NULL when it has none that we can use. */
extern MtIdentity *mt_identity_find(Oid relid);

/* Where there is none: a generated column that the key would have, or NULL. */
extern char *mt_identity_generated(Oid relid);

/* Stores a key as that of a table of ours. */
extern void mt_identity_store(int32 relation_id, const MtIdentity *key);

#endif							/* MT_IDENTITY_H */
