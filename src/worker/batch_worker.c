/*
 * batch_worker.c
 *	  A batch worker: pushes the table that somebody asks for, or those that are due
 *	  by their interval, and ends.
 *
 * It is another process than the sync worker, so that a long push delays no tick.
 * The sync worker starts the one for the schedule whenever something is due.
 */
#include "worker/worker.h"

#ifndef WIN32
#include <sys/resource.h>
#endif

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "base/xact.h"
#include "batch/push.h"
#include "catalog/worker.h"

/* What is added to the nice value of the server. */
#define BATCH_NICE 5

static bool take_slot(int32 migration_id, int slot);
static MtMigration *find_migration(int32 migration_id, int slot);
static MtMigration *read_wanted(int32 migration_id);
static void step_back(void);
static void push_due(int32 migration_id);
static int32 take_due(int32 migration_id);
static void try_push(const MtMigration *migration, MtRemote **remote, int32 relation);
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
	step_back();
	/* Whole tables are read, and nothing that is applied is to act twice. */
	SetConfigOption("enable_seqscan", "on", PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION);
	if (GetConfigOption("enable_presorted_aggregate", true, false) != NULL)
		SetConfigOption("enable_presorted_aggregate", "off", PGC_USERSET, PGC_S_SESSION);
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "migrate_tiers batch worker", ALLOCSET_DEFAULT_SIZES));
	if (slot == MT_WORKER_BATCH)
		push_due(DatumGetInt32(arg));
	else
		push_one(DatumGetInt32(arg), slot, &order);
	proc_exit(0);
}

/*
 * step_back lets applications and the sync worker go first where processors are few: a push keeps one busy for as
 * long as it takes.  Only a little, since whoever waits for a lock of this process waits for its turn, too.
 */
static void
step_back(void)
{
#ifndef WIN32
	int			priority = getpriority(PRIO_PROCESS, 0);

	if (setpriority(PRIO_PROCESS, 0, priority + BATCH_NICE) != 0)
		ereport(DEBUG1, (errmsg_internal("could not lower the priority of a batch worker: %m")));
#endif
}

/* push_due pushes one table after the other until none is due. */
static void
push_due(int32 migration_id)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext step = AllocSetContextCreate(context, "migrate_tiers push", ALLOCSET_DEFAULT_SIZES);
	MtMigration *migration = find_migration(migration_id, MT_WORKER_BATCH);
	int32		relation;

	while (migration != NULL && (relation = take_due(migration_id)) != 0)
	{
		/* The connection goes with the context it was opened in: each push has its own. */
		MtRemote   *remote = NULL;

		MemoryContextSwitchTo(step);
		/* The phase may be another than that of the push before. */
		migration = read_wanted(migration_id);
		if (migration != NULL)
			try_push(migration, &remote, relation);
		mt_xact_begin();
		mt_batch_unlock(relation);
		mt_xact_commit();
		MemoryContextSwitchTo(context);
		MemoryContextReset(step);
		CHECK_FOR_INTERRUPTS();
	}
}

/* take_due finds a table that is due and that nobody pushes, and locks it. */
static int32
take_due(int32 migration_id)
{
	int32		relation;

	mt_xact_begin();
	relation = mt_batch_due(migration_id);
	if (relation != 0 && !mt_batch_lock(relation))
		relation = 0;
	mt_xact_commit();
	return relation;
}

/* try_push pushes a table; its error is noted in its row, and keeps no other table waiting. */
static void
try_push(const MtMigration *migration, MtRemote **remote, int32 relation)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		mt_push_run(migration, remote, relation, 0, true);
	}
	PG_CATCH();
	{
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(context);
	}
	PG_END_TRY();
}

/* push_one pushes one table; an error of it is in its row, and ends the worker. */
static void
push_one(int32 migration_id, int slot, const MtPushOrder *order)
{
	MtMigration *migration;
	MtRemote   *remote = NULL;
	bool		locked;

	if (find_migration(migration_id, slot) == NULL)
		return;
	mt_xact_begin();
	locked = mt_batch_lock(order->relation);
	mt_xact_commit();
	if (!locked)
		return;
	/* Whoever turns the direction holds that lock: the phase may be another by now. */
	migration = read_wanted(migration_id);
	if (migration == NULL)
		return;
	mt_push_run(migration, &remote, order->relation, order->batch, false);
	mt_remote_close(remote);
}

/* find_migration takes the worker's lock and reads the migration; NULL where nothing is to be pushed. */
static MtMigration *
find_migration(int32 migration_id, int slot)
{
	bool		taken;

	mt_xact_begin();
	taken = OidIsValid(mt_extension_schema()) && take_slot(migration_id, slot);
	mt_xact_commit();
	return taken ? read_wanted(migration_id) : NULL;
}

static MtMigration *
read_wanted(int32 migration_id)
{
	MtMigration *migration;

	mt_xact_begin();
	migration = mt_migration_by_id(migration_id, true);
	mt_xact_commit();
	return migration != NULL && !migration->paused && (migration->syncing || migration->reversing) ? migration : NULL;
}

/* take_slot takes the slot of the schedule, or a free one behind it. */
static bool
take_slot(int32 migration_id, int slot)
{
	int			last = slot == MT_WORKER_BATCH ? slot : MT_WORKER_LAST;

	for (; slot <= last; slot++)
		if (mt_worker_lock(migration_id, slot))
			return true;
	return false;
}
