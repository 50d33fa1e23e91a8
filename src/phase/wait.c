/*
 * wait.c
 *	  Waiting until the other side has what was committed here: see wait.h.
 */
#include "phase/wait.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "catalog/shared.h"
#include "catalog/worker.h"

/* How often a wait looks by itself, besides being told. */
#define LOOK_INTERVAL_MS 100

/* A wait does not try to start a worker more often than this. */
#define START_INTERVAL_MS 5000

static const MtMark *others_in(const MtMark *token);
static void start_wanted(const MtMigration *migration, TimestampTz *started);
static bool is_reached(MtShared *shared, const MtMigration *migration, const MtMark *token);
static bool is_copied(const MtMigration *migration);

/* mt_wait_token returns everything that is committed now, whatever the transaction's snapshot. */
MtMark *
mt_wait_token(void)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	MtMark	   *mark = mt_mark_from_snapshot(snapshot);

	UnregisterSnapshot(snapshot);
	return mark;
}

/*
 * mt_wait_forward waits until the target has all that the token sees; false at the deadline.
 *
 * The worker is woken at first, and again when it said nothing for a while; after each of its ticks
 * its mark is looked at.  A worker that came anew has other shared memory.
 */
bool
mt_wait_forward(const MtMigration *migration, const MtMark *token, TimestampTz deadline)
{
	int64		handle = 0;
	MtShared   *shared = NULL;
	bool		silent = true;
	TimestampTz started = 0;

	token = others_in(token);
	for (;;)
	{
		MtMigration *now = mt_migration_by_id(migration->id, false);

		if (shared == NULL || now->worker_shared != handle)
		{
			ConditionVariableCancelSleep();
			handle = now->worker_shared;
			shared = mt_shared_attach(handle);
			if (shared != NULL)
				ConditionVariablePrepareToSleep(&shared->progressed);
		}
		if (is_reached(shared, now, token) && is_copied(migration))
			break;
		if (GetCurrentTimestamp() >= deadline)
		{
			ConditionVariableCancelSleep();
			return false;
		}
		if (silent && !(mt_worker_lives(now->id) && mt_worker_wake(now->worker_pid)))
			start_wanted(now, &started);
		if (shared != NULL)
			silent = ConditionVariableTimedSleep(&shared->progressed, LOOK_INTERVAL_MS, PG_WAIT_EXTENSION);
		else
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_INTERVAL_MS,
							 PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
		}
		CHECK_FOR_INTERRUPTS();
	}
	ConditionVariableCancelSleep();
	return true;
}

/*
 * others_in returns what a token sees but for the transaction that waits, which cannot arrive before it ends.
 *
 * No snapshot lists its own transaction as in progress, so a token that it took sees it as soon as a later one has
 * ended.  The token keeps it: whoever waits for that after the commit waits for this transaction, too.
 */
static const MtMark *
others_in(const MtMark *token)
{
	FullTransactionId own = GetTopFullTransactionIdIfAny();

	return FullTransactionIdIsValid(own) ? mt_mark_without(token, U64FromFullTransactionId(own)) : token;
}

/* start_wanted starts the worker that a restart of the server has ended; not again and again. */
static void
start_wanted(const MtMigration *migration, TimestampTz *started)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!migration->syncing || migration->paused || !TimestampDifferenceExceeds(*started, now, START_INTERVAL_MS))
		return;
	*started = now;
	if (mt_worker_pid(migration->id, MT_WORKER_SYNC) == 0)
		(void) mt_worker_launch(migration->id, MT_WORKER_SYNC, false);
}

/* is_reached says whether the worker's mark covers the token; where none runs, the last that one has left. */
static bool
is_reached(MtShared *shared, const MtMigration *migration, const MtMark *token)
{
	char	   *mark = NULL;

	if (shared == NULL)
		return migration->mark != NULL && mt_mark_covers(mt_mark_parse(migration->mark), token);
	LWLockAcquire(&shared->lock, LW_SHARED);
	if (shared->complete && shared->mark[0] != '\0')
		mark = pstrdup(shared->mark);
	LWLockRelease(&shared->lock);
	return mark != NULL && mt_mark_covers(mt_mark_parse(mark), token);
}

/*
 * is_copied says whether every table is in sync.  The worker may publish a mark before it learns
 * that a table is to be copied again, which whoever asked for that knows already; one that was a batch table
 * is not even captured by then.
 */
static bool
is_copied(const MtMigration *migration)
{
	MtSpiScope	scope;
	bool		copied;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT,
					   "SELECT NOT EXISTS (SELECT FROM migrate_tiers.relation"
					   " WHERE migration = $1 AND (captured AND state IN ('planned', 'copying') OR state = 'recopy'))",
					   MT_ARGS(MT_INT4(migration->id)));
	copied = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return copied;
}
