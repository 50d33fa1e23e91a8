/*
 * apply_large.c
 *	  Sends a large tick: rows stream through binary COPY into a stage in the
 *	  target's session, and a few statements make the table equal to them.
 *
 * Memory is bounded: keys stand in a tuplestore that spills to disk, rows are
 * read through a cursor and sent in pieces.  Rows that are gone go last, since
 * then it is known for nothing whether there are any; but first where another
 * unique index could refuse a row for one of theirs.
 */
#include "sync/apply.h"

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
#include "sync/files.h"
#include "sync/hold.h"
#include "sync/merge.h"
#include "sync/stage.h"

#define FETCH_ROWS 500

#define BY_KEY		"SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
#define BY_ANY_JOIN "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on"

/* A stage of so many rows is worth statistics. */
#define ANALYZE_ROWS 5000

static void send_large(MtSync *sync, MtTable *table, bool by_insert);
static void empty_receiver(MtSync *sync, MtTable *table, const MtTruncation *truncation);
static int64 delete_absent(MtSync *sync, MtTable *table);
static int64 set_present(MtSync *sync, MtTable *table);
static int64 replace_present(MtSync *sync, MtTable *table);
static Tuplestorestate *register_keys(MtTable *table);
static TupleDesc key_tupdesc(const MtTable *table);
static void stream_query(MtSync *sync, const char *query, MtStage *stage);
static void store_mark(MtSync *sync, const char *new_mark, TimestampTz snapshot_time);

/* mt_apply_large sends a tick table by table. */
MtApplied
mt_apply_large(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	mt_remote_run(sync->remote, "BEGIN");
	if (sync->merge != NULL)
		mt_remote_run(sync->remote, MT_MERGE_LOCK_TIMEOUT);
	if (mt_holds_first(sync->merge))
		mt_hold(sync->merge);
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (mt_table_touched(table))
			send_large(sync, table, replace || !table->can_update);
	sync->sending = NULL;
	if (sync->merge != NULL)
	{
		if (!mt_merge_look(sync->merge))
			return MT_APPLY_AGAIN;
		mt_merge_record(sync->merge);
	}
	if (mt_files_changed(sync))
		return MT_TAKE_AGAIN;
	mt_apply_flush(sync);
	store_mark(sync, new_mark, snapshot_time);
	mt_remote_run(sync->remote, "COMMIT");
	return MT_APPLIED;
}

static void
send_large(MtSync *sync, MtTable *table, bool by_insert)
{
	MtRelation *relation = table->relation;
	MtRemote   *remote = sync->remote;
	bool		deletes_first = by_insert || table->other_unique;
	Tuplestorestate *store;
	MtSpiScope	scope;
	ListCell   *cell;
	int64		absent = 0;
	int64		present;

	sync->sending = table;
	foreach(cell, mt_truncation_list(table))
		empty_receiver(sync, table, (MtTruncation *) lfirst(cell));
	if (table->keys == NULL)
		return;
	mt_remote_run(remote, mt_sql_stage_create(relation, table->columns));
	mt_spi_begin_table(&scope, sync->migration->owner, relation->relid, false);
	store = register_keys(table);
	if (deletes_first)
		absent = delete_absent(sync, table);
	if (by_insert)
		present = replace_present(sync, table);
	else
		present = set_present(sync, table);
	/* As many rows as keys: none is gone, and the table need not be asked which. */
	if (!deletes_first && (uint64) present < mt_keys_count(table->keys))
		absent = delete_absent(sync, table);
	sync->rows += present + absent;
	tuplestore_end(store);
	mt_spi_end(&scope);
	mt_remote_run(remote, mt_sql_stage_drop());
}

/* empty_receiver deletes what the sender truncated, but for rows that it does not concern. */
static void
empty_receiver(MtSync *sync, MtTable *table, const MtTruncation *truncation)
{
	MtField    *spared;
	int			count = mt_truncation_spared(table, truncation, &spared);

	mt_remote_stream(sync->remote, mt_sql_truncate(table->relation, table->columns, truncation->condition, count),
					 count * table->key.count, spared, NULL, NULL);
}

/* mt_apply_lock locks the target's rows of all keys of the tick. */
void
mt_apply_lock(MtSync *sync, MtTable *table)
{
	MtRelation *relation = table->relation;
	MtColumns  *keys = mt_columns_of_result(table->columns, relation->nkeys, relation->key_columns);
	MtStage		stage = {.remote = sync->remote, .columns = keys, .copy = mt_sql_stage_copy_keys(relation, keys)};
	Tuplestorestate *store;
	MtSpiScope	scope;

	mt_remote_run(sync->remote, mt_sql_stage_create(relation, table->columns));
	mt_spi_begin_table(&scope, sync->migration->owner, relation->relid, false);
	store = register_keys(table);
	stream_query(sync, "SELECT * FROM mt_keys", &stage);
	tuplestore_end(store);
	mt_spi_end(&scope);
	mt_remote_run(sync->remote, BY_KEY);
	if (stage.rows > 0)
		(void) mt_remote_query(sync->remote, mt_sql_stage_lock(relation), MT_NO_PARAMS);
	mt_remote_run(sync->remote, BY_ANY_JOIN);
	mt_remote_run(sync->remote, mt_sql_stage_drop());
}

