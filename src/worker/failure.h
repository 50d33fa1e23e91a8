/*
 * failure.h
 *	  What the sync worker does about an error.  Nothing of it raises one: nobody
 *	  would catch that, and a worker that ends does not come back by itself.
 */
#ifndef MT_WORKER_FAILURE_H
#define MT_WORKER_FAILURE_H

#include "worker/worker.h"

/* What it is that stopped. */
typedef enum MtToldKind
{
	MT_TOLD_FORWARD,
	MT_TOLD_REVERSE,
	MT_TOLD_COPY
} MtToldKind;

/*
 * Ends what a failed round was about on the target.  False when the connection could not be kept; it is closed
 * then, as by the second.
 */
extern bool mt_worker_roll_back(MtWorker *worker);
extern void mt_worker_disconnect(MtWorker *worker);

/* Has status say why something stopped, or, with NULL, that it goes on. */
extern void mt_worker_tell(MtWorker *worker, MtToldKind kind, const char *reason);

/* Whether what was told last is a reason. */
extern bool mt_worker_told(const MtWorker *worker, MtToldKind kind);

/* Tries again to tell what could not be told; returns the ms after which to call it again. */
extern long mt_worker_tell_again(MtWorker *worker);

#endif							/* MT_WORKER_FAILURE_H */
