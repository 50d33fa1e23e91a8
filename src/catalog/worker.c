/*
 * worker.c
 *	  Starting, waking and stopping workers: see worker.h.
 */
#include "catalog/worker.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "base/spi.h"


static int32 start_at_commit = 0;
static Oid	session_table = InvalidOid;	/* when it was asked for last: after a commit it cannot be */

static void on_transaction(XactEvent event, void *arg);
/* A backend that writes does not try to start a worker more often than this. */
#define LAUNCH_INTERVAL_MS 5000

/* Who starts a worker waits so long, at most, until it has its lock. */
#define LAUNCH_WAIT_MS 2000

static BackgroundWorkerHandle *launch(int32 migration, int slot, const char *kind, bool notify,
									  const void *order, Size length);
static void set_tag(LOCKTAG *tag, int32 migration, int slot);
static void set_life_tag(LOCKTAG *tag, int32 migration);
static bool is_barred(int32 migration);
static bool take_all(int32 migration);
static bool take(int32 migration, int first, int count);
static void end(List *pids);
static List *worker_pids(int32 migration, int first, int last);

/* mt_worker_lock takes the lock of a worker for the session; the sync worker takes one more, for whoever asks. */
bool
mt_worker_lock(int32 migration, int slot)
{
	LOCKTAG		tag;

	set_tag(&tag, migration, slot);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	if (slot == MT_WORKER_SYNC)
	{
		set_life_tag(&tag, migration);
		(void) LockAcquire(&tag, ExclusiveLock, true, false);
	}
	return true;
}

/* mt_worker_lives asks for a lock that the sync worker has as long as it lives; a standby has neither. */
bool
mt_worker_lives(int32 migration)
{
	LOCKTAG		tag;

	if (RecoveryInProgress())
		return false;
	set_life_tag(&tag, migration);
	if (LockAcquire(&tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ShareLock, false);
	return false;
}

/* mt_worker_launch registers a dynamic worker. */
BackgroundWorkerHandle *
mt_worker_launch(int32 migration, int slot, bool notify)
{
	return launch(migration, slot, slot == MT_WORKER_SYNC ? "sync" : slot < MT_WORKER_BATCH ? "copy" :
		"batch",
				  notify,
				  NULL, 0);
}

/* mt_worker_launch_verify registers the keeper or a reader of a verification; the caller is told of its end. */
BackgroundWorkerHandle *
mt_worker_launch_verify(int32 migration, int slot, const MtVerifyOrder *order)
{
	return launch(migration, slot, slot == MT_WORKER_VERIFY ? "verify" : "reader", true, order, sizeof(MtVerifyOrder));
}

/* mt_worker_launch_push registers a worker that pushes one table; the caller is told of its end. */
BackgroundWorkerHandle *
mt_worker_launch_push(int32 migration, const MtPushOrder *order)
{
	return launch(migration, MT_WORKER_BATCH + 1, "batch", true, order, sizeof(MtPushOrder));
}

/*
 * is_barred says whether somebody has the lock of mt_worker_lives: a worker that lives, or who bars workers.  One
 * that was started meanwhile would end at once.
 *
 * It is asked when a transaction has committed: without the catalog, and nothing may fail.
 */
static bool
is_barred(int32 migration)
{
	LOCKTAG		tag;

	if (!OidIsValid(session_table))
		return false;
	set_life_tag(&tag, migration);
	if (mt_lock_if_free(&tag, ShareLock) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ShareLock, true);
	return false;
}

/*
 * launch registers a dynamic worker: migrate_tiers <kind>, which enters at mt_<kind>_worker_main.
 *
 * On a standby it does not: the worker would wait for the promotion, and each more would take a slot meanwhile.
 */
static BackgroundWorkerHandle *
launch(int32 migration, int slot, const char *kind, bool notify, const void *order, Size length)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	Assert(sizeof(Oid) + sizeof(int) + length <= BGW_EXTRALEN);
	if (RecoveryInProgress())
		return NULL;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	/* One that the server restarted after its database is gone would do so for ever: writers start it. */
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "migrate_tiers", sizeof(worker.bgw_library_name));
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "mt_%s_worker_main", kind);
	snprintf(worker.bgw_type, BGW_MAXLEN, "migrate_tiers %s", kind);
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s, migration %d of database %u", worker.bgw_type,
			 migration, MyDatabaseId);
	worker.bgw_main_arg = Int32GetDatum(migration);
	memcpy(worker.bgw_extra, &MyDatabaseId, sizeof(Oid));
	memcpy(worker.bgw_extra + sizeof(Oid), &slot, sizeof(int));
	if (order != NULL)
		memcpy(worker.bgw_extra + sizeof(Oid) + sizeof(int), order, length);
	worker.bgw_notify_pid = notify ? MyProcPid : 0;
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/* mt_worker_wake sets the latch of a worker process. */
bool
mt_worker_wake(int pid)
{
	static PGPROC *known = NULL;

	if (pid == 0)
		return false;
	if (known == NULL || known->pid != pid)
		known = BackendPidGetProc(pid);
	if (known == NULL || known->databaseId != MyDatabaseId || !mt_proc_is_worker(known))
		return false;
	SetLatch(&known->procLatch);
	return true;
}

