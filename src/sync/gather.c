/*
 * gather.c
 *	  Rows of the target as a reverse tick brings them here: see gather.h.
 */
#include "sync/gather.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements_queue.h"
#include "sync/here.h"
#include "sync/merge.h"

/* Rows are gathered up to this many bytes. */
#define GATHER_BYTES (8 * 1024 * 1024)

typedef struct MtGathered
{
	MtSync	   *sync;
	MtTable    *table;
	bool		by_insert;
	bool		keys_only;		/* of rows that are gone */
	List	   *rows;			/* MtHereRow */
	struct MtGathering *all;
} MtGathered;

typedef struct MtHereRow
{
	Datum	   *values;
	char	   *nulls;
} MtHereRow;

static void ask(MtGathering *all, MtSync *sync, MtTable *table, bool by_insert, bool keys_only);
static char *rows_name(MtSync *sync, MtTable *table, bool keys_only);
static char *rows_sql(MtSync *sync, MtTable *table, bool keys_only);
static void stream(MtSync *sync, MtTable *table, bool by_insert, bool keys_only);
static void take_row(void *arg, const MtField *fields, int count);
static bool keeps(MtTable *table, const MtHereRow *row, bool keys_only);
static void spoil(MtGathering *all, MtSync *sync);
static void write_rows(MtGathered *gathered);
static void write_batch(MtGathered *gathered, int at, int count);

/* mt_gather_prepare prepares what is asked of a table in a pipeline. */
void
mt_gather_prepare(MtSync *sync, MtTable *table)
{
	(void) rows_name(sync, table, true);
	(void) rows_name(sync, table, false);
}

/* mt_gather_ask asks for the rows of a table in a pipeline. */
void
mt_gather_ask(MtGathering *all, MtSync *sync, MtTable *table, bool by_insert)
{
	if (!by_insert)
		ask(all, sync, table, by_insert, true);
	ask(all, sync, table, by_insert, false);
}

static void
ask(MtGathering *all, MtSync *sync, MtTable *table, bool by_insert, bool keys_only)
{
	MtGathered *part = palloc0(sizeof(MtGathered));
	MtField		mark = mt_reverse_mark_param(sync);

	*part = (MtGathered) {.sync = sync, .table = table, .by_insert = by_insert, .keys_only = keys_only, .all = all};
	all->parts = lappend(all->parts, part);
	mt_pipeline_rows(sync->remote, rows_name(sync, table, keys_only), 1, &mark, take_row, part);
}

/* rows_name names the statement that reads rows of the tick, or keys of those that are gone; it is prepared. */
static char *
rows_name(MtSync *sync, MtTable *table, bool keys_only)
{
	char	   *name = psprintf("mt_%s_%d", keys_only ? "absent" : "present", table->id);

	if (!mt_remote_prepared(sync->remote, name))
		mt_remote_prepare(sync->remote, name, rows_sql(sync, table, keys_only));
	return name;
}

static char *
rows_sql(MtSync *sync, MtTable *table, bool keys_only)
{
	return keys_only ? mt_sql_queue_absent(sync->migration, table->relation, table->columns) :
		mt_sql_queue_present(sync->migration, table->relation, table->columns);
}

/* mt_gather_stream asks for the rows of a table, and writes them. */
void
mt_gather_stream(MtSync *sync, MtTable *table, bool by_insert)
{
	if (!by_insert)
		stream(sync, table, by_insert, true);
	stream(sync, table, by_insert, false);
}

static void
stream(MtSync *sync, MtTable *table, bool by_insert, bool keys_only)
{
	MtGathering all = {NIL, 0};
	MtGathered	part = {.sync = sync, .table = table, .by_insert = by_insert, .keys_only = keys_only, .all = &all};
	MtField		mark = mt_reverse_mark_param(sync);

	all.parts = list_make1(&part);
	mt_remote_stream(sync->remote, rows_sql(sync, table, keys_only), 1, &mark, take_row, &part);
	mt_gather_write(&all, sync);
}

