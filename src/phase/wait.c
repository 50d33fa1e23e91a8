/*
 * wait.c
 *	  Waiting until the other side has what was committed here: see wait.h.
 */
#include "phase/wait.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "catalog/shared.h"
#include "catalog/worker.h"

/* How often a wait looks by itself, besides being told. */
#define LOOK_INTERVAL_MS 100

/* A wait does not try to start a worker more often than this. */
#define START_INTERVAL_MS 5000

/* What a wait knows from one look to the next. */
typedef struct MtWait
{
	int32		migration;
	const MtMark *token;
	MemoryContext context;		/* of one look */
	int64		handle;
	MtShared   *shared;
	bool		silent;			/* the worker has said nothing since the last look */
	TimestampTz read;			/* when the catalog was last read */
	TimestampTz started;		/* when a worker was last started */
} MtWait;

static bool look(MtWait *wait);
static bool look_closely(MtWait *wait);
static void attach(MtWait *wait, int64 handle);
static void sleep_until_told(MtWait *wait);
static const MtMark *others_in(const MtMark *token);
static void start_wanted(const MtMigration *migration, TimestampTz *started);
static bool is_told(const MtWait *wait);
static bool is_copied(int32 migration);

/* mt_wait_token returns everything that is committed now, whatever the transaction's snapshot. */
MtMark *
mt_wait_token(void)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	MtMark	   *mark = mt_mark_from_snapshot(snapshot);

	UnregisterSnapshot(snapshot);
	return mark;
}

/* mt_wait_forward waits until the target has all that the token sees; false at the deadline. */
bool
mt_wait_forward(const MtMigration *migration, const MtMark *token, TimestampTz deadline)
{
	MtWait		wait = {.migration = migration->id, .token = others_in(token), .silent = true};
	bool		reached;

	wait.context = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers wait", ALLOCSET_SMALL_SIZES);
	while (!(reached = look(&wait)) && GetCurrentTimestamp() < deadline)
		sleep_until_told(&wait);
	ConditionVariableCancelSleep();
	MemoryContextDelete(wait.context);
	return reached;
}

/*
 * look says whether the target has it all.  It is called after each tick of the worker, for hours where the
 * token is that of a busy time: so it leaves no memory behind, and the catalog is read only when there is a reason to.
 */
static bool
look(MtWait *wait)
{
	MemoryContext previous = MemoryContextSwitchTo(wait->context);
	TimestampTz now = GetCurrentTimestamp();
	bool		reached = false;

	MemoryContextReset(wait->context);
	if (wait->silent || is_told(wait) || TimestampDifferenceExceeds(wait->read, now, LOOK_INTERVAL_MS))
	{
		wait->read = now;
		reached = look_closely(wait);
	}
	MemoryContextSwitchTo(previous);
	return reached;
}

/*
 * look_closely reads the catalog: a worker that came anew has other shared memory; where none runs, the last one has
 * left its mark.  The worker is woken at first, and again when it said nothing for a while.
 */
static bool
look_closely(MtWait *wait)
{
	MtMigration *migration = mt_migration_by_id(wait->migration, false);
	bool		covered;

	attach(wait, migration->worker_shared);
	if (wait->shared != NULL)
		covered = is_told(wait);
	else
		covered = migration->mark != NULL && mt_mark_covers(mt_mark_parse(migration->mark), wait->token);
	if (covered && is_copied(wait->migration))
		return true;
	if (wait->silent && !(mt_worker_lives(wait->migration) && mt_worker_wake(migration->worker_pid)))
		start_wanted(migration, &wait->started);
	return false;
}

/* attach begins to listen to a worker, before it is looked at what that has said. */
static void
attach(MtWait *wait, int64 handle)
{
	if (wait->shared != NULL && wait->handle == handle)
		return;
	ConditionVariableCancelSleep();
	wait->handle = handle;
	wait->shared = mt_shared_attach(handle);
	if (wait->shared != NULL)
		ConditionVariablePrepareToSleep(&wait->shared->progressed);
}

static void
sleep_until_told(MtWait *wait)
{
	if (wait->shared != NULL)
		wait->silent = ConditionVariableTimedSleep(&wait->shared->progressed, LOOK_INTERVAL_MS, PG_WAIT_EXTENSION);
	else
	{
		wait->silent = true;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_INTERVAL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
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

/* is_told says whether the worker's mark covers the token. */
static bool
is_told(const MtWait *wait)
{
	char	   *mark = NULL;

	if (wait->shared == NULL)
		return false;
	LWLockAcquire(&wait->shared->lock, LW_SHARED);
	if (wait->shared->complete && wait->shared->mark[0] != '\0')
		mark = pstrdup(wait->shared->mark);
	LWLockRelease(&wait->shared->lock);
	return mark != NULL && mt_mark_covers(mt_mark_parse(mark), wait->token);
}

/*
 * is_copied says whether every table is in sync.  The worker may publish a mark before it learns
 * that a table is to be copied again, which whoever asked for that knows already; one that was a batch table
 * is not even captured by then.
 */
static bool
is_copied(int32 migration)
{
	static SPIPlanPtr plan = NULL;
	MtSpiScope	scope;
	bool		copied;

	mt_spi_begin(&scope);
	mt_spi_exec_kept(&plan, SPI_OK_SELECT,
					 "SELECT NOT EXISTS (SELECT FROM migrate_tiers.relation"
					 " WHERE migration = $1 AND (captured AND state IN ('planned', 'copying') OR state = 'recopy'))",
					 MT_ARGS(MT_INT4(migration)));
	copied = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return copied;
}
