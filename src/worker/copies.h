/*
 * copies.h
 *	  How the sync worker brings the copies of tables forward.
 */
#ifndef MT_COPIES_H
#define MT_COPIES_H

#include "worker/worker.h"

/* Brings copies forward; returns whether there is something left to do for them. */
extern bool mt_worker_copies(MtWorker *worker);

/* Sees to it that copy workers run. */
extern void mt_worker_launch_copiers(MtWorker *worker);

/* Something of the copy that failed. */
typedef struct MtCopyRetry
{
	int32		relation;		/* hash key; 0 for the foreign keys */
	int			failures;		/* in a row */
	TimestampTz retry;			/* not before this moment */
} MtCopyRetry;

/* Tells of a failure, unless it is that of a lock and no news yet, and says when to try again. */
extern void mt_worker_put_off_copy(MtWorker *worker, MtCopyRetry *retry, ErrorData *error, const char *action,
								   const char *object);

/* When all tables have joined: brings foreign keys back.  Returns whether it has waited for the target. */
extern bool mt_worker_foreign_keys(MtWorker *worker);
extern void mt_worker_foreign_end(MtWorker *worker);	/* what is under way is begun anew */
extern bool mt_worker_foreign_holds(const MtWorker *worker);	/* no tick can go beside what is under way */

#endif							/* MT_COPIES_H */
