/*
 * transition.c
 *	  Goes from one phase to the next, or back: see transition.h.
 *
 * Each step, for each of its tables, is a transaction of its own, journalled
 * with it.  A step that does not get a lock within lock_timeout is tried again
 * with back-off, for attach_timeout in all; in between nothing is held.  When a
 * step fails, what was done is undone by the steps' inverses, and the phase is
 * the one it was.  When that cannot be done either (the target went away), or
 * the session dies, the transition stays open: the next advance or revert to
 * either of its phases finishes or undoes it.
 *
 * The lock of the migration is held by the session from the first step to the
 * last: of two who ask at once, one is refused.
 */
#include "phase/transition.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/lock.h"
#include "base/xact.h"
#include "catalog/batch.h"
#include "catalog/journal.h"
#include "catalog/option.h"
#include "catalog/worker.h"
#include "phase/gate.h"

#define FIRST_RETRY_MS 100
#define LAST_RETRY_MS  5000

typedef void (*MtAction)(MtTransition *transition, MtRelation *relation);

static const MtMove *check_open(const MtMigration *migration, MtPhase from, MtPhase open_to, MtPhase to, bool advance);
static void run_locked(MtTransition *transition, MtMigration *migration, MtPhase to, bool advance);
static bool is_gated(const MtTransition *transition, bool advance);
static void open_transition(MtTransition *transition, MtMigration *migration, MtPhase to, bool advance);
static ErrorData *run_steps(MtTransition *transition, const MtMove *move, bool forward);
static void report_step(const MtStep *step, bool forward, int tables);
static ErrorData *run_item(MtTransition *transition, const MtStep *step, MtRelation *relation, bool forward);
static ErrorData *run_protected(MtTransition *transition, const char *name, MtRelation *relation,
								MtAction	action, const char *outcome);
static ErrorData *wait_protected(MtTransition *transition, const MtStep *step, MtRelation *relation,
								 ErrorData *obstacle, long wait);
static void end_transition(MtTransition *transition, const char *outcome, MtPhase phase, const char *error,
						   bool settled);
static void handle_failure(MtTransition *transition, const MtMove *move, bool forward, ErrorData *error);

/* mt_transition_run goes to a phase next to the current one. */
void
mt_transition_run(const char *migration_name, MtPhase to, bool advance, MtRehearsal *rehearsal)
{
	MemoryContext context = AllocSetContextCreate(PortalContext, "migrate_tiers transition", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	MtMigration *migration = mt_migration_get_owned(migration_name);
	MtTransition *transition = palloc0(sizeof(MtTransition));
	int32		id = migration->id;

	transition->context = context;
	transition->rehearsal = rehearsal;
	transition->barred = rehearsal ? list_copy(rehearsal->barred) : NIL;
	if (!mt_migration_lock_session(id))
		mt_transition_refuse_busy(migration);
	PG_TRY();
	{
		run_locked(transition, mt_migration_by_id(id, false), to, advance);
	}
	PG_FINALLY();
	{
		if (rehearsal == NULL)
			mt_batch_unlock_all(transition->barred);
		else
		{
			MemoryContextSwitchTo(rehearsal->context);
			rehearsal->barred = list_copy(transition->barred);
		}
		mt_migration_unlock_session(id);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
}

/* mt_transition_refuse_busy refuses the second of two who ask at once. */
void
mt_transition_refuse_busy(const MtMigration *migration)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("somebody else is changing migration \"%s\"", migration->name),
			 errhint("Look at migrate_tiers.status, and try again when its transition has ended.")));
}

/* mt_transition_check finds the move that a person meant. */
const MtMove *
mt_transition_check(const MtMigration *migration, MtPhase to, bool advance)
{
	MtPhase		from;
	MtPhase		open_to;
	const MtMove *move = NULL;

	if (mt_journal_open(migration, &from, &open_to))
		return check_open(migration, from, open_to, to, advance);
	if (to == (advance ? migration->phase + 1 : migration->phase - 1))
		move = mt_move_find(migration->phase, to);
	if (move == NULL || (move->final && !advance))
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("migration \"%s\" is in phase %s and cannot %s to %s", migration->name,
						mt_phase_name(migration->phase), advance ? "advance" : "revert", mt_phase_name(to)),
				 errhint("%s", mt_move_hint(migration->phase, advance))));
	return move;
}

/* mt_transition_is_forward tells which way the steps of a move are run to get to a phase. */
bool
mt_transition_is_forward(const MtMigration *migration, MtPhase to)
{
	MtPhase		from;
	MtPhase		open_to;

	if (to == migration->phase && mt_journal_open(migration, &from, &open_to))
		return open_to < from;
	return to > migration->phase;
}

