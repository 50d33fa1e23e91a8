/*
 * here.c
 *	  Rows of the source as the way back writes them: see here.h.
 */
#include "sync/here.h"

#include "base/spi.h"
#include "catalog/applying.h"
#include "endpoint/statements.h"

static void execute_here(MtSync *sync, MtTable *table, int place, Datum *values, const char *nulls);

/* mt_here_plan returns the plan of a statement, made when it is needed first. */
SPIPlanPtr
mt_here_plan(MtTable *table, int place, int rows)
{
	SPIPlanPtr *plan = &table->here[place + (rows > 1 ? 1 : 0)];
	int			columns = place == MT_HERE_DELETE ? table->key.count : table->columns->count;
	Oid		   *types;
	char	   *sql;

	if (*plan != NULL)
		return *plan;
	types = palloc(sizeof(Oid) * Max(columns * rows, 1));
	for (int i = 0; i < columns * rows; i++)
		types[i] = place == MT_HERE_DELETE ? table->key.columns[i].type : table->columns->columns[i % columns].type;
	if (place == MT_HERE_DELETE)
		sql = mt_sql_delete(table->mirror, table->columns);
	else if (place == MT_HERE_INSERT)
		sql = mt_sql_insert(table->mirror, table->columns, rows);
	else if (place == MT_HERE_UPDATE)
		sql = mt_sql_update(table->mirror, table->columns);
	else if (table->in_two)
		sql = mt_sql_insert_missing(table->mirror, table->columns);
	else
		sql = mt_sql_upsert(table->mirror, table->columns, rows);
	*plan = SPI_prepare(sql, columns * rows, types);
	if (*plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(*plan) != 0)
		elog(ERROR, "could not keep a plan");
	return *plan;
}

/* mt_here_delete deletes the row of a key. */
void
mt_here_delete(MtSync *sync, MtTable *table, const char *bytes, int length)
{
	Datum		key[INDEX_MAX_KEYS];

	mt_key_decode(&table->key, bytes, length, key);
	execute_here(sync, table, MT_HERE_DELETE, key, NULL);
}

/* mt_here_insert inserts a row. */
void
mt_here_insert(MtSync *sync, MtTable *table, const MtField *row)
{
	int			columns = table->columns->count;
	Datum	   *values = palloc0(sizeof(Datum) * Max(columns, 1));
	char	   *nulls = palloc(Max(columns, 1));

	for (int i = 0; i < columns; i++)
	{
		nulls[i] = row[i].data ? ' ' : 'n';
		if (row[i].data)
			values[i] = mt_table_value(table, sync->migration->owner, &table->columns->columns[i], &row[i]);
	}
	execute_here(sync, table, MT_HERE_INSERT, values, nulls);
}

/* execute_here runs a plan as the table's owner, uncaptured. */
static void
execute_here(MtSync *sync, MtTable *table, int place, Datum *values, const char *nulls)
{
	bool		applying = mt_capture_applying;
	MtSpiScope	scope;

	mt_spi_begin_table(&scope, sync->migration->owner, table->relation->relid, true);
	mt_capture_applying = true;
	PG_TRY();
	{
		if (SPI_execute_plan(mt_here_plan(table, place, 1), values, nulls, false, 0) < 0)
			elog(ERROR, "could not write a row");
	}
	PG_FINALLY();
	{
		mt_capture_applying = applying;
	}
	PG_END_TRY();
	mt_spi_end(&scope);
}
