/*
 * roster.h
 *	  What the sync worker keeps of application servers: who wrote which side,
 *	  and what each said on the target.
 */
#ifndef MT_ROSTER_H
#define MT_ROSTER_H

#include "worker/worker.h"

/* Listens to the ticks of the connection that was just opened. */
extern void mt_worker_open_roster(MtWorker *worker);

/* Saves what they saw, now and then, and always before the queue may give it back. */
extern void mt_worker_save_roster(MtWorker *worker, TimestampTz now);

/* Takes over what the target knows, at the end of a round that has saved. */
extern void mt_worker_merge_roster(MtWorker *worker, TimestampTz now);

#endif							/* MT_ROSTER_H */
