/*
 * verify.c
 *	  Where SQL enters to compare both sides and to mend what differs.
 *
 * A comparison takes place in processes of its own, since it has to store how far
 * it is, and to use snapshots that are not the caller's.  The caller starts them,
 * waits, and takes them along when it is cancelled.
 */
#include "base/compat.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/lsyscache.h"

#include "api/result.h"
#include "base/errors.h"
#include "base/spi.h"
#include "catalog/relation.h"
#include "catalog/verification.h"
#include "catalog/worker.h"
#include "verify/repair.h"

PG_FUNCTION_INFO_V1(mt_verify);
PG_FUNCTION_INFO_V1(mt_repair);

PGDLLEXPORT Datum mt_verify(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_repair(PG_FUNCTION_ARGS);

#define LOOK_INTERVAL_MS 200
#define ATTEMPTS		 3

#define RESULT_COLUMNS 9

static MtRelation *find_relation(const MtMigration *migration, Oid relid);
static void check_in_sync(const MtMigration *migration);
static void run_order(const MtMigration *migration, const MtVerifyOrder *order);
static void wait_for_other(const MtMigration *migration);
static void stop_keeper(int code, Datum arg);
static void wait_for_keeper(BackgroundWorkerHandle *handle);
static bool return_outcome(FunctionCallInfo fcinfo, int64 run);

/* mt_verify is migrate_tiers.verify(relation, migration). */
Datum
mt_verify(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 1));
	MtVerifyOrder order = {0};

	InitMaterializedSRF(fcinfo, 0);
	if (!PG_ARGISNULL(0))
		order.relation = find_relation(migration, PG_GETARG_OID(0))->id;
	check_in_sync(migration);
	if (order.relation == 0 && mt_relation_list(migration->id, "realtime") == NIL &&
		mt_relation_list(migration->id, "batch") == NIL)
		return (Datum) 0;
	/* A keeper that finds another one at work leaves again without a word. */
	for (int i = 0; i < ATTEMPTS; i++)
	{
		order.run = mt_verification_new_run();
		wait_for_other(migration);
		run_order(migration, &order);
		if (return_outcome(fcinfo, order.run))
			return (Datum) 0;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("the verification of migration \"%s\" did not begin", migration->name),
			 errhint("The log of the server says why.")));
}

/* mt_repair is migrate_tiers.repair(relation, side, migration). */
Datum
mt_repair(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 2));
	char	   *side = PG_ARGISNULL(1) ? NULL : mt_arg_text(fcinfo, 1, "side");
	int64		rows;

	mt_arg_required(fcinfo, 0, "relation");
	check_in_sync(migration);
	rows = mt_repair_run(migration, find_relation(migration, PG_GETARG_OID(0)), side);
	PG_RETURN_INT64(rows);
}

static MtRelation *
find_relation(const MtMigration *migration, Oid relid)
{
	MtRelation *relation = mt_relation_by_relid(relid);

	if (relation == NULL || relation->migration != migration->id)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table %s is not in migration \"%s\"", mt_table_name(relid), migration->name),
				 errhint("The view migrate_tiers.tables shows those that are.")));
	return relation;
}

static void
check_in_sync(const MtMigration *migration)
{
	if (!migration->syncing)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("migration \"%s\" is not in sync with its target in phase %s", migration->name,
						mt_phase_name(migration->phase)),
				 migration->phase == MT_FINISHED ?
				 errhint("It is at its end; SELECT migrate_tiers.drop_migration() forgets it.") :
				 errhint("CALL migrate_tiers.advance('syncing') begins the sync.")));
}

/* wait_for_other waits until no other verification of the migration is under way. */
static void
wait_for_other(const MtMigration *migration)
{
	int			told = 0;
	int			pid;

	while ((pid = mt_worker_pid(migration->id, MT_WORKER_VERIFY)) != 0)
	{
		if (told != pid)
			ereport(NOTICE, (errmsg("waiting for the verification that is under way"),
							 errdetail("Process %d does it.", pid)));
		told = pid;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_INTERVAL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* run_order has a keeper do the order, and waits for its end. */
static void
run_order(const MtMigration *migration, const MtVerifyOrder *order)
{
	BackgroundWorkerHandle *handle = mt_worker_launch_verify(migration->id, MT_WORKER_VERIFY, order);

	if (handle == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker could be started"),
				 errdetail("All of max_worker_processes (%d) are in use.", max_worker_processes),
				 errhint("Free a worker, then call migrate_tiers.verify() again.")));
	PG_ENSURE_ERROR_CLEANUP(stop_keeper, PointerGetDatum(handle));
	{
		wait_for_keeper(handle);
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_keeper, PointerGetDatum(handle));
}

static void
stop_keeper(int code, Datum arg)
{
	TerminateBackgroundWorker((BackgroundWorkerHandle *) DatumGetPointer(arg));
}

static void
wait_for_keeper(BackgroundWorkerHandle *handle)
{
	pid_t		pid;

	while (GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_INTERVAL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* return_outcome returns a row a table, whatever the caller's snapshot sees; false when the run did not take place. */
static bool
return_outcome(FunctionCallInfo fcinfo, int64 run)
{
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec_latest(SPI_OK_SELECT,
							   "SELECT r.relation::regclass, coalesce(v.verdict, 'unknown'), v.source_rows, v.target_rows,"
							   " v.different_rows, v.at_mark, v.started, v.finished,"
							   " coalesce(v.detail, CASE WHEN v.state = 'running' THEN 'its process was ended' END)"
							   " FROM migrate_tiers.verification AS v JOIN migrate_tiers.relation AS r ON r.id = v.relation"
							   " WHERE v.run = $1 ORDER BY v.id",
							   MT_ARGS(MT_INT8(run)));
	for (uint64 row = 0; row < count; row++)
	{
		Datum		values[RESULT_COLUMNS];
		bool		nulls[RESULT_COLUMNS];

		for (int i = 0; i < RESULT_COLUMNS; i++)
			values[i] = mt_spi_datum(row, i + 1, &nulls[i]);
		mt_result_row(fcinfo, values, nulls);
	}
	mt_spi_end(&scope);
	return count > 0;
}
