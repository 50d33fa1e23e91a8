/*
 * trial.c
 *	  Asks the receiver by trial which rows cannot stand together: see trial.h.
 *
 * What refuses a row may be an index over columns or expressions, a partial one,
 * or an exclusion constraint; the server itself is asked.  In a
 * transaction of the receiver that is rolled back, all rows of the tick go, and
 * those that the sender has are put in: many together, one by one where these are refused.  One that is refused is
 * tried again without the rows that the receiver has unsent; which of those were in the
 * way is found by halves, each half taken away from what is left of the one before.
 */
#include "sync/trial.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/xact.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements.h"
#include "sync/here.h"
#include "sync/side.h"

/* How many deletions are on their way together. */
#define WINDOW_ROWS 256

typedef struct MtTried
{
	MtKeyBytes	key;
	MtField    *row;			/* of the sender, in the columns' forms; NULL: absent */
} MtTried;

/* A trial under way. */
typedef struct MtTrial
{
	MtMerge    *merge;
	MtTable    *table;
	MtKeyBytes *candidates;		/* keys that may be in the way */
	int			count;
	List	   *rows;			/* MtTried: what is put in */
	MemoryContext row_context;	/* of these */
	MemoryContext window;		/* of statements on their way */
	bool		keep;			/* the rows stay, if they can */
	bool		linked;			/* something was found */
} MtTrial;

/* Candidates that are taken away for a while, and those that are looked at if the row cannot stand then. */
typedef struct MtPart
{
	MtTrial    *trial;
	int			from;
	int			to;
	int			first;
	int			last;
	bool		stands;
} MtPart;

static void list_candidates(MtTrial *trial);
static void try_rows(void *arg);
static List *next_rows(MtTrial *trial, MtKeyCursor *cursor, int most);
static void read_rows(MtTrial *trial, List *rows);
static void try_row(MtTrial *trial, MtTried *tried);
static void delete_tick(MtTrial *trial);
static void find_in_way(MtTrial *trial, int first, int last);
static bool stands_without(MtTrial *trial, int from, int to, int first, int last);
static void look_without(void *arg);
static bool stands(MtTrial *trial, bool keep);
static void put_in(void *arg);
static ErrorData *try_both(MtTrial *trial, void (*action)(void *arg), void *arg);
static void delete_candidates(MtTrial *trial, int from, int to);
static void begin_deleting(MtTrial *trial);
static void delete_row(MtTrial *trial, const MtKeyBytes *key, int number);
static void end_deleting(MtTrial *trial);
static void insert_rows(MtTrial *trial);
static bool is_refusal(int sqlerrcode);

