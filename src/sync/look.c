/*
 * look.c
 *	  Looks into the receiver's queue: see look.h.
 */
#include "sync/look.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/spi.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements_queue.h"
#include "sync/cancelled.h"

/* Kinds that name a row. */
#define HAS_KEY(kind) ((kind) == MT_ENTRY_KEY || (kind) == MT_TARGET_SPARE)

typedef struct MtEntryReader
{
	MtTable    *table;
	Oid			migration_owner;
	MtTargetEntryFn function;
	void	   *arg;
	MemoryContext scratch;
} MtEntryReader;

static void read_entry(void *arg, const MtField *fields, int count);
static void check_entry(const MtTable *table, const MtField *fields, int kind);
static uint64 read_integer(const MtField *field);
static char *entries_name(const MtTable *table);
static void take_any(void *arg, const MtField *fields, int count);
static bool concerns_tick(const MtMerge *merge, const MtTable *table, const char *bytes, int length);
static void take_target_entry(void *arg, MtTable *table, const MtTargetEntry *entry);
static void take_source_row(void *arg, const MtQueueRow *row);
static void take_source_time(void *arg, const MtQueueRow *row);
static void take_target_time(void *arg, MtTable *table, const MtTargetEntry *entry);
static void note_time(MtTable *table, const char *bytes, int length, TimestampTz written);
static void note_time_of_all(MtMerge *merge, const MtTable *table, TimestampTz written);

/* mt_look_target reads what the target's queues hold of the tables of the tick. */
bool
mt_look_target(MtMerge *merge, bool every_key)
{
	MtSync	   *sync = merge->sync;
	HASH_SEQ_STATUS status;
	MtTable    *table;

	merge->every_key = every_key;
	if (!mt_look_target_unsent(sync))
		return false;
	/* To the end of the tick: nothing but looks comes after it, and they are to go by the index. */
	mt_remote_run(sync->remote, "SET LOCAL enable_seqscan = off");
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		table->both.unsent = NULL;
		if (!mt_table_touched(table))
			continue;
		table->both.unsent = mt_unsent_create(table, merge->context);
		mt_look_entries(sync, table, true, take_target_entry, merge);
	}
	return true;
}

/* mt_look_source reads what our queue holds of all tables, as it is now. */
bool
mt_look_source(MtMerge *merge, bool every_key)
{
	MtSync	   *sync = merge->sync;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	HASH_SEQ_STATUS status;
	MtTable    *table;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		table->both.unsent = NULL;
	merge->every_key = every_key;
	merge->look = mt_mark_format(mt_mark_from_snapshot(snapshot));
	mt_queue_read(sync->reader, snapshot, sync->mark, false, take_source_row, merge);
	UnregisterSnapshot(snapshot);
	return true;
}

/* mt_look_sender_times asks when the sender wrote the keys that are to be decided. */
void
mt_look_sender_times(MtMerge *merge)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	if (merge->forward)
	{
		mt_queue_read(merge->sync->reader, merge->snapshot, merge->sync->mark, false, take_source_time, merge);
		return;
	}
	hash_seq_init(&status, merge->sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->both.known != NULL)
			mt_look_entries(merge->sync, table, true, take_target_time, merge);
}

/* mt_look_entries reads a queue of the target. */
void
mt_look_entries(MtSync *sync, MtTable *table, bool times, MtTargetEntryFn function, void *arg)
{
	MtEntryReader reader = {.table = table, .function = function, .arg = arg};
	MtField		param = mt_reverse_mark_param(sync);

	reader.migration_owner = sync->migration->owner;
	reader.scratch = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers entry", ALLOCSET_DEFAULT_SIZES);
	mt_remote_stream(sync->remote,
					 mt_sql_queue_entries(sync->migration, table->relation, table->columns, times),
					 1, &param, read_entry, &reader);
	MemoryContextDelete(reader.scratch);
}

/* mt_look_prepare prepares to read a queue of the target in a pipeline. */
void
mt_look_prepare(MtSync *sync, MtTable *table)
{
	char	   *name = entries_name(table);

	if (!mt_remote_prepared(sync->remote, name))
		mt_remote_prepare(sync->remote, name,
						  mt_sql_queue_entries(sync->migration, table->relation, table->columns, false));
}

