/*
 * ddl_fingerprint.h
 *	  What a captured table looked like when it was last found in order, and
 *	  what has become of it since.
 */
#ifndef MT_DDL_FINGERPRINT_H
#define MT_DDL_FINGERPRINT_H

#include "catalog/relation.h"

typedef struct MtDdlChange
{
	char	   *facet;			/* name, parent, column, key, equality, type, persistence, capture, security,
								 * attached, unwatched, detached (of a partition) */
	char	   *what;			/* a clause: column "a" was dropped */
	bool		moved;			/* rows may have changed or moved where capture does not see it */
} MtDdlChange;

/* SQL: the columns of the key of table r as it is now, as the facet "key" has them. */
#define MT_DDL_KEY "(SELECT x.indkey::text FROM pg_index x WHERE x.indexrelid = migrate_tiers.key_index(r.relation))"

/* Takes the structure as it is now for the one in order. */
extern void mt_ddl_record(int32 relation_id);

/* What changed since (MtDdlChange), NIL if nothing that matters. */
extern List *mt_ddl_compare(int32 relation_id);

#endif							/* MT_DDL_FINGERPRINT_H */
