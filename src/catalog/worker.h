/*
 * worker.h
 *	  The workers of a migration as others see them: how to start, wake and
 *	  stop one, and the lock that makes sure that there is one only.
 *
 * A worker holds a session lock for as long as it lives: who holds it is the worker, whatever a
 * catalog row says.  Starting one too many is harmless, it finds the lock taken and leaves.
 */
#ifndef MT_WORKER_H
#define MT_WORKER_H

#include "base/compat.h"

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"

/* What a worker is for.  Slot 1 is the lock of the declaration (migration.c). */
#define MT_WORKER_LAUNCH 0		/* held while somebody starts the sync worker */
#define MT_WORKER_SYNC	 2
#define MT_WORKER_VERIFY 3
#define MT_WORKER_COPY	 16
#define MT_WORKER_READER 128
#define MT_WORKER_BATCH	 256	/* the schedule of pushes; those behind it push one table each */

/* What a verification is to do (keeper), or at which point it reads (reader). */
typedef struct MtVerifyOrder
{
	int64		run;
	int32		relation;		/* 0: all realtime tables */
	bool		scheduled;
	bool		back;			/* the point is the end of a tick from the target */
	TimestampTz point;
	char		source[32];		/* snapshots that the keeper has exported */
	char		target[32];
} MtVerifyOrder;

/* A push that is asked for, under a number that it will have. */
typedef struct MtPushOrder
{
	int64		batch;
	int32		relation;
} MtPushOrder;

/* How many of a kind one migration can have at once: copy workers, and readers; pushes, with their schedule. */
#define MT_MAX_COPY_WORKERS	 64
#define MT_MAX_BATCH_WORKERS 16
#define MT_WORKER_LAST		 (MT_WORKER_BATCH + MT_MAX_BATCH_WORKERS - 1)

/* Takes the lock of a worker for the session; false when somebody has it. */
extern bool mt_worker_lock(int32 migration, int slot);

/* Registers a dynamic worker; NULL when the server has no slot left (max_worker_processes). */
extern BackgroundWorkerHandle *mt_worker_launch(int32 migration, int slot, bool notify);

/* The same for MT_WORKER_VERIFY and the readers, with what is to be done. */
extern BackgroundWorkerHandle *mt_worker_launch_verify(int32 migration, int slot, const MtVerifyOrder *order);

/* The same for the one behind MT_WORKER_BATCH that pushes a table. */
extern BackgroundWorkerHandle *mt_worker_launch_push(int32 migration, const MtPushOrder *order);

/* Whether a sync worker runs, told by a lock and not by its number, which another process may have by now. */
extern bool mt_worker_lives(int32 migration);

/* Wakes the process if it lives; false if it is gone. */
extern bool mt_worker_wake(int pid);

/* The same; where it is gone one is started, but by this backend not again for some seconds. */
extern void mt_worker_call(int32 migration, int pid, TimestampTz *launched);

/* The process that holds the lock of a worker in this database, or 0. */
extern int	mt_worker_pid(int32 migration, int slot);

/* Ends every worker of a migration and returns when the last is gone. */
extern void mt_worker_stop(int32 migration);

/* Ends those that push now, and waits a moment: who wants them gone looks again. */
extern void mt_worker_end_pushes(int32 migration);

/* Ends every worker, and until the end of the transaction none that somebody starts gets to work. */
extern void mt_worker_bar(int32 migration);

/* Starts the sync worker unless it runs, and returns whether one was started. */
extern bool mt_worker_start(int32 migration);

/* The same when the current transaction has committed: a worker reads what it wrote. */
extern void mt_worker_start_at_commit(int32 migration);

#endif							/* MT_WORKER_H */
