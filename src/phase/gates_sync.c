/*
 * gates_sync.c
 *	  Gates that look at how far sync is, and what was found about it: see
 *	  gate.h.
 *
 * What is slow or stopped is read as the view status shows it, so that a person
 * and a gate never see two truths.
 */
#include "phase/gate.h"

#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/option.h"
#include "endpoint/target.h"

/* Of a row of the view, s. */
#define SYNCING "(SELECT m.syncing FROM migrate_tiers.migration AS m WHERE m.name = s.migration)"

#define STATUS_HINT "SELECT * FROM migrate_tiers.status shows more."

static char *ask(const char *sql, int nargs, const MtArg *args);
static void check_lag(MtGateScope *scope, MtGate *gate, const char *column, const char *side);
static void let_pass_unreached(MtGateScope *scope, MtGate *gate);
static void reach_target(void *arg);

/* mt_gate_decide lets a gate pass where there is no problem. */
void
mt_gate_decide(MtGate *gate, char *problem, const char *fine, const char *hint)
{
	gate->passed = problem == NULL;
	gate->detail = problem ? problem : pstrdup(fine);
	gate->hint = problem && hint ? pstrdup(hint) : NULL;
}

/* mt_gate_copied wants every realtime table to follow the source, with all that was set aside on the target back. */
void
mt_gate_copied(MtGateScope *scope, MtGate *gate)
{
	char	   *aside = mt_target_still_aside(mt_gate_remote(scope), scope->migration);

	mt_gate_decide(gate,
				   ask("SELECT string_agg(format('%s is in state %s', t.relation, t.state), '; ') FROM migrate_tiers.tables AS t"
					   " WHERE t.migration::text = $1 AND t.tier = 'realtime' AND t.state <> 'syncing'",
					   MT_ARGS(MT_TEXT(scope->migration->name))),
				   "every realtime table is copied and in sync",
				   "Wait for the copy: SELECT migrate_tiers.wait_for_sync(timeout => '1 hour').");
	if (gate->passed && aside != NULL)
		mt_gate_decide(gate, psprintf("the target does not have everything again that was set aside for the copy: %s", aside),
					   NULL, "The worker brings it back, now that all tables are in sync; " STATUS_HINT);
}

/* mt_gate_running wants a worker at work, and nothing stopped; unless a transition that ends it all has ended it. */
void
mt_gate_running(MtGateScope *scope, MtGate *gate)
{
	mt_gate_decide(gate,
				   ask("SELECT CASE WHEN NOT " SYNCING " THEN NULL WHEN s.paused THEN 'sending is paused' WHEN s.stopped IS NOT NULL THEN s.stopped"
					   " WHEN NOT s.workers_running THEN 'the worker does not run' END"
					   " FROM migrate_tiers.status AS s WHERE s.migration::text = $1",
					   MT_ARGS(MT_TEXT(scope->migration->name))),
				   "the worker runs, and nothing is stopped",
				   "SELECT migrate_tiers.resume() after a pause, migrate_tiers.start_workers() where no worker runs; " STATUS_HINT);
}

/* mt_gate_forward_lag wants the target to be close behind the source. */
void
mt_gate_forward_lag(MtGateScope *scope, MtGate *gate)
{
	check_lag(scope, gate, "forward_lag", "target");
}

/* mt_gate_reverse_lag wants the source to be close behind the target. */
void
mt_gate_reverse_lag(MtGateScope *scope, MtGate *gate)
{
	check_lag(scope, gate, "reverse_lag", "source");
}

/*
 * mt_gate_lag_back wants the same of a way back, but not where the target cannot be reached at all: then nothing
 * more will come, and applications need the source.
 */
void
mt_gate_lag_back(MtGateScope *scope, MtGate *gate)
{
	check_lag(scope, gate, "reverse_lag", "source");
	let_pass_unreached(scope, gate);
}

/* mt_gate_captured wants no table of which the source may lack what was written on the target, unseen. */
void
mt_gate_captured(MtGateScope *scope, MtGate *gate)
{
	mt_gate_decide(gate,
				   ask("SELECT 'triggers on the target were disabled for a time, of ' || string_agg(u.name, ', ' ORDER BY u.name)"
					   " FROM migrate_tiers.uncaptured AS u WHERE u.migration = $1",
					   MT_ARGS(MT_INT4(scope->migration->id))),
				   "whatever was written on the target is noted",
				   "SELECT * FROM migrate_tiers.verify(); then migrate_tiers.repair(relation, side => 'target') for tables"
				   " that differ, until verify() finds them equal.");
	let_pass_unreached(scope, gate);
}

