/*
 * fence.h
 *	  The source's fence: refuses writes of applications to realtime tables
 *	  once they belong on the target.
 *
 * Its triggers are put on ahead, table by table; what closes and opens it is a
 * flag of the migration, for all tables at once and with no lock on any.
 */
#ifndef MT_FENCE_H
#define MT_FENCE_H

#include "base/compat.h"

#include "utils/relcache.h"

#include "catalog/relation.h"

/*
 * Puts the fence on a table and its partitions, or takes it off, in the current transaction.  Raises
 * ERRCODE_LOCK_NOT_AVAILABLE when a lock is not to be had within migrate_tiers.lock_timeout.
 */
extern void mt_fence_attach(const MtRelation *relation);
extern void mt_fence_detach(const MtRelation *relation);

/* Puts it on a partition that came to a table that has it; whoever attached the partition has it locked. */
extern void mt_fence_cover(const MtRelation *relation, Oid partition);

/* Refuses a change that no statement on the table announced (one on a table above it) where the fence is closed. */
extern void mt_fence_check(int32 migration, Relation relation);

/* Closes the fence to who begins to write, or opens it, when the transaction commits. */
extern void mt_fence_set(int32 migration, bool closed);

/*
 * Waits until the transactions have ended that wrote when it was closed.  Raises
 * ERRCODE_LOCK_NOT_AVAILABLE, with who they are, after some seconds: the caller tries again.
 */
extern void mt_fence_wait(const MtMigration *migration);

#endif							/* MT_FENCE_H */
