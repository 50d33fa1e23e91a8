/*
 * reverse_apply.c
 *	  Applies a tick of the target here: see reverse.c.
 *
 * Order within a tick as forward: what was truncated, rows that are gone, rows
 * that are there.  Rows come one by one from the target and are gathered, so that
 * a small tick is written when the connection is at rest, and a large one
 * needs no more memory.
 */
#include "sync/merge.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "catalog/applying.h"
#include "catalog/reverse.h"
#include "endpoint/statements.h"
#include "endpoint/statements_queue.h"
#include "sync/apply.h"
#include "sync/here.h"
#include "sync/side.h"

/* Rows are gathered up to this many bytes. */
#define GATHER_BYTES (8 * 1024 * 1024)

typedef struct MtGathered
{
	MtSync	   *sync;
	MtTable    *table;
	bool		by_insert;
	bool		keys_only;		/* of rows that are gone */
	List	   *rows;			/* MtHereRow */
	int64		bytes;
} MtGathered;

typedef struct MtHereRow
{
	Datum	   *values;
	char	   *nulls;
} MtHereRow;

static void apply_tables(MtSync *sync, bool replace);
static void apply_table(MtSync *sync, MtTable *table, bool replace);
static void apply_joined(MtSync *sync, MtTable *table);
static void truncate_here(MtSync *sync, MtTable *table);
static void delete_all(MtSync *sync, MtTable *table);
static void stream(MtGathered *gathered, const char *sql);
static void take_row(void *arg, const MtField *fields, int count);
static bool keeps(MtTable *table, const MtHereRow *row, bool keys_only);
static void write_rows(MtGathered *gathered);
static void write_batch(MtGathered *gathered, int at, int count);

/* mt_reverse_apply writes a tick and its mark; false when it must be applied again. */
bool
mt_reverse_apply(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace)
{
	volatile bool done = false;
	int			guc_level = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", MT_MERGE_LOCK_TIMEOUT_VALUE, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	mt_capture_applying = true;
	PG_TRY();
	{
		apply_tables(sync, replace);
	}
	PG_FINALLY();
	{
		mt_capture_applying = false;
	}
	PG_END_TRY();
	AtEOXact_GUC(true, guc_level);
	if (mt_merge_look(sync->merge))
	{
		mt_merge_record(sync->merge);
		mt_reverse_flush(sync);
		mt_reverse_mark_store(sync->migration->id, new_mark, snapshot_time);
		done = true;
	}
	return done;
}

static void
apply_tables(MtSync *sync, bool replace)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (mt_table_touched(table))
		{
			MtSpiScope	scope;

			sync->sending = table;
			mt_spi_begin_as(&scope, sync->migration->owner);
			apply_table(sync, table, replace);
			mt_spi_end(&scope);
			apply_joined(sync, table);
			MemoryContextReset(sync->row_context);
		}
	sync->sending = NULL;
}