/* mt_trial_run tries the rows of one table. */
bool
mt_trial_run(MtMerge *merge, MtTable *table)
{
	MtTrial		trial = {.merge = merge, .table = table};
	MtRemote   *remote = merge->sync->remote;
	ErrorData  *error;

	list_candidates(&trial);
	if (trial.count == 0)
		return false;
	trial.row_context = AllocSetContextCreate(merge->context, "migrate_tiers tried row", ALLOCSET_DEFAULT_SIZES);
	trial.window = AllocSetContextCreate(merge->context, "migrate_tiers trial", ALLOCSET_DEFAULT_SIZES);
	if (merge->forward)
	{
		mt_remote_run(remote, "BEGIN; " MT_MERGE_LOCK_TIMEOUT);
		mt_remote_prepare(remote, table->delete, mt_sql_delete(table->relation, table->columns));
		mt_remote_prepare(remote, table->insert[0], mt_sql_insert(table->relation, table->columns, 1));
		error = mt_xact_try(try_rows, &trial);
		mt_remote_run(remote, "ROLLBACK");
	}
	else
		error = mt_xact_try(try_rows, &trial);
	/* It always ends with the error that rolls a local trial back. */
	if (error->sqlerrcode != ERRCODE_SUCCESSFUL_COMPLETION)
		ReThrowError(error);
	FreeErrorData(error);
	MemoryContextDelete(trial.row_context);
	MemoryContextDelete(trial.window);
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

/* try_rows puts the sender's rows in, many at once; it ends with an error in any case. */
static void
try_rows(void *arg)
{
	MtTrial    *trial = (MtTrial *) arg;
	MtKeyCursor cursor = {0, 0};
	int			together = MT_TOGETHER_FIRST;
	List	   *rows;

	delete_tick(trial);
	MemoryContextSwitchTo(trial->row_context);
	while ((rows = next_rows(trial, &cursor, together)) != NIL)
	{
		ListCell   *cell;

		trial->rows = rows;
		if (!stands(trial, true))
			foreach(cell, rows)
				try_row(trial, (MtTried *) lfirst(cell));
		together = mt_side_together(together, MemoryContextMemAllocated(trial->row_context, true));
		MemoryContextReset(trial->row_context);
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR, (errcode(ERRCODE_SUCCESSFUL_COMPLETION), errmsg_internal("end of a trial")));
}

/* next_rows reads the sender's rows of some keys; NIL: there are no more keys. */
static List *
next_rows(MtTrial *trial, MtKeyCursor *cursor, int most)
{
	MtTable    *table = trial->table;
	List	   *rows = NIL;
	MtKeyBytes	key;

	while (list_length(rows) < most && mt_keys_next(table->keys, cursor, &key.bytes, &key.length))
		if (mt_merge_keeps(table, key.bytes, key.length))
		{
			MtTried    *tried = palloc0(sizeof(MtTried));

			/* Keys may move where links bring others into the tick. */
			tried->key = (MtKeyBytes) {memcpy(palloc(key.length), key.bytes, key.length), key.length};
			rows = lappend(rows, tried);
		}
	if (rows != NIL)
		read_rows(trial, rows);
	return rows;
}

static void
read_rows(MtTrial *trial, List *rows)
{
	MtSync	   *sync = trial->merge->sync;
	MtTable    *table = trial->table;
	ListCell   *cell;

	if (!trial->merge->forward)
	{
		mt_side_prepare(sync, table, MT_SIDE_ROW);
		mt_pipeline_begin(sync->remote);
	}
	foreach(cell, rows)
	{
		MtTried    *tried = (MtTried *) lfirst(cell);

		if (trial->merge->forward)
			tried->row = mt_side_row(sync, table, MT_SIDE_SOURCE, tried->key.bytes, tried->key.length);
		else
			mt_side_ask(sync, table, MT_SIDE_ROW, tried->key.bytes, tried->key.length, &tried->row);
	}
	if (!trial->merge->forward)
		(void) mt_pipeline_finish(sync->remote);
}

/* try_row puts one row in, and finds what is in its way. */
static void
try_row(MtTrial *trial, MtTried *tried)
{
	trial->rows = list_make1(tried);
	if (tried->row != NULL && !stands(trial, true) && stands_without(trial, 0, trial->count, 0, 0))
		find_in_way(trial, 0, trial->count);
}

/* delete_tick takes all rows of the tick away. */
static void
delete_tick(MtTrial *trial)
{
	MtTable    *table = trial->table;
	MtKeyCursor cursor = {0, 0};
	MtKeyBytes	key;
	int			number = 0;

	begin_deleting(trial);
	while (mt_keys_next(table->keys, &cursor, &key.bytes, &key.length))
		if (mt_merge_keeps(table, key.bytes, key.length))
			delete_row(trial, &key, ++number);
	end_deleting(trial);
}

/*
 * find_in_way links the rows among [first, last) that are in the way; at least one is, and all other candidates are
 * away.  Each is taken away about twice, whatever their number.
 */
static void
find_in_way(MtTrial *trial, int first, int last)
{
	int			middle = (first + last) / 2;

	if (last - first == 1)
	{
		if (mt_link_keys(trial->merge, trial->table, &((MtTried *) linitial(trial->rows))->key,
						 &trial->candidates[first]))
			trial->linked = true;
		return;
	}
	(void) stands_without(trial, middle, last, first, middle);
	(void) stands_without(trial, first, middle, middle, last);
}

/* stands_without says whether the row can stand without [from, to); else it links those of [first, last) in the way. */
static bool
stands_without(MtTrial *trial, int from, int to, int first, int last)
{
	MtPart		part = {trial, from, to, first, last, false};
	ErrorData  *error = try_both(trial, look_without, &part);

	if (error == NULL || error->sqlerrcode != ERRCODE_SUCCESSFUL_COMPLETION)
		ReThrowError(error);
	return part.stands;
}

/* look_without ends with an error, so that what it took away is there again. */
static void
look_without(void *arg)
{
	MtPart	   *part = (MtPart *) arg;

	delete_candidates(part->trial, part->from, part->to);
	part->stands = stands(part->trial, false);
	if (!part->stands && part->first < part->last)
		find_in_way(part->trial, part->first, part->last);
	ereport(ERROR, (errcode(ERRCODE_SUCCESSFUL_COMPLETION), errmsg_internal("end of a look")));
}

/* stands says whether the rows can stand with what is there. */
static bool
stands(MtTrial *trial, bool keep)
{
	ErrorData  *error;

	trial->keep = keep;
	error = try_both(trial, put_in, trial);
	if (error != NULL && error->sqlerrcode != ERRCODE_SUCCESSFUL_COMPLETION && !is_refusal(error->sqlerrcode))
		ReThrowError(error);
	return error == NULL || error->sqlerrcode == ERRCODE_SUCCESSFUL_COMPLETION;
}

static void
put_in(void *arg)
{
	MtTrial    *trial = (MtTrial *) arg;

	insert_rows(trial);
	if (!trial->keep)
		ereport(ERROR, (errcode(ERRCODE_SUCCESSFUL_COMPLETION), errmsg_internal("end of a trial")));
}

/* try_both runs an action in a subtransaction here and, where the receiver is the target, there. */
static ErrorData *
try_both(MtTrial *trial, void (*action)(void *arg), void *arg)
{
	MtRemote   *remote = trial->merge->sync->remote;
	ErrorData  *error;

	if (!trial->merge->forward)
		return mt_xact_try(action, arg);
	mt_remote_run(remote, "SAVEPOINT mt_trial");
	error = mt_xact_try(action, arg);
	/* One of the same name outside is to be found again. */
	mt_remote_run(remote, error ? "ROLLBACK TO SAVEPOINT mt_trial; RELEASE SAVEPOINT mt_trial" : "RELEASE SAVEPOINT mt_trial");
	return error;
}

static void
delete_candidates(MtTrial *trial, int from, int to)
{
	begin_deleting(trial);
	for (int i = from; i < to; i++)
		delete_row(trial, &trial->candidates[i], i - from + 1);
	end_deleting(trial);
}

static void
begin_deleting(MtTrial *trial)
{
	if (trial->merge->forward)
		mt_pipeline_begin(trial->merge->sync->remote);
}

static void
delete_row(MtTrial *trial, const MtKeyBytes *key, int number)
{
	MtSync	   *sync = trial->merge->sync;
	MtTable    *table = trial->table;
	MemoryContext previous = MemoryContextSwitchTo(trial->window);

	if (trial->merge->forward)
		mt_pipeline_execute(sync->remote, table->delete, table->key.count,
							mt_side_key(table, key->bytes, key->length, 0));
	else
		mt_here_delete(sync, table, key->bytes, key->length);
	MemoryContextSwitchTo(previous);
	if (number % WINDOW_ROWS != 0)
		return;
	end_deleting(trial);
	CHECK_FOR_INTERRUPTS();
	begin_deleting(trial);
}

static void
end_deleting(MtTrial *trial)
{
	if (trial->merge->forward)
		(void) mt_pipeline_finish(trial->merge->sync->remote);
	MemoryContextReset(trial->window);
}

static void
insert_rows(MtTrial *trial)
{
	MtSync	   *sync = trial->merge->sync;
	MtTable    *table = trial->table;
	ListCell   *cell;

	if (trial->merge->forward)
		mt_pipeline_begin(sync->remote);
	foreach(cell, trial->rows)
	{
		MtField    *row = ((MtTried *) lfirst(cell))->row;

		if (row == NULL)
			continue;
		if (!trial->merge->forward)
		{
			mt_here_insert(sync, table, row);
			continue;
		}
		mt_pipeline_execute(sync->remote, table->insert[0], table->columns->count, row);
	}
	if (trial->merge->forward)
		(void) mt_pipeline_finish(sync->remote);
}

static bool
is_refusal(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_UNIQUE_VIOLATION || sqlerrcode == ERRCODE_EXCLUSION_VIOLATION;
}
