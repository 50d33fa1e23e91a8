/*
 * copy_worker.c
 *	  A copy worker: does tasks of a migration's copy until none is left.
 */
#include "worker/worker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/option.h"
#include "catalog/worker.h"
#include "copy/copy.h"
#include "endpoint/twin.h"

static void work(int32 migration_id, int slot);
static bool leads_there(const MtMigration *migration, const MtRemote *remote);
static void note_error(int32 migration_id, const char *error);

/* mt_copy_worker_main is the entry of a copy worker. */
void
mt_copy_worker_main(Datum arg)
{
	int32		migration_id = DatumGetInt32(arg);
	Oid			database;
	int			slot;
	MemoryContext context;

	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	memcpy(&slot, MyBgworkerEntry->bgw_extra + sizeof(Oid), sizeof(int));
	mt_worker_begin(database);
	context = AllocSetContextCreate(TopMemoryContext, "migrate_tiers copy worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(migration_id, slot);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		/* A lock that was not to be had, or a table that went, is tried again, and is no fault. */
		if (!mt_error_is_lock(error) && error->sqlerrcode != ERRCODE_QUERY_CANCELED)
			note_error(migration_id, mt_error_text(error));
		proc_exit(1);
	}
	PG_END_TRY();
	proc_exit(0);
}

static void
work(int32 migration_id, int slot)
{
	MtMigration *migration = NULL;
	MtRemote   *remote = NULL;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext task_context = AllocSetContextCreate(context, "migrate_tiers task", ALLOCSET_DEFAULT_SIZES);
	bool		first = true;

	mt_xact_begin();
	if (!OidIsValid(mt_extension_schema()) || !mt_worker_lock(migration_id, slot))
		return;
	migration = mt_migration_by_id(migration_id, true);
	if (migration == NULL || !migration->syncing || migration->paused)
		return;
	remote = mt_twin_open(migration);
	mt_remote_run(remote, "SET session_replication_role = replica");
	mt_xact_commit();
	for (;;)
	{
		MemoryContextSwitchTo(task_context);
		if (!leads_there(migration, remote) || !mt_copy_run_next(migration, remote))
			break;
		MemoryContextReset(task_context);
		if (first)
			note_error(migration_id, NULL);
		first = false;
		mt_worker_reload();
	}
	mt_remote_close(remote);
}

/* leads_there says whether the target is still the one that the sync worker knows, or will at its next round. */
static bool
leads_there(const MtMigration *migration, const MtRemote *remote)
{
	bool		there;

	mt_xact_begin();
	there = mt_remote_is_current(remote, migration);
	mt_xact_commit();
	return there;
}

/* note_error keeps the error for status, or clears what a worker before left there. */
static void
note_error(int32 migration_id, const char *error)
{
	MtSpiScope	scope;

	mt_xact_begin();
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.migration SET copy_error = $2,"
				" copy_error_at = CASE WHEN $2 IS NOT NULL THEN coalesce(copy_error_at, clock_timestamp()) END"
				" WHERE id = $1 AND copy_error IS DISTINCT FROM $2",
				MT_ARGS(MT_INT4(migration_id), MT_TEXT(error)));
	mt_spi_end(&scope);
	mt_xact_commit();
}