/* mt_look_ask reads a queue of the target in a pipeline; what it needs for that lives as long as the tick. */
void
mt_look_ask(MtSync *sync, MtTable *table, MtTargetEntryFn function, void *arg)
{
	MtEntryReader *reader = palloc(sizeof(MtEntryReader));
	MtField		param = mt_reverse_mark_param(sync);

	*reader = (MtEntryReader) {.table = table, .function = function, .arg = arg};
	reader->migration_owner = sync->migration->owner;
	reader->scratch = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers entry", ALLOCSET_DEFAULT_SIZES);
	mt_pipeline_rows(sync->remote, entries_name(table), 1, &param, read_entry, reader);
}

static char *
entries_name(const MtTable *table)
{
	return psprintf("mt_entries_%d", table->id);
}

/* read_entry decodes a row: kind, xid, time, condition, key columns. */
static void
read_entry(void *arg, const MtField *fields, int count)
{
	MtEntryReader *reader = (MtEntryReader *) arg;
	MtTable    *table = reader->table;
	MtTargetEntry entry = {0};
	MemoryContext previous;

	entry.kind = (int) read_integer(&fields[0]);
	check_entry(table, fields, entry.kind);
	entry.xid = read_integer(&fields[1]);
	entry.written = fields[2].data ? (TimestampTz) read_integer(&fields[2]) : 0;
	/* libpq puts a zero byte behind each value. */
	entry.condition = fields[3].data;
	previous = MemoryContextSwitchTo(reader->scratch);
	if (HAS_KEY(entry.kind))
	{
		Datum		key[INDEX_MAX_KEYS];
		StringInfoData bytes;

		for (int i = 0; i < table->key.count; i++)
			key[i] = mt_table_value(table, reader->migration_owner, mt_table_key_column(table, i), &fields[4 + i]);
		initStringInfo(&bytes);
		mt_key_encode_values(&table->key, key, &bytes);
		entry.key = bytes.data;
		entry.length = bytes.len;
	}
	MemoryContextSwitchTo(previous);
	reader->function(reader->arg, table, &entry);
	MemoryContextReset(reader->scratch);
}

/* check_entry refuses a row that no trigger of ours wrote: the queue is a table that the target's role can write. */
static void
check_entry(const MtTable *table, const MtField *fields, int kind)
{
	const char *missing = NULL;

	for (int i = 0; i < table->key.count && HAS_KEY(kind); i++)
		if (fields[4 + i].data == NULL)
			missing = "a key";
	if (fields[3].data == NULL && (kind == MT_ENTRY_TRUNCATE_WHERE || kind == MT_TARGET_SPARE))
		missing = "a condition";
	if (kind == MT_ENTRY_TRUNCATE_WHERE && !table->relation->target_partitioned)
		missing = "a partitioned table";
	if (fields[0].data == NULL || fields[1].data == NULL)
		missing = "a kind or transaction";
	if (missing != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the queue of table \"%s\" on the target holds an entry without %s",
						table->relation->target_name, missing),
				 errhint("Find out who wrote it, delete it from the queue, and compare the table: migrate_tiers.verify.")));
}

static uint64
read_integer(const MtField *field)
{
	uint64		value = 0;

	for (int i = 0; i < field->length; i++)
		value = value << 8 | (uint8) field->data[i];
	return value;
}

/* mt_reverse_mark_param gives the reverse mark as the parameter of a statement. */
MtField
mt_reverse_mark_param(const MtSync *sync)
{
	const char *mark = sync->reverse_mark ? sync->reverse_mark : "1:1:";

	return (MtField) {.data = mark, .length = strlen(mark), .binary = false};
}

/* mt_look_target_unsent says whether any transaction of the target is not here yet. */
bool
mt_look_target_unsent(MtSync *sync)
{
	mt_look_prepare_unsent(sync);
	mt_pipeline_begin(sync->remote);
	mt_look_ask_unsent(sync);
	(void) mt_pipeline_finish(sync->remote);
	return sync->target_unsent;
}

/* mt_look_prepare_unsent prepares the question. */
void
mt_look_prepare_unsent(MtSync *sync)
{
	if (!mt_remote_prepared(sync->remote, "mt_unsent"))
		mt_remote_prepare(sync->remote, "mt_unsent", mt_sql_writer_unsent(sync->migration));
}

/* mt_look_ask_unsent asks it in a pipeline, once it was prepared; target_unsent is the answer. */
void
mt_look_ask_unsent(MtSync *sync)
{
	MtField		param = mt_reverse_mark_param(sync);

	sync->target_unsent = false;
	mt_pipeline_rows(sync->remote, "mt_unsent", 1, &param, take_any, &sync->target_unsent);
}