static void
apply_table(MtSync *sync, MtTable *table, bool replace)
{
	MtGathered	gathered = {.sync = sync, .table = table, .by_insert = replace || !table->can_update};

	truncate_here(sync, table);
	if (table->keys == NULL)
		return;
	if (gathered.by_insert)
		delete_all(sync, table);
	else
	{
		gathered.keys_only = true;
		stream(&gathered, mt_sql_queue_absent(sync->migration, table->relation, table->columns));
		gathered.keys_only = false;
	}
	stream(&gathered, mt_sql_queue_present(sync->migration, table->relation, table->columns));
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
truncate_here(MtSync *sync, MtTable *table)
{
	MtField    *fields;
	int			nkeys = table->key.count;
	int			spared;
	MtArg	   *args;
	ListCell   *cell;

	if (!table->truncated && table->truncated_where == NIL)
		return;
	spared = mt_merge_spared(table, &fields);
	args = palloc(sizeof(MtArg) * Max(spared * nkeys, 1));
	for (int i = 0; i < spared * nkeys; i++)
	{
		MtColumn   *column = mt_table_key_column(table, i % nkeys);

		args[i] = (MtArg) {column->type, mt_column_value(column, fields[i].data, fields[i].length), false};
	}
	if (table->truncated)
		mt_spi_exec(SPI_OK_DELETE, mt_sql_truncate(table->mirror, table->columns, NULL, spared),
					spared * nkeys, args);
	else
		foreach(cell, table->truncated_where)
			mt_spi_exec(SPI_OK_DELETE,
						mt_sql_truncate(table->mirror, table->columns, (char *) lfirst(cell), spared),
						spared * nkeys, args);
}

/* delete_all deletes the row of every key of the tick. */
static void
delete_all(MtSync *sync, MtTable *table)
{
	MtKeyCursor cursor = {0, 0};
	const char *bytes;
	int			length;
	MemoryContext previous = MemoryContextSwitchTo(sync->row_context);

	while (mt_keys_next(table->keys, &cursor, &bytes, &length))
	{
		Datum		key[INDEX_MAX_KEYS];

		if (!mt_merge_keeps(table, bytes, length))
			continue;
		mt_key_decode(&table->key, bytes, length, key);
		if (SPI_execute_plan(mt_here_plan(table, MT_HERE_DELETE, 1), key, NULL, false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not delete a row");
		MemoryContextReset(sync->row_context);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(previous);
}

/* stream asks the target for rows, and writes them. */
static void
stream(MtGathered *gathered, const char *sql)
{
	MtSync	   *sync = gathered->sync;
	const char *mark = sync->reverse_mark ? sync->reverse_mark : "0:0:";
	MtField		param = {.data = mark, .length = strlen(mark), .binary = false};
	MemoryContext previous = MemoryContextSwitchTo(sync->row_context);

	gathered->rows = NIL;
	gathered->bytes = 0;
	mt_remote_stream(sync->remote, sql, 1, &param, take_row, gathered);
	write_rows(gathered);
	MemoryContextSwitchTo(previous);
}

/* take_row gathers a row. */
static void
take_row(void *arg, const MtField *fields, int count)
{
	MtGathered *gathered = (MtGathered *) arg;
	MtTable    *table = gathered->table;
	MtHereRow  *row = palloc(sizeof(MtHereRow));

	row->values = palloc0(sizeof(Datum) * Max(count, 1));
	row->nulls = palloc(Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		MtColumn   *column = gathered->keys_only ? mt_table_key_column(table, i) : &table->columns->columns[i];

		row->nulls[i] = fields[i].data ? ' ' : 'n';
		if (fields[i].data)
			row->values[i] = mt_column_value(column, fields[i].data, fields[i].length);
		gathered->bytes += fields[i].length;
	}
	if (table->both.skip != NULL && !keeps(table, row, gathered->keys_only))
		return;
	gathered->rows = lappend(gathered->rows, row);
	gathered->sync->rows++;
	gathered->sync->bytes += gathered->bytes;
	if (gathered->bytes > GATHER_BYTES)
		write_rows(gathered);
}

/* keeps says whether a row that came stays in the tick. */
static bool
keeps(MtTable *table, const MtHereRow *row, bool keys_only)
{
	Datum		key[INDEX_MAX_KEYS];
	StringInfoData bytes;

	for (int i = 0; i < table->key.count; i++)
		key[i] = row->values[keys_only ? i : mt_table_key_column(table, i) - table->columns->columns];
	initStringInfo(&bytes);
	mt_key_encode_values(&table->key, key, &bytes);
	return mt_merge_keeps(table, bytes.data, bytes.len);
}

/* write_rows writes what was gathered, many rows to a statement while there are many, and frees it. */
static void
write_rows(MtGathered *gathered)
{
	int			left = list_length(gathered->rows);
	int			at = 0;

	while (left > 0)
	{
		int			count = left >= MT_BATCH_ROWS && !gathered->keys_only ? MT_BATCH_ROWS : 1;

		write_batch(gathered, at, count);
		at += count;
		left -= count;
		CHECK_FOR_INTERRUPTS();
	}
	gathered->rows = NIL;
	gathered->bytes = 0;
	MemoryContextReset(gathered->sync->row_context);
}

static void
write_batch(MtGathered *gathered, int at, int count)
{
	MtTable    *table = gathered->table;
	int			columns = gathered->keys_only ? table->key.count : table->columns->count;
	Datum	   *values = palloc(sizeof(Datum) * Max(columns * count, 1));
	char	   *nulls = palloc(Max(columns * count, 1));
	int			place = gathered->keys_only ? MT_HERE_DELETE : gathered->by_insert ? MT_HERE_INSERT :
		MT_HERE_UPSERT;
	int			outcome;

	for (int i = 0; i < count; i++)
	{
		MtHereRow  *row = (MtHereRow *) list_nth(gathered->rows, at + i);

		memcpy(values + i * columns, row->values, sizeof(Datum) * columns);
		memcpy(nulls + i * columns, row->nulls, columns);
	}
	outcome = SPI_execute_plan(mt_here_plan(table, place, count), values, nulls, false, 0);
	if (outcome != (place == MT_HERE_DELETE ? SPI_OK_DELETE : SPI_OK_INSERT))
		elog(ERROR, "unexpected outcome %s of writing a row", SPI_result_code_string(outcome));
	pfree(values);
	pfree(nulls);
}