/* take_row gathers a row. */
static void
take_row(void *arg, const MtField *fields, int count)
{
	MtGathered *gathered = (MtGathered *) arg;
	MtTable    *table = gathered->table;
	MemoryContext previous;
	MtHereRow  *row;
	int64		bytes = 0;

	if (gathered->all->spoiled)
		return;
	previous = MemoryContextSwitchTo(gathered->sync->row_context);
	row = palloc(sizeof(MtHereRow));

	row->values = palloc0(sizeof(Datum) * Max(count, 1));
	row->nulls = palloc(Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		MtColumn   *column = gathered->keys_only ? mt_table_key_column(table, i) : &table->columns->columns[i];

		row->nulls[i] = fields[i].data ? ' ' : 'n';
		if (fields[i].data)
			row->values[i] = mt_table_value(table, gathered->sync->migration->owner, column, &fields[i]);
		bytes += fields[i].length;
	}
	if (table->both.skip == NULL || keeps(table, row, gathered->keys_only))
	{
		gathered->rows = lappend(gathered->rows, row);
		gathered->sync->rows++;
		gathered->sync->bytes += bytes;
		gathered->all->bytes += bytes;
	}
	MemoryContextSwitchTo(previous);
	if (gathered->all->bytes > GATHER_BYTES)
	{
		if (gathered->all->early)
			spoil(gathered->all, gathered->sync);
		else
			mt_gather_write(gathered->all, gathered->sync);
	}
}

/* spoil throws away what is too much to keep. */
static void
spoil(MtGathering *all, MtSync *sync)
{
	ListCell   *cell;

	foreach(cell, all->parts)
		((MtGathered *) lfirst(cell))->rows = NIL;
	all->bytes = 0;
	all->spoiled = true;
	MemoryContextReset(sync->row_context);
}

/* mt_gather_early returns what was gathered before the tick is applied, and counts it, or NULL. */
MtGathering *
mt_gather_early(MtSync *sync)
{
	MtGathering *all = sync->early;
	ListCell   *cell;

	if (all == NULL || all->spoiled)
		return NULL;
	all->early = false;
	foreach(cell, all->parts)
		sync->rows += list_length(((MtGathered *) lfirst(cell))->rows);
	sync->bytes += all->bytes;
	return all;
}

/* mt_gather_by_insert says whether rows of a table are inserted, and not set. */
bool
mt_gather_by_insert(const MtTable *table, bool replace)
{
	return replace || !table->can_update;
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

/* mt_gather_write writes what was gathered, and frees it. */
void
mt_gather_write(MtGathering *all, MtSync *sync)
{
	MemoryContext previous = MemoryContextSwitchTo(sync->row_context);
	ListCell   *cell;

	foreach(cell, all->parts)
		write_rows((MtGathered *) lfirst(cell));
	all->bytes = 0;
	MemoryContextSwitchTo(previous);
	MemoryContextReset(sync->row_context);
}

/* write_rows writes rows of one table, many to a statement while there are many. */
static void
write_rows(MtGathered *gathered)
{
	int			left = list_length(gathered->rows);
	int			at = 0;
	bool		single = gathered->keys_only || (gathered->table->in_two && !gathered->by_insert);
	MtSpiScope	scope;

	if (left == 0)
		return;
	gathered->sync->sending = gathered->table;
	mt_spi_begin_table(&scope, gathered->sync->migration->owner, gathered->table->relation->relid, true);
	MemoryContextSwitchTo(gathered->sync->row_context);
	while (left > 0)
	{
		int			count = left >= MT_BATCH_ROWS && !single ? MT_BATCH_ROWS : 1;

		write_batch(gathered, at, count);
		at += count;
		left -= count;
		CHECK_FOR_INTERRUPTS();
	}
	mt_spi_end(&scope);
	gathered->rows = NIL;
	gathered->sync->sending = NULL;
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
	if (place == MT_HERE_UPSERT && table->in_two &&
		SPI_execute_plan(mt_here_plan(table, MT_HERE_UPDATE, count), values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not update a row");
	outcome = SPI_execute_plan(mt_here_plan(table, place, count), values, nulls, false, 0);
	if (outcome != (place == MT_HERE_DELETE ? SPI_OK_DELETE : SPI_OK_INSERT))
		elog(ERROR, "unexpected outcome %s of writing a row", SPI_result_code_string(outcome));
	pfree(values);
	pfree(nulls);
}
