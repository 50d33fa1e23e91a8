/*
 * link.c
 *	  Finds rows that cannot stand together: see link.h.
 *
 * What refuses a row may be an index over columns or expressions, a partial one,
 * or an exclusion constraint; the server itself is asked, by trial.  In a
 * transaction of the receiver that is rolled back, all rows of the tick go, and
 * those that the sender has are put in one by one.  One that is refused is tried
 * again without the rows that the receiver has unsent; which of those were in the
 * way is found by halves.
 */
#include "sync/link.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "base/xact.h"
#include "endpoint/statements.h"
#include "endpoint/statements_queue.h"
#include "sync/here.h"
#include "sync/look.h"
#include "sync/side.h"

typedef struct MtKeyBytes
{
	const char *bytes;
	int			length;
} MtKeyBytes;

/* A trial under way. */
typedef struct MtTrial
{
	MtMerge    *merge;
	MtTable    *table;
	MtKeyBytes *candidates;		/* keys that may be in the way */
	int			count;
	MtKeyBytes	key;			/* of the row that is tried */
	MtField    *row;
	int			first;			/* candidates that stay in: [first, last) */
	int			last;
	bool		linked;			/* something was found */
} MtTrial;

static bool try_table(MtMerge *merge, MtTable *table);
static void list_candidates(MtTrial *trial);
static void try_rows(void *arg);
static void find_in_way(MtTrial *trial, int first, int last);
static bool stands(MtTrial *trial, int first, int last);
static void put_in(void *arg);
static void delete_row(MtTrial *trial, const MtKeyBytes *key);
static void insert_row(MtTrial *trial);
static void link_keys(MtTrial *trial, const MtKeyBytes *other);
static MtDecision *get_decision(MtMerge *merge, MtTable *table, const MtKeyBytes *key);
static bool is_refusal(int sqlerrcode);

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
				found = try_table(merge, table) || found;
	}
	MemoryContextSwitchTo(previous);
	return found;
}

static bool
try_table(MtMerge *merge, MtTable *table)
{
	MtTrial		trial = {.merge = merge, .table = table};
	ErrorData  *error;

	list_candidates(&trial);
	if (trial.count == 0)
		return false;
	if (merge->forward)
	{
		mt_remote_run(merge->sync->remote, "BEGIN; " MT_MERGE_LOCK_TIMEOUT);
		error = mt_xact_try(try_rows, &trial);
		mt_remote_run(merge->sync->remote, "ROLLBACK");
	}
	else
		error = mt_xact_try(try_rows, &trial);
	/* It always ends with the error that rolls a local trial back. */
	if (error->sqlerrcode != ERRCODE_SUCCESSFUL_COMPLETION)
		ReThrowError(error);
	FreeErrorData(error);
	return trial.linked;
}

/* list_candidates lists what the receiver has unsent: only that can be in the way. */
static void
list_candidates(MtTrial *trial)
{
	const List *all = trial->table->both.unsent->all;
	ListCell   *cell;

	trial->candidates = palloc(sizeof(MtKeyBytes) * Max(list_length(all), 1));
	foreach(cell, all)
	{
		const MtUnsentKey *key = (const MtUnsentKey *) lfirst(cell);

		if (mt_keys_has(trial->table->keys, key->bytes, key->length) &&
			mt_merge_keeps(trial->table, key->bytes, key->length))
			continue;
		trial->candidates[trial->count++] = (MtKeyBytes) {key->bytes, key->length};
	}
}

/* try_rows puts the sender's rows in, one by one; it ends with an error in any case. */
static void
try_rows(void *arg)
{
	MtTrial    *trial = (MtTrial *) arg;
	MtTable    *table = trial->table;
	MtSide		sender = trial->merge->forward ? MT_SIDE_SOURCE : MT_SIDE_TARGET;
	MtKeyCursor cursor = {0, 0};
	MtKeyBytes	key;

	while (mt_keys_next(table->keys, &cursor, &key.bytes, &key.length))
		if (mt_merge_keeps(table, key.bytes, key.length))
			delete_row(trial, &key);
	cursor = (MtKeyCursor) {0, 0};
	while (mt_keys_next(table->keys, &cursor, &trial->key.bytes, &trial->key.length))
	{
		if (!mt_merge_keeps(table, trial->key.bytes, trial->key.length))
			continue;
		trial->row = mt_side_row(trial->merge->sync, table, sender, trial->key.bytes, trial->key.length);
		if (trial->row == NULL || stands(trial, 0, trial->count))
			continue;
		if (stands(trial, 0, 0))
			find_in_way(trial, 0, trial->count);
	}
	ereport(ERROR, (errcode(ERRCODE_SUCCESSFUL_COMPLETION), errmsg_internal("end of a trial")));
}

