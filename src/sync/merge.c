/*
 * merge.c
 *	  Finds the keys that both sides changed, and decides: see merge.h.
 */
#include "sync/merge.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "catalog/option.h"
#include "sync/link.h"
#include "sync/look.h"
#include "sync/side.h"

/* How often one tick is applied again, since the receiver's applications have changed its rows. */
#define MOST_ATTEMPTS 20

static void consider_table(MtMerge *merge, MtTable *table);
static void decide(MtMerge *merge, MtDecision *decision);
static bool is_concerned(MtMerge *merge, MtDecision *decision, bool sender_present, bool receiver_present);
static bool meets_any(MtMerge *merge, MtDecision *decision, MtSide side, const List *conditions);
static bool equal_rows(const MtTable *table, const MtField *one, const MtField *other);
static bool source_wins(MtMerge *merge, const MtDecision *decision);
static void set_skipped(MtMerge *merge);

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

/* mt_merge_decide decides what was found. */
void
mt_merge_decide(MtMerge *merge)
{
	MemoryContext previous = MemoryContextSwitchTo(merge->context);
	ListCell   *cell;

	mt_look_sender_times(merge);
	if (!merge->forward)
		PushActiveSnapshot(GetLatestSnapshot());
	foreach(cell, merge->decisions)
		if (!((MtDecision *) lfirst(cell))->decided)
			decide(merge, (MtDecision *) lfirst(cell));
	if (!merge->forward)
		PopActiveSnapshot();
	if (merge->groups > 0)
		mt_link_decide(merge);
	set_skipped(merge);
	MemoryContextSwitchTo(previous);
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

/* decide reads both rows of a key and says which one wins; of a group, that is said for all later. */
static void
decide(MtMerge *merge, MtDecision *decision)
{
	MtSync	   *sync = merge->sync;
	MtTable    *table = decision->table;
	MtSide		sender = merge->forward ? MT_SIDE_SOURCE : MT_SIDE_TARGET;
	MtSide		receiver = merge->forward ? MT_SIDE_TARGET : MT_SIDE_SOURCE;
	MtField    *sent = mt_side_row(sync, table, sender, decision->bytes, decision->length);
	MtField    *there = mt_side_row(sync, table, receiver, decision->bytes, decision->length);
	bool		concerned = decision->group > 0 || is_concerned(merge, decision, sent != NULL, there != NULL);

	decision->decided = true;
	decision->sender_row = decision->receiver_row = NULL;
	decision->differs = concerned && !equal_rows(table, sent, there);
	if (decision->differs)
	{
		decision->sender_row = mt_side_image(sync, table, sender, decision->bytes, decision->length);
		decision->receiver_row = mt_side_image(sync, table, receiver, decision->bytes, decision->length);
	}
	if (decision->group == 0)
		mt_merge_settle(decision, !decision->differs || mt_merge_sender_wins(merge, decision));
	decision->cancel = decision->cancel && concerned;
}

/*
 * mt_merge_settle says what follows from the winner.
 *
 * Of a group, only rows that are lost are conflicts; and a key that leaves the tick has to come back.
 */
void
mt_merge_settle(MtDecision *decision, bool sender_wins)
{
	char	   *loser = sender_wins ? decision->receiver_row : decision->sender_row;

	decision->sender_wins = sender_wins;
	decision->conflict = decision->differs && (decision->group == 0 || loser != NULL);
	decision->cancel = sender_wins && decision->writers.count > 0;
	decision->note = decision->group > 0 && !sender_wins && decision->writers.count == 0;
}

/*
 * is_concerned says whether both sides have really changed a row, where a TRUNCATE leaves that open.
 *
 * One of the receiver has to do with rows that it does not have any more; one of the sender
 * with rows that it would delete.
 */
static bool
is_concerned(MtMerge *merge, MtDecision *decision, bool sender_present, bool receiver_present)
{
	MtTable    *table = decision->table;
	MtSide		sender = merge->forward ? MT_SIDE_SOURCE : MT_SIDE_TARGET;
	MtSide		receiver = merge->forward ? MT_SIDE_TARGET : MT_SIDE_SOURCE;
	List	   *conditions = NIL;
	ListCell   *cell;

	if (decision->by_truncate)
		return !receiver_present && sender_present &&
			(table->both.unsent->truncated || meets_any(merge, decision, sender, table->both.unsent->conditions));
	if (sender_present || mt_truncation_of_all(table) ||
		(table->keys != NULL && mt_keys_has(table->keys, decision->bytes, decision->length)))
		return true;
	foreach(cell, table->truncations)
		conditions = lappend(conditions, ((MtTruncation *) lfirst(cell))->condition);
	return receiver_present && meets_any(merge, decision, receiver, conditions);
}

static bool
meets_any(MtMerge *merge, MtDecision *decision, MtSide side, const List *conditions)
{
	ListCell   *cell;

	foreach(cell, conditions)
		if (mt_side_meets(merge->sync, decision->table, side, (char *) lfirst(cell), decision->bytes,
						  decision->length))
			return true;
	return false;
}

/* equal_rows compares rows by their bytes: equal contents have equal ones. */
static bool
equal_rows(const MtTable *table, const MtField *one, const MtField *other)
{
	if (one == NULL || other == NULL)
		return one == other;
	for (int i = 0; i < table->columns->count; i++)
	{
		if ((one[i].data == NULL) != (other[i].data == NULL))
			return false;
		if (one[i].data != NULL &&
			(one[i].length != other[i].length || memcmp(one[i].data, other[i].data, one[i].length) != 0))
			return false;
	}
	return true;
}

/* mt_merge_sender_wins applies the policy. */
bool
mt_merge_sender_wins(MtMerge *merge, const MtDecision *decision)
{
	return source_wins(merge, decision) == merge->forward;
}

/* source_wins decides; whichever direction asks, the answer is the same. */
static bool
source_wins(MtMerge *merge, const MtDecision *decision)
{
	const MtMigration *migration = merge->sync->migration;
	const char *policy;
	TimestampTz source = merge->forward ? decision->sender_written : decision->writers.newest;
	TimestampTz target = merge->forward ? decision->writers.newest : decision->sender_written;

	if (merge->policy == NULL)
		merge->policy = mt_option_text(migration->id, "conflict_policy");
	policy = merge->policy;
	if (strcmp(policy, "stop") == 0)
		ereport(ERROR,
				(errcode(MT_ERRCODE_CONFLICT),
				 errmsg("both sides changed one row of table %s",
						quote_qualified_identifier(decision->table->relation->schema, decision->table->relation->name)),
				 errdetail("Its key is %s, and option conflict_policy is \"stop\".",
						   mt_side_key_text(decision->table, decision->bytes, decision->length)),
				 errhint("Make the rows equal on both sides, or choose another policy with migrate_tiers.set_option('conflict_policy', ...).")));
	if (strcmp(policy, "source") == 0)
		return true;
	if (strcmp(policy, "target") == 0)
		return false;
	if (strcmp(policy, "last_write") == 0)
		return source >= target;
	return migration->phase < MT_READ_TARGET;
}

/* set_skipped lists the keys that leave the tick. */
static void
set_skipped(MtMerge *merge)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	ListCell   *cell;

	hash_seq_init(&status, merge->sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		table->both.skip = NULL;
	foreach(cell, merge->decisions)
	{
		MtDecision *decision = (MtDecision *) lfirst(cell);

		if (!decision->decided || decision->sender_wins)
			continue;
		table = decision->table;
		if (table->both.skip == NULL)
			table->both.skip = mt_keys_create(merge->context);
		(void) mt_keys_add(table->both.skip, decision->bytes, decision->length);
	}
}
