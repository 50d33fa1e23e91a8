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

#endif							/* MT_COPIES_H */
