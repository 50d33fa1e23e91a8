/*
 * lock.h
 *	  Locks on users' tables, never queued for longer than lock_timeout.
 */
#ifndef MT_LOCK_H
#define MT_LOCK_H

#include "base/compat.h"

#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/*
 * Locks tables one after the other until the end of the transaction.  The time
 * for all together is migrate_tiers.lock_timeout: others queue behind what is
 * held already.  Raises ERRCODE_LOCK_NOT_AVAILABLE when it is up.
 */
extern void mt_lock_tables(const List *relids, LOCKMODE mode);

/* Who stands in the way of a lock on a table: "pid 42 (app, idle in transaction for 00:01:00)", or NULL. */
extern char *mt_lock_blockers(Oid relid, LOCKMODE mode);

#endif							/* MT_LOCK_H */
