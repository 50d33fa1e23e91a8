/*
 * lock.h
 *	  Locks on users' tables, never queued for longer than lock_timeout.
 */
#ifndef MT_LOCK_H
#define MT_LOCK_H

#include "base/compat.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/elog.h"

/*
 * Locks tables one after the other until the end of the transaction.  The time
 * for all together is migrate_tiers.lock_timeout: others queue behind what is
 * held already.  Raises ERRCODE_LOCK_NOT_AVAILABLE when it is up.
 */
extern void mt_lock_tables(const List *relids, LOCKMODE mode);

/*
 * Runs an action in a subtransaction, again after pauses that grow while a lock is not to be had; nothing that it
 * locked is held in between.  Returns the error that it ended with, or NULL.  waits: what to tell of a long wait.
 */
extern ErrorData *mt_lock_retry(void (*action)(void *arg), void *arg, TimestampTz deadline, const char *waits);

/* Who stands in the way of a lock on a table: "pid 42 (app, idle in transaction for 00:01:00)", or NULL. */
extern char *mt_lock_blockers(Oid relid, LOCKMODE mode);

/*
 * Whether somebody waits for a lock that we hold on a table, or for the end of our snapshot, as an index
 * does that is built concurrently; with "rows" also for the end of our writing.
 */
extern bool mt_lock_is_wanted(bool rows);

#endif							/* MT_LOCK_H */
