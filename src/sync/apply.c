/*
 * apply.c
 *	  Sends a tick to the target, row by row or through a stage.
 *
 * Order within a tick: what was truncated goes first (whatever is there in S was
 * written after it, so its key is in the tick), then rows that are gone, then
 * rows that are there.
 */
#include "sync/merge.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements.h"
#include "sync/apply.h"
#include "sync/files.h"
#include "sync/hold.h"

/* Rows are collected up to this many bytes, so that deletions can go before them. */
#define SMALL_TICK_BYTES (8 * 1024 * 1024)

static void send_small(MtSync *sync, MtTable *table, bool replace);
static void send_deletes(MtSync *sync, MtTable *table);
static List *send_present(MtSync *sync, MtTable *table, bool by_insert, List *rows);
static void prepare_table(MtSync *sync, MtTable *table, bool replace);
static void queue_truncates(MtSync *sync, MtTable *table);
static void queue_mark(MtSync *sync, const char *new_mark, TimestampTz snapshot_time);

/*
 * mt_apply_small sends a tick as prepared statements in one pipeline: one round trip.
 *
 * While both sides are written, it stops for a look before it commits.
 */
MtApplied
mt_apply_small(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (mt_table_touched(table))
			prepare_table(sync, table, replace);
	mt_remote_prepare(sync->remote, "mt_store_mark", mt_apply_mark_sql());
	mt_pipeline_begin(sync->remote);
	mt_pipeline_query(sync->remote, "BEGIN", 0, NULL);
	if (sync->merge != NULL)
		mt_pipeline_query(sync->remote, MT_MERGE_LOCK_TIMEOUT, 0, NULL);
	if (mt_holds_first(sync->merge))
	{
		(void) mt_pipeline_finish(sync->remote);
		mt_hold(sync->merge);
		mt_pipeline_begin(sync->remote);
	}
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (mt_table_touched(table))
			send_small(sync, table, replace);
	if (sync->merge != NULL)
	{
		(void) mt_pipeline_finish(sync->remote);
		if (!mt_merge_look(sync->merge))
			return MT_APPLY_AGAIN;
		mt_merge_record(sync->merge);
		mt_pipeline_begin(sync->remote);
	}
	if (mt_files_changed(sync))
	{
		(void) mt_pipeline_finish(sync->remote);
		return MT_TAKE_AGAIN;
	}
	mt_apply_flush(sync);
	queue_mark(sync, new_mark, snapshot_time);
	mt_pipeline_query(sync->remote, "COMMIT", 0, NULL);
	(void) mt_pipeline_finish(sync->remote);
	return MT_APPLIED;
}

/* send_small reads and sends the rows of one table. */
static void
send_small(MtSync *sync, MtTable *table, bool replace)
{
	bool		by_insert = replace || !table->can_update;
	MtKeyCursor cursor = {0, 0};
	const char *bytes;
	int			length;
	MtSpiScope	scope;
	List	   *present = NIL;
	int64		collected = sync->bytes;

	queue_truncates(sync, table);
	if (table->keys == NULL)
		return;
	sync->sending = table;
	if (by_insert)
		send_deletes(sync, table);
	mt_spi_begin_table(&scope, sync->migration->owner, table->relation->relid, false);
	while (mt_keys_next(table->keys, &cursor, &bytes, &length))
	{
		Datum		key[INDEX_MAX_KEYS];
		MtField    *fields;

		if (!mt_merge_keeps(table, bytes, length))
			continue;
		MemoryContextSwitchTo(sync->row_context);
		fields = palloc(sizeof(MtField) * Max(Max(table->columns->count, table->key.count), 1));
		mt_key_decode(&table->key, bytes, length, key);
		if (mt_table_read_row(table, key, fields, &sync->bytes))
			present = lappend(present, fields);
		else if (!by_insert)
		{
			mt_table_key_fields(table, key, fields);
			mt_pipeline_execute(sync->remote, table->delete, table->key.count, fields);
		}
		sync->rows++;
		if (sync->bytes - collected > SMALL_TICK_BYTES)
		{
			present = send_present(sync, table, by_insert, present);
			collected = sync->bytes;
		}
	}
	(void) send_present(sync, table, by_insert, present);
	mt_spi_end(&scope);
	sync->sending = NULL;
}

