/*
 * sync_worker.c
 *	  The sync worker's life: one a migration, from the lock to the last tick.
 *
 * It waits on its latch: a committing writer sets it, and so does whoever asks
 * for something.  An error stops the direction: it is told in status and log, the
 * connection is closed, and the round is tried again after a while that doubles
 * from one second to a minute.  Nothing is skipped.
 */
#include "worker/worker.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/settings.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/worker.h"
#include "sync/watch.h"
#include "worker/copies.h"
#include "worker/failure.h"
#include "worker/left.h"
#include "worker/reverse.h"

#define FIRST_BACKOFF_MS 1000
#define LAST_BACKOFF_MS	 60000
#define LOOK_MS			 1000

/* Failures to get the lock of a row that an application is writing that are no news yet, nor for so long. */
#define LOCK_FAILURES	 50
#define LOCK_WAIT_MS	 20
#define LOCK_PATIENCE_MS 10000

/* What the migration's row says of its worker. */
typedef struct MtSharedNote
{
	int32		migration_id;
	int64		handle;			/* of the shared memory */
} MtSharedNote;

static MtWorker *begin_work(int32 migration_id);
static void register_worker(MtWorker *worker, int64 handle);
static void note_worker(void *arg);
static void acknowledge(MtWorker *worker);
static bool reload_migration(MtWorker *worker);
static void follow_target(MtWorker *worker);
static long try_step(MtWorker *worker);
static long handle_error(MtWorker *worker, ErrorData *error);

/* mt_sync_worker_main is the entry of the sync worker. */
void
mt_sync_worker_main(Datum arg)
{
	Oid			database;
	MtWorker   *worker;

	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	mt_worker_begin(database);
	worker = begin_work(DatumGetInt32(arg));
	if (worker == NULL)
		proc_exit(0);
	for (;;)
	{
		long		wait;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		mt_worker_reload();
		wait = try_step(worker);
		if (wait < 0)
			break;
		/* Nothing wakes it when somebody points the server to a target that can be reached. */
		if (worker->sync == NULL)
			wait = Min(wait, LOOK_MS);
		if (wait > 0)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait, PG_WAIT_EXTENSION);
	}
	proc_exit(0);
}

/* begin_work takes the migration's lock; NULL when there is nothing to do, or somebody does it. */
static MtWorker *
begin_work(int32 migration_id)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "migrate_tiers worker", ALLOCSET_DEFAULT_SIZES);
	MtWorker   *worker = MemoryContextAllocZero(context, sizeof(MtWorker));
	int64		handle;

	worker->context = worker->queue_sent.context = context;
	worker->migration_context = AllocSetContextCreate(context, "migrate_tiers migration", ALLOCSET_DEFAULT_SIZES);
	worker->round_context = AllocSetContextCreate(context, "migrate_tiers round", ALLOCSET_DEFAULT_SIZES);
	worker->migration_id = migration_id;
	worker->unjoined = worker->foreign_keys_due = true;
	mt_xact_begin();
	if (!OidIsValid(mt_extension_schema()) || !mt_worker_lock(migration_id, MT_WORKER_SYNC))
		return NULL;
	if (mt_migration_by_id(migration_id, true) == NULL)
		return NULL;
	mt_watch_begin();
	worker->shared = mt_shared_create(&handle);
	mt_xact_commit();
	register_worker(worker, handle);
	if (!reload_migration(worker))
		return NULL;
	acknowledge(worker);
	return worker;
}

/* acknowledge tells which way the ticks go from here on: none is under way. */
static void
acknowledge(MtWorker *worker)
{
	if (worker->migration == NULL)
		return;
	LWLockAcquire(&worker->shared->lock, LW_EXCLUSIVE);
	worker->shared->reversing = worker->migration->reversing;
	worker->shared->acknowledged = true;
	LWLockRelease(&worker->shared->lock);
	ConditionVariableBroadcast(&worker->shared->progressed);
}

/*
 * register_worker tells committing writers whom to wake, and others where to look.
 *
 * It waits for whoever has the migration's row: a worker that ended there would not come back by itself.
 */
