/*
 * begin.c
 *	  How every worker process of ours begins.
 */
#include "worker/worker.h"

#include <signal.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include "base/pin.h"
#include "base/settings.h"

/* Settings of the server, the database or a role must neither end a worker nor change what values look like. */
static const char *const pinned_settings[][2] = {
	{"statement_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"idle_session_timeout", "0"},
	{"transaction_timeout", "0"}, /* from 17 on */
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"row_security", "off"},
	{"default_table_access_method", "heap"}, /* of staging tables */
	{"jit", "off"},
	{"enable_seqscan", "off"}, /* rows are read by key; a small table may hold many dead versions */
	{"max_parallel_workers_per_gather", "0"},
	MT_PINNED_SETTINGS(MT_PIN_MEMBER)};

static bool connected = false;

static void raise_commit(void);
static void forget_worker(int code, Datum arg);

/* mt_worker_begin connects the process to its database and pins its settings. */
void
mt_worker_begin(Oid database)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	on_proc_exit(forget_worker, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	connected = true;
	for (int i = 0; i < lengthof(pinned_settings); i++)
		if (GetConfigOption(pinned_settings[i][0], true, false) != NULL)
			SetConfigOption(pinned_settings[i][0], pinned_settings[i][1], PGC_SUSET, PGC_S_SESSION);
	/* Values are sent in the form for clients. */
	SetConfigOption("client_encoding", GetDatabaseEncodingName(), PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("lock_timeout", mt_lock_timeout_text(), PGC_SUSET, PGC_S_SESSION);
	raise_commit();
}

/* mt_worker_reload reads the server's settings again where they have changed. */
void
mt_worker_reload(void)
{
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	raise_commit();
}

/*
 * raise_commit has commits wait for our own disk at least.
 *
 * Whether they wait for standbys is for the server to say: where one is down, and applications were set free of it,
 * a worker that still waits would hold up whoever needs the rows that it has locked.
 */
static void
raise_commit(void)
{
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_SESSION);
}

/*
 * forget_worker lets the server not start this worker again where its database
 * cannot be connected to: it may have been dropped.
 */
static void
forget_worker(int code, Datum arg)
{
	if (!connected && code == 1)
		proc_exit(0);
}
