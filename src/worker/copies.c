/*
 * copies.c
 *	  How the sync worker brings copies forward.
 *
 * For each table that has not joined: a copy that has to be done again is taken
 * back, a captured table is planned, a table whose tasks are done gets its keys
 * back and joins with the next tick.  Each step is a transaction of its own and
 * can be repeated.  What fails here does not hold up the ticks of other tables.
 */
#include "worker/worker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"
#include "capture/attach.h"
#include "catalog/option.h"
#include "catalog/worker.h"
#include "copy/copy.h"
#include "endpoint/target.h"

#define COPIER_RESTART_MS 2000
#define FIRST_BACKOFF_MS  500
#define LAST_BACKOFF_MS	  30000

static void bring_forward(MtWorker *worker, bool *work, bool *tasks);
static void copy_again(MtWorker *worker, MtRelation *relation);
static void plan(MtWorker *worker, MtRelation *relation);
static void join_when_done(MtWorker *worker, MtRelation *relation, bool *tasks);
static bool has_joined(MtWorker *worker, const MtRelation *relation);
static bool tasks_left(int32 relation_id);
static void launch_copiers(MtWorker *worker);
static bool copying_fails(int32 migration_id);
static void note_copy_error(MtWorker *worker, const char *error);

/* mt_worker_copies brings copies forward; false when every table has joined. */
bool
mt_worker_copies(MtWorker *worker)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool work = true;
	volatile bool tasks = false;

	if (worker->copy_retry > GetCurrentTimestamp())
		return true;
	PG_TRY();
	{
		bool		work_found = false;
		bool		tasks_found = false;

		bring_forward(worker, &work_found, &tasks_found);
		work = work_found;
		tasks = tasks_found;
		if (worker->copy_failures > 0 || !worker->succeeded)
			note_copy_error(worker, NULL);
		worker->copy_failures = 0;
	}
	PG_CATCH();
	{
		ErrorData  *error;
		long		wait = FIRST_BACKOFF_MS;

		MemoryContextSwitchTo(worker->round_context);
		error = CopyErrorData();
		/* A connection in an unknown state is the affair of the whole round. */
		if (!mt_remote_usable(worker->sync->remote) || error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		mt_remote_run(worker->sync->remote, "ROLLBACK");
		for (int i = 0; i < worker->copy_failures && wait < LAST_BACKOFF_MS; i++)
			wait *= 2;
		worker->copy_failures++;
		worker->copy_retry = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE || worker->copy_failures > 5)
		{
			char	   *text = mt_error_text(error);

			ereport(LOG, (errmsg("migration \"%s\": preparing a copy failed, next attempt in %ld ms",
								 worker->migration->name, wait),
						  errdetail_internal("%s", text)));
			note_copy_error(worker, text);
			pfree(text);
		}
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	if (tasks)
		launch_copiers(worker);
	return work;
}

static void
bring_forward(MtWorker *worker, bool *work, bool *tasks)
{
	List	   *relations;
	ListCell   *cell;
	bool		reload = false;

	mt_xact_begin();
	MemoryContextReset(worker->sync->tick_context);
	MemoryContextSwitchTo(worker->sync->tick_context);
	relations = mt_relation_list(worker->migration_id, "realtime");
	mt_xact_commit();
	foreach(cell, relations)
	{
		MtRelation *relation = (MtRelation *) lfirst(cell);

		if (strcmp(relation->state, "recopy") == 0)
		{
			copy_again(worker, relation);
			reload = *work = true;
		}
		else if (strcmp(relation->state, "planned") == 0 && relation->captured)
		{
			plan(worker, relation);
			reload = *work = *tasks = true;
		}
		else if (strcmp(relation->state, "copying") == 0)
		{
			*work = true;
			join_when_done(worker, relation, tasks);
		}
		else if (strcmp(relation->state, "syncing") == 0 && !has_joined(worker, relation))
		{
			/* The target was set back to a time before it joined. */
			mt_xact_begin();
			mt_relation_set_state(relation->id, "recopy");
			mt_xact_commit();
			*work = true;
		}
	}
	if (reload)
		mt_sync_reload(worker->sync);
}