static void
register_worker(MtWorker *worker, int64 handle)
{
	MtSharedNote note = {worker->migration_id, handle};
	ErrorData  *error;

	while ((error = mt_xact_catch(note_worker, &note)) != NULL)
	{
		if (!mt_error_is_lock(error))
			ReThrowError(error);
		FreeErrorData(error);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
note_worker(void *arg)
{
	const MtSharedNote *note = (const MtSharedNote *) arg;
	MtSpiScope	scope;

	mt_xact_begin();
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.migration SET worker_pid = $2, worker_shared = $3 WHERE id = $1",
				MT_ARGS(MT_INT4(note->migration_id), MT_INT4(MyProcPid), MT_INT8(note->handle)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
	mt_xact_commit();
}

/* reload_migration reads the migration again; false when no worker is wanted any more. */
static bool
reload_migration(MtWorker *worker)
{
	MemoryContext previous;

	worker->migration = NULL;
	MemoryContextReset(worker->migration_context);
	previous = MemoryContextSwitchTo(worker->migration_context);
	mt_xact_begin();
	if (OidIsValid(mt_extension_schema()))
		worker->migration = mt_migration_by_id(worker->migration_id, true);
	mt_xact_commit();
	MemoryContextSwitchTo(previous);
	return worker->migration != NULL && worker->migration->syncing && !worker->migration->paused;
}

/* follow_target lets go of a target that the server does not lead to any more; the round connects to the other. */
static void
follow_target(MtWorker *worker)
{
	bool		moved;

	if (worker->sync != NULL)
		moved = mt_sync_target_moved(worker->sync);
	else
	{
		mt_xact_begin();
		moved = mt_watch_servers_changed();
		mt_xact_commit();
	}
	if (!moved)
		return;
	ereport(LOG, (errmsg("migration \"%s\": its foreign server was altered and is connected to anew",
						 worker->migration ? worker->migration->name : "")));
	mt_worker_foreign_end(worker);
	mt_worker_disconnect(worker);
	worker->unjoined = true;
	worker->retry = worker->reverse_retry = 0;
}

/* try_step runs one round, both ways; what goes wrong in it is told, and answered with a longer wait. */
static long
try_step(MtWorker *worker)
{
	static bool reload_due = false;
	volatile long wait = 0;
	volatile long reverse_wait = LONG_MAX;
	ErrorData  *volatile error = NULL;

	MemoryContextReset(worker->round_context);
	MemoryContextSwitchTo(worker->round_context);
	PG_TRY();
	{
		follow_target(worker);
		/* Until that has come to its end: who waits for the acknowledgement does not say it twice. */
		reload_due |= mt_watch_changed();
		if (reload_due)
		{
			if (!reload_migration(worker))
				wait = -1;
			else if (worker->sync != NULL)
				mt_sync_reload(worker->sync);
			worker->unjoined = true;
			mt_worker_look_for_left();
			/* Somebody is at work who may have mended what stopped us. */
			worker->retry = worker->reverse_retry = 0;
			acknowledge(worker);
			reload_due = false;
		}
		/*
		 * First: whoever waits for the target may use up what a writer here sets the latch for, so our
		 * own queue is looked at after that.
		 */
		if (wait == 0 && worker->migration->reversing)
		{
			reverse_wait = mt_worker_reverse(worker);
			MemoryContextSwitchTo(worker->round_context);
		}
		if (wait == 0)
			wait = TimestampDifferenceMilliseconds(mt_clock_now(), worker->retry);
		if (wait == 0)
		{
			wait = mt_worker_step(worker);
			/* What an earlier worker told of a stop is over with the first round of this one. */
			if (worker->failures > 0 || !worker->succeeded)
				mt_worker_tell(worker, MT_TOLD_FORWARD, NULL);
			worker->failures = worker->contention = 0;
			worker->succeeded = true;
		}
	}
	PG_CATCH();
	{
		error = mt_xact_abort(worker->round_context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker->round_context);
	if (error != NULL)
		wait = handle_error(worker, error);
	reverse_wait = Min(reverse_wait, mt_worker_tell_again(worker));
	/* What comes until the next round must not be put into memory that is gone. */
	MemoryContextSwitchTo(worker->context);
	return Min(wait, reverse_wait);
}

/* handle_error closes the connection, tells what happened and says how long to wait. */
static long
handle_error(MtWorker *worker, ErrorData *error)
{
	static TimestampTz contended = 0;
	long		wait = FIRST_BACKOFF_MS;
	char	   *text = mt_error_text(error);

	if (worker->contention == 0 || !mt_error_is_lock(error))
		contended = mt_clock_now();
	/* An application has a row that the tick is about to set: it goes first. */
	if (worker->migration != NULL && worker->migration->reversing && worker->sync != NULL &&
		mt_error_is_lock(error) && worker->contention++ < LOCK_FAILURES &&
		!TimestampDifferenceExceeds(contended, mt_clock_now(), LOCK_PATIENCE_MS) && mt_worker_roll_back(worker))
		return LOCK_WAIT_MS;
	mt_worker_disconnect(worker);
	for (int i = 0; i < worker->failures && wait < LAST_BACKOFF_MS; i++)
		wait *= 2;
	wait = Min(wait, LAST_BACKOFF_MS);
	/* A lock that was not to be had at once is no fault yet. */
	if (mt_error_is_lock(error) && worker->failures++ < 2)
		return mt_lock_timeout;
	worker->failures++;
	worker->retry = TimestampTzPlusMilliseconds(mt_clock_now(), wait);
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("migration \"%s\": forward sync stopped, next attempt in %.1f s",
					worker->migration ? worker->migration->name : "", (double) wait / 1000),
			 errdetail_internal("%s", text)));
	mt_worker_tell(worker, MT_TOLD_FORWARD, text);
	return wait;
}
