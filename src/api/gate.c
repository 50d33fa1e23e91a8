/*
 * gate.c
 *	  Where SQL enters about gates: gates, confirm, add_gate, drop_gate.
 */
#include "base/compat.h"

#include "api/result.h"
#include "phase/declare.h"
#include "phase/own_gate.h"
#include "phase/transition.h"

PG_FUNCTION_INFO_V1(mt_gates);
PG_FUNCTION_INFO_V1(mt_confirm);
PG_FUNCTION_INFO_V1(mt_add_gate);
PG_FUNCTION_INFO_V1(mt_drop_gate);

PGDLLEXPORT Datum mt_gates(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_confirm(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_add_gate(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_drop_gate(PG_FUNCTION_ARGS);

/* mt_gates is migrate_tiers.gates(to_phase, migration). */
Datum
mt_gates(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 1));
	MtPhase		to;
	ListCell   *cell;

	if (PG_ARGISNULL(0))
		to = Min(migration->phase + 1, MT_FINISHED);
	else
		to = mt_phase_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	(void) mt_transition_check(migration, to, mt_transition_is_forward(migration, to));
	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, mt_gates_check(migration, to))
	{
		MtGate	   *gate = (MtGate *) lfirst(cell);
		Datum		values[5] = {
			CStringGetTextDatum(mt_phase_name(to)), CStringGetTextDatum(gate->name), BoolGetDatum(gate->passed),
			mt_text_or_null(gate->detail), mt_text_or_null(gate->hint)};
		bool		nulls[5] = {false, false, false, gate->detail == NULL, gate->hint == NULL};

		mt_result_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* mt_confirm is migrate_tiers.confirm(gate, note, migration). */
Datum
mt_confirm(PG_FUNCTION_ARGS)
{
	char	   *gate = mt_arg_text(fcinfo, 0, "gate");
	char	   *note = mt_arg_text(fcinfo, 1, "note");

	mt_gate_confirm(mt_declare_open(mt_arg_name_or_null(fcinfo, 2)), gate, note);
	PG_RETURN_VOID();
}

/* mt_add_gate is migrate_tiers.add_gate(to_phase, gate, query, migration). */
Datum
mt_add_gate(PG_FUNCTION_ARGS)
{
	MtPhase		to = mt_phase_parse(mt_arg_text(fcinfo, 0, "to_phase"));
	char	   *gate = mt_arg_text(fcinfo, 1, "gate");
	char	   *query = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));

	mt_own_gate_add(mt_declare_open(mt_arg_name_or_null(fcinfo, 3)), to, gate, query);
	PG_RETURN_VOID();
}

/* mt_drop_gate is migrate_tiers.drop_gate(to_phase, gate, migration). */
Datum
mt_drop_gate(PG_FUNCTION_ARGS)
{
	MtPhase		to = mt_phase_parse(mt_arg_text(fcinfo, 0, "to_phase"));
	char	   *gate = mt_arg_text(fcinfo, 1, "gate");
	MtMigration *migration = mt_declare_open(mt_arg_name_or_null(fcinfo, 2));

	if (!mt_own_gate_drop(migration, to, gate))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("nobody has added a gate \"%s\" to phase %s", gate, mt_phase_name(to)),
				 errhint("SELECT * FROM migrate_tiers.gates('%s') shows those that there are.", mt_phase_name(to))));
	PG_RETURN_VOID();
}
