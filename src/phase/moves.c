/*
 * moves.c
 *	  The table of moves: see step.h.  A new phase is a row here and a file of
 *	  steps.
 */
#include "phase/step.h"

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

/* mt_transition_remote returns the connection to the target, opened if need be. */
MtRemote *
mt_transition_remote(MtTransition *transition)
{
	MemoryContext previous = MemoryContextSwitchTo(transition->context);

	if (transition->remote == NULL || !mt_remote_usable(transition->remote))
		transition->remote = mt_remote_open(transition->migration);
	MemoryContextSwitchTo(previous);
	return transition->remote;
}
