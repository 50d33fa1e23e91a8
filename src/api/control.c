/*
 * control.c
 *	  Where SQL enters to steer the workers and to wait for them: pause, resume,
 *	  start_workers, sync_token, wait_for_sync.
 */
#include "base/compat.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "api/result.h"
#include "base/errors.h"
#include "base/mark.h"
#include "base/spi.h"
#include "base/update.h"
#include "catalog/shared.h"
#include "catalog/worker.h"
#include "phase/declare.h"
#include "phase/wait.h"

PG_FUNCTION_INFO_V1(mt_pause);
PG_FUNCTION_INFO_V1(mt_resume);
PG_FUNCTION_INFO_V1(mt_start_workers);
PG_FUNCTION_INFO_V1(mt_sync_token);
PG_FUNCTION_INFO_V1(mt_wait_for_sync);

PGDLLEXPORT Datum mt_pause(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_resume(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_start_workers(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_sync_token(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_wait_for_sync(PG_FUNCTION_ARGS);

static void set_paused(const MtMigration *migration, bool paused);
static void keep_mark(const MtMigration *migration, MtShared *shared);
static void raise_timeout(const MtMigration *migration);

/* mt_pause is migrate_tiers.pause(migration). */
Datum
mt_pause(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_declare_open(mt_arg_name_or_null(fcinfo, 0));
	MtShared   *shared = mt_shared_attach(migration->worker_shared);

	set_paused(migration, true);
	/* A worker that a writer starts before this commits finds itself unwanted afterwards. */
	mt_worker_stop(migration->id);
	if (shared != NULL)
		keep_mark(migration, shared);
	PG_RETURN_VOID();
}

/* mt_resume is migrate_tiers.resume(migration). */
Datum
mt_resume(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_declare_open(mt_arg_name_or_null(fcinfo, 0));

	set_paused(migration, false);
	if (migration->syncing)
		mt_worker_start_at_commit(migration->id);
	PG_RETURN_VOID();
}

/* mt_start_workers is migrate_tiers.start_workers(migration): of one, or of all that the caller may drive. */
Datum
mt_start_workers(PG_FUNCTION_ARGS)
{
	char	   *name = mt_arg_name_or_null(fcinfo, 0);
	List	   *migrations = name ? list_make1(mt_migration_get_owned(name)) : mt_migration_list_owned();
	ListCell   *cell;
	int			started = 0;

	foreach(cell, migrations)
	{
		MtMigration *migration = (MtMigration *) lfirst(cell);

		if (migration->syncing && !migration->paused && mt_worker_start(migration->id))
			started++;
	}
	PG_RETURN_INT32(started);
}

/* mt_sync_token is migrate_tiers.sync_token(migration). */
Datum
mt_sync_token(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(mt_mark_format(mt_wait_token())));
}

/* mt_wait_for_sync is migrate_tiers.wait_for_sync(token, timeout, migration). */
Datum
mt_wait_for_sync(PG_FUNCTION_ARGS)
{
	MtMark	   *token = PG_ARGISNULL(0) ? mt_wait_token() : mt_mark_parse_input(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	Interval   *timeout = PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1);
	MtMigration *migration = mt_migration_get(mt_arg_name_or_null(fcinfo, 2));
	TimestampTz deadline = DT_NOEND;

	if (timeout != NULL)
		deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														   TimestampTzGetDatum(GetCurrentTimestamp()),
														   IntervalPGetDatum(timeout)));
	if (!migration->syncing)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("migration \"%s\" is not in sync with its target in phase %s", migration->name,
						mt_phase_name(migration->phase)),
				 migration->phase == MT_FINISHED ?
				 errhint("It is at its end; SELECT migrate_tiers.drop_migration() forgets it.") :
				 errhint("CALL migrate_tiers.advance('syncing') begins the sync.")));
	if (!mt_wait_forward(migration, token, deadline))
		raise_timeout(migration);
	PG_RETURN_VOID();
}

static void
set_paused(const MtMigration *migration, bool paused)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_update_latest("UPDATE migrate_tiers.migration SET paused = $2 WHERE id = $1",
					 MT_ARGS(MT_INT4(migration->id), MT_BOOL(paused)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

/* keep_mark keeps what the worker that has ended said last, for who waits while none runs. */
static void
keep_mark(const MtMigration *migration, MtShared *shared)
{
	char	   *mark;
	TimestampTz time;

	LWLockAcquire(&shared->lock, LW_SHARED);
	mark = pstrdup(shared->mark);
	time = shared->mark_time;
	LWLockRelease(&shared->lock);
	if (mark[0] != '\0')
		(void) mt_migration_keep_mark(migration->id, mark, time);
}

/*
 * raise_timeout says what stands in the way.  Anybody may wait; but an error of sync may hold values of rows,
 * which are for those who may drive the migration, as the views have it.
 */
static void
raise_timeout(const MtMigration *migration)
{
	bool		owned = mt_migration_is_owned(migration);
	char	   *owner = GetUserNameFromId(migration->owner, true);
	MtSpiScope	scope;
	char	   *stopped = NULL;

	mt_spi_begin(&scope);
	if (mt_spi_exec_latest(SPI_OK_SELECT,
						   "SELECT CASE WHEN paused THEN 'sending is paused'"
						   " WHEN $2 OR coalesce(stopped, copy_error) IS NULL THEN coalesce(stopped, copy_error)"
						   " WHEN stopped IS NULL THEN 'the copy is stopped' ELSE 'sending is stopped' END"
						   " FROM migrate_tiers.migration WHERE id = $1",
						   MT_ARGS(MT_INT4(migration->id), MT_BOOL(owned))) > 0)
		stopped = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	ereport(ERROR,
			(errcode(MT_ERRCODE_SYNC_TIMEOUT),
			 errmsg("the target of migration \"%s\" did not catch up in time", migration->name),
			 stopped ? errdetail_internal("%s", stopped) : 0,
			 owned ? errhint("SELECT * FROM migrate_tiers.status shows the lag, and whether a worker runs.") :
			 owner ? errhint("Ask a member of role \"%s\", to whom migrate_tiers.status shows the lag and whether a worker runs.", owner) :
			 errhint("Ask a superuser: the owner of the migration was dropped.")));
}
