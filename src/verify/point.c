/*
 * point.c
 *	  Takes a common point over from the sync worker, and keeps it.
 *
 * The worker gives a point at the end of a tick, and waits a moment for us; so
 * all that takes time, a connection above all, is done before it is asked.  Both
 * snapshots are imported and exported again, by us: the worker goes on.
 */
#include "verify/verify.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "base/xact.h"

/* How long a point is waited for while the worker is there and does not say why there is none. */
#define PATIENCE_MS 30000

/* How often it is looked whether the worker is still the same. */
#define LOOK_MS 100

/* A wait does not try to start the worker more often than this. */
#define START_INTERVAL_MS 5000

static char *ask(int32 migration_id, MtHeldPoint *point, MtShared **shared);
static MtShared *find_worker(const MtMigration *migration, TimestampTz *started);
static bool is_offered(MtShared *shared, MtHeldPoint *point);
static char *obstacle(const MtMigration *migration, TimestampTz asked);
static void take_over(MtHeldPoint *point);
static void set_taken(MtShared *shared);

/* mt_point_take takes a point over; NULL, or why there is none. */
char *
mt_point_take(int32 migration_id, bool back, MtHeldPoint *point)
{
	MtShared   *shared = NULL;
	char	   *why;

	mt_xact_begin();
	point->remote = mt_remote_open(mt_migration_by_id(migration_id, false));
	mt_xact_commit();
	point->back = back;
	why = ask(migration_id, point, &shared);
	if (why != NULL)
	{
		mt_remote_close(point->remote);
		return why;
	}
	take_over(point);
	set_taken(shared);
	return NULL;
}

/* mt_point_release ends the transactions that hold a point. */
void
mt_point_release(MtHeldPoint *point)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	mt_remote_close(point->remote);
}

/* mt_point_begin begins a transaction with an exported snapshot. */
void
mt_point_begin(const char *snapshot)
{
	MemoryContext caller = CurrentMemoryContext;

	StartTransactionCommand();
	XactIsoLevel = XACT_REPEATABLE_READ;
	XactReadOnly = true;
	ImportSnapshot(snapshot);
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller);
}

/* ask waits until a point is offered; NULL, or why there is none. */
static char *
ask(int32 migration_id, MtHeldPoint *point, MtShared **shared)
{
	TimestampTz asked = GetCurrentTimestamp();
	TimestampTz started = 0;
	char	   *why = NULL;

	for (;;)
	{
		MtMigration *migration;

		mt_xact_begin();
		migration = mt_migration_by_id(migration_id, false);
		why = obstacle(migration, asked);
		*shared = why ? NULL : find_worker(migration, &started);
		mt_xact_commit();
		if (why != NULL)
			break;
		if (*shared != NULL)
		{
			ConditionVariablePrepareToSleep(&(*shared)->point_moved);
			if (is_offered(*shared, point))
				break;
			(void) ConditionVariableTimedSleep(&(*shared)->point_moved, LOOK_MS, PG_WAIT_EXTENSION);
		}
		else
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
		}
		CHECK_FOR_INTERRUPTS();
	}
	ConditionVariableCancelSleep();
	return why;
}

/* find_worker finds the worker's memory and wakes it; one that should run and does not is started. */
static MtShared *
find_worker(const MtMigration *migration, TimestampTz *started)
{
	MtShared   *shared = mt_shared_attach(migration->worker_shared);
	TimestampTz now = GetCurrentTimestamp();

	if (mt_worker_lives(migration->id) && mt_worker_wake(migration->worker_pid))
		return shared;
	if (TimestampDifferenceExceeds(*started, now, START_INTERVAL_MS))
	{
		*started = now;
		if (mt_worker_pid(migration->id, MT_WORKER_SYNC) == 0)
			(void) mt_worker_launch(migration->id, MT_WORKER_SYNC, false);
	}
	return NULL;
}

/* is_offered asks for a point unless that was done, and reads it when it is there. */
static bool
is_offered(MtShared *shared, MtHeldPoint *point)
{
	bool		offered;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	offered = shared->point.state == MT_POINT_OFFERED && shared->point.asker == MyProcPid;
	if (offered)
	{
		point->time = shared->point.time;
		point->back = shared->point.back;
		memcpy(point->source, shared->point.source, MT_SNAPSHOT_NAME);
		memcpy(point->target, shared->point.target, MT_SNAPSHOT_NAME);
	}
	else if (shared->point.state != MT_POINT_ASKED || shared->point.asker != MyProcPid)
	{
		/* Nobody else asks: there is one keeper a migration. */
		shared->point.state = MT_POINT_ASKED;
		shared->point.asker = MyProcPid;
		shared->point.back = point->back;
		shared->point.passed = 0;
	}
	LWLockRelease(&shared->lock);
	return offered;
}

/* obstacle says why no point can be had, or NULL while it is to be waited for. */
static char *
obstacle(const MtMigration *migration, TimestampTz asked)
{
	MtSpiScope	scope;
	char	   *stopped;

	if (!migration->syncing)
		return pstrdup("the migration is not in sync in this phase");
	if (migration->paused)
		return pstrdup("the migration is paused; migrate_tiers.resume() lets it go on");
	if (!TimestampDifferenceExceeds(asked, GetCurrentTimestamp(), PATIENCE_MS))
		return NULL;
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT stopped FROM migrate_tiers.migration WHERE id = $1",
				MT_ARGS(MT_INT4(migration->id)));
	stopped = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	if (stopped)
		return psprintf("sync is stopped: %s", stopped);
	return psprintf("the sync worker came to no common point in %d s", PATIENCE_MS / 1000);
}

/* take_over imports both snapshots and exports them for the readers. */
static void
take_over(MtHeldPoint *point)
{
	MemoryContext caller = CurrentMemoryContext;
	MtRows	   *rows;

	mt_point_begin(point->source);
	mt_remote_run(point->remote, psprintf("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT %s", quote_literal_cstr(point->target)));
	rows = mt_remote_query(point->remote, "SELECT pg_catalog.pg_export_snapshot()", MT_NO_PARAMS);
	strlcpy(point->target, rows->values[0][0], MT_SNAPSHOT_NAME);
	strlcpy(point->source, ExportSnapshot(GetActiveSnapshot()), MT_SNAPSHOT_NAME);
	MemoryContextSwitchTo(caller);
}

/* set_taken lets the worker go on. */
static void
set_taken(MtShared *shared)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (shared->point.state == MT_POINT_OFFERED && shared->point.asker == MyProcPid)
		shared->point.state = MT_POINT_TAKEN;
	LWLockRelease(&shared->lock);
	ConditionVariableBroadcast(&shared->point_moved);
}
