/*
 * left.h
 *	  Tables that are realtime no more: what is ours goes from the target's.
 */
#ifndef MT_LEFT_H
#define MT_LEFT_H

#include "worker/worker.h"

/* Says that some table may have left: after each connection, and when the declaration has changed. */
extern void mt_worker_look_for_left(void);

/* Where that was said: takes the fence, and the notes of the copy, off the tables that have left. */
extern void mt_worker_let_go(MtWorker *worker);

#endif							/* MT_LEFT_H */
