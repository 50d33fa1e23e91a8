/*
 * apply_large.c
 *	  Sends a large tick: rows stream through binary COPY into a stage in the
 *	  target's session, and a few statements make the table equal to them.
 *
 * Memory is bounded: keys stand in a tuplestore that spills to disk, rows are
 * read through a cursor and sent in pieces.
 */
#include "sync/merge.h"

#include "access/htup_details.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/spi.h"
#include "endpoint/statements.h"

#define FETCH_ROWS 500

/* A stage of so many rows is worth statistics. */
#define ANALYZE_ROWS 5000

static void apply_present(MtSync *sync, MtTable *table, int64 present, bool by_insert);
static void send_large(MtSync *sync, MtTable *table, bool replace);
static void empty_receiver(MtSync *sync, MtTable *table, const char *condition);
static Tuplestorestate *register_keys(MtTable *table);
static TupleDesc key_tupdesc(const MtTable *table);
static int64 stream_query(MtSync *sync, const char *query, MtColumns *columns, const char *copy);
static void send_piece(void *arg, const char *data, int length);
static void store_mark(MtSync *sync, const char *new_mark, TimestampTz snapshot_time);

/* mt_apply_large sends a tick table by table; false when a look says that it must be applied again. */
bool
mt_apply_large(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	mt_remote_run(sync->remote, "BEGIN");
	if (sync->merge != NULL)
		mt_remote_run(sync->remote, MT_MERGE_LOCK_TIMEOUT);
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (mt_table_touched(table))
			send_large(sync, table, replace);
	sync->sending = NULL;
	if (sync->merge != NULL)
	{
		if (!mt_merge_look(sync->merge))
			return false;
		mt_merge_record(sync->merge);
	}
	store_mark(sync, new_mark, snapshot_time);
	mt_remote_run(sync->remote, "COMMIT");
	return true;
}

static void
send_large(MtSync *sync, MtTable *table, bool replace)
{
	MtRelation *relation = table->relation;
	MtRemote   *remote = sync->remote;
	MtColumns  *rows = mt_columns_of_result(table->columns, 0, NULL);
	MtColumns  *keys = mt_columns_of_result(table->columns, relation->nkeys, relation->key_columns);
	bool		by_insert = replace || !table->can_update;
	int64		present;
	int64		absent = 0;
	Tuplestorestate *store;
	MtSpiScope	scope;
	ListCell   *cell;

	sync->sending = table;
	if (table->truncated)
		empty_receiver(sync, table, NULL);
	else
		foreach(cell, table->truncated_where)
			empty_receiver(sync, table, (char *) lfirst(cell));
	if (table->keys == NULL)
		return;
	mt_remote_run(remote, mt_sql_stage_create(relation, table->columns));
	mt_spi_begin_as(&scope, sync->migration->owner);
	store = register_keys(table);
	present = stream_query(sync, mt_sql_read_present(relation, table->columns, table->distinct_keys), rows,
						   mt_sql_stage_copy_rows(rows));
	/* As many rows as keys: none is gone, and the table need not be asked which. */
	if ((uint64) present < mt_keys_count(table->keys))
		absent = stream_query(sync, mt_sql_read_absent(relation), keys, mt_sql_stage_copy_keys(relation, keys));
	sync->rows += present + absent;
	tuplestore_end(store);
	mt_spi_end(&scope);
	if (present > ANALYZE_ROWS)
		mt_remote_run(remote, "ANALYZE pg_temp." MT_STAGE_ROWS);
	if (absent > 0)
		mt_remote_run(remote, mt_sql_stage_delete_absent(relation));
	if (present > 0)
		apply_present(sync, table, present, by_insert);
	mt_remote_run(remote, mt_sql_stage_drop());
}

/* empty_receiver deletes what the sender truncated, but for rows that it does not concern. */
static void
empty_receiver(MtSync *sync, MtTable *table, const char *condition)
{
	MtField    *spared = NULL;
	int			count = table->truncates.count > 0 ? mt_merge_spared(table, &spared) : 0;

	mt_remote_stream(sync->remote, mt_sql_truncate(table->relation, table->columns, condition, count),
					 count * table->key.count, spared, NULL, NULL);
}

