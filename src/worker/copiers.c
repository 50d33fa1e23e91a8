/*
 * copiers.c
 *	  How the sync worker sees to it that copy workers run.
 */
#include "worker/copies.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/option.h"
#include "worker/failure.h"

#define RESTART_MS		2000
#define LAST_BACKOFF_MS 30000

static bool copying_fails(int32 migration_id);
static void launch(MtWorker *worker, int wanted, long interval);
static void note_refused(MtWorker *worker);
static bool is_running(MtWorker *worker, int slot);

/* mt_worker_launch_copiers sees to it that as many copy workers run as are wanted. */
void
mt_worker_launch_copiers(MtWorker *worker)
{
	int64		wanted;
	long		interval = RESTART_MS;

	mt_xact_begin();
	wanted = Min(mt_option_integer(worker->migration_id, "copy_workers"), MT_MAX_COPY_WORKERS);
	worker->copier_failures = copying_fails(worker->migration_id) ? worker->copier_failures : 0;
	mt_xact_commit();
	/* While copy workers fail, and nothing else is told of them, they come more and more seldom. */
	for (int i = 0; i < worker->copier_failures && interval < LAST_BACKOFF_MS; i++)
		interval *= 2;
	launch(worker, (int) wanted, interval);
}

/* launch starts those that do not run, and tells when not even one can be. */
static void
launch(MtWorker *worker, int wanted, long interval)
{
	TimestampTz now = mt_clock_now();
	MemoryContext previous = MemoryContextSwitchTo(worker->context);
	int			running = 0;
	bool		refused = false;

	for (int i = 0; i < wanted; i++)
	{
		if (!is_running(worker, i) && TimestampDifferenceExceeds(worker->copier_started[i], now, interval))
		{
			/* One that just ended either found nothing to do, or failed: not at once again. */
			worker->copier_started[i] = now;
			worker->copier_failures += i == 0;
			worker->copiers[i] = mt_worker_launch(worker->migration_id, MT_WORKER_COPY + i, true);
			refused = refused || worker->copiers[i] == NULL;
		}
		running += worker->copiers[i] != NULL;
	}
	MemoryContextSwitchTo(previous);
	if (refused && running == 0)
		note_refused(worker);
	else if (worker->copiers_refused && running > 0)
		mt_worker_tell(worker, MT_TOLD_COPY, NULL);
	worker->copiers_refused = running == 0 && (refused || worker->copiers_refused);
}

/* is_running says whether the copy worker of a slot is there or about to come. */
static bool
is_running(MtWorker *worker, int slot)
{
	pid_t		pid;

	if (worker->copiers[slot] == NULL)
		return false;
	if (GetBackgroundWorkerPid(worker->copiers[slot], &pid) != BGWH_STOPPED)
		return true;
	pfree(worker->copiers[slot]);
	worker->copiers[slot] = NULL;
	return false;
}

static void
note_refused(MtWorker *worker)
{
	const char *sqlstate = unpack_sql_state(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED);

	mt_worker_tell(worker, MT_TOLD_COPY,
				   psprintf("%s: no background worker is free for the copy; all of max_worker_processes (%d) are in use",
							sqlstate, max_worker_processes));
}

static bool
copying_fails(int32 migration_id)
{
	MtSpiScope	scope;
	bool		fails;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT copy_error IS NOT NULL FROM migrate_tiers.migration WHERE id = $1",
				MT_ARGS(MT_INT4(migration_id)));
	fails = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return fails;
}
