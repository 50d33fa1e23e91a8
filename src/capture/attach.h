/*
 * attach.h
 *	  Puts the capture triggers on a table, and takes them off.
 */
#ifndef MT_ATTACH_H
#define MT_ATTACH_H

#include "catalog/relation.h"

/*
 * Attaches capture to a table and its partitions, in the current transaction, and records S0,
 * from which on every change of the table is in the queue.  Waits for the lock for no longer than
 * migrate_tiers.lock_timeout; raises ERRCODE_LOCK_NOT_AVAILABLE then, and the caller tries again later.
 */
extern void mt_attach_table(const MtRelation *relation);

/* Takes capture off again, under the same rules. */
extern void mt_detach_table(const MtRelation *relation);

/* The table and its partitions: what has to be locked to attach or detach it. */
extern List *mt_attach_tables(const MtRelation *relation);

/* Makes the triggers again for a key whose columns were renamed or exchanged; S0 stays. */
extern void mt_reattach_table(const MtRelation *relation);

/* Gives a partition that came later the trigger that is not cloned (TRUNCATE). */
extern void mt_attach_partition(Oid leaf, int32 relation_id);

/* Prepares the trigger's caches; called once, when the library is loaded. */
extern void mt_capture_init(void);

#endif							/* MT_ATTACH_H */
