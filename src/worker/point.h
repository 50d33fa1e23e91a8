/*
 * point.h
 *	  Gives a common point to whoever asks for one: see point.c.
 */
#ifndef MT_POINT_H
#define MT_POINT_H

#include "sync/tick.h"

/* Called at the end of a tick, forward or from the target; "arg" is the worker's MtShared. */
extern void mt_worker_give_point(MtSync *sync, Snapshot snapshot, TimestampTz time, void *arg);
extern void mt_worker_give_point_back(MtSync *sync, Snapshot snapshot, TimestampTz time, void *arg);

#endif							/* MT_POINT_H */
