/*
 * gate.c
 *	  The table of gates, and what is done with their outcome: see gate.h.
 *
 * A way back has gates only where something could be lost or seen missing: what
 * the side that is left has and the other has not yet.
 */
#include "phase/gate.h"

#include "utils/builtins.h"
#include "utils/json.h"

#include "base/errors.h"
#include "base/xact.h"
#include "phase/own_gate.h"
#include "phase/preflight.h"

typedef struct MtGateDef
{
	MtPhase		from;
	MtPhase		to;
	const char *name;
	MtGateCheck check;
} MtGateDef;

typedef struct MtGateRun
{
	MtGateScope *scope;
	MtGate	   *gate;
	MtGateCheck check;
} MtGateRun;

static void check_preflight(MtGateScope *scope, MtGate *gate);
static void check_tagged(MtGateScope *scope, MtGate *gate);
static void check_sequences(MtGateScope *scope, MtGate *gate);
static void check_deferrable(MtGateScope *scope, MtGate *gate);
static void check_source_rules(MtGateScope *scope, MtGate *gate);
static void decide_failures(MtGate *gate, const List *failures);
static MtGate *run_gate(MtGateScope *scope, const MtGateDef *def);
static void run_check(void *arg);
static void append_json_text(StringInfo json, const char *name, const char *value);

static const MtGateDef gate_defs[] = {
	{MT_PLANNED, MT_SYNCING, "preflight", check_preflight},

	{MT_SYNCING, MT_DUAL_WRITE, "tables_tagged", check_tagged},
	{MT_SYNCING, MT_DUAL_WRITE, "copied", mt_gate_copied},
	{MT_SYNCING, MT_DUAL_WRITE, "running", mt_gate_running},
	{MT_SYNCING, MT_DUAL_WRITE, "forward_lag", mt_gate_forward_lag},
	{MT_SYNCING, MT_DUAL_WRITE, "verified", mt_gate_verified},
	{MT_SYNCING, MT_DUAL_WRITE, "reverse_capture", mt_gate_reverse_capture},
	{MT_SYNCING, MT_DUAL_WRITE, "sequences", check_sequences},
	{MT_SYNCING, MT_DUAL_WRITE, "deferrable", check_deferrable},
	{MT_SYNCING, MT_DUAL_WRITE, "source_rules", check_source_rules},
	{MT_SYNCING, MT_DUAL_WRITE, "clocks", mt_gate_clocks},

	{MT_DUAL_WRITE, MT_READ_TARGET, "tables_tagged", check_tagged},
	{MT_DUAL_WRITE, MT_READ_TARGET, "instances", mt_gate_instances},
	{MT_DUAL_WRITE, MT_READ_TARGET, "copied", mt_gate_copied},
	{MT_DUAL_WRITE, MT_READ_TARGET, "running", mt_gate_running},
	{MT_DUAL_WRITE, MT_READ_TARGET, "forward_lag", mt_gate_forward_lag},
	{MT_DUAL_WRITE, MT_READ_TARGET, "reverse_lag", mt_gate_reverse_lag},
	{MT_DUAL_WRITE, MT_READ_TARGET, "verified", mt_gate_verified},
	{MT_DUAL_WRITE, MT_READ_TARGET, "conflicts", mt_gate_conflicts},
	{MT_DUAL_WRITE, MT_READ_TARGET, "batch_fresh", mt_gate_batch_fresh},
	{MT_DUAL_WRITE, MT_READ_TARGET, "rehearsed", mt_gate_rehearsed},

	{MT_READ_TARGET, MT_TARGET_ONLY, "instances", mt_gate_instances},
	{MT_READ_TARGET, MT_TARGET_ONLY, "running", mt_gate_running},
	{MT_READ_TARGET, MT_TARGET_ONLY, "source_quiet", mt_gate_source_quiet},
	{MT_READ_TARGET, MT_TARGET_ONLY, "source_subscriptions", mt_gate_source_subscriptions},

	{MT_TARGET_ONLY, MT_FINISHED, "running", mt_gate_running},
	{MT_TARGET_ONLY, MT_FINISHED, "forward_drained", mt_gate_forward_drained},
	{MT_TARGET_ONLY, MT_FINISHED, "finished", mt_gate_confirmed},

	{MT_DUAL_WRITE, MT_SYNCING, "target_quiet", mt_gate_target_quiet},
	{MT_DUAL_WRITE, MT_SYNCING, "reverse_drained", mt_gate_reverse_drained},
	{MT_DUAL_WRITE, MT_SYNCING, "captured", mt_gate_captured},
	{MT_READ_TARGET, MT_DUAL_WRITE, "reverse_lag", mt_gate_lag_back},
	{MT_READ_TARGET, MT_DUAL_WRITE, "captured", mt_gate_captured},
	{MT_TARGET_ONLY, MT_READ_TARGET, "reverse_lag", mt_gate_lag_back},
	{MT_TARGET_ONLY, MT_READ_TARGET, "captured", mt_gate_captured},
};

/* mt_gates_check evaluates the gates of a move. */
List *
mt_gates_check(const MtMigration *migration, MtPhase to)
{
	MtGateScope scope = {.migration = migration, .to = to, .context = CurrentMemoryContext};
	List	   *gates = NIL;

	for (int i = 0; i < lengthof(gate_defs); i++)
		if (gate_defs[i].from == migration->phase && gate_defs[i].to == to)
			gates = lappend(gates, run_gate(&scope, &gate_defs[i]));
	gates = list_concat(gates, mt_own_gates_check(&scope));
	if (scope.remote != NULL)
		mt_remote_close(scope.remote);
	return gates;
}

