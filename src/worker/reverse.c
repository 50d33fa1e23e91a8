/*
 * reverse.c
 *	  The way back, as the sync worker drives it: in turn with forward ticks.
 *
 * The target cannot set a latch of ours, so it is asked, by a prepared statement that
 * reads the end of one index: often while something comes, seldom while nothing
 * does.  NOTIFY would tell us, but all commits that notify take turns by one lock of
 * the whole cluster, which they hold until they are on disk.  What stops the way back does not stop the way
 * forward, and the other way round.
 */
#include "worker/reverse.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/xact.h"
#include "catalog/reverse.h"
#include "sync/merge.h"
#include "worker/failure.h"

/* How long to wait before the target is asked again, in ms, by how long ago something came. */
#define ASK_ACTIVE 1
#define ASK_BUSY   5
#define ASK_QUIET  20
#define ASK_IDLE   100
#define ACTIVE_FOR 50
#define BUSY_FOR   1000
#define QUIET_FOR  10000

/* Keys of a tick for which the next one waits a ms, where it is known to have something; and the longest such wait. */
#define KEYS_A_MS		  50
#define LONGEST_BREATH_MS 25

#define FIRST_BACKOFF_MS 1000
#define LAST_BACKOFF_MS	 60000

/* Failures to get a row's lock in a row that are no news yet, nor for so long: a transaction may be long. */
#define LOCK_FAILURES	 50
#define LOCK_WAIT_MS	 20
#define LOCK_PATIENCE_MS 10000

static void step(MtWorker *worker);
static long handle_error(MtWorker *worker, ErrorData *error);
static long next_question(const MtWorker *worker);
static void publish(MtWorker *worker, bool failed);
static void act_as_replica(void);

/* mt_worker_reverse runs a tick from the target, when it is due. */
long
mt_worker_reverse(MtWorker *worker)
{
	volatile long wait = TimestampDifferenceMilliseconds(mt_clock_now(), worker->reverse_retry);
	ErrorData  *volatile error = NULL;

	if (wait > 0)
		return wait;
	MemoryContextReset(worker->round_context);
	MemoryContextSwitchTo(worker->round_context);
	PG_TRY();
	{
		step(worker);
		wait = next_question(worker);
	}
	PG_CATCH();
	{
		error = mt_xact_abort(worker->round_context);
	}
	PG_END_TRY();
	if (error != NULL)
		wait = handle_error(worker, error);
	MemoryContextSwitchTo(worker->context);
	worker->reverse_retry = TimestampTzPlusMilliseconds(mt_clock_now(), wait);
	return wait;
}

static void
step(MtWorker *worker)
{
	bool		sent;

	act_as_replica();
	if (worker->sync == NULL)
		mt_worker_open_sync(worker);
	worker->sync->target_active =
		!TimestampDifferenceExceeds(worker->reverse_active, mt_clock_now(), ACTIVE_FOR);
	sent = mt_reverse_run(worker->sync);
	if (sent)
		worker->reverse_active = mt_clock_now();
	if (worker->sync->conflicts_there)
		mt_merge_carry(worker->sync);
	publish(worker, false);
	if (mt_worker_told(worker, MT_TOLD_REVERSE) || !worker->reverse_succeeded)
		mt_worker_tell(worker, MT_TOLD_REVERSE, NULL);
	worker->reverse_failures = 0;
	worker->reverse_succeeded = true;
	mt_worker_sweep(worker);
	mt_worker_cover(worker);
}

/* handle_error tells what happened and says how long to wait. */
static long
handle_error(MtWorker *worker, ErrorData *error)
{
	static TimestampTz contended = 0;
	long		wait = FIRST_BACKOFF_MS;
	char	   *text = mt_error_text(error);
	bool		locked = mt_error_is_lock(error);

	if (worker->sync != NULL)
	{
		publish(worker, true);
		/* A statement whose columns have changed is refused for as long as the session lives. */
		if (error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED)
			mt_worker_disconnect(worker);
		else
			(void) mt_worker_roll_back(worker);
	}
	if (worker->reverse_failures++ == 0 || !locked)
		contended = mt_clock_now();
	if (locked && worker->reverse_failures <= LOCK_FAILURES &&
		!TimestampDifferenceExceeds(contended, mt_clock_now(), LOCK_PATIENCE_MS))
		return LOCK_WAIT_MS;
	for (int i = locked ? LOCK_FAILURES + 1 : 1; i < worker->reverse_failures && wait < LAST_BACKOFF_MS; i++)
		wait *= 2;
	wait = Min(wait, locked ? FIRST_BACKOFF_MS : LAST_BACKOFF_MS);
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("migration \"%s\": reverse sync stopped, next attempt in %.1f s", worker->migration->name,
					(double) wait / 1000),
			 errdetail_internal("%s", text)));
	mt_worker_tell(worker, MT_TOLD_REVERSE, text);
	return wait;
}

/* next_question says when to ask the target again. */
static long
next_question(const MtWorker *worker)
{
	TimestampTz now = mt_clock_now();

	/* The more keys the last tick had, the more it is worth to wait for others: see breathe in step.c. */
	if (worker->sync->target_unsent)
		return Min(worker->sync->keys / KEYS_A_MS, LONGEST_BREATH_MS);
	if (!TimestampDifferenceExceeds(worker->reverse_active, now, ACTIVE_FOR))
		return ASK_ACTIVE;
	if (!TimestampDifferenceExceeds(worker->reverse_active, now, BUSY_FOR))
		return ASK_BUSY;
	return TimestampDifferenceExceeds(worker->reverse_active, now, QUIET_FOR) ? ASK_IDLE : ASK_QUIET;
}

/* publish shows how far the way back is; when it failed, what is waiting. */
static void
publish(MtWorker *worker, bool failed)
{
	MtShared   *shared = worker->shared;
	MtSync	   *sync = worker->sync;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->reverse_ticks += !failed && sync->reverse_rows > 0;
	shared->reverse_rows += failed ? 0 : sync->reverse_rows;
	if (!failed || sync->keys > 0)
		shared->reverse_pending = failed ? (int64) sync->keys : 0;
	if (sync->reverse_seen != 0)
	{
		shared->reverse_oldest = sync->reverse_oldest;
		shared->reverse_seen = sync->reverse_seen;
	}
	LWLockRelease(&shared->lock);
	ConditionVariableBroadcast(&shared->progressed);
}

/*
 * act_as_replica keeps triggers and foreign keys of the source from acting a second time.
 *
 * Once for the process: each change of the setting would make the server forget every plan.
 */
static void
act_as_replica(void)
{
	static bool done = false;

	if (!done)
		SetConfigOption("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION);
	done = true;
}
