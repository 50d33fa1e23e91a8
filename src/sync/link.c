/*
 * link.c
 *	  Rows that cannot stand together: see link.h.  Which they are is found by trial (trial.c).
 */
#include "sync/link.h"

#include "executor/spi.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "endpoint/statements_queue.h"
#include "sync/look.h"
#include "sync/side.h"
#include "sync/trial.h"

static MtDecision *get_decision(MtMerge *merge, MtTable *table, const MtKeyBytes *key);

/* mt_link_find finds rows that cannot stand together, and links their keys. */
bool
mt_link_find(MtMerge *merge)
{
	MemoryContext previous = MemoryContextSwitchTo(merge->context);
	HASH_SEQ_STATUS status;
	MtTable    *table;
	bool		found = false;

	if (merge->forward ? mt_look_target(merge, true) : mt_look_source(merge, true))
	{
		hash_seq_init(&status, merge->sync->tables);
		while ((table = hash_seq_search(&status)) != NULL)
			if (table->keys != NULL && table->other_unique && table->both.unsent != NULL)
				found = mt_trial_run(merge, table) || found;
	}
	MemoryContextSwitchTo(previous);
	return found;
}

/* mt_link_keys makes a row of the tick and another one to be decided together, and brings that into the tick. */
bool
mt_link_keys(MtMerge *merge, MtTable *table, const MtKeyBytes *key, const MtKeyBytes *other)
{
	MemoryContext previous = MemoryContextSwitchTo(merge->context);
	MtDecision *one = get_decision(merge, table, key);
	MtDecision *two = get_decision(merge, table, other);
	bool		linked = one->group == 0 || one->group != two->group;
	int			group = one->group ? one->group : two->group;
	int			joins = two->group;
	ListCell   *cell;

	if (group == 0)
		group = ++merge->groups;
	one->group = two->group = group;
	if (joins != 0)
		foreach(cell, merge->decisions)
			if (((MtDecision *) lfirst(cell))->group == joins)
				((MtDecision *) lfirst(cell))->group = group;
	two->joined = mt_keys_add(table->keys, two->bytes, two->length) || two->joined;
	one->decided = two->decided = false;
	MemoryContextSwitchTo(previous);
	return linked;
}

static MtDecision *
get_decision(MtMerge *merge, MtTable *table, const MtKeyBytes *key)
{
	MtUnsentKey *unsent = mt_unsent_find(table->both.unsent, key->bytes, key->length);

	return mt_merge_decision(merge, table, key->bytes, key->length, unsent ? &unsent->writers : NULL);
}

/* mt_link_decide gives all keys of a group the same winner: who wrote last of all, or the fixed side. */
void
mt_link_decide(MtMerge *merge)
{
	ListCell   *cell;
	ListCell   *inner;

	for (int group = 1; group <= merge->groups; group++)
	{
		MtDecision	all = {.table = NULL};

		foreach(cell, merge->decisions)
		{
			MtDecision *decision = (MtDecision *) lfirst(cell);

			if (decision->group != group)
				continue;
			all.table = decision->table;
			all.bytes = decision->bytes;
			all.length = decision->length;
			all.sender_written = Max(all.sender_written, decision->sender_written);
			all.writers.newest = Max(all.writers.newest, decision->writers.newest);
		}
		if (all.table == NULL)
			continue;
		all.sender_wins = mt_merge_sender_wins(merge, &all);
		foreach(inner, merge->decisions)
			if (((MtDecision *) lfirst(inner))->group == group)
				mt_merge_settle((MtDecision *) lfirst(inner), all.sender_wins);
	}
}

/* mt_link_note notes a key in the receiver's queue. */
void
mt_link_note(MtMerge *merge, const MtDecision *decision)
{
	MtSync	   *sync = merge->sync;
	MtTable    *table = decision->table;
	MtQueue		queue;
	StringInfoData entry;

	if (merge->forward)
	{
		mt_remote_stream(sync->remote, mt_sql_queue_note(sync->migration, table->relation, table->columns),
						 table->key.count, mt_side_key(table, decision->bytes, decision->length, 0), NULL, NULL);
		return;
	}
	initStringInfo(&entry);
	mt_entry_append(&entry, table->id, MT_ENTRY_KEY, decision->bytes, decision->length);
	if (!mt_queue_load(sync->migration->id, &queue))
		elog(ERROR, "migration %d has no queue", sync->migration->id);
	(void) mt_queue_insert(&queue, entry.data, entry.len);
}
