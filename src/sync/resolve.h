/*
 * resolve.h
 *	  Settles a conflict as a person decides it.
 */
#ifndef MT_RESOLVE_H
#define MT_RESOLVE_H

#include "catalog/migration.h"

/* Takes the row of a side, "source" or "target", whichever had won; the migration is locked by the caller. */
extern void mt_resolve_run(const MtMigration *migration, int64 id, const char *winner);

#endif							/* MT_RESOLVE_H */
