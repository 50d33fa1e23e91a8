/*
 * tick.c
 *	  One round of forward sync: see tick.h.
 *
 * The tick holds one REPEATABLE READ transaction of the source with snapshot S:
 * which keys were changed since the mark, and what their rows are, is read under
 * S.  The target takes all of it and S as its new mark in one transaction.  A
 * crash anywhere repeats a tick, and repeating a tick changes nothing: rows are
 * set to what they are in S, whatever they were.
 *
 * A table joins with the tick that follows its copy: for it every row of the
 * queue counts that S0, the snapshot of its attachment, does not see.
 */
#include "sync/merge.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/settings.h"
#include "catalog/disarmed.h"
#include "sync/apply.h"
#include "sync/cancelled.h"
#include "sync/files.h"

static bool run(MtSync *sync, bool *sent);
static void leave_disarmed(MtSync *sync, Snapshot snapshot);
static void begin_merge(MtSync *sync, Snapshot snapshot);
static bool any_joining(MtSync *sync);
static void collect_row(void *arg, const MtQueueRow *row);
static void count_keys(MtSync *sync);
static void finish_tick(MtSync *sync, Snapshot snapshot, TimestampTz snapshot_time, const char *stored);
static void reset_tables(MtSync *sync);

/* mt_tick_run runs one tick and returns whether anything was sent. */
bool
mt_tick_run(MtSync *sync)
{
	bool		sent;

	while (!run(sync, &sent))
		CHECK_FOR_INTERRUPTS();
	return sent;
}

/* run tries one, and says whether that was it. */
static bool
run(MtSync *sync, bool *sent)
{
	MemoryContext previous;
	bool		done = true;
	Snapshot	snapshot;
	TimestampTz snapshot_time;
	bool		joining;
	bool		send;
	char	   *new_mark;

	if (!sync->whole)
		elog(ERROR, "a tick begins with tables that are not open");
	StartTransactionCommand();
	XactIsoLevel = XACT_REPEATABLE_READ;
	XactReadOnly = true;
	MemoryContextReset(sync->tick_context);
	previous = MemoryContextSwitchTo(sync->tick_context);
	mt_files_watch(sync);
	/* The clock is read first: what was committed before this moment is in S. */
	snapshot_time = GetCurrentTimestamp();
	PushActiveSnapshot(GetTransactionSnapshot());
	snapshot = GetActiveSnapshot();
	sync->visible_lsn = GetXLogInsertRecPtr();
	sync->keys = sync->rows = sync->bytes = 0;
	sync->oldest = 0;
	reset_tables(sync);
	leave_disarmed(sync, snapshot);
	begin_merge(sync, snapshot);
	joining = any_joining(sync);
	mt_queue_read(sync->reader, snapshot, sync->mark, joining, collect_row, sync);
	if (sync->cancelled)
		mt_cancelled_spare(sync);
	send = joining || sync->oldest != 0 || sync->other_timeline;
	new_mark = mt_mark_format(mt_mark_from_snapshot(snapshot));
	if (send)
	{
		count_keys(sync);
		done = mt_apply_run(sync, sync->keys <= (uint64) mt_small_tick ? mt_apply_small : mt_apply_large, new_mark,
							snapshot_time);
	}
	if (done)
	{
		finish_tick(sync, snapshot, snapshot_time, send ? new_mark : NULL);
		if (sync->at_mark != NULL)
			sync->at_mark(sync, snapshot, snapshot_time, sync->at_mark_arg);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(previous);
	*sent = send;
	return done;
}

/* leave_disarmed leaves out the tables of which S does not hold every change noted. */
static void
leave_disarmed(MtSync *sync, Snapshot snapshot)
{
	List	   *disarmed = mt_disarmed_list(sync->migration->id, snapshot);
	ListCell   *cell;

	foreach(cell, disarmed)
	{
		MtTable    *table = hash_search(sync->tables, &lfirst_int(cell), HASH_FIND, NULL);

		if (table == NULL)
			continue;
		table->joined = table->joining = false;
		if (strcmp(table->relation->state, "recopy") != 0)
			sync->disarmed = true;
	}
}

static bool
any_joining(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	bool		joining = false;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		joining = joining || table->joining;
	return joining;
}

/* collect_row takes what a row of the queue says of the tables that it concerns. */
static void
collect_row(void *arg, const MtQueueRow *row)
{
	MtSync	   *sync = (MtSync *) arg;
	const char *at = row->entries;
	MtEntry		entry;
	bool		used = false;

	if (sync->instances != NULL)
		mt_instances_note(sync->instances, row);
	while (mt_entry_next(&at, row->entries + row->length, &entry))
	{
		MtTable    *table = hash_search(sync->tables, &entry.relation, HASH_FIND, NULL);
		MtTruncation *truncation;

		/* A table that is still copied has its keys kept; one that left the migration has none. */
		if (table == NULL || (!table->joined && !table->joining))
			continue;
		/* What S0 sees was copied; a TRUNCATE of before, sent again, would take that away. */
		if ((table->joined && row->sent) || mt_mark_sees(table->captured_from, row->xid))
			continue;
		if (entry.kind == MT_ENTRY_KEY && mt_cancelled_is(table, entry.bytes, entry.length, row->xid))
			continue;
		truncation = mt_table_note(table, &entry, sync->tick_context);
		if (truncation != NULL && sync->cancelled)
			mt_writers_add(&truncation->writers, row->xid, row->committed, sync->tick_context);
		used = true;
	}
	if (used && (sync->oldest == 0 || row->committed < sync->oldest))
		sync->oldest = row->committed;
}

/* begin_merge prepares for rows that both sides change, where applications may write the target. */
static void
begin_merge(MtSync *sync, Snapshot snapshot)
{
	sync->merge = NULL;
	sync->cancelled = false;
	/* What the target had won over before a way back is void until it is sent. */
	if (sync->migration->reversing || sync->void_left)
		mt_cancelled_load(sync);
	if (sync->migration->reversing)
		sync->merge = mt_merge_begin(sync, true, snapshot);
}

static void
count_keys(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		sync->keys += table->keys ? mt_keys_count(table->keys) : 0;
}

/* finish_tick takes S as the mark; "stored" is its text where the target has it, too. */
static void
finish_tick(MtSync *sync, Snapshot snapshot, TimestampTz snapshot_time, const char *stored)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	MemoryContext previous = MemoryContextSwitchTo(sync->context);
	MtMark	   *old = sync->mark;

	mt_queue_read_done(sync->reader);
	sync->conflicts_there = sync->conflicts_there || (sync->merge != NULL && sync->merge->recorded);
	sync->merge = NULL;
	sync->mark = mt_mark_from_snapshot(snapshot);
	sync->mark_time = snapshot_time;
	pfree(old->xip);
	pfree(old);
	if (stored)
	{
		if (sync->stored_mark)
			pfree(sync->stored_mark);
		sync->stored_mark = pstrdup(stored);
		sync->other_timeline = false;
	}
	MemoryContextSwitchTo(previous);
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->joining)
		{
			table->joining = false;
			table->joined = true;
		}
	reset_tables(sync);
}

static void
reset_tables(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		mt_table_reset(table);
}
