/*
 * launcher.c
 *	  Starts the workers of every database when the server starts, where the
 *	  library is preloaded.
 *
 * The launcher belongs to no database.  It goes through pg_database once and
 * has a short-lived worker look into one database after the other: that one knows
 * which migrations there want a worker.  Then it sleeps for as long as the server
 * runs.  It does not end, since of the workers that were registered at the server's start
 * the postmaster starts those again after a crash that have not ended: so the
 * launcher makes its round again then, while dynamic workers are forgotten.
 */
#include "worker/worker.h"

#include <signal.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/spi.h"
#include "base/xact.h"

#define RESTART_S	  10
#define SLOT_RETRY_MS 1000

static List *list_databases(void);
static void look_into(Oid database);
static void sleep_ms(long timeout);
static List *list_wanted(void);

/* mt_launcher_register registers the launcher; called while the server loads the library. */
void
mt_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_S;
	strlcpy(worker.bgw_library_name, "migrate_tiers", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "mt_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_type, "migrate_tiers launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "migrate_tiers launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* mt_launcher_main is the entry of the launcher. */
void
mt_launcher_main(Datum arg)
{
	List	   *databases;
	ListCell   *cell;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	databases = list_databases();
	foreach(cell, databases)
		look_into(lfirst_oid(cell));
	for (;;)
		sleep_ms(-1);
}

/* list_databases lists those that can be connected to and may have a migration. */
static List *
list_databases(void)
{
	List	   *databases = NIL;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	MemoryContextSwitchTo(TopMemoryContext);
	mt_xact_begin();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		/* A limit below -1 is that of a database whose dropping was cut off. */
		if (database->datallowconn && !database->datistemplate && database->datconnlimit >= -1)
			databases = lappend_oid(databases, database->oid);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	mt_xact_commit();
	return databases;
}

/* look_into runs a worker in a database and waits for its end: so one slot is enough for all. */
static void
look_into(Oid database)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "migrate_tiers", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "mt_autostart_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_type, "migrate_tiers autostart", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "migrate_tiers autostart of database %u", database);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	while (!RegisterDynamicBackgroundWorker(&worker, &handle))
		sleep_ms(SLOT_RETRY_MS);
	(void) WaitForBackgroundWorkerShutdown(handle);
	pfree(handle);
}

/* sleep_ms sleeps, without end if the time is negative, and obeys terminate. */
static void
sleep_ms(long timeout)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0), timeout,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* mt_autostart_main is the entry of the worker that looks into a database. */
void
mt_autostart_main(Datum arg)
{
	List	   *wanted;
	ListCell   *cell;

	mt_worker_begin(DatumGetObjectId(arg));
	MemoryContextSwitchTo(TopMemoryContext);
	wanted = list_wanted();
	foreach(cell, wanted)
	{
		mt_xact_begin();
		(void) mt_worker_start(lfirst_int(cell));
		mt_xact_commit();
	}
	proc_exit(0);
}

/* list_wanted lists the migrations of this database that want a worker. */
static List *
list_wanted(void)
{
	List	   *wanted = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_xact_begin();
	/* The schema alone says nothing: a target has one, too. */
	if (OidIsValid(get_extension_oid("migrate_tiers", true)))
	{
		mt_spi_begin(&scope);
		count = mt_spi_exec(SPI_OK_SELECT, "SELECT id FROM migrate_tiers.migration WHERE syncing AND NOT paused ORDER BY id",
							MT_NO_ARGS);
		for (uint64 row = 0; row < count; row++)
		{
			MemoryContext spi = MemoryContextSwitchTo(scope.caller);

			wanted = lappend_int(wanted, (int) mt_spi_int8(row, 1));
			MemoryContextSwitchTo(spi);
		}
		mt_spi_end(&scope);
	}
	mt_xact_commit();
	return wanted;
}
