/*
 * decide.c
 *	  Decides which row of a key wins that both sides changed: see merge.h.
 *
 * An application that writes both sides makes every row such a row.  So the target is asked
 * for many rows in one round trip, and then, of those that differ, for what is kept of them.
 */
#include "sync/merge.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/errors.h"
#include "catalog/option.h"
#include "endpoint/pipeline.h"
#include "sync/link.h"
#include "sync/look.h"
#include "sync/side.h"

/* A key whose rows are looked at. */
typedef struct MtBothRows
{
	MtDecision *decision;
	MtField    *source;
	MtField    *target;
	bool		concerned;		/* both sides have really changed the row */
} MtBothRows;

static List *next_undecided(const List *decisions, int *at, int most);
static void decide_batch(MtMerge *merge, List *batch);
static void read_rows(MtSync *sync, List *batch);
static void read_images(MtMerge *merge, List *batch);
static void set_images(MtMerge *merge, MtDecision *decision, char *source, char *target);
static bool is_concerned(MtMerge *merge, MtDecision *decision, bool sender_present, bool receiver_present);
static bool meets_any(MtMerge *merge, MtDecision *decision, MtSide side, const List *conditions);
static bool equal_rows(const MtTable *table, const MtField *one, const MtField *other);
static bool source_wins(MtMerge *merge, const MtDecision *decision);
static void set_skipped(MtMerge *merge);

/* mt_merge_decide decides what was found. */
void
mt_merge_decide(MtMerge *merge)
{
	MemoryContext previous = MemoryContextSwitchTo(merge->context);
	MemoryContext rows = AllocSetContextCreate(merge->context, "migrate_tiers rows of both sides", ALLOCSET_DEFAULT_SIZES);
	int			together = MT_TOGETHER_FIRST;
	int			at = 0;

	mt_look_sender_times(merge);
	if (!merge->forward)
		PushActiveSnapshot(GetLatestSnapshot());
	while (at < list_length(merge->decisions))
	{
		List	   *batch;

		MemoryContextSwitchTo(rows);
		batch = next_undecided(merge->decisions, &at, together);
		if (batch != NIL)
			decide_batch(merge, batch);
		together = mt_side_together(together, MemoryContextMemAllocated(rows, true));
		MemoryContextReset(rows);
	}
	MemoryContextSwitchTo(merge->context);
	MemoryContextDelete(rows);
	if (!merge->forward)
		PopActiveSnapshot();
	if (merge->groups > 0)
		mt_link_decide(merge);
	set_skipped(merge);
	MemoryContextSwitchTo(previous);
}

/* next_undecided returns some keys that are not decided, from a place of the list on. */
static List *
next_undecided(const List *decisions, int *at, int most)
{
	List	   *batch = NIL;

	for (; *at < list_length(decisions) && list_length(batch) < most; (*at)++)
	{
		MtDecision *decision = (MtDecision *) list_nth(decisions, *at);
		MtBothRows *both;

		if (decision->decided)
			continue;
		both = palloc0(sizeof(MtBothRows));
		both->decision = decision;
		batch = lappend(batch, both);
	}
	return batch;
}

/* decide_batch reads both rows of keys and says which one wins; of a group, that is said for all later. */
static void
decide_batch(MtMerge *merge, List *batch)
{
	ListCell   *cell;

	read_rows(merge->sync, batch);
	foreach(cell, batch)
	{
		MtBothRows *both = (MtBothRows *) lfirst(cell);
		MtDecision *decision = both->decision;
		MtField    *sent = merge->forward ? both->source : both->target;
		MtField    *there = merge->forward ? both->target : both->source;

		both->concerned = decision->group > 0 || is_concerned(merge, decision, sent != NULL, there != NULL);
		decision->sender_row = decision->receiver_row = NULL;
		decision->differs = both->concerned && !equal_rows(decision->table, sent, there);
	}
	read_images(merge, batch);
	foreach(cell, batch)
	{
		MtBothRows *both = (MtBothRows *) lfirst(cell);
		MtDecision *decision = both->decision;

		decision->decided = true;
		if (decision->group == 0)
			mt_merge_settle(decision, !decision->differs || mt_merge_sender_wins(merge, decision));
		decision->cancel = decision->cancel && both->concerned;
	}
}

/* read_rows reads the rows of both sides. */
static void
read_rows(MtSync *sync, List *batch)
{
	ListCell   *cell;

	foreach(cell, batch)
		mt_side_prepare(sync, ((MtBothRows *) lfirst(cell))->decision->table, MT_SIDE_ROW);
	mt_pipeline_begin(sync->remote);
	foreach(cell, batch)
	{
		MtBothRows *both = (MtBothRows *) lfirst(cell);
		MtDecision *decision = both->decision;

		mt_side_ask(sync, decision->table, MT_SIDE_ROW, decision->bytes, decision->length, &both->target);
	}
	(void) mt_pipeline_finish(sync->remote);
	foreach(cell, batch)
	{
		MtBothRows *both = (MtBothRows *) lfirst(cell);
		MtDecision *decision = both->decision;

		both->source = mt_side_row(sync, decision->table, MT_SIDE_SOURCE, decision->bytes, decision->length);
	}
}

/* read_images reads what is kept of rows that differ. */
static void
read_images(MtMerge *merge, List *batch)
{
	MtSync	   *sync = merge->sync;
	MtField   **target = palloc0(sizeof(MtField *) * list_length(batch));
	bool		any = false;
	ListCell   *cell;

	foreach(cell, batch)
	{
		MtDecision *decision = ((MtBothRows *) lfirst(cell))->decision;

		if (!decision->differs)
			continue;
		mt_side_prepare(sync, decision->table, MT_SIDE_IMAGE);
		any = true;
	}
	if (!any)
		return;
	mt_pipeline_begin(sync->remote);
	foreach(cell, batch)
	{
		MtDecision *decision = ((MtBothRows *) lfirst(cell))->decision;

		if (decision->differs)
			mt_side_ask(sync, decision->table, MT_SIDE_IMAGE, decision->bytes, decision->length,
						&target[foreach_current_index(cell)]);
	}
	(void) mt_pipeline_finish(sync->remote);
	foreach(cell, batch)
	{
		MtDecision *decision = ((MtBothRows *) lfirst(cell))->decision;
		MtField    *there = target[foreach_current_index(cell)];

		if (decision->differs)
			set_images(merge, decision,
					   mt_side_image(sync, decision->table, decision->bytes, decision->length),
					   there ? (char *) there[0].data : NULL);
	}
}

/* set_images keeps what is known of two rows for as long as the decision. */
static void
set_images(MtMerge *merge, MtDecision *decision, char *source, char *target)
{
	char	   *here = source ? MemoryContextStrdup(merge->context, source) : NULL;
	char	   *there = target ? MemoryContextStrdup(merge->context, target) : NULL;

	decision->sender_row = merge->forward ? here : there;
	decision->receiver_row = merge->forward ? there : here;
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
		merge->policy = MemoryContextStrdup(merge->context, mt_option_text(migration->id, "conflict_policy"));
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
