/*
 * batch_worker.c
 *	  A batch worker: pushes the table that somebody asks for, or those that are due
 *	  by their interval, and ends.
 *
 * It is another process than the sync worker, so that a long push delays no tick.
 * The sync worker starts the one for the schedule whenever something is due.
 */
#include "worker/worker.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "base/xact.h"
#include "batch/push.h"
#include "catalog/worker.h"

static bool take_slot(int32 migration_id, int slot);
static MtMigration *find_migration(int32 migration_id, int slot);
static void push_one(int32 migration_id, int slot, const MtPushOrder *order);

/* mt_batch_worker_main is the entry of a batch worker. */
void
mt_batch_worker_main(Datum arg)
{
	const char *extra = MyBgworkerEntry->bgw_extra;
	MtPushOrder order;
	Oid			database;
	int			slot;

	memcpy(&database, extra, sizeof(Oid));
	memcpy(&slot, extra + sizeof(Oid), sizeof(int));
	memcpy(&order, extra + sizeof(Oid) + sizeof(int), sizeof(MtPushOrder));
	mt_worker_begin(database);
	/* Whole tables are read, and nothing that is applied is to act twice. */
	SetConfigOption("enable_seqscan", "on", PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION);
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "migrate_tiers batch worker", ALLOCSET_DEFAULT_SIZES));
	push_one(DatumGetInt32(arg), slot, &order);
	proc_exit(0);
}

/* push_one pushes one table; an error of it is in its row, and ends the worker. */
static void
push_one(int32 migration_id, int slot, const MtPushOrder *order)
{
	MtMigration *migration = find_migration(migration_id, slot);
	MtRemote   *remote = NULL;
	bool		locked;

	if (migration == NULL)
		return;
	mt_xact_begin();
	locked = mt_batch_lock(order->relation);
	mt_xact_commit();
	if (!locked)
		return;
	mt_push_run(migration, &remote, order->relation, order->batch, false);
	mt_remote_close(remote);
}

/* find_migration takes the worker's lock and reads the migration; NULL where nothing is to be pushed. */
static MtMigration *
find_migration(int32 migration_id, int slot)
{
	MtMigration *migration = NULL;

	mt_xact_begin();
	if (OidIsValid(mt_extension_schema()) && take_slot(migration_id, slot))
		migration = mt_migration_by_id(migration_id, true);
	mt_xact_commit();
	return migration != NULL && !migration->paused ? migration : NULL;
}

/* take_slot takes the slot of the schedule, or a free one behind it. */
static bool
take_slot(int32 migration_id, int slot)
{
	int			last = slot == MT_WORKER_BATCH ? slot : MT_WORKER_BATCH + MT_MAX_BATCH_WORKERS - 1;

	for (; slot <= last; slot++)
		if (mt_worker_lock(migration_id, slot))
			return true;
	return false;
}
