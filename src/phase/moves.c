/*
 * moves.c
 *	  The table of moves: see step.h.  A new phase is a row here and a file of
 *	  steps.
 */
#include "phase/step.h"

#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/xact.h"
#include "catalog/reverse.h"
#include "endpoint/target.h"
#include "endpoint/twin.h"
#include "phase/transition.h"
#include "phase/wait.h"

typedef struct MtPublication
{
	MtTransition *transition;
	MtPhase		phase;
} MtPublication;

static void open_remote(void *arg);
static void publish(void *arg);

/* mt_move_find finds the move between two phases. */
const MtMove *
mt_move_find(MtPhase one, MtPhase other)
{
	static MtMove moves[] = {
		{MT_PLANNED, MT_SYNCING, mt_steps_sync},
		{MT_SYNCING, MT_DUAL_WRITE, mt_steps_dual},
		{MT_DUAL_WRITE, MT_READ_TARGET, mt_steps_read},
		{MT_READ_TARGET, MT_TARGET_ONLY, mt_steps_only},
		{MT_TARGET_ONLY, MT_FINISHED, mt_steps_finish, .final = true},
	};

	moves[0].count = mt_steps_sync_count;
	moves[1].count = mt_steps_dual_count;
	moves[2].count = mt_steps_read_count;
	moves[3].count = mt_steps_only_count;
	moves[4].count = mt_steps_finish_count;
	for (int i = 0; i < lengthof(moves); i++)
		if ((moves[i].from == one && moves[i].to == other) ||
			(moves[i].from == other && moves[i].to == one))
			return &moves[i];
	return NULL;
}

/* mt_move_hint names the call that could have been meant. */
const char *
mt_move_hint(MtPhase phase, bool advance)
{
	if (phase == MT_FINISHED)
		return "Phase finished is the end; SELECT migrate_tiers.drop_migration() forgets the migration.";
	if (!advance && phase == MT_PLANNED)
		return "There is no phase before planned; migrate_tiers.drop_migration() ends a migration.";
	return psprintf(advance ? "The next phase is %s: CALL migrate_tiers.advance('%s')." :
		"The phase before is %s: CALL migrate_tiers.revert('%s').",
					mt_phase_name(advance ? phase + 1 : phase - 1), mt_phase_name(advance ? phase + 1 : phase - 1));
}

/* mt_transition_remote returns the connection to the target, opened if need be. */
MtRemote *
mt_transition_remote(MtTransition *transition)
{
	MemoryContext previous = MemoryContextSwitchTo(transition->context);

	if (transition->remote == NULL || !mt_remote_usable(transition->remote))
		transition->remote = mt_twin_open(transition->migration);
	MemoryContextSwitchTo(previous);
	return transition->remote;
}

/*
 * mt_transition_meet_target finds out, before anything is done here, whether the target is another server's by now.
 *
 * One that cannot be reached is the affair of the step that needs it; and of a way back that frees the source first,
 * which does not wait for it.
 */
void
mt_transition_meet_target(MtTransition *transition)
{
	ErrorData  *error;

	if (!mt_transition_is_forward(transition->migration, transition->to) && transition->to >= MT_DUAL_WRITE)
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	error = mt_xact_try(open_remote, transition);
	PopActiveSnapshot();
	if (error != NULL && (error->sqlerrcode == MT_ERRCODE_OTHER_SOURCE || error->sqlerrcode == ERRCODE_QUERY_CANCELED))
		ThrowErrorData(error);
}

static void
open_remote(void *arg)
{
	(void) mt_transition_remote((MtTransition *) arg);
}

/*
 * mt_step_carry_conflicts waits until the rows that lost on the target are kept here.  Where nothing goes back any
 * more nothing carries them, either: then it was done before.
 */
void
mt_step_carry_conflicts(MtTransition *transition, MtRelation *relation)
{
	if (mt_migration_by_id(transition->migration->id, false)->reversing)
		mt_wait_conflicts_carried(transition->migration, mt_transition_remote(transition));
}

/* mt_step_describe_carry says so. */
char *
mt_step_describe_carry(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup("wait until every conflict that was found on the target is noted on the source");
}

/*
 * mt_step_publish_back goes on without the target: what it says of the phase is told it again by the next
 * transition, and what it has to send arrives whenever it can be reached.
 */
void
mt_step_publish_back(MtTransition *transition, MtPhase phase)
{
	MtPublication publication = {transition, phase};
	ErrorData  *error = mt_xact_try(publish, &publication);
	TimestampTz received;

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || mt_error_is_lock(error))
		ThrowErrorData(error);
	transition->target_lost = true;
	received = mt_reverse_mark_time(transition->migration->id);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("the target of migration \"%s\" could not be told of phase %s", transition->migration->name,
					mt_phase_name(phase)),
			 errdetail("The source has what was committed there until %s, at least. What it does not have comes when"
					   " the target can be reached again, and is lost with it otherwise. The reason is: %s.",
					   received ? timestamptz_to_str(received) : "an unknown moment", mt_error_text(error)),
			 errhint("Where the target is lost: SELECT migrate_tiers.set_option('forget_target', 'on'),"
					 " migrate_tiers.drop_migration().")));
}

static void
publish(void *arg)
{
	MtPublication *publication = (MtPublication *) arg;

	mt_target_publish_phase(mt_transition_remote(publication->transition), publication->transition->migration,
							publication->phase);
}