/* mt_gate_is_ours says whether a move to that phase has a gate of that name without anybody adding it. */
bool
mt_gate_is_ours(MtPhase to, const char *name)
{
	for (int i = 0; i < lengthof(gate_defs); i++)
		if (gate_defs[i].to == to && strcmp(gate_defs[i].name, name) == 0)
			return true;
	return false;
}

/* run_gate evaluates one gate; an error is one more way of not passing it. */
static MtGate *
run_gate(MtGateScope *scope, const MtGateDef *def)
{
	MtGate	   *gate = palloc0(sizeof(MtGate));
	MtGateRun	run = {scope, gate, def->check};
	ErrorData  *error;

	gate->name = def->name;
	error = mt_xact_try(run_check, &run);
	if (error == NULL)
		return gate;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ThrowErrorData(error);
	gate->passed = false;
	gate->detail = mt_error_text(error);
	gate->hint = error->hint ? error->hint : "Mend the cause, and look again: SELECT * FROM migrate_tiers.gates().";
	return gate;
}

static void
run_check(void *arg)
{
	MtGateRun  *run = (MtGateRun *) arg;

	run->check(run->scope, run->gate);
}

/* mt_gate_remote returns the connection to the target, opened if need be. */
MtRemote *
mt_gate_remote(MtGateScope *scope)
{
	MemoryContext previous = MemoryContextSwitchTo(scope->context);

	if (scope->remote != NULL && !mt_remote_usable(scope->remote))
	{
		mt_remote_close(scope->remote);
		scope->remote = NULL;
	}
	if (scope->remote == NULL)
		scope->remote = mt_remote_open(scope->migration);
	MemoryContextSwitchTo(previous);
	return scope->remote;
}

/* mt_gates_json returns gates as a JSON array. */
char *
mt_gates_json(const List *gates)
{
	StringInfoData json;
	ListCell   *cell;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	foreach(cell, gates)
	{
		const MtGate *gate = (const MtGate *) lfirst(cell);

		appendStringInfo(&json, "%s{\"passed\": %s", json.len > 1 ? ", " : "", gate->passed ? "true" : "false");
		append_json_text(&json, "gate", gate->name);
		append_json_text(&json, "detail", gate->detail);
		append_json_text(&json, "hint", gate->hint);
		appendStringInfoChar(&json, '}');
	}
	appendStringInfoChar(&json, ']');
	return json.data;
}

/* mt_gates_require refuses unless all gates have passed. */
void
mt_gates_require(const MtMigration *migration, MtPhase to, const List *gates)
{
	StringInfoData failed;
	ListCell   *cell;

	initStringInfo(&failed);
	foreach(cell, gates)
	{
		const MtGate *gate = (const MtGate *) lfirst(cell);

		if (gate->passed)
			continue;
		appendStringInfo(&failed, "%sGate %s: %s", failed.len ? "\n" : "", gate->name, gate->detail);
		if (gate->hint)
			appendStringInfo(&failed, "\n  %s", gate->hint);
	}
	if (failed.len > 0)
		ereport(ERROR,
				(errcode(MT_ERRCODE_GATE_FAILED),
				 errmsg("migration \"%s\" cannot go to phase %s yet", migration->name, mt_phase_name(to)),
				 errdetail_internal("%s", failed.data),
				 errhint("SELECT * FROM migrate_tiers.gates('%s') shows every gate as it stands.", mt_phase_name(to))));
}

static void
check_preflight(MtGateScope *scope, MtGate *gate)
{
	decide_failures(gate, mt_preflight_failures(scope->migration, NULL));
}

/* check_tagged looks for tables made since preflight: none may be left behind unnoticed. */
static void
check_tagged(MtGateScope *scope, MtGate *gate)
{
	decide_failures(gate, mt_preflight_failures(scope->migration, "tables_tagged"));
}

/* check_sequences asks again what preflight asked, perhaps long ago: sequences go on meanwhile. */
static void
check_sequences(MtGateScope *scope, MtGate *gate)
{
	decide_failures(gate, mt_preflight_failures(scope->migration, "sequences"));
}

/* check_deferrable refuses what preflight only warns of: with one side written, such constraints do no harm. */
static void
check_deferrable(MtGateScope *scope, MtGate *gate)
{
	decide_failures(gate, mt_preflight_failures(scope->migration, "deferrable"));
}

/* check_source_rules refuses what preflight only warns of: nothing comes back before. */
static void
check_source_rules(MtGateScope *scope, MtGate *gate)
{
	decide_failures(gate, mt_preflight_failures(scope->migration, "source_rules"));
}

static void
decide_failures(MtGate *gate, const List *failures)
{
	StringInfoData detail;
	ListCell   *cell;

	gate->passed = failures == NIL;
	initStringInfo(&detail);
	foreach(cell, failures)
	{
		const MtPreflightRow *row = (const MtPreflightRow *) lfirst(cell);

		appendStringInfo(&detail, "%s%s%s%s: %s%s%s", detail.len ? "\n" : "", row->check_name,
						 row->object ? " of " : "", row->object ? row->object : "", row->detail ? row->detail : "",
						 row->hint ? ". " : "", row->hint ? row->hint : "");
	}
	gate->detail = gate->passed ? "no check failed" : detail.data;
	gate->hint = gate->passed ? NULL : "SELECT * FROM migrate_tiers.preflight() shows every check.";
}

static void
append_json_text(StringInfo json, const char *name, const char *value)
{
	appendStringInfo(json, ", \"%s\": ", name);
	if (value)
		escape_json(json, value);
	else
		appendStringInfoString(json, "null");
}
