/*
 * verify_worker.c
 *	  The processes of a verification, and when the sync worker starts one by
 *	  itself: see verify/verify.h.
 */
#include "worker/worker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/option.h"
#include "catalog/verification.h"
#include "verify/verify.h"

/* How often the sync worker looks whether a verification is due. */
#define DUE_INTERVAL_MS 5000

static void run_ordered(Datum arg, void (*work)(int32 migration_id, const MtVerifyOrder *order));
static bool is_due(int32 migration_id);

/* mt_verify_worker_main is the entry of the keeper of a verification. */
void
mt_verify_worker_main(Datum arg)
{
	run_ordered(arg, mt_verify_run);
}

/* mt_reader_worker_main is the entry of a reader. */
void
mt_reader_worker_main(Datum arg)
{
	run_ordered(arg, mt_verify_read);
}

/* run_ordered begins a worker process, takes its lock and does what the order says. */
static void
run_ordered(Datum arg, void (*work)(int32 migration_id, const MtVerifyOrder *order))
{
	int32		migration_id = DatumGetInt32(arg);
	MtVerifyOrder order;
	Oid			database;
	int			slot;
	bool		locked;

	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	memcpy(&slot, MyBgworkerEntry->bgw_extra + sizeof(Oid), sizeof(int));
	memcpy(&order, MyBgworkerEntry->bgw_extra + sizeof(Oid) + sizeof(int), sizeof(MtVerifyOrder));
	mt_worker_begin(database);
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "migrate_tiers verification", ALLOCSET_DEFAULT_SIZES));
	mt_xact_begin();
	locked = OidIsValid(mt_extension_schema()) && mt_worker_lock(migration_id, slot) &&
		mt_migration_by_id(migration_id, true) != NULL;
	mt_xact_commit();
	if (locked)
		work(migration_id, &order);
	proc_exit(0);
}

/* mt_worker_verify_when_due starts a verification of all tables when the last one is old enough. */
void
mt_worker_verify_when_due(MtWorker *worker)
{
	static TimestampTz looked = 0;
	TimestampTz now = mt_clock_now();
	MtVerifyOrder order = {.scheduled = true};
	BackgroundWorkerHandle *handle;
	bool		due;

	if (!TimestampDifferenceExceeds(looked, now, DUE_INTERVAL_MS))
		return;
	looked = now;
	mt_xact_begin();
	due = is_due(worker->migration_id);
	if (due)
		order.run = mt_verification_new_run();
	mt_xact_commit();
	if (!due)
		return;
	handle = mt_worker_launch_verify(worker->migration_id, MT_WORKER_VERIFY, &order);
	if (handle != NULL)
		pfree(handle);
}

/* is_due says whether some table was not verified for verify_every, and nobody is about it. */
static bool
is_due(int32 migration_id)
{
	int64		every = mt_option_microseconds(migration_id, "verify_every");
	MtSpiScope	scope;
	bool		due;

	if (every == 0 || mt_worker_pid(migration_id, MT_WORKER_VERIFY) != 0)
		return false;
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT EXISTS (SELECT FROM migrate_tiers.relation AS r WHERE r.migration = $1 AND r.state = 'syncing'"
				" AND r.tier = 'realtime' AND coalesce((SELECT v.started FROM migrate_tiers.verification AS v"
				"  WHERE v.relation = r.id AND v.started <= clock_timestamp() ORDER BY v.id DESC LIMIT 1), '-infinity')"
				"  <= clock_timestamp() - $2 * interval '1 microsecond')",
				MT_ARGS(MT_INT4(migration_id), MT_INT8(every)));
	due = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return due;
}