/* mt_reverse_lock does the same here. */
void
mt_reverse_lock(MtSync *sync, MtTable *table)
{
	Tuplestorestate *store;
	MtSpiScope	scope;

	mt_spi_begin_table(&scope, sync->migration->owner, table->relation->relid, true);
	store = register_keys(table);
	mt_spi_exec(SPI_OK_SELECT, mt_sql_lock_present(table->relation), MT_NO_ARGS);
	tuplestore_end(store);
	mt_spi_end(&scope);
}

/* delete_absent deletes the rows that are gone, and counts them. */
static int64
delete_absent(MtSync *sync, MtTable *table)
{
	MtRelation *relation = table->relation;
	MtColumns  *keys = mt_columns_of_result(table->columns, relation->nkeys, relation->key_columns);
	MtStage		stage = {.remote = sync->remote, .columns = keys, .copy = mt_sql_stage_copy_keys(relation, keys)};

	stream_query(sync, mt_sql_read_absent(relation), &stage);
	if (stage.rows > 0)
		mt_remote_run(sync->remote, mt_sql_stage_delete_absent(relation));
	return stage.rows;
}

/* set_present makes rows equal to what is read, piece by piece, and counts them. */
static int64
set_present(MtSync *sync, MtTable *table)
{
	MtColumns  *rows = mt_columns_of_result(table->columns, 0, NULL);
	MtStage		stage = {
		.remote = sync->remote,
		.columns = rows,
		.copy = mt_sql_stage_copy_rows(rows),
		.update = mt_sql_stage_update(table->relation, table->columns),
		.insert = mt_sql_stage_insert(table->relation, table->columns, true),
	};

	/* A piece is small beside the table, or else beside the tick: its rows are looked up one by one. */
	mt_remote_run(sync->remote, BY_KEY);
	stream_query(sync, mt_sql_read_present(table->relation, table->columns, table->distinct_keys), &stage);
	mt_remote_run(sync->remote, BY_ANY_JOIN);
	return stage.rows;
}

/* replace_present deletes what is there of all rows that are read before it inserts the first, and counts them. */
static int64
replace_present(MtSync *sync, MtTable *table)
{
	MtColumns  *rows = mt_columns_of_result(table->columns, 0, NULL);
	MtStage		stage = {.remote = sync->remote, .columns = rows, .copy = mt_sql_stage_copy_rows(rows)};

	stream_query(sync, mt_sql_read_present(table->relation, table->columns, table->distinct_keys), &stage);
	if (stage.rows > ANALYZE_ROWS)
		mt_remote_run(sync->remote, "ANALYZE pg_temp." MT_STAGE_ROWS);
	if (stage.rows > 0)
	{
		mt_remote_run(sync->remote, mt_sql_stage_delete_present(table->relation));
		mt_remote_run(sync->remote, mt_sql_stage_insert(table->relation, table->columns, false));
	}
	return stage.rows;
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

/* stream_query reads the result of a local query into a stage. */
static void
stream_query(MtSync *sync, const char *query, MtStage *stage)
{
	int			guc_level = NewGUCNestLevel();
	SPIPlanPtr	plan = SPI_prepare(query, 0, NULL);
	Portal		portal;
	Datum	   *values = palloc(sizeof(Datum) * Max(stage->columns->count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(stage->columns->count, 1));

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", query, SPI_result_code_string(SPI_result));
	/* A scan of the table may well be the best way to many keys. */
	(void) set_config_option("enable_seqscan", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	AtEOXact_GUC(true, guc_level);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 row = 0; row < SPI_processed; row++)
		{
			heap_deform_tuple(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, values, nulls);
			mt_stage_put(stage, values, nulls);
		}
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
	mt_stage_end(stage);
	sync->bytes += stage->bytes;
}

/* store_mark stores S as the target's mark, and what joins with it. */
static void
store_mark(MtSync *sync, const char *new_mark, TimestampTz snapshot_time)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	mt_remote_query(sync->remote, mt_apply_mark_sql(),
					MT_PARAMS(sync->migration->ident, new_mark, timestamptz_to_str(snapshot_time),
							  psprintf(INT64_FORMAT, sync->rows), sync->stored_mark ? sync->stored_mark : "",
							  psprintf("%u", sync->timeline)));
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->joining)
			mt_remote_query(sync->remote,
							"INSERT INTO migrate_tiers.joined (migration, relation) VALUES ($1, $2) ON CONFLICT DO NOTHING",
							MT_PARAMS(sync->migration->ident, psprintf("%d", table->id)));
}
