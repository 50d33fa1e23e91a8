/*
 * transition.c
 *	  Where SQL enters to go from phase to phase: advance, revert, rehearse,
 *	  plan.
 */
#include "base/compat.h"

#include "executor/spi.h"
#include "nodes/parsenodes.h"

#include "api/result.h"
#include "base/xact.h"
#include "catalog/relation.h"
#include "phase/rehearse.h"
#include "phase/transition.h"

PG_FUNCTION_INFO_V1(mt_advance);
PG_FUNCTION_INFO_V1(mt_revert);
PG_FUNCTION_INFO_V1(mt_rehearse);
PG_FUNCTION_INFO_V1(mt_plan);

PGDLLEXPORT Datum mt_advance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_revert(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_rehearse(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_plan(PG_FUNCTION_ARGS);

static void begin_procedure(FunctionCallInfo fcinfo, const char *name);
static void end_procedure(void);
static void go(FunctionCallInfo fcinfo, bool advance);
static void plan_step(FunctionCallInfo fcinfo, const MtMigration *migration, const MtStep *step,
					  const MtRelation *relation, bool forward, int *number);

/* mt_advance is migrate_tiers.advance(to_phase, migration). */
Datum
mt_advance(PG_FUNCTION_ARGS)
{
	go(fcinfo, true);
	PG_RETURN_VOID();
}

/* mt_revert is migrate_tiers.revert(to_phase, migration). */
Datum
mt_revert(PG_FUNCTION_ARGS)
{
	go(fcinfo, false);
	PG_RETURN_VOID();
}

/* mt_rehearse is migrate_tiers.rehearse(to_phase, migration). */
Datum
mt_rehearse(PG_FUNCTION_ARGS)
{
	MtPhase		to = mt_phase_parse(mt_arg_text(fcinfo, 0, "to_phase"));
	char	   *migration = mt_arg_name_or_null(fcinfo, 1);

	begin_procedure(fcinfo, "rehearse");
	mt_rehearse_run(migration, to);
	end_procedure();
	PG_RETURN_VOID();
}

/* mt_plan is migrate_tiers.plan(to_phase, migration). */
Datum
mt_plan(PG_FUNCTION_ARGS)
{
	MtPhase		to = mt_phase_parse(mt_arg_text(fcinfo, 0, "to_phase"));
	MtMigration *migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 1));
	bool		forward = mt_transition_is_forward(migration, to);
	const MtMove *move = mt_transition_check(migration, to, forward);
	List	   *relations = mt_relation_list(migration->id, "realtime");
	int			number = 0;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < move->count; i++)
	{
		const MtStep *step = &move->steps[forward ? i : move->count - 1 - i];
		ListCell   *cell;

		if ((forward ? step->run : step->undo) == NULL)
			continue;
		if (!step->per_table)
			plan_step(fcinfo, migration, step, NULL, forward, &number);
		else
			foreach(cell, relations)
				plan_step(fcinfo, migration, step, (MtRelation *) lfirst(cell), forward, &number);
	}
	return (Datum) 0;
}

static void
go(FunctionCallInfo fcinfo, bool advance)
{
	MtPhase		to = mt_phase_parse(mt_arg_text(fcinfo, 0, "to_phase"));
	char	   *migration = mt_arg_name_or_null(fcinfo, 1);

	begin_procedure(fcinfo, advance ? "advance" : "revert");
	mt_transition_run(migration, to, advance, NULL);
	end_procedure();
}

/* begin_procedure opens SPI so that each step can commit; not where somebody else's transaction is under way. */
static void
begin_procedure(FunctionCallInfo fcinfo, const char *name)
{
	CallContext *context = castNode(CallContext, fcinfo->context);

	if (context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", name),
				 errdetail("It commits after each step."),
				 errhint("CALL it outside of a transaction, and not from a function.")));
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	mt_xact_first();
}

static void
end_procedure(void)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

static void
plan_step(FunctionCallInfo fcinfo, const MtMigration *migration, const MtStep *step,
		  const MtRelation *relation, bool forward, int *number)
{
	Datum		values[6];
	bool		nulls[6] = {false};

	values[0] = Int32GetDatum(++*number);
	values[1] = CStringGetTextDatum(step->name);
	nulls[2] = relation == NULL;
	values[2] = relation == NULL ? (Datum) 0 :
		CStringGetTextDatum(quote_qualified_identifier(relation->schema, relation->name));
	values[3] = CStringGetTextDatum(step->side);
	values[4] = CStringGetTextDatum(step->describe(migration, relation, !forward));
	values[5] = CStringGetTextDatum(step->describe(migration, relation, forward));
	mt_result_row(fcinfo, values, nulls);
}