/* send_deletes sends the deletion of every key of a table. */
static void
send_deletes(MtSync *sync, MtTable *table)
{
	MtKeyCursor cursor = {0, 0};
	MtField		fields[INDEX_MAX_KEYS];
	const char *bytes;
	int			length;
	MemoryContext previous = MemoryContextSwitchTo(sync->row_context);

	while (mt_keys_next(table->keys, &cursor, &bytes, &length))
	{
		Datum		key[INDEX_MAX_KEYS];

		if (!mt_merge_keeps(table, bytes, length))
			continue;
		mt_key_decode(&table->key, bytes, length, key);
		mt_table_key_fields(table, key, fields);
		mt_pipeline_execute(sync->remote, table->delete, table->key.count, fields);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextReset(sync->row_context);
}

/* send_present sends rows that were read, many to a statement while there are many, and frees them. */
static List *
send_present(MtSync *sync, MtTable *table, bool by_insert, List *rows)
{
	int			columns = table->columns->count;
	int			left = list_length(rows);
	MtField    *batch = palloc(sizeof(MtField) * Max(columns, 1) * MT_BATCH_ROWS);

	for (int at = 0; left > 0;)
	{
		int			many = left >= MT_BATCH_ROWS && (by_insert || !table->in_two) ? 1 : 0;
		int			count = many ? MT_BATCH_ROWS : 1;

		for (int i = 0; i < count; i++)
			memcpy(batch + i * columns, list_nth(rows, at + i), sizeof(MtField) * columns);
		if (table->in_two && !by_insert)
			mt_pipeline_execute(sync->remote, table->update, columns, batch);
		mt_pipeline_execute(sync->remote, by_insert ? table->insert[many] : table->upsert[many],
							columns * count, batch);
		at += count;
		left -= count;
	}
	pfree(batch);
	MemoryContextReset(sync->row_context);
	return NIL;
}

/* prepare_table prepares the statements of a table in the target's session, when they are needed first. */
static void
prepare_table(MtSync *sync, MtTable *table, bool replace)
{
	bool		by_insert = replace || !table->can_update;
	bool	   *prepared = by_insert ? table->insert_prepared : table->upsert_prepared;
	char	  **names = by_insert ? table->insert : table->upsert;
	bool		in_two = table->in_two && !by_insert;
	int			sizes = table->keys && mt_keys_count(table->keys) >= MT_BATCH_ROWS && !in_two ? 2 : 1;

	sync->sending = table;
	for (int many = 0; many < sizes; many++)
	{
		int			rows = many ? MT_BATCH_ROWS : 1;

		if (prepared[many])
			continue;
		mt_remote_prepare(sync->remote, table->delete, mt_sql_delete(table->relation, table->columns));
		if (in_two)
			mt_remote_prepare(sync->remote, table->update, mt_sql_update(table->relation, table->columns));
		mt_remote_prepare(sync->remote, names[many],
						  by_insert	 ? mt_sql_insert(table->relation, table->columns, rows) :
							  in_two ? mt_sql_insert_missing(table->relation, table->columns) :
							  mt_sql_upsert(table->relation, table->columns, rows));
		prepared[many] = true;
	}
	sync->sending = NULL;
}

/* queue_truncates deletes what the sender truncated, but for rows that it does not concern. */
static void
queue_truncates(MtSync *sync, MtTable *table)
{
	ListCell   *cell;

	foreach(cell, mt_truncation_list(table))
	{
		const MtTruncation *truncation = (MtTruncation *) lfirst(cell);
		MtField    *spared;
		int			count = mt_truncation_spared(table, truncation, &spared);

		mt_pipeline_query(sync->remote, mt_sql_truncate(table->relation, table->columns, truncation->condition, count),
						  count * table->key.count, spared);
	}
}

/* queue_mark stores S as the target's mark, and what joins with it. */
static void
queue_mark(MtSync *sync, const char *new_mark, TimestampTz snapshot_time)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	const char *params[] = {
		sync->migration->ident, new_mark, timestamptz_to_str(snapshot_time),
		psprintf(INT64_FORMAT, sync->rows), sync->stored_mark ? sync->stored_mark : "",
		psprintf("%u", sync->timeline)};
	MtField		fields[lengthof(params)];

	for (int i = 0; i < lengthof(params); i++)
		fields[i] = (MtField) {.data = params[i], .length = strlen(params[i]), .binary = false};
	mt_pipeline_execute(sync->remote, "mt_store_mark", lengthof(params), fields);
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->joining)
		{
			char	   *id = psprintf("%d", table->id);
			MtField		join[2] = {fields[0], {.data = id, .length = strlen(id), .binary = false}};

			mt_pipeline_query(sync->remote,
							  "INSERT INTO migrate_tiers.joined (migration, relation) VALUES ($1, $2) ON CONFLICT DO NOTHING",
							  2, join);
		}
}

/*
 * mt_apply_mark_sql stores a mark; parameters are ident, mark, time, rows, the mark that must be there and
 * the timeline of the source's log.
 *
 * Another mark than the one that was read means that somebody else writes this target in our
 * name (a copy of the source that was started, too): the tick fails then, by a function of the target.
 */
char *
mt_apply_mark_sql(void)
{
	return "SELECT migrate_tiers.store_mark($1::uuid, $2::pg_snapshot, $3::timestamptz, $4::bigint, $5, $6::bigint)";
}
