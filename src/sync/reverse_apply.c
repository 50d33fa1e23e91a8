/*
 * reverse_apply.c
 *	  Applies a tick of the target here: see reverse.c.
 *
 * Order within a tick as forward: what was truncated, rows that are gone, rows
 * that are there.  The rows of a small tick come in one round trip, with its entries
 * (reverse.c) or by themselves, and are written when the connection is at rest;
 * those of a large one come table by table, and are written as soon as many are
 * gathered, so that it needs no more memory.
 */
#include "sync/merge.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "catalog/applying.h"
#include "catalog/reverse.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements.h"
#include "endpoint/statements_queue.h"
#include "sync/apply.h"
#include "sync/condition.h"
#include "sync/files.h"
#include "sync/gather.h"
#include "sync/here.h"
#include "sync/hold.h"
#include "sync/side.h"

static void apply_small(MtSync *sync, bool replace);
static void apply_large(MtSync *sync, bool replace);
static void make_room(MtSync *sync, MtTable *table, bool by_insert);
static void apply_joined(MtSync *sync, MtTable *table);
static void truncate_here(MtSync *sync, MtTable *table, const MtTruncation *truncation);
static void delete_all(MtSync *sync, MtTable *table);

/* mt_reverse_apply writes a tick and its mark. */
MtApplied
mt_reverse_apply(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace)
{
	int			guc_level = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", MT_MERGE_LOCK_TIMEOUT_VALUE, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	mt_capture_applying = true;
	PG_TRY();
	{
		if (mt_holds_first(sync->merge))
			mt_hold(sync->merge);
		if (sync->target_small)
			apply_small(sync, replace);
		else
			apply_large(sync, replace);
	}
	PG_FINALLY();
	{
		mt_capture_applying = false;
	}
	PG_END_TRY();
	AtEOXact_GUC(true, guc_level);
	if (mt_files_target_changed(sync))
		return MT_TAKE_AGAIN;
	if (!mt_merge_look(sync->merge))
		return MT_APPLY_AGAIN;
	mt_merge_record(sync->merge);
	mt_reverse_flush(sync);
	mt_reverse_mark_store(sync->migration->id, new_mark, snapshot_time, sync->target_timeline);
	return MT_APPLIED;
}

/* apply_small asks for the rows of all tables at once; the first attempt has them, if they are not too large. */
static void
apply_small(MtSync *sync, bool replace)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	MtGathering *all = replace ? NULL : mt_gather_early(sync);

	sync->early = NULL;
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (mt_table_touched(table))
			make_room(sync, table, mt_gather_by_insert(table, replace));
	if (all == NULL)
	{
		all = palloc0(sizeof(MtGathering));
		mt_files_read_again(sync);
		mt_pipeline_begin(sync->remote);
		hash_seq_init(&status, sync->tables);
		while ((table = hash_seq_search(&status)) != NULL)
			if (mt_table_touched(table) && table->keys != NULL)
				mt_gather_ask(all, sync, table, mt_gather_by_insert(table, replace));
		(void) mt_pipeline_finish(sync->remote);
	}
	mt_gather_write(all, sync);
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (mt_table_touched(table))
			apply_joined(sync, table);
}

/* apply_large takes one table after the other. */
static void
apply_large(MtSync *sync, bool replace)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	mt_files_read_again(sync);
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		bool		by_insert = mt_gather_by_insert(table, replace);

		if (!mt_table_touched(table))
			continue;
		make_room(sync, table, by_insert);
		if (table->keys != NULL)
			mt_gather_stream(sync, table, by_insert);
		apply_joined(sync, table);
	}
}

/* make_room deletes what was truncated and, where rows are to be inserted, the row of every key of the tick. */
static void
make_room(MtSync *sync, MtTable *table, bool by_insert)
{
	MtSpiScope	scope;
	ListCell   *cell;

	sync->sending = table;
	mt_spi_begin_table(&scope, sync->migration->owner, table->relation->relid, true);
	foreach(cell, mt_truncation_list(table))
		truncate_here(sync, table, (MtTruncation *) lfirst(cell));
	if (table->keys != NULL && by_insert)
		delete_all(sync, table);
	mt_spi_end(&scope);
	sync->sending = NULL;
}

/*
 * apply_joined inserts rows that the target's queue does not know, since only a group of rows has brought
 * them into the tick.  What was there of them was deleted with the tick's other keys.
 */
static void
apply_joined(MtSync *sync, MtTable *table)
{
	ListCell   *cell;

	foreach(cell, sync->merge->decisions)
	{
		MtDecision *decision = (MtDecision *) lfirst(cell);
		MtField    *row;

		if (decision->table != table || !decision->joined || !decision->sender_wins)
			continue;
		row = mt_side_row(sync, table, MT_SIDE_TARGET, decision->bytes, decision->length);
		if (row != NULL)
			mt_here_insert(sync, table, row);
	}
}

/* truncate_here deletes what the target truncated, but for rows that it does not concern. */
static void
truncate_here(MtSync *sync, MtTable *table, const MtTruncation *truncation)
{
	MtField    *fields;
	int			nargs = mt_truncation_spared(table, truncation, &fields) * table->key.count;
	MtArg	   *args = palloc(sizeof(MtArg) * Max(nargs, 1));

	for (int i = 0; i < nargs; i++)
	{
		MtColumn   *column = mt_table_key_column(table, i % table->key.count);

		args[i] = (MtArg) {column->type, mt_table_value(table, sync->migration->owner, column, &fields[i]), false};
	}
	if (truncation->condition != NULL)
		mt_condition_check(table, truncation->condition);
	mt_spi_exec(SPI_OK_DELETE,
				mt_sql_truncate(table->mirror, table->columns, truncation->condition, nargs / table->key.count),
				nargs, args);
}

/* delete_all deletes the row of every key of the tick. */
static void
delete_all(MtSync *sync, MtTable *table)
{
	MtKeyCursor cursor = {0, 0};
	const char *bytes;
	int			length;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers keys", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(scratch);

	while (mt_keys_next(table->keys, &cursor, &bytes, &length))
	{
		Datum		key[INDEX_MAX_KEYS];

		if (!mt_merge_keeps(table, bytes, length))
			continue;
		mt_key_decode(&table->key, bytes, length, key);
		if (SPI_execute_plan(mt_here_plan(table, MT_HERE_DELETE, 1), key, NULL, false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not delete a row");
		MemoryContextReset(scratch);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(scratch);
}