/* check_open lets a transition that was cut off be finished or undone, and nothing else be done. */
static const MtMove *
check_open(const MtMigration *migration, MtPhase from, MtPhase open_to, MtPhase to, bool advance)
{
	const MtMove *move = mt_move_find(from, open_to);
	bool		forward = open_to > from;

	if ((to == open_to && advance == forward) || (to == from && advance != forward && !move->final))
		return move;
	ereport(ERROR,
			(errcode(MT_ERRCODE_WRONG_PHASE),
			 errmsg("a transition of migration \"%s\" from %s to %s was cut off", migration->name,
					mt_phase_name(from), mt_phase_name(open_to)),
			 move->final ?
			 errhint("CALL migrate_tiers.%s('%s') finishes it.", forward ? "advance" : "revert", mt_phase_name(open_to)) :
			 errhint("CALL migrate_tiers.%s('%s') finishes it, migrate_tiers.%s('%s') undoes it.",
					 forward ? "advance" : "revert", mt_phase_name(open_to),
					 forward ? "revert" : "advance", mt_phase_name(from))));
}

static void
run_locked(MtTransition *transition, MtMigration *migration, MtPhase to, bool advance)
{
	const MtMove *move = mt_transition_check(migration, to, advance);
	ErrorData  *error;

	open_transition(transition, migration, to, advance);
	error = run_steps(transition, move, advance);
	if (error != NULL)
		handle_failure(transition, move, advance, error);
	end_transition(transition, "done", to, NULL, true);
	if (transition->remote != NULL)
		mt_remote_close(transition->remote);
	ereport(NOTICE, (errmsg("migration \"%s\" is in phase %s", migration->name, mt_phase_name(to))));
}

/*
 * is_gated says whether gates are examined.
 *
 * Of what was cut off, undoing is never refused, nor is finishing a way back; the way on is examined anew, since
 * what let it through may be long ago.  Preflight is not: it is about the sides before the first step.
 */
static bool
is_gated(const MtTransition *transition, bool advance)
{
	if (transition->migration->transition == NULL)
		return true;
	return !transition->undoing && advance && transition->from != MT_PLANNED;
}

/* open_transition checks the gates and begins the journal. */
static void
open_transition(MtTransition *transition, MtMigration *migration, MtPhase to, bool advance)
{
	transition->migration = migration;
	transition->from = migration->phase;
	transition->to = to;
	transition->undoing = to == migration->phase;
	transition->relations = mt_relation_list(migration->id, "realtime");
	mt_transition_meet_target(transition);
	if (is_gated(transition, advance))
	{
		List	   *gates;

		PushActiveSnapshot(GetTransactionSnapshot());
		gates = mt_gates_check(migration, to);
		PopActiveSnapshot();
		mt_gates_require(migration, to, gates);
		transition->id = mt_journal_begin(migration, to, mt_gates_json(gates));
	}
	else
		transition->id = mt_journal_begin(migration, to, NULL);
	mt_xact_next();
}

/* run_steps runs the steps of a move one way; returns the error that ended it, or NULL. */
static ErrorData *
run_steps(MtTransition *transition, const MtMove *move, bool forward)
{
	for (int i = 0; i < move->count; i++)
	{
		const MtStep *step = &move->steps[forward ? i : move->count - 1 - i];
		ErrorData  *error = NULL;
		ListCell   *cell;

		if ((forward ? step->run : step->undo) == NULL)
			continue;
		if (!step->per_table)
			error = run_item(transition, step, NULL, forward);
		else
			foreach(cell, transition->relations)
				if ((error = run_item(transition, step, (MtRelation *) lfirst(cell), forward)) != NULL)
					break;
		if (error != NULL)
			return error;
		report_step(step, forward, list_length(transition->relations));
	}
	return NULL;
}

/* report_step tells a person that a step was done, or undone. */
static void
report_step(const MtStep *step, bool forward, int tables)
{
	if (step->per_table && forward)
		ereport(NOTICE, (errmsg("%s (%d tables)", step->name, tables)));
	else if (step->per_table)
		ereport(NOTICE, (errmsg("undo %s (%d tables)", step->name, tables)));
	else if (forward)
		ereport(NOTICE, (errmsg_internal("%s", step->name)));
	else
		ereport(NOTICE, (errmsg("undo %s", step->name)));
}

