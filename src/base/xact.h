/*
 * xact.h
 *	  Transactions of a worker: each with an active snapshot, which SPI wants.
 *	  Those of a procedure.  And what may fail inside of one, without ending it, or outside.
 */
#ifndef MT_XACT_H
#define MT_XACT_H

#include "base/compat.h"

#include "access/xlogdefs.h"

extern void mt_xact_begin(void);
extern void mt_xact_commit(void);

/* In PG_CATCH: ends the transaction that failed; returns its error in a memory context, the current one from here. */
extern ErrorData *mt_xact_abort(MemoryContext context);

/*
 * Of a procedure: commits, and begins the next transaction as READ COMMITTED and READ WRITE whatever the defaults are,
 * since it has to see what others commit while it waits, and to change rows that they have changed.
 */
extern void mt_xact_next(void);

/* The same before its first step, where the transaction that it was called in is of another kind. */
extern void mt_xact_first(void);

/*
 * Before another server commits what was read here: a transaction with synchronous_commit off is seen before it is
 * on disk, and a crash would take it from here only.  Given is the end of the log after the snapshot was taken.
 */
extern void mt_xact_flush(XLogRecPtr lsn);

/*
 * Runs an action in a subtransaction and returns its error, or NULL.  What it
 * allocates, and the error, are in the caller's memory context.
 */
extern ErrorData *mt_xact_try(void (*action)(void *arg), void *arg);

/* The same of a worker in no transaction: the action begins its own, and what it has begun ends with its error. */
extern ErrorData *mt_xact_catch(void (*action)(void *arg), void *arg);

#endif							/* MT_XACT_H */