static void
take_any(void *arg, const MtField *fields, int count)
{
	*(bool *) arg = true;
}

/*
 * concerns_tick says whether a key of the receiver has to be kept: few of a long backlog meet the tick.
 *
 * Where keys can be equal though their bytes are not, all are.
 */
static bool
concerns_tick(const MtMerge *merge, const MtTable *table, const char *bytes, int length)
{
	return merge->every_key || !table->distinct_keys || table->truncations != NIL ||
		(table->keys != NULL && mt_keys_has(table->keys, bytes, length));
}

static void
take_target_entry(void *arg, MtTable *table, const MtTargetEntry *entry)
{
	switch (entry->kind)
	{
		case MT_ENTRY_KEY:
			if (concerns_tick((MtMerge *) arg, table, entry->key, entry->length))
				mt_unsent_add_key(table->both.unsent, entry->key, entry->length, entry->xid, entry->written);
			break;
		case MT_ENTRY_TRUNCATE:
		case MT_ENTRY_TRUNCATE_WHERE:
			mt_unsent_add_truncate(table->both.unsent, entry->condition, entry->xid, entry->written);
			break;
		default:				/* of ours */
			break;
	}
}

/* take_source_row takes the entries of a row of our queue that are not void. */
static void
take_source_row(void *arg, const MtQueueRow *row)
{
	MtMerge    *merge = (MtMerge *) arg;
	const char *at = row->entries;
	MtEntry		entry;

	while (mt_entry_next(&at, row->entries + row->length, &entry))
	{
		MtTable    *table = hash_search(merge->sync->tables, &entry.relation, HASH_FIND, NULL);

		if (table == NULL || !mt_table_touched(table))
			continue;
		if (table->both.unsent == NULL)
			table->both.unsent = mt_unsent_create(table, merge->context);
		if (entry.kind == MT_ENTRY_KEY)
		{
			if (concerns_tick(merge, table, entry.bytes, entry.length) &&
				!mt_cancelled_is(table, entry.bytes, entry.length, row->xid))
				mt_unsent_add_key(table->both.unsent, entry.bytes, entry.length, row->xid, row->committed);
		}
		else if (MT_ENTRY_IS_TRUNCATE(entry.kind))
			mt_unsent_add_truncate(table->both.unsent,
								   entry.kind == MT_ENTRY_TRUNCATE ? NULL : pnstrdup(entry.bytes, entry.length),
								   row->xid, row->committed);
	}
}

/* take_source_time notes when we wrote keys that are to be decided. */
static void
take_source_time(void *arg, const MtQueueRow *row)
{
	MtMerge    *merge = (MtMerge *) arg;
	const char *at = row->entries;
	MtEntry		entry;

	while (mt_entry_next(&at, row->entries + row->length, &entry))
	{
		MtTable    *table = hash_search(merge->sync->tables, &entry.relation, HASH_FIND, NULL);

		if (table == NULL || table->both.known == NULL)
			continue;
		if (entry.kind == MT_ENTRY_KEY)
			note_time(table, entry.bytes, entry.length, row->committed);
		else if (MT_ENTRY_IS_TRUNCATE(entry.kind))
			note_time_of_all(merge, table, row->committed);
	}
}

static void
take_target_time(void *arg, MtTable *table, const MtTargetEntry *entry)
{
	if (entry->kind == MT_ENTRY_KEY)
		note_time(table, entry->key, entry->length, entry->written);
	else if (entry->kind != MT_TARGET_SPARE)
		note_time_of_all((MtMerge *) arg, table, entry->written);
}

static void
note_time(MtTable *table, const char *bytes, int length, TimestampTz written)
{
	MtUnsentKey *key = mt_unsent_find(table->both.known, bytes, length);

	if (key != NULL)
	{
		MtDecision *decision = (MtDecision *) key->data;

		decision->sender_written = Max(decision->sender_written, written);
	}
}

/* note_time_of_all notes a TRUNCATE of the sender, which wrote every row of the table. */
static void
note_time_of_all(MtMerge *merge, const MtTable *table, TimestampTz written)
{
	ListCell   *cell;

	foreach(cell, merge->decisions)
	{
		MtDecision *decision = (MtDecision *) lfirst(cell);

		if (decision->table == table)
			decision->sender_written = Max(decision->sender_written, written);
	}
}
