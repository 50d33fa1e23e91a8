/*
 * reverse.h
 *	  The way back, as the sync worker drives it.
 */
#ifndef MT_WORKER_REVERSE_H
#define MT_WORKER_REVERSE_H

#include "worker/worker.h"

/* A tick from the target, when it is due.  Returns the milliseconds to wait, unless woken; in reverse.c. */
extern long mt_worker_reverse(MtWorker *worker);

/* Deletes from the target's queues what was sent long ago, as each session with the target may; in sweep.c. */
extern void mt_worker_open_sweep(MtWorker *worker);
extern void mt_worker_sweep(MtWorker *worker);

/* Sees to partitions of the target that came or went, and to its triggers; in cover.c. */
extern void mt_worker_cover(MtWorker *worker);

#endif							/* MT_WORKER_REVERSE_H */
