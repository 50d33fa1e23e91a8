/*
 * disarmed.h
 *	  Tables whose changes are not noted any more, since the queue has reached
 *	  its limit: rows of migrate_tiers.disarmed.  They are to be copied again.
 *
 * For each table T:
 *  1. A transaction drops notes of T only while it holds a lock on T that an
 *     attachment of T conflicts with, and only if it adds a row for T itself, or has
 *     read a committed one after it got that lock.
 *  2. Rows for T are deleted only by the transaction that attaches T anew, which
 *     holds that lock: whoever dropped notes has ended, so its S0 sees them, and
 *     whoever gets a lock on T afterwards learns that there are no rows any more.
 *  3. No tick whose snapshot sees a row for T says of T that it is up to date.
 * By 1, a snapshot that sees a transaction that dropped notes of T sees a row for T as
 * well, unless T was attached anew since.  So no tick takes T for complete that is
 * not, whoever is killed when; and a full queue gets a row of a few bytes from the
 * first transaction that finds it full, and nothing from those behind.
 *
 * Nobody waits for anybody: rows are added only, and there is no index.
 *
 * Nothing may be dropped any more when the target is to be written.  Who adds a row holds a
 * lock on the table of rows until its transaction ends, and looks under that lock whether it
 * may; who forbids it (catalog/queue.c) and has committed that finds the lock free once, and
 * has then seen every row there will be.
 */
#ifndef MT_DISARMED_H
#define MT_DISARMED_H

#include "base/compat.h"

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

/* Ids of the tables that have a row, each once; snapshot NULL: all that is committed now. */
extern List *mt_disarmed_list(int32 migration, Snapshot snapshot);

/* Whether all who may have dropped notes since that was forbidden have ended; does not wait. */
extern bool mt_disarmed_is_final(void);

/* Adds a row in the name of the current (sub)transaction; false where nothing may be dropped any more. */
extern bool mt_disarmed_add(int32 migration, int32 relation);

/* Deletes the rows for a table; whoever calls it holds the lock of an attachment. */
extern void mt_disarmed_forget(int32 relation);

#endif							/* MT_DISARMED_H */