/* find_in_way links the rows among [first, last) that are in the way; at least one is. */
static void
find_in_way(MtTrial *trial, int first, int last)
{
	int			middle = (first + last) / 2;

	if (last - first == 1)
	{
		link_keys(trial, &trial->candidates[first]);
		return;
	}
	if (!stands(trial, first, middle))
		find_in_way(trial, first, middle);
	if (!stands(trial, middle, last))
		find_in_way(trial, middle, last);
}

/* stands says whether the row can stand with the candidates [first, last) and no other; it stays if all are there. */
static bool
stands(MtTrial *trial, int first, int last)
{
	bool		all = first == 0 && last == trial->count;
	ErrorData  *error;

	trial->first = first;
	trial->last = last;
	if (trial->merge->forward)
		mt_remote_run(trial->merge->sync->remote, "SAVEPOINT mt_trial");
	error = mt_xact_try(put_in, trial);
	if (trial->merge->forward)
		mt_remote_run(trial->merge->sync->remote,
					  error != NULL || !all ? "ROLLBACK TO SAVEPOINT mt_trial" : "RELEASE SAVEPOINT mt_trial");
	if (error != NULL && error->sqlerrcode != ERRCODE_SUCCESSFUL_COMPLETION && !is_refusal(error->sqlerrcode))
		ReThrowError(error);
	return error == NULL || error->sqlerrcode == ERRCODE_SUCCESSFUL_COMPLETION;
}

/* put_in takes away all candidates but some, and puts the row in; it is to be undone unless all are there. */
static void
put_in(void *arg)
{
	MtTrial    *trial = (MtTrial *) arg;

	for (int i = 0; i < trial->count; i++)
		if (i < trial->first || i >= trial->last)
			delete_row(trial, &trial->candidates[i]);
	insert_row(trial);
	if (trial->first > 0 || trial->last < trial->count)
		ereport(ERROR, (errcode(ERRCODE_SUCCESSFUL_COMPLETION), errmsg_internal("end of a trial")));
}

static void
delete_row(MtTrial *trial, const MtKeyBytes *key)
{
	MtSync	   *sync = trial->merge->sync;
	MtTable    *table = trial->table;

	if (trial->merge->forward)
		mt_remote_stream(sync->remote, mt_sql_delete(table->relation, table->columns), table->key.count,
						 mt_side_key(table, key->bytes, key->length, 0), NULL, NULL);
	else
		mt_here_delete(sync, table, key->bytes, key->length);
}

static void
insert_row(MtTrial *trial)
{
	MtSync	   *sync = trial->merge->sync;
	MtTable    *table = trial->table;

	if (trial->merge->forward)
	{
		for (int i = 0; i < table->columns->count; i++)
			trial->row[i].binary = table->columns->columns[i].binary;
		mt_remote_stream(sync->remote, mt_sql_insert(table->relation, table->columns, 1), table->columns->count,
						 trial->row, NULL, NULL);
	}
	else
		mt_here_insert(sync, table, trial->row);
}

/* link_keys makes the row that is tried and another one to be decided together, and brings that into the tick. */
static void
link_keys(MtTrial *trial, const MtKeyBytes *other)
{
	MtMerge    *merge = trial->merge;
	MemoryContext previous = MemoryContextSwitchTo(merge->context);
	MtDecision *one = get_decision(merge, trial->table, &trial->key);
	MtDecision *two = get_decision(merge, trial->table, other);
	int			group = one->group ? one->group : two->group;
	int			joins = two->group;
	ListCell   *cell;

	if (group == 0)
		group = ++merge->groups;
	if (one->group == 0 || one->group != two->group)
		trial->linked = true;
	one->group = two->group = group;
	if (joins != 0)
		foreach(cell, merge->decisions)
			if (((MtDecision *) lfirst(cell))->group == joins)
				((MtDecision *) lfirst(cell))->group = group;
	two->joined = mt_keys_add(trial->table->keys, two->bytes, two->length) || two->joined;
	one->decided = two->decided = false;
	MemoryContextSwitchTo(previous);
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

static bool
is_refusal(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_UNIQUE_VIOLATION || sqlerrcode == ERRCODE_EXCLUSION_VIOLATION;
}
