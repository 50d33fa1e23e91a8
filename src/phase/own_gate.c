/*
 * own_gate.c
 *	  Gates that a person added, and an engineer's word: see own_gate.h.
 *
 * A query of somebody's is the only SQL from an argument that is ever run.  It
 * runs with the rights of who added it, whoever asks for the gate: as that role,
 * in a restricted operation (which the role cannot leave), read only, with a pinned
 * search_path and for a limited time.
 */
#include "phase/own_gate.h"

#include "access/xact.h"
#include "catalog/pg_authid_d.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"

#define QUERY_LIMIT_MS 30000

typedef struct MtOwnGate
{
	MtGate	   *gate;
	char	   *query;			/* NULL: confirmed by hand */
	Oid			role;
} MtOwnGate;

static void run_query(void *arg);
static void read_outcome(MtOwnGate *own, MtSpiScope *spi, const char *query);
static ErrorData *run_limited(MtOwnGate *own);
static List *list_own(const MtMigration *migration, MtPhase to);
static void check_word(const MtMigration *migration, MtGate *gate);
static bool is_by_hand(const MtMigration *migration, const char *name);

/* mt_own_gate_add adds a gate, or changes it, once its query has shown that it is one. */
void
mt_own_gate_add(const MtMigration *migration, MtPhase to, const char *name, const char *query)
{
	MtSpiScope	scope;

	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a gate needs a name"),
				 errhint("Give it one: SELECT migrate_tiers.add_gate('dual_write', 'no_deploy', 'SELECT ...').")));
	if (mt_gate_is_ours(to, name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("gate \"%s\" of phase %s is one of migrate_tiers", name, mt_phase_name(to)),
				 errhint("Give yours another name.")));
	if (query != NULL)
	{
		MtGate		gate = {.name = name};
		MtOwnGate	own = {&gate, (char *) query, GetUserId()};
		ErrorData  *error = run_limited(&own);

		if (error != NULL)
			ThrowErrorData(error);
	}
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.own_gate (migration, to_phase, gate, query, role) VALUES ($1, $2, $3, $4, $5)"
				" ON CONFLICT (migration, to_phase, gate) DO UPDATE SET query = excluded.query, role = excluded.role,"
				" added = clock_timestamp()",
				MT_ARGS(MT_INT4(migration->id), MT_TEXT(mt_phase_name(to)), MT_TEXT(name), MT_TEXT(query),
						MT_OID(scope.saved_user)));
	mt_spi_end(&scope);
}

/* mt_own_gate_drop takes a gate away; false when there is none. */
bool
mt_own_gate_drop(const MtMigration *migration, MtPhase to, const char *name)
{
	MtSpiScope	scope;
	bool		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_DELETE,
						"DELETE FROM migrate_tiers.own_gate WHERE migration = $1 AND to_phase = $2 AND gate = $3",
						MT_ARGS(MT_INT4(migration->id), MT_TEXT(mt_phase_name(to)), MT_TEXT(name))) > 0;
	mt_spi_end(&scope);
	return found;
}

/* mt_own_gates_check evaluates the gates that were added to a move. */
List *
mt_own_gates_check(MtGateScope *scope)
{
	List	   *gates = NIL;
	ListCell   *cell;

	foreach(cell, list_own(scope->migration, scope->to))
	{
		MtOwnGate  *own = (MtOwnGate *) lfirst(cell);
		ErrorData  *error = NULL;

		gates = lappend(gates, own->gate);
		if (own->query == NULL)
			check_word(scope->migration, own->gate);
		else
			error = run_limited(own);
		if (error == NULL)
			continue;
		own->gate->passed = false;
		own->gate->detail = mt_error_text(error);
		own->gate->hint = psprintf("Mend its query: SELECT migrate_tiers.add_gate('%s', %s, ...); or take it away with drop_gate.",
								   mt_phase_name(scope->to), quote_literal_cstr(own->gate->name));
	}
	return gates;
}

static List *
list_own(const MtMigration *migration, MtPhase to)
{
	List	   *list = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT,
						"SELECT gate, query, role FROM migrate_tiers.own_gate WHERE migration = $1 AND to_phase = $2 ORDER BY gate",
						MT_ARGS(MT_INT4(migration->id), MT_TEXT(mt_phase_name(to))));
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);
		MtOwnGate  *own = palloc0(sizeof(MtOwnGate));

		own->gate = palloc0(sizeof(MtGate));
		own->gate->name = mt_spi_text(&scope, row, 1);
		own->query = mt_spi_text(&scope, row, 2);
		own->role = (Oid) mt_spi_int8(row, 3);
		list = lappend(list, own);
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return list;
}

/* run_limited runs a gate's query for a limited time; a cancel by the user is no outcome, but the end. */
static ErrorData *
run_limited(MtOwnGate *own)
{
	bool		limited = !get_timeout_active(STATEMENT_TIMEOUT);
	bool		expired;
	ErrorData  *error;

	if (limited)
		enable_timeout_after(STATEMENT_TIMEOUT, QUERY_LIMIT_MS);
	error = mt_xact_try(run_query, own);
	expired = limited && !get_timeout_active(STATEMENT_TIMEOUT);
	if (limited)
		disable_timeout(STATEMENT_TIMEOUT, false);
	if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED && !expired)
		ThrowErrorData(error);
	return error;
}

