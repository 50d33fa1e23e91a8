/*
 * hold.c
 *	  Locks rows before a tick is applied: see hold.h.
 */
#include "sync/hold.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "sync/apply.h"
#include "sync/side.h"

static void lock_hot(MtMerge *merge);
static void lock_all(MtMerge *merge);

/*
 * mt_hold locks rows of the receiver before the tick is applied.
 *
 * Nobody writes them from here to the tick's end, so what is decided about them holds.
 */
void
mt_hold(MtMerge *merge)
{
	MemoryContext previous = MemoryContextSwitchTo(merge->context);

	if (merge->attempts >= MT_HOLD_ALL_AFTER)
		lock_all(merge);
	else
		lock_hot(merge);
	if (!mt_merge_look(merge))
		mt_merge_decide(merge);
	/* The look was the last in other ticks; here all is still to be written. */
	if (merge->forward)
		mt_remote_run(merge->sync->remote, "SET LOCAL enable_seqscan = on");
	MemoryContextSwitchTo(previous);
}

static void
lock_hot(MtMerge *merge)
{
	ListCell   *cell;

	foreach(cell, merge->decisions)
	{
		MtDecision *decision = (MtDecision *) lfirst(cell);

		if (decision->hot)
			mt_side_lock(merge->sync, decision->table, merge->forward ? MT_SIDE_TARGET : MT_SIDE_SOURCE,
						 decision->bytes, decision->length);
	}
}

static void
lock_all(MtMerge *merge)
{
	MtSync	   *sync = merge->sync;
	HASH_SEQ_STATUS status;
	MtTable    *table;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->keys != NULL && mt_table_touched(table))
			(merge->forward ? mt_apply_lock : mt_reverse_lock)(sync, table);
	lock_hot(merge);
}
