/*
 * drop.h
 *	  Ends a migration.
 */
#ifndef MT_DROP_H
#define MT_DROP_H

#include "catalog/migration.h"

/*
 * Ends a migration that is locked already, and cleans both sides.  Rows that were
 * copied stay on the target.  Where something runs, it cannot be done in a transaction block.
 */
extern void mt_drop_run(MtMigration *migration);

#endif							/* MT_DROP_H */
