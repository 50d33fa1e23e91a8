/*
 * batch.c
 *	  Where SQL enters the batch tier: push_batch, batch_policy, schedule, unschedule.
 *
 * A push is done by a worker, so that what becomes of it is noted whatever becomes
 * of the transaction that asked for it.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/datum.h"

#include "api/result.h"
#include "base/errors.h"
#include "base/spi.h"
#include "batch/cron.h"
#include "batch/policy.h"
#include "catalog/batch.h"
#include "catalog/worker.h"
#include "phase/declare.h"

PG_FUNCTION_INFO_V1(mt_batch_policy);
PG_FUNCTION_INFO_V1(mt_push_batch);
PG_FUNCTION_INFO_V1(mt_schedule);
PG_FUNCTION_INFO_V1(mt_unschedule);

PGDLLEXPORT Datum mt_batch_policy(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_push_batch(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_schedule(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_unschedule(PG_FUNCTION_ARGS);

static MtRelation *find_batch_table(const MtMigration *migration, Oid relid);
static char *table_name(const MtRelation *relation);
static void check_can_push(const MtMigration *migration, const MtRelation *relation);
static void run_worker(const MtMigration *migration, const MtRelation *relation, int64 id);
static Datum read_push(const MtRelation *relation, int64 id);
static void raise_push_error(const MtRelation *relation, const char *error, const char *note);

/* mt_batch_policy is migrate_tiers.batch_policy(relation, every, mode, max_age, watermark, migration). */
Datum
mt_batch_policy(PG_FUNCTION_ARGS)
{
	char	   *mode;
	MtMigration *migration;

	mt_arg_required(fcinfo, 0, "relation");
	mode = mt_arg_text(fcinfo, 2, "mode");
	migration = mt_declare_open(mt_arg_name_or_null(fcinfo, 5));
	mt_policy_set(find_batch_table(migration, PG_GETARG_OID(0)), PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1),
				  mode, PG_ARGISNULL(3) ? NULL : PG_GETARG_INTERVAL_P(3), mt_arg_name_or_null(fcinfo, 4));
	PG_RETURN_VOID();
}

/* mt_schedule is migrate_tiers.schedule(relation, cron, migration). */
Datum
mt_schedule(PG_FUNCTION_ARGS)
{
	char	   *schedule;
	MtMigration *migration;

	mt_arg_required(fcinfo, 0, "relation");
	schedule = mt_arg_text(fcinfo, 1, "cron");
	migration = mt_declare_open(mt_arg_name_or_null(fcinfo, 2));
	mt_cron_schedule(migration, find_batch_table(migration, PG_GETARG_OID(0)), schedule);
	PG_RETURN_VOID();
}

/* mt_unschedule is migrate_tiers.unschedule(relation, migration). */
Datum
mt_unschedule(PG_FUNCTION_ARGS)
{
	MtMigration *migration;
	MtRelation *relation;

	mt_arg_required(fcinfo, 0, "relation");
	migration = mt_declare_open(mt_arg_name_or_null(fcinfo, 1));
	relation = find_batch_table(migration, PG_GETARG_OID(0));
	if (!mt_cron_unschedule(relation))
	{
		char	   *call = mt_policy_call(relation, "NULL", NULL);

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table %s has no job of pg_cron", table_name(relation)),
				 errhint("An interval of batch_policy ends with %s.", call)));
	}
	PG_RETURN_VOID();
}

/* mt_push_batch is migrate_tiers.push_batch(relation, migration). */
Datum
mt_push_batch(PG_FUNCTION_ARGS)
{
	MtMigration *migration;
	MtRelation *relation;
	int64		id;

	mt_arg_required(fcinfo, 0, "relation");
	migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 1));
	relation = find_batch_table(migration, PG_GETARG_OID(0));
	check_can_push(migration, relation);
	id = mt_batch_next_id();
	run_worker(migration, relation, id);
	PG_RETURN_DATUM(read_push(relation, id));
}

static MtRelation *
find_batch_table(const MtMigration *migration, Oid relid)
{
	MtRelation *relation = mt_relation_by_relid(relid);
	char	   *name = DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(relid)));

	if (relation == NULL || relation->migration != migration->id || strcmp(relation->tier, "batch") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 relation != NULL && relation->migration == migration->id ?
				 errmsg("table %s is tagged %s and not batch", name, relation->tier) :
				 errmsg("table %s is not tagged in migration \"%s\"", name, migration->name),
				 errhint("Run SELECT migrate_tiers.tag(%s, 'batch').", quote_literal_cstr(name))));
	return relation;
}

