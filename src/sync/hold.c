/*
 * hold.c
 *	  Locks rows before a tick is applied: see hold.h.
 */
#include "sync/hold.h"

#include "utils/memutils.h"

#include "base/settings.h"
#include "sync/side.h"

/*
 * After so many attempts all rows that both sides have written are locked, not only those written all the time: unless
 * they are so many that applications would wait long for the first.
 */
#define HOLD_ALL_AFTER 5

/*
 * mt_hold locks rows of the receiver before the tick is applied.
 *
 * Nobody writes them from here to the tick's end, so what is decided about them holds.
 */
void
mt_hold(MtMerge *merge)
{
	MemoryContext previous = MemoryContextSwitchTo(merge->context);
	bool		all = merge->attempts > HOLD_ALL_AFTER && list_length(merge->decisions) <= mt_small_tick;
	ListCell   *cell;

	foreach(cell, merge->decisions)
	{
		MtDecision *decision = (MtDecision *) lfirst(cell);

		if (decision->hot || all)
			mt_side_lock(merge->sync, decision->table, merge->forward ? MT_SIDE_TARGET : MT_SIDE_SOURCE,
						 decision->bytes, decision->length);
	}
	if (!mt_merge_look(merge))
		mt_merge_decide(merge);
	/* The look was the last in other ticks; here all is still to be written. */
	if (merge->forward)
		mt_remote_run(merge->sync->remote, "SET LOCAL enable_seqscan = on");
	MemoryContextSwitchTo(previous);
}