/* apply_present makes the table's rows equal to those of the stage. */
static void
apply_present(MtSync *sync, MtTable *table, int64 present, bool by_insert)
{
	char	   *update = mt_sql_stage_update(table->relation, table->columns);
	int64		updated = 0;

	if (by_insert)
		mt_remote_run(sync->remote, mt_sql_stage_delete_present(table->relation));
	else if (update != NULL)
		updated = mt_remote_query(sync->remote, update, MT_NO_PARAMS)->affected;
	/* Where every row of the stage was there, and differed, none is missing. */
	if (updated < present)
		mt_remote_run(sync->remote, mt_sql_stage_insert(table->relation, table->columns, !by_insert));
}

/* register_keys gives the keys of the tick to queries of this SPI connection, as relation mt_keys. */
static Tuplestorestate *
register_keys(MtTable *table)
{
	TupleDesc	tupdesc = key_tupdesc(table);
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	EphemeralNamedRelation named = palloc0(sizeof(EphemeralNamedRelationData));
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers key", ALLOCSET_DEFAULT_SIZES);
	MtKeyCursor cursor = {0, 0};
	bool		nulls[INDEX_MAX_KEYS] = {false};
	const char *bytes;
	int			length;

	while (mt_keys_next(table->keys, &cursor, &bytes, &length))
	{
		Datum		key[INDEX_MAX_KEYS];
		MemoryContext previous;

		if (!mt_merge_keeps(table, bytes, length))
			continue;
		previous = MemoryContextSwitchTo(scratch);
		mt_key_decode(&table->key, bytes, length, key);
		tuplestore_putvalues(store, tupdesc, key, nulls);
		MemoryContextSwitchTo(previous);
		MemoryContextReset(scratch);
		CHECK_FOR_INTERRUPTS();
	}
	named->md.name = "mt_keys";
	named->md.reliddesc = InvalidOid;
	named->md.tupdesc = tupdesc;
	named->md.enrtype = ENR_NAMED_TUPLESTORE;
	named->md.enrtuples = mt_keys_count(table->keys);
	named->reldata = store;
	if (SPI_register_relation(named) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the keys of a tick");
	return store;
}

static TupleDesc
key_tupdesc(const MtTable *table)
{
	TupleDesc	tupdesc = CreateTemplateTupleDesc(table->key.count);

	for (int i = 0; i < table->key.count; i++)
	{
		const MtKeyColumn *column = &table->key.columns[i];

		TupleDescInitEntry(tupdesc, i + 1, psprintf("k%d", i + 1), column->type, -1, 0);
		TupleDescInitEntryCollation(tupdesc, i + 1, column->collation);
	}
	return tupdesc;
}

/* stream_query streams the result of a local query into a COPY on the target, and counts its rows. */
static int64
stream_query(MtSync *sync, const char *query, MtColumns *columns, const char *copy)
{
	int			guc_level = NewGUCNestLevel();
	SPIPlanPtr	plan = SPI_prepare(query, 0, NULL);
	Portal		portal;
	MtCopyStream stream;
	Datum	   *values = palloc(sizeof(Datum) * Max(columns->count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(columns->count, 1));

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", query, SPI_result_code_string(SPI_result));
	/* A scan of the table may well be the best way to many keys. */
	(void) set_config_option("enable_seqscan", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	AtEOXact_GUC(true, guc_level);
	mt_remote_copy_begin(sync->remote, copy);
	mt_copy_stream_begin(&stream, columns, send_piece, sync->remote);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 row = 0; row < SPI_processed; row++)
		{
			heap_deform_tuple(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, values, nulls);
			mt_copy_stream_put(&stream, values, nulls);
		}
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	mt_copy_stream_end(&stream);
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
	sync->bytes += stream.bytes;
	return mt_remote_copy_end(sync->remote);
}

static void
send_piece(void *arg, const char *data, int length)
{
	mt_remote_copy_send((MtRemote *) arg, data, length);
}

/* store_mark stores S as the target's mark, and what joins with it. */
static void
store_mark(MtSync *sync, const char *new_mark, TimestampTz snapshot_time)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	mt_remote_query(sync->remote, mt_apply_mark_sql(),
					MT_PARAMS(sync->migration->ident, new_mark, timestamptz_to_str(snapshot_time),
							  psprintf(INT64_FORMAT, sync->rows), sync->stored_mark ? sync->stored_mark : ""));
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->joining)
			mt_remote_query(sync->remote,
							"INSERT INTO migrate_tiers.joined (migration, relation) VALUES ($1, $2) ON CONFLICT DO NOTHING",
							MT_PARAMS(sync->migration->ident, psprintf("%d", table->id)));
}