static void
let_pass_unreached(MtGateScope *scope, MtGate *gate)
{
	ErrorData  *error;

	if (gate->passed)
		return;
	error = mt_xact_try(reach_target, scope);
	if (error == NULL)
		return;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_CONNECTION_EXCEPTION)
		ThrowErrorData(error);
	mt_gate_decide(gate, NULL,
				   psprintf("the target cannot be reached, and is not waited for: what it has not sent is there only (%s)",
							mt_error_text(error)),
				   NULL);
}

static void
reach_target(void *arg)
{
	(void) mt_remote_query(mt_gate_remote((MtGateScope *) arg), "SELECT 1", MT_NO_PARAMS);
}

static void
check_lag(MtGateScope *scope, MtGate *gate, const char *column, const char *side)
{
	const char *limit = mt_option_text(scope->migration->id, "max_lag");

	mt_gate_decide(gate,
				   ask(psprintf("SELECT CASE WHEN s.%1$s IS NULL THEN 'how far the %2$s is behind is not known'"
								" WHEN s.%1$s > $2::interval THEN format('the %2$s is %%s behind, max_lag is %%s', s.%1$s, $2) END"
								" FROM migrate_tiers.status AS s WHERE s.migration::text = $1",
								column, side),
					   MT_ARGS(MT_TEXT(scope->migration->name), MT_TEXT(limit))),
				   psprintf("the %s is no more than %s behind", side, limit),
				   "Wait until it has caught up, or set_option('max_lag', ...); " STATUS_HINT);
}

/* mt_gate_forward_drained wants the target to have all that was written on the source; what sync leaves is given up. */
void
mt_gate_forward_drained(MtGateScope *scope, MtGate *gate)
{
	mt_gate_decide(gate,
				   ask("SELECT CASE WHEN " SYNCING " AND s.forward_pending > 0"
					   " THEN format('%s changes of the source are not on the target', s.forward_pending) END"
					   " FROM migrate_tiers.status AS s WHERE s.migration::text = $1",
					   MT_ARGS(MT_TEXT(scope->migration->name))),
				   "the target has every change of the source",
				   "Wait until they have arrived: SELECT migrate_tiers.wait_for_sync(); " STATUS_HINT);
}

/* mt_gate_reverse_drained wants the source to have all that was written on the target. */
void
mt_gate_reverse_drained(MtGateScope *scope, MtGate *gate)
{
	mt_gate_decide(gate,
				   ask("SELECT CASE WHEN s.reverse_pending IS NULL THEN 'what the source does not have of the target is not known'"
					   " WHEN s.reverse_pending > 0 THEN format('%s changes of the target are not on the source', s.reverse_pending) END"
					   " FROM migrate_tiers.status AS s WHERE s.migration::text = $1",
					   MT_ARGS(MT_TEXT(scope->migration->name))),
				   "the source has every change of the target",
				   "Wait until they have arrived; " STATUS_HINT);
}

/*
 * mt_gate_verified wants fresh evidence that both sides are equal, of each realtime table.
 *
 * What counts is the newest comparison that came to a verdict, from the moment of its first common
 * point on; and none from before the table was copied anew, or a server that may lack some of it took over.
 */