static char *
table_name(const MtRelation *relation)
{
	return quote_qualified_identifier(relation->schema, relation->name);
}

/* check_can_push refuses what the worker would refuse, where the caller can be told at once. */
static void
check_can_push(const MtMigration *migration, const MtRelation *relation)
{
	if (migration->phase == MT_PLANNED || migration->phase == MT_FINISHED)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("nothing is pushed in phase %s", mt_phase_name(migration->phase)),
				 migration->phase == MT_FINISHED ?
				 errhint("It is at its end; SELECT migrate_tiers.drop_migration() forgets it.") :
				 errhint("Go on with CALL migrate_tiers.advance('syncing').")));
	if (migration->paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is paused", migration->name),
				 errhint("Run SELECT migrate_tiers.resume().")));
	if (!mt_batch_lock(relation->id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a push of table %s is under way", table_name(relation)),
				 errhint("SELECT * FROM migrate_tiers.batches WHERE finished IS NULL shows it; where it shows none, a transition"
						 " or a rehearsal keeps pushes off until it ends.")));
	mt_batch_unlock(relation->id);
}

/* run_worker has a worker do the push and waits for it; who cancels us cancels it. */
static void
run_worker(const MtMigration *migration, const MtRelation *relation, int64 id)
{
	MtPushOrder order = {.batch = id, .relation = relation->id};
	BackgroundWorkerHandle *handle = mt_worker_launch_push(migration->id, &order);

	if (handle == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free for a push"),
				 errdetail("All of max_worker_processes (%d) are in use.", max_worker_processes),
				 errhint("Try again, or raise max_worker_processes at the next restart.")));
	PG_TRY();
	{
		(void) WaitForBackgroundWorkerShutdown(handle);
	}
	PG_CATCH();
	{
		TerminateBackgroundWorker(handle);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* read_push returns the row of a push that was applied, and raises the error of one that was not. */
static Datum
read_push(const MtRelation *relation, int64 id)
{
	MtSpiScope	scope;
	MemoryContext spi;
	Datum		row = (Datum) 0;
	bool		found;
	bool		finished = false;
	bool		isnull;
	char	   *error = NULL;
	char	   *note = NULL;

	mt_spi_begin(&scope);
	found = mt_spi_exec_latest(SPI_OK_SELECT,
							   "SELECT b, b.error, b.note, b.finished IS NOT NULL FROM migrate_tiers.batches AS b WHERE b.id = $1",
							   MT_ARGS(MT_INT8(id))) > 0;
	if (found)
	{
		error = mt_spi_text(&scope, 0, 2);
		note = mt_spi_text(&scope, 0, 3);
		finished = mt_spi_bool(0, 4);
		spi = MemoryContextSwitchTo(scope.caller);
		row = datumCopy(mt_spi_datum(0, 1, &isnull), false, -1);
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	if (error != NULL)
		raise_push_error(relation, error, note);
	if (!finished)
		ereport(ERROR,
				(errcode(ERRCODE_OPERATOR_INTERVENTION),
				 errmsg("the push of table %s was ended before it was done", table_name(relation)),
				 errhint("The server log says why. Run it again: SELECT migrate_tiers.push_batch(%s).",
						 quote_literal_cstr(table_name(relation)))));
	return row;
}

/* raise_push_error raises what the worker noted, under the SQLSTATE that begins it. */
static void
raise_push_error(const MtRelation *relation, const char *error, const char *note)
{
	int			code = strlen(error) > 5 ?
		MAKE_SQLSTATE(error[0], error[1], error[2], error[3], error[4]) :
		ERRCODE_INTERNAL_ERROR;

	ereport(ERROR,
			(errcode(code),
			 errmsg("table %s was not pushed", table_name(relation)),
			 note ? errdetail_internal("%s\n%s", error, note) : errdetail_internal("%s", error),
			 errhint("%sSELECT * FROM migrate_tiers.batches shows all pushes.",
					 code == ERRCODE_ADMIN_SHUTDOWN ? "" : "The receiver has the snapshot before it. ")));
}
