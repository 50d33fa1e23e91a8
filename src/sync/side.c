/*
 * side.c
 *	  One row of one side: see side.h.
 */
#include "sync/side.h"

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/spi.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements.h"
#include "endpoint/statements_queue.h"
#include "sync/condition.h"

static char *statement_name(const MtTable *table, MtSideForm form);
static void take_row(void *arg, const MtField *fields, int count);
static char *query_here(MtSync *sync, MtTable *table, const char *sql, const char *condition,
						const char *bytes, int length);
static char *query_there(MtSync *sync, MtTable *table, const char *sql, const char *bytes, int length);

/* mt_side_row reads a row in the columns' forms. */
MtField *
mt_side_row(MtSync *sync, MtTable *table, MtSide side, const char *bytes, int length)
{
	MtField    *taken = NULL;

	if (side == MT_SIDE_SOURCE)
	{
		MtField    *fields = palloc0(sizeof(MtField) * Max(table->columns->count, 1));
		Datum		key[INDEX_MAX_KEYS];
		int64		ignored = 0;
		MtSpiScope	scope;
		bool		present;
		MemoryContext context = CurrentMemoryContext;

		mt_key_decode(&table->key, bytes, length, key);
		mt_spi_begin_table(&scope, sync->migration->owner, table->relation->relid, false);
		MemoryContextSwitchTo(context);
		present = mt_table_read_row(table, key, fields, &ignored);
		mt_spi_end(&scope);
		return present ? fields : NULL;
	}
	mt_remote_stream(sync->remote, mt_sql_target_row(table->relation, table->columns), table->key.count,
					 mt_side_key(table, bytes, length, 0), take_row, &taken);
	return taken;
}

/* mt_side_prepare prepares what is asked of the target in a pipeline. */
void
mt_side_prepare(MtSync *sync, MtTable *table, MtSideForm form)
{
	const MtRelation *relation = table->relation;
	char	   *name = statement_name(table, form);

	if (mt_remote_prepared(sync->remote, name))
		return;
	mt_remote_prepare(sync->remote, name,
					  form == MT_SIDE_ROW ? mt_sql_target_row(relation, table->columns) :
						  mt_sql_row_image(mt_sql_receiver_rows(relation), relation, table->columns, true));
}

/* mt_side_ask asks the target for a row in a pipeline. */
void
mt_side_ask(MtSync *sync, MtTable *table, MtSideForm form, const char *bytes, int length, MtField **row)
{
	*row = NULL;
	mt_pipeline_rows(sync->remote, statement_name(table, form), table->key.count,
					 mt_side_key(table, bytes, length, 0), take_row, row);
}

static char *
statement_name(const MtTable *table, MtSideForm form)
{
	return psprintf("mt_%s_%d", form == MT_SIDE_ROW ? "row" : "image", table->id);
}

/* mt_side_image reads a row of the source as jsonb. */
char *
mt_side_image(MtSync *sync, MtTable *table, const char *bytes, int length)
{
	const MtRelation *relation = table->relation;

	return query_here(sync, table,
					  mt_sql_row_image(mt_relation_source_name(relation), relation, table->columns, false),
					  NULL, bytes, length);
}

/* mt_side_meets says whether a row meets a condition. */
bool
mt_side_meets(MtSync *sync, MtTable *table, MtSide side, const char *condition, const char *bytes, int length)
{
	if (side == MT_SIDE_SOURCE)
		return query_here(sync, table, mt_sql_row_meets(table->mirror, table->columns, condition, false),
						  condition, bytes, length) != NULL;
	return query_there(sync, table, mt_sql_row_meets(table->relation, table->columns, condition, true),
					   bytes, length) != NULL;
}

/* mt_side_lock locks a row as an UPDATE does. */
void
mt_side_lock(MtSync *sync, MtTable *table, MtSide side, const char *bytes, int length)
{
	bool		here = side == MT_SIDE_SOURCE;
	char	   *sql = psprintf("%s FOR NO KEY UPDATE OF t",
							   mt_sql_row_meets(here ? table->mirror : table->relation, table->columns, "true", !here));

	if (here)
		(void) query_here(sync, table, sql, NULL, bytes, length);
	else
		(void) query_there(sync, table, sql, bytes, length);
}

/* mt_side_key gives a key as parameters, with room for more. */
MtField *
mt_side_key(MtTable *table, const char *bytes, int length, int room)
{
	MtField    *fields = palloc0(sizeof(MtField) * (table->key.count + room));
	Datum		key[INDEX_MAX_KEYS];

	mt_key_decode(&table->key, bytes, length, key);
	mt_table_key_fields(table, key, fields);
	return fields;
}

/* mt_side_key_text shows a key. */
char *
mt_side_key_text(MtTable *table, const char *bytes, int length)
{
	Datum		key[INDEX_MAX_KEYS];
	StringInfoData names;
	StringInfoData values;

	mt_key_decode(&table->key, bytes, length, key);
	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < table->key.count; i++)
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(table->key.columns[i].type, &output, &varlena);
		appendStringInfo(&names, "%s%s", i ? ", " : "", table->relation->key_columns[i]);
		appendStringInfo(&values, "%s%s", i ? ", " : "", OidOutputFunctionCall(output, key[i]));
	}
	return psprintf("(%s)=(%s)", names.data, values.data);
}

/* take_row keeps a row in the current memory context. */
static void
take_row(void *arg, const MtField *fields, int count)
{
	MtField    *taken = palloc0(sizeof(MtField) * Max(count, 1));

	for (int i = 0; i < count; i++)
		if (fields[i].data != NULL)
		{
			taken[i].data = memcpy(palloc(fields[i].length + 1), fields[i].data, fields[i].length);
			((char *) taken[i].data)[fields[i].length] = '\0';
			taken[i].length = fields[i].length;
		}
	*(MtField **) arg = taken;
}

/*
 * query_here returns the first column of the first row, as text; NULL where there is no row.  condition is what the
 * statement holds of a queue, if anything.
 */
static char *
query_here(MtSync *sync, MtTable *table, const char *sql, const char *condition, const char *bytes, int length)
{
	MtArg		args[INDEX_MAX_KEYS];
	Datum		key[INDEX_MAX_KEYS];
	MtSpiScope	scope;
	char	   *text = NULL;

	mt_key_decode(&table->key, bytes, length, key);
	for (int i = 0; i < table->key.count; i++)
		args[i] = (MtArg) {table->key.columns[i].type, key[i], false};
	mt_spi_begin_table(&scope, sync->migration->owner, table->relation->relid, false);
	if (condition != NULL)
		mt_condition_check(table, condition);
	if (mt_spi_exec(SPI_OK_SELECT, sql, table->key.count, args) > 0)
		text = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return text;
}

static char *
query_there(MtSync *sync, MtTable *table, const char *sql, const char *bytes, int length)
{
	MtField    *taken = NULL;

	mt_remote_stream(sync->remote, sql, table->key.count, mt_side_key(table, bytes, length, 0), take_row, &taken);
	return taken ? (char *) taken[0].data : NULL;
}
