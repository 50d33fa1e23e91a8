/*
 * merge.c
 *	  Finds the keys that both sides changed: see merge.h.  decide.c decides.
 */
#include "sync/merge.h"

#include "utils/memutils.h"

#include "sync/link.h"
#include "sync/look.h"

/* How often one tick is applied again, since the receiver's applications have changed its rows. */
#define MOST_ATTEMPTS 20

static void consider_table(MtMerge *merge, MtTable *table);

/* mt_merge_begin begins to watch a tick. */
MtMerge *
mt_merge_begin(MtSync *sync, bool forward, Snapshot snapshot)
{
	MtMerge    *merge = palloc0(sizeof(MtMerge));

	merge->sync = sync;
	merge->forward = forward;
	merge->context = CurrentMemoryContext;
	merge->snapshot = snapshot;
	return merge;
}

/* mt_merge_look looks into the receiver's queue for keys of the tick. */
bool
mt_merge_look(MtMerge *merge)
{
	MemoryContext previous = MemoryContextSwitchTo(merge->context);
	HASH_SEQ_STATUS status;
	MtTable    *table;

	merge->undecided = false;
	if (merge->forward ? mt_look_target(merge, false) : mt_look_source(merge, false))
	{
		hash_seq_init(&status, merge->sync->tables);
		while ((table = hash_seq_search(&status)) != NULL)
			if (table->both.unsent != NULL && mt_table_touched(table))
				consider_table(merge, table);
	}
	MemoryContextSwitchTo(previous);
	return !merge->undecided;
}

/* mt_merge_decide_again decides, unless the tick was applied too often already. */
void
mt_merge_decide_again(MtMerge *merge)
{
	if (++merge->attempts > MOST_ATTEMPTS)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("the rows of a tick are changed on the other side faster than it can be applied")));
	mt_merge_decide(merge);
}

/* consider_table compares the tick's keys of a table with what the receiver holds. */
static void
consider_table(MtMerge *merge, MtTable *table)
{
	MtUnsent   *unsent = table->both.unsent;
	MtKeyCursor cursor = {0, 0};
	const char *bytes;
	int			length;
	ListCell   *cell;

	if (unsent->all == NIL && unsent->truncates.count == 0)
		return;
	while (table->keys != NULL && mt_keys_next(table->keys, &cursor, &bytes, &length))
	{
		MtUnsentKey *key = mt_unsent_find(unsent, bytes, length);

		if (key != NULL || unsent->truncates.count > 0)
			(void) mt_merge_decision(merge, table, bytes, length, key ? &key->writers : NULL);
	}
	/* A TRUNCATE of the sender concerns every row that the receiver has changed. */
	if (table->truncations != NIL)
		foreach(cell, unsent->all)
		{
			MtUnsentKey *key = (MtUnsentKey *) lfirst(cell);

			(void) mt_merge_decision(merge, table, key->bytes, key->length, &key->writers);
		}
}

/*
 * mt_merge_decision notes a key for decision, unless it was decided about the same transactions.
 *
 * Who truncated the receiver's table wrote this row, too, whether or not it has an entry of its own.
 */
MtDecision *
mt_merge_decision(MtMerge *merge, MtTable *table, const char *bytes, int length, const MtWriters *writers)
{
	const MtWriters *truncates = &table->both.unsent->truncates;
	MtWriters	all = {NULL};
	MtUnsentKey *known;
	MtDecision *decision;

	if (writers != NULL)
		mt_writers_add_all(&all, writers, merge->context);
	mt_writers_add_all(&all, truncates, merge->context);
	if (table->both.known == NULL)
		table->both.known = mt_unsent_create(table, merge->context);
	known = mt_unsent_enter(table->both.known, bytes, length);
	decision = (MtDecision *) known->data;
	if (decision != NULL && decision->by_truncate == (writers == NULL) && mt_writers_equal(&decision->writers, &all))
		return decision;
	if (decision != NULL && decision->decided)
		decision->hot = merge->hot = true;
	if (decision == NULL)
	{
		decision = palloc0(sizeof(MtDecision));
		decision->table = table;
		decision->bytes = known->bytes;
		decision->length = length;
		known->data = decision;
		merge->decisions = lappend(merge->decisions, decision);
	}
	decision->writers = all;
	decision->by_truncate = writers == NULL;
	decision->decided = false;
	merge->undecided = true;
	return decision;
}
