/*
 * worker_wait.h
 *	  Waits for the sync worker.
 */
#ifndef MT_WORKER_WAIT_H
#define MT_WORKER_WAIT_H

#include "base/compat.h"

/*
 * Waits until the worker that runs ticks both ways, or one way, as the migration says since;
 * or until none runs.  Raises ERRCODE_LOCK_NOT_AVAILABLE when a long tick keeps it from noticing.
 */
extern void mt_worker_wait_reversing(int32 migration, bool reversing);

#endif							/* MT_WORKER_WAIT_H */