/* copy_again takes a copy back and attaches the table anew, with a new S0. */
static void
copy_again(MtWorker *worker, MtRelation *relation)
{
	mt_xact_begin();
	mt_copy_forget_tasks(relation);
	mt_xact_commit();
	mt_xact_begin();
	mt_copy_forget_target(worker->migration, worker->sync->remote, relation);
	mt_xact_commit();
	mt_xact_begin();
	mt_attach_table(relation);
	mt_relation_set_state(relation->id, "planned");
	mt_xact_commit();
}

static void
plan(MtWorker *worker, MtRelation *relation)
{
	mt_xact_begin();
	mt_target_fence(worker->sync->remote, worker->migration, relation);
	mt_copy_plan(worker->migration, worker->sync->remote, relation);
	mt_xact_commit();
}

/* join_when_done lets a table join with the next tick once all of its tasks are done. */
static void
join_when_done(MtWorker *worker, MtRelation *relation, bool *tasks)
{
	MtTable    *table = hash_search(worker->sync->tables, &relation->id, HASH_FIND, NULL);

	mt_xact_begin();
	if (tasks_left(relation->id))
		*tasks = true;
	else if (table != NULL && !table->joined)
	{
		mt_target_restore_constraints(worker->sync->remote, worker->migration, relation);
		table->joining = true;
	}
	mt_xact_commit();
}

static bool
has_joined(MtWorker *worker, const MtRelation *relation)
{
	MtTable    *table = hash_search(worker->sync->tables, &relation->id, HASH_FIND, NULL);

	return table == NULL || table->joined;
}

static bool
tasks_left(int32 relation_id)
{
	MtSpiScope	scope;
	bool		left;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT EXISTS (SELECT FROM migrate_tiers.copy_task WHERE relation = $1 AND state <> 'done')",
				MT_ARGS(MT_INT4(relation_id)));
	left = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return left;
}

/* launch_copiers sees to it that as many copy workers run as are wanted. */
static void
launch_copiers(MtWorker *worker)
{
	MemoryContext previous;
	TimestampTz now = GetCurrentTimestamp();
	int64		wanted;
	long		interval = COPIER_RESTART_MS;

	mt_xact_begin();
	wanted = Min(mt_option_integer(worker->migration_id, "copy_workers"), MT_MAX_COPY_WORKERS);
	worker->copier_failures = copying_fails(worker->migration_id) ? worker->copier_failures : 0;
	mt_xact_commit();
	/* While copy workers fail, and nothing else is told of them, they come more and more seldom. */
	for (int i = 0; i < worker->copier_failures && interval < LAST_BACKOFF_MS; i++)
		interval *= 2;
	previous = MemoryContextSwitchTo(worker->context);
	for (int i = 0; i < wanted; i++)
	{
		pid_t		pid;

		if (worker->copiers[i] != NULL)
		{
			if (GetBackgroundWorkerPid(worker->copiers[i], &pid) != BGWH_STOPPED)
				continue;
			pfree(worker->copiers[i]);
			worker->copiers[i] = NULL;
		}
		/* One that just ended either found nothing to do, or failed: not at once again. */
		if (!TimestampDifferenceExceeds(worker->copier_started[i], now, interval))
			continue;
		worker->copier_started[i] = now;
		worker->copier_failures += i == 0;
		worker->copiers[i] = mt_worker_launch(worker->migration_id, MT_WORKER_COPY + i, true);
	}
	MemoryContextSwitchTo(previous);
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

static void
note_copy_error(MtWorker *worker, const char *error)
{
	MtSpiScope	scope;

	mt_xact_begin();
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.migration SET copy_error = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(worker->migration_id), MT_TEXT(error)));
	mt_spi_end(&scope);
	mt_xact_commit();
}
