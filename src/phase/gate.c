/*
 * gate.c
 *	  Gates: see gate.h.  Each is one predicate.
 */
#include "phase/gate.h"

#include "utils/builtins.h"
#include "utils/json.h"

#include "base/errors.h"
#include "phase/preflight.h"

static MtGate *check_preflight(const MtMigration *migration);
static void append_json_text(StringInfo json, const char *name, const char *value);

/* mt_gates_check evaluates the gates of a move. */
List *
mt_gates_check(const MtMigration *migration, MtPhase to)
{
	if (migration->phase == MT_PLANNED && to == MT_SYNCING)
		return list_make1(check_preflight(migration));
	/* Back to planned: nobody writes the target in syncing, so nothing can be lost. */
	return NIL;
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
	const char *hint = NULL;

	initStringInfo(&failed);
	foreach(cell, gates)
	{
		const MtGate *gate = (const MtGate *) lfirst(cell);

		if (gate->passed)
			continue;
		appendStringInfo(&failed, "%sGate %s: %s", failed.len ? "\n" : "", gate->name, gate->detail);
		hint = hint ? hint : gate->hint;
	}
	if (failed.len > 0)
		ereport(ERROR,
				(errcode(MT_ERRCODE_GATE_FAILED),
				 errmsg("migration \"%s\" cannot go to phase %s yet", migration->name, mt_phase_name(to)),
				 errdetail_internal("%s", failed.data),
				 hint ? errhint("%s", hint) : 0));
}

static MtGate *
check_preflight(const MtMigration *migration)
{
	MtGate	   *gate = palloc0(sizeof(MtGate));
	List	   *failures = mt_preflight_failures(migration);
	StringInfoData detail;
	ListCell   *cell;

	gate->name = "preflight";
	gate->passed = failures == NIL;
	initStringInfo(&detail);
	foreach(cell, failures)
	{
		const MtPreflightRow *row = (const MtPreflightRow *) lfirst(cell);

		appendStringInfo(&detail, "%s%s%s%s: %s%s%s", detail.len ? "\n" : "", row->check_name,
						 row->object ? " of " : "", row->object ? row->object : "", row->detail ? row->detail : "",
						 row->hint ? " " : "", row->hint ? row->hint : "");
	}
	gate->detail = gate->passed ? "no check failed" : detail.data;
	gate->hint = gate->passed ? NULL : "SELECT * FROM migrate_tiers.preflight() shows every check.";
	return gate;
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
