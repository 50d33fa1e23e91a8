/*
 * copies.h
 *	  How the sync worker brings the copies of tables forward.
 */
#ifndef MT_COPIES_H
#define MT_COPIES_H

#include "worker/worker.h"

/* Brings copies forward; returns whether there is something left to do for them. */
extern bool mt_worker_copies(MtWorker *worker);

/* Sees to it that copy workers run; keeps (or clears) an error of the copy for status. */
extern void mt_worker_launch_copiers(MtWorker *worker);
extern void mt_worker_note_copy_error(MtWorker *worker, const char *error);

#endif							/* MT_COPIES_H */
