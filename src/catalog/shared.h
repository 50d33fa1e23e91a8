/*
 * shared.h
 *	  What the sync worker lets others see: a segment of dynamic shared memory,
 *	  so that no library has to be preloaded.
 */
#ifndef MT_SHARED_H
#define MT_SHARED_H

#include "base/compat.h"

#include "datatype/timestamp.h"
#include "storage/block.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "catalog/queue_read.h"

/* A longer mark (thousands of running transactions) is not published; the one before it stays true. */
#define MT_SHARED_MARK 32768

/* A handle that outlived its server may be another segment's: what is there has to say that it is ours. */
#define MT_SHARED_MAGIC 0x6d745f736872UL

/* Longest name of an exported snapshot. */
#define MT_SNAPSHOT_NAME 64

typedef enum MtPointState
{
	MT_POINT_NONE,
	MT_POINT_ASKED,				/* the asker waits for the end of a tick */
	MT_POINT_OFFERED,			/* the worker holds both snapshots and waits for the asker to take them over */
	MT_POINT_TAKEN
} MtPointState;

/*
 * A common point: two snapshots, one a side, in which the tables that follow the
 * mark are equal, but for what the receiver has written itself since it was asked last.  The
 * worker exports them at the end of a tick and sends nothing until the asker has imported
 * them, or is gone.  Protected by MtShared.lock.
 */
typedef struct MtPoint
{
	MtPointState state;
	int			asker;			/* pid */
	bool		back;			/* asked: at the end of a tick from the target; offered: it is of one */
	int			passed;			/* forward ticks that ended meanwhile */
	TimestampTz time;			/* when the snapshot of the source was taken */
	char		source[MT_SNAPSHOT_NAME];
	char		target[MT_SNAPSHOT_NAME];
} MtPoint;

typedef struct MtShared
{
	uint64		magic;
	LWLock		lock;
	ConditionVariable progressed;	/* after each tick */
	ConditionVariable point_moved;	/* the point has another state */
	MtPoint		point;
	int			pid;
	bool		complete;		/* every captured table has joined */
	bool		acknowledged;	/* and the next says so */
	bool		reversing;		/* ticks are those of both ways */
	int64		ticks;
	int64		rows;
	int64		bytes;
	TimestampTz mark_time;		/* everything committed before is on the target */
	int64		reverse_ticks;
	int64		reverse_rows;
	int64		reverse_pending;	/* keys of the target that are not here, as last seen */
	TimestampTz reverse_oldest;	/* commit time of the oldest of them, 0: none */
	TimestampTz reverse_seen;	/* when the target was last asked */
	MtSettled	settled[MT_QUEUE_SEGMENTS];	/* of the queue, as its reader has them */
	char		mark[MT_SHARED_MARK];	/* text; empty: none yet */
} MtShared;

/* Creates the segment of this worker; it lives as long as the process. */
extern MtShared *mt_shared_create(int64 *handle);

/* Attaches to the segment of a worker that lives, else NULL. */
extern MtShared *mt_shared_attach(int64 handle);

#endif							/* MT_SHARED_H */