void
mt_gate_verified(MtGateScope *scope, MtGate *gate)
{
	const char *limit = mt_option_text(scope->migration->id, "max_age");

	mt_gate_decide(gate,
				   ask("SELECT string_agg(r.relation::regclass || CASE WHEN r.copy_finished IS NULL THEN ' is not copied'"
					   " WHEN v.verdict IS NULL THEN ' was never verified'"
					   " WHEN v.verdict <> 'equal' THEN ' is not equal on both sides' || coalesce(' (' || v.different_rows || ' rows)', '')"
					   " WHEN v.oldest < r.copy_finished THEN ' was copied again after it was verified'"
					   " WHEN v.oldest < f.noticed THEN format(' was verified before a server failed over, at %s', date_trunc('second', f.noticed))"
					   " WHEN v.oldest > clock_timestamp() THEN format(' was verified at %s, before the clock was set back', date_trunc('second', v.oldest))"
					   " ELSE format(' was verified at %s, longer than max_age (%s) ago', date_trunc('second', v.oldest), $2) END, '; ')"
					   " FROM migrate_tiers.relation AS r"
					   " CROSS JOIN (SELECT max(noticed) AS noticed FROM migrate_tiers.failover WHERE migration = $1) AS f"
					   " LEFT JOIN LATERAL (SELECT * FROM migrate_tiers.verification AS a"
					   "  WHERE a.relation = r.id AND a.verdict <> 'unknown' ORDER BY a.id DESC LIMIT 1) AS v ON true"
					   " WHERE r.migration = $1 AND r.tier = 'realtime' AND NOT coalesce(v.verdict = 'equal'"
					   "  AND v.oldest BETWEEN clock_timestamp() - $2::interval AND clock_timestamp() AND v.oldest >= r.copy_finished"
					   "  AND v.oldest >= coalesce(f.noticed, v.oldest), false)",
					   MT_ARGS(MT_INT4(scope->migration->id), MT_TEXT(limit))),
				   psprintf("every realtime table was found equal within %s", limit),
				   "SELECT * FROM migrate_tiers.verify(); rows that differ are shown by migrate_tiers.discrepancies"
				   " and mended by migrate_tiers.repair(relation).");
}

/* mt_gate_conflicts wants a person to have looked at each conflict. */
void
mt_gate_conflicts(MtGateScope *scope, MtGate *gate)
{
	mt_gate_decide(gate,
				   ask("SELECT CASE WHEN count(*) > 0 THEN format('%s conflicts are open', count(*)) END"
					   " FROM migrate_tiers.conflict WHERE migration = $1 AND resolved IS NULL",
					   MT_ARGS(MT_INT4(scope->migration->id))),
				   "no conflict is open",
				   "See SELECT * FROM migrate_tiers.conflicts WHERE resolved IS NULL, and call"
				   " migrate_tiers.resolve_conflict(id, winner) for each.");
}

/* mt_gate_batch_fresh wants each batch table on the target to be younger than its own max_age. */
void
mt_gate_batch_fresh(MtGateScope *scope, MtGate *gate)
{
	mt_gate_decide(gate,
				   ask("SELECT string_agg(f.relation || CASE WHEN f.fresh IS NULL THEN ' was never pushed'"
					   " ELSE format(' is as of %s, its max_age is %s', date_trunc('second', f.fresh_at), f.max_age) END, '; ')"
					   " FROM migrate_tiers.freshness AS f WHERE f.migration::text = $1 AND f.fresh IS NOT TRUE",
					   MT_ARGS(MT_TEXT(scope->migration->name))),
				   "every batch table is fresh on the target",
				   "SELECT * FROM migrate_tiers.push_batch(relation) pushes a table now.");
}

/* mt_gate_rehearsed wants the way back to have been gone since this copy was begun. */
void
mt_gate_rehearsed(MtGateScope *scope, MtGate *gate)
{
	mt_gate_decide(gate,
				   ask("SELECT CASE WHEN NOT EXISTS (SELECT FROM migrate_tiers.transition AS t WHERE t.migration = $1"
					   " AND t.from_phase = 'dual_write' AND t.to_phase = 'syncing' AND t.outcome = 'done' AND t.id >"
					   " (SELECT max(b.id) FROM migrate_tiers.transition AS b WHERE b.migration = $1 AND b.from_phase = 'planned'))"
					   " THEN 'the way back from dual_write was not gone yet' END",
					   MT_ARGS(MT_INT4(scope->migration->id))),
				   "the way back from dual_write was gone before",
				   "CALL migrate_tiers.revert('syncing') goes it; then CALL migrate_tiers.advance('dual_write') again.");
}

/* ask returns the text that a query finds wrong, or NULL. */
static char *
ask(const char *sql, int nargs, const MtArg *args)
{
	MtSpiScope	scope;
	char	   *problem;

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT, sql, nargs, args) != 1)
		elog(ERROR, "a gate's query returned no row: %s", sql);
	problem = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return problem;
}