/* mt_worker_call wakes the sync worker, and starts it where there is none. */
void
mt_worker_call(int32 migration, int pid, TimestampTz *launched)
{
	TimestampTz now;

	if (mt_worker_wake(pid))
		return;
	now = GetCurrentTimestamp();
	if (TimestampDifferenceExceeds(*launched, now, LAUNCH_INTERVAL_MS))
	{
		*launched = now;
		if (!is_barred(migration))
			(void) mt_worker_launch(migration, MT_WORKER_SYNC, false);
	}
}

/* mt_worker_pid finds the process that holds the lock of a worker. */
int
mt_worker_pid(int32 migration, int slot)
{
	List	   *pids = worker_pids(migration, slot, slot);
	int			pid = pids == NIL ? 0 : linitial_int(pids);

	/* Who waits for a worker asks again and again. */
	list_free(pids);
	return pid;
}

/* mt_worker_stop ends every worker of a migration and waits until the last is gone. */
void
mt_worker_stop(int32 migration)
{
	List	   *pids;

	while ((pids = worker_pids(migration, MT_WORKER_SYNC, MT_WORKER_LAST)) != NIL)
		end(pids);
}

/* mt_worker_end_pushes ends the batch workers of a migration that run now. */
void
mt_worker_end_pushes(int32 migration)
{
	end(worker_pids(migration, MT_WORKER_BATCH, MT_WORKER_LAST));
}

/* end asks processes to end, and gives them a moment to do so. */
static void
end(List *pids)
{
	ListCell   *cell;

	foreach(cell, pids)
		kill(lfirst_int(cell), SIGTERM);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* mt_worker_bar ends every worker and takes the lock of each, for the transaction. */
void
mt_worker_bar(int32 migration)
{
	do
		mt_worker_stop(migration);
	while (!take_all(migration));
}

/*
 * mt_worker_start starts the sync worker unless it runs.
 *
 * One at a time does, and waits until the worker has its lock: many who start at once
 * would otherwise take all worker slots of the server for workers that end at once.
 */
bool
mt_worker_start(int32 migration)
{
	LOCKTAG		tag;

	set_tag(&tag, migration, MT_WORKER_LAUNCH);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	if (mt_worker_pid(migration, MT_WORKER_SYNC) != 0)
		return false;
	if (mt_worker_launch(migration, MT_WORKER_SYNC, false) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker could be started"),
				 errdetail("All of max_worker_processes (%d) are in use.", max_worker_processes),
				 errhint("Free a worker, then call migrate_tiers.start_workers().")));
	for (int waited = 0; waited < LAUNCH_WAIT_MS && mt_worker_pid(migration, MT_WORKER_SYNC) == 0; waited += 10)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* mt_worker_start_at_commit starts the sync worker when this transaction has committed. */
void
mt_worker_start_at_commit(int32 migration)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(on_transaction, NULL);
	registered = true;
	start_at_commit = migration;
}

static void
on_transaction(XactEvent event, void *arg)
{
	if (start_at_commit == 0)
		return;
	if (event == XACT_EVENT_COMMIT && mt_worker_launch(start_at_commit, MT_WORKER_SYNC, false) == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker could be started"),
				 errhint("Free one of max_worker_processes, then call migrate_tiers.start_workers().")));
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		start_at_commit = 0;
}

/*
 * set_tag makes a lock of the kind of advisory locks: the other kind is lost with the
 * first transaction that aborts, and not given back by a backend that ends outside of one.
 */
static void
set_tag(LOCKTAG *tag, int32 migration, int slot)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, mt_extension_table("migration"), (uint32) migration, slot);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/*
 * set_life_tag makes a lock of its own for mt_worker_lives: who asks has it for an instant, and must neither
 * keep a worker that comes from its work nor be taken for one.  No other lock is of this table's.
 */
static void
set_life_tag(LOCKTAG *tag, int32 migration)
{
	if (IsTransactionState())
		session_table = mt_extension_table("session");
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, session_table, (uint32) migration, 0);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/* take_all takes the locks of all slots, and the one that tells writers to start none, until one is not to be had. */
static bool
take_all(int32 migration)
{
	LOCKTAG		tag;

	set_life_tag(&tag, migration);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL &&
		take(migration, MT_WORKER_SYNC, 1) && take(migration, MT_WORKER_VERIFY, 1) &&
		take(migration, MT_WORKER_COPY, MT_MAX_COPY_WORKERS) &&
		take(migration, MT_WORKER_READER, MT_MAX_COPY_WORKERS) &&
		take(migration, MT_WORKER_BATCH, MT_MAX_BATCH_WORKERS);
}

static bool
take(int32 migration, int first, int count)
{
	for (int i = 0; i < count; i++)
	{
		LOCKTAG		tag;

		set_tag(&tag, migration, first + i);
		if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
			return false;
	}
	return true;
}

/* worker_pids lists who else holds the lock of a worker, from one slot to another. */
static List *
worker_pids(int32 migration, int first, int last)
{
	MtSpiScope	scope;
	List	   *pids = NIL;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT,
						"SELECT pid FROM pg_locks WHERE locktype = 'object' AND granted AND pid <> pg_backend_pid()"
						" AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
						" AND classid = 'migrate_tiers.migration'::regclass AND objid = $1::text::oid"
						" AND objsubid BETWEEN $2 AND $3",
						MT_ARGS(MT_TEXT(psprintf("%d", migration)), MT_INT4(first), MT_INT4(last)));
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext inner = MemoryContextSwitchTo(scope.caller);

		pids = lappend_int(pids, (int) mt_spi_int8(row, 1));
		MemoryContextSwitchTo(inner);
	}
	mt_spi_end(&scope);
	return pids;
}