/* run_query runs a gate's query as the role that added it; in a subtransaction. */
static void
run_query(void *arg)
{
	MtOwnGate  *own = (MtOwnGate *) arg;
	MtSpiScope	scope;

	if (GetUserNameFromId(own->role, true) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the role that added the gate does not exist any more")));
	PushActiveSnapshot(GetTransactionSnapshot());
	mt_spi_begin_as(&scope, own->role);
	SetUserIdAndSecContext(own->role,
						   scope.saved_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	/* The end of the subtransaction puts it back; nothing in it can. */
	XactReadOnly = true;
	read_outcome(own, &scope, own->query);
	mt_spi_end(&scope);
	PopActiveSnapshot();
}

static void
read_outcome(MtOwnGate *own, MtSpiScope *spi, const char *query)
{
	SPIPlanPtr	plan = SPI_prepare(query, 0, NULL);
	const char *outcome = "its query returned no row";

	if (plan == NULL || list_length(SPI_plan_get_plan_sources(plan)) != 1 ||
		SPI_execute_plan(plan, NULL, NULL, true, 1) != SPI_OK_SELECT ||
		SPI_gettypeid(SPI_tuptable->tupdesc, 1) != BOOLOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of gate \"%s\" does not return a boolean", own->gate->name),
				 errhint("Write one SELECT whose first column says whether the gate passes, with qualified names:"
						 " SELECT count(*) = 0 FROM public.todo.")));
	own->gate->passed = SPI_processed > 0 && mt_spi_bool(0, 1);
	if (SPI_processed > 0)
		outcome = own->gate->passed ? "its query says so" : "its query says no";
	own->gate->detail = SPI_processed > 0 && SPI_tuptable->tupdesc->natts > 1 ? mt_spi_text(spi, 0, 2) : NULL;
	if (own->gate->detail == NULL)
		own->gate->detail = MemoryContextStrdup(spi->caller, outcome);
	if (!own->gate->passed)
		own->gate->hint = MemoryContextStrdup(spi->caller, "It was added with migrate_tiers.add_gate(); see to what it asks for.");
}

/* mt_gate_confirm notes an engineer's word. */
void
mt_gate_confirm(const MtMigration *migration, const char *name, const char *note)
{
	MtSpiScope	scope;

	if (note[strspn(note, " \t\n")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a confirmation needs a note"),
				 errhint("Say what you know: SELECT migrate_tiers.confirm(%s, 'what was looked at, and by whom').", quote_literal_cstr(name))));
	if (!is_by_hand(migration, name))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no gate \"%s\" is to be confirmed by hand in phase %s", name, mt_phase_name(migration->phase)),
				 errhint("SELECT * FROM migrate_tiers.gates() shows what stands between here and the next phase.")));
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.confirmation (migration, gate, note, confirmed_by) VALUES ($1, $2, $3, $4)",
				MT_ARGS(MT_INT4(migration->id), MT_TEXT(name), MT_TEXT(note),
						MT_TEXT(GetUserNameFromId(scope.saved_user, false))));
	mt_spi_end(&scope);
}

/* is_by_hand says whether a gate of that name stands between here and a phase next to it, and waits for a word. */
static bool
is_by_hand(const MtMigration *migration, const char *name)
{
	bool		found = migration->phase == MT_TARGET_ONLY && strcmp(name, "finished") == 0;

	for (int to = (int) migration->phase - 1; !found && to <= (int) migration->phase + 1; to += 2)
	{
		ListCell   *cell;

		if (to < MT_PLANNED || to > MT_FINISHED)
			continue;
		foreach(cell, list_own(migration, (MtPhase) to))
		{
			const MtOwnGate *own = (const MtOwnGate *) lfirst(cell);

			if (strcmp(own->gate->name, name) != 0)
				continue;
			found = own->query == NULL;
			if (!found)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("gate \"%s\" is decided by its query, not by a word", name),
						 errhint("Change it with migrate_tiers.add_gate().")));
		}
	}
	return found;
}

/* mt_gate_confirmed passes when somebody confirmed it since the migration came to its phase. */
void
mt_gate_confirmed(MtGateScope *scope, MtGate *gate)
{
	check_word(scope->migration, gate);
}

static void
check_word(const MtMigration *migration, MtGate *gate)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	gate->passed = mt_spi_exec(SPI_OK_SELECT,
							   "SELECT format('confirmed by %I at %s: %s', c.confirmed_by, date_trunc('second', c.confirmed_at), c.note)"
							   " FROM migrate_tiers.confirmation AS c WHERE c.migration = $1 AND c.gate = $2 AND c.confirmed_at >"
							   " (SELECT coalesce(max(t.finished), '-infinity') FROM migrate_tiers.transition AS t"
							   "  WHERE t.migration = $1 AND t.outcome = 'done') ORDER BY c.id DESC LIMIT 1",
							   MT_ARGS(MT_INT4(migration->id), MT_TEXT(gate->name))) > 0;
	gate->detail = gate->passed ? mt_spi_text(&scope, 0, 1) :
		MemoryContextStrdup(scope.caller, "nobody has confirmed it in this phase");
	mt_spi_end(&scope);
	gate->hint = gate->passed ? NULL :
		psprintf("SELECT migrate_tiers.confirm(%s, 'your note').", quote_literal_cstr(gate->name));
}