/* run_item runs a step for one table, again and again while a lock is not to be had. */
static ErrorData *
run_item(MtTransition *transition, const MtStep *step, MtRelation *relation, bool forward)
{
	TimestampTz deadline = GetCurrentTimestamp() +
		mt_option_microseconds(transition->migration->id, "attach_timeout");
	long		wait = FIRST_RETRY_MS;

	for (;;)
	{
		ErrorData  *error = run_protected(transition, step->name, relation, forward ? step->run : step->undo,
										  forward ? "done" : "undone");

		if (error == NULL || !mt_error_is_lock(error) || GetCurrentTimestamp() >= deadline)
			return error;
		if ((error = wait_protected(transition, step, relation, error, wait)) != NULL)
			return error;
		wait = Min(wait * 2, LAST_RETRY_MS);
	}
}

/* run_protected runs one action and its line of the journal in a transaction; returns its error. */
static ErrorData *
run_protected(MtTransition *transition, const char *name, MtRelation *relation, MtAction action,
			  const char *outcome)
{
	ResourceOwner owner = CurrentResourceOwner;
	TimestampTz started = GetCurrentTimestamp();
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(transition->context);
	PG_TRY();
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		action(transition, relation);
		if (outcome != NULL)
			mt_journal_step(transition->id, transition->migration, name,
							relation ? quote_qualified_identifier(relation->schema, relation->name) : NULL,
							outcome, started);
		PopActiveSnapshot();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(transition->context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	CurrentResourceOwner = owner;
	mt_xact_next();
	MemoryContextSwitchTo(transition->context);
	return error;
}

/* wait_action waits on the latch; it is interrupted like any statement. */
static long wait_ms;

static void
wait_action(MtTransition *transition, MtRelation *relation)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* wait_protected tells who stands in the way, and waits with nothing held. */
static ErrorData *
wait_protected(MtTransition *transition, const MtStep *step, MtRelation *relation, ErrorData *obstacle, long wait)
{
	if (wait > FIRST_RETRY_MS * 2 && relation == NULL)
		ereport(NOTICE,
				(errmsg("%s waits: %s", step->name, obstacle->message),
				 obstacle->detail ? errdetail_internal("%s", obstacle->detail) : 0));
	else if (wait > FIRST_RETRY_MS * 2)
	{
		char	   *blockers = strcmp(step->side, "source") == 0 ?
			mt_lock_blockers(relation->relid, ShareRowExclusiveLock) :
			NULL;

		ereport(NOTICE,
				(errmsg("%s waits for a lock on %s", step->name,
						quote_qualified_identifier(relation->schema, relation->name)),
				 blockers ? errdetail("It is held by %s.", blockers) : 0));
	}
	wait_ms = wait;
	return run_protected(transition, step->name, relation, wait_action, NULL);
}

static void
end_transition(MtTransition *transition, const char *outcome, MtPhase phase, const char *error, bool settled)
{
	mt_journal_end(transition->id, transition->migration, outcome, phase, error, settled,
				   transition->rehearsal != NULL);
	mt_xact_next();
	MemoryContextSwitchTo(transition->context);
}

/*
 * handle_failure undoes what was done, and raises the error that made it necessary.
 *
 * What was itself the undoing of something, or cannot be undone, stays open as it is; so does a way back without
 * the target, which would close the source again.
 */
static void
handle_failure(MtTransition *transition, const MtMove *move, bool forward, ErrorData *error)
{
	char	   *text = mt_error_text(error);
	ErrorData  *second = NULL;
	const char *call = forward ? "advance" : "revert";

	if (transition->undoing || transition->target_lost || move->final)
	{
		end_transition(transition, "failed", transition->from, text, false);
		error->hint = psprintf("CALL migrate_tiers.%s('%s') goes on when the cause is mended.", call,
							   mt_phase_name(transition->to));
		ThrowErrorData(error);
	}
	ereport(NOTICE, (errmsg("a step failed; what was done is undone"), errdetail_internal("%s", text)));
	second = run_steps(transition, move, !forward);
	end_transition(transition, second ? "failed" : "undone", transition->from,
				   second ? psprintf("%s; and undoing it: %s", text, mt_error_text(second)) : text, second == NULL);
	if (second == NULL)
		error->hint = error->hint ? error->hint :
			psprintf("Nothing has changed: the migration is in phase %s.", mt_phase_name(transition->from));
	else
		error->hint = psprintf("It could not be undone now: CALL migrate_tiers.%s('%s') finishes it"
							   " when the cause is mended, migrate_tiers.%s('%s') undoes it.",
							   call, mt_phase_name(transition->to), forward ? "revert" : "advance",
							   mt_phase_name(transition->from));
	ThrowErrorData(error);
}
