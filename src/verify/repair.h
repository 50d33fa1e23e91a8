/*
 * repair.h
 *	  Mends what a verification found: see repair.c.
 */
#ifndef MT_REPAIR_H
#define MT_REPAIR_H

#include "catalog/relation.h"

/*
 * Has the rows sent again that the table's last verification found different, from
 * the side that is right (NULL: the one that applications read).  Returns how many.
 */
extern int64 mt_repair_run(const MtMigration *migration, const MtRelation *relation, const char *side);

#endif							/* MT_REPAIR_H */
