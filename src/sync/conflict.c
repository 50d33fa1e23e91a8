/*
 * conflict.c
 *	  Keeps what lost a conflict, and voids what must not be sent back: both in the
 *	  transaction of the receiver that sets the row that has won.  See merge.h.
 *
 * A conflict that a forward tick finds is kept on the target and brought to
 * the source's table later; its token there makes sure that it comes once.  Its number
 * would not do: a schema that is made anew, or a target that was failed over, counts again.
 */
#include "sync/merge.h"

#include "catalog/pg_type_d.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "base/xact.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements_queue.h"
#include "sync/link.h"
#include "sync/side.h"

#define VALUES_SQL \
	" (SELECT pg_catalog.jsonb_object_agg(k, coalesce($3::pg_catalog.jsonb, $4::pg_catalog.jsonb) OPERATOR(pg_catalog.->) k)" \
	" FROM pg_catalog.unnest($5::pg_catalog.text[]) AS k), $6, $7, $3::pg_catalog.jsonb, $4::pg_catalog.jsonb," \
	" $8::pg_catalog.timestamptz, $9::pg_catalog.timestamptz"

#define COLUMNS_SQL "key, winner, policy, source_row, target_row, source_written, target_written"

/* The statement that keeps a conflict on the target. */
#define KEEP "mt_conflict"

/* mt_pipeline_query or mt_pipeline_execute. */
typedef void (*MtPipelineFn)(MtRemote *remote, const char *statement, int nparams, const MtField *params);

typedef struct MtConflictRow
{
	const char *values[9];
} MtConflictRow;

static void record_there(MtMerge *merge);
static void prepare_there(MtMerge *merge, const MtDecision *decision);
static char *statement_name(const char *what, const MtTable *table);
static void describe(MtMerge *merge, const MtDecision *decision, MtConflictRow *row);
static const char *time_text(TimestampTz time);
static char *array_text(MtTable *table);
static void keep_there(MtMerge *merge, const MtDecision *decision);
static void spare_there(MtMerge *merge, MtDecision *decision);
static void cancel_there(MtMerge *merge, MtTable *table);
static void cancel_keys(MtMerge *merge, MtPipelineFn ask, const char *statement, List *decisions, int at, int count);
static void record_here(MtMerge *merge);
static void keep_here(MtMerge *merge, const MtDecision *decision);
static void cancel_here(MtMerge *merge, const MtDecision *decision);

/* mt_merge_record keeps what lost, and voids entries. */
void
mt_merge_record(MtMerge *merge)
{
	MemoryContext previous = MemoryContextSwitchTo(merge->context);
	bool		any = false;
	ListCell   *cell;

	foreach(cell, merge->decisions)
	{
		MtDecision *decision = (MtDecision *) lfirst(cell);

		if (decision->note)
			mt_link_note(merge, decision);
		merge->recorded = merge->recorded || decision->conflict;
		any = any || decision->conflict || decision->cancel;
	}
	if (any)
		(merge->forward ? record_there : record_here)(merge);
	MemoryContextSwitchTo(previous);
}

/* record_there does so on the target, in few round trips. */
static void
record_there(MtMerge *merge)
{
	MtRemote   *remote = merge->sync->remote;
	HASH_SEQ_STATUS status;
	MtTable    *table;
	ListCell   *cell;

	foreach(cell, merge->decisions)
		prepare_there(merge, (MtDecision *) lfirst(cell));
	mt_pipeline_begin(remote);
	/* So are statements planned that are kept: entries are found by the index, and meet many keys in a hash table. */
	mt_pipeline_query(remote, "SET LOCAL enable_seqscan = off", 0, NULL);
	mt_pipeline_query(remote, "SET LOCAL enable_nestloop = off", 0, NULL);
	foreach(cell, merge->decisions)
	{
		MtDecision *decision = (MtDecision *) lfirst(cell);

		MemoryContextSwitchTo(merge->sync->row_context);
		if (decision->conflict)
			keep_there(merge, decision);
		if (decision->cancel && decision->table->both.unsent->truncates.count > 0)
			spare_there(merge, decision);
		MemoryContextReset(merge->sync->row_context);
		MemoryContextSwitchTo(merge->context);
		if (decision->cancel && !decision->by_truncate)
			decision->table->both.to_void = lappend(decision->table->both.to_void, decision);
	}
	(void) mt_pipeline_finish(remote);
	hash_seq_init(&status, merge->sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		cancel_there(merge, table);
}

/* prepare_there prepares what a key needs. */
static void
prepare_there(MtMerge *merge, const MtDecision *decision)
{
	MtSync	   *sync = merge->sync;
	MtTable    *table = decision->table;
	char	   *spare = statement_name("spare", table);

	if (decision->conflict && !mt_remote_prepared(sync->remote, KEEP))
		mt_remote_prepare(sync->remote, KEEP,
						  "INSERT INTO migrate_tiers.conflict (migration, relation, " COLUMNS_SQL ")"
						  " SELECT $1::pg_catalog.uuid, $2::pg_catalog.int4," VALUES_SQL);
	if (decision->cancel && table->both.unsent->truncates.count > 0 && !mt_remote_prepared(sync->remote, spare))
		mt_remote_prepare(sync->remote, spare, mt_sql_queue_spare(sync->migration, table->relation, table->columns));
}

static char *
statement_name(const char *what, const MtTable *table)
{
	return psprintf("mt_%s_%d", what, table->id);
}

/* describe gives a conflict as the parameters of VALUES_SQL; the first two are the caller's. */
static void
describe(MtMerge *merge, const MtDecision *decision, MtConflictRow *row)
{
	bool		source_won = decision->sender_wins == merge->forward;

	row->values[2] = merge->forward ? decision->sender_row : decision->receiver_row;
	row->values[3] = merge->forward ? decision->receiver_row : decision->sender_row;
	row->values[4] = array_text(decision->table);
	row->values[5] = source_won ? "source" : "target";
	row->values[6] = merge->policy;
	row->values[7] = time_text(merge->forward ? decision->sender_written : decision->writers.newest);
	row->values[8] = time_text(merge->forward ? decision->writers.newest : decision->sender_written);
}

static const char *
time_text(TimestampTz time)
{
	return time ? pstrdup(timestamptz_to_str(time)) : NULL;
}

/* array_text gives the names of the key's columns as text[]. */
static char *
array_text(MtTable *table)
{
	const MtRelation *relation = table->relation;
	Datum	   *names = palloc(sizeof(Datum) * relation->nkeys);
	Oid			output;
	bool		varlena;
	ArrayType  *array;

	for (int i = 0; i < relation->nkeys; i++)
		names[i] = CStringGetTextDatum(relation->key_columns[i]);
	getTypeOutputInfo(TEXTARRAYOID, &output, &varlena);
	array = construct_array(names, relation->nkeys, TEXTOID, -1, false, TYPALIGN_INT);
	return OidOutputFunctionCall(output, PointerGetDatum(array));
}

/* keep_there keeps a conflict on the target. */
static void
keep_there(MtMerge *merge, const MtDecision *decision)
{
	MtConflictRow row;
	MtField		fields[lengthof(row.values)];

	describe(merge, decision, &row);
	row.values[0] = merge->sync->migration->ident;
	row.values[1] = psprintf("%d", decision->table->id);
	for (int i = 0; i < lengthof(fields); i++)
		fields[i] = (MtField) {.data = row.values[i], .length = row.values[i] ? strlen(row.values[i]) : 0};
	mt_pipeline_execute(merge->sync->remote, KEEP, lengthof(fields), fields);
}

/* spare_there keeps truncations of the target from concerning a key. */
static void
spare_there(MtMerge *merge, MtDecision *decision)
{
	MtTable    *table = decision->table;
	char	   *xids = mt_writers_text(&decision->writers);
	MtField    *fields = mt_side_key(table, decision->bytes, decision->length, 1);

	fields[table->key.count] = (MtField) {.data = xids, .length = strlen(xids), .binary = false};
	mt_pipeline_execute(merge->sync->remote, statement_name("spare", table), table->key.count + 1, fields);
}

/*
 * cancel_there voids the target's entries of keys of a table, as many at once as there are.
 *
 * The statement of very many keys is large, and rarely needed: no session keeps it.
 */
static void
cancel_there(MtMerge *merge, MtTable *table)
{
	static const int sizes[] = {1024, 32, 1};
	MtSync	   *sync = merge->sync;
	List	   *decisions = table->both.to_void;
	int			at = 0;

	for (int i = 0; i < lengthof(sizes); i++)
	{
		bool		kept = i > 0;
		MtPipelineFn ask = kept ? mt_pipeline_execute : mt_pipeline_query;
		char	   *name = psprintf("mt_cancel_%d_%d", table->id, sizes[i]);
		char	   *sql = NULL;

		if (list_length(decisions) - at < sizes[i])
			continue;
		if (!kept || !mt_remote_prepared(sync->remote, name))
			sql = mt_sql_queue_cancel(sync->migration, table->relation, table->columns, sizes[i]);
		if (kept && sql != NULL)
			mt_remote_prepare(sync->remote, name, sql);
		mt_pipeline_begin(sync->remote);
		for (; list_length(decisions) - at >= sizes[i]; at += sizes[i])
			cancel_keys(merge, ask, kept ? name : sql, decisions, at, sizes[i]);
		(void) mt_pipeline_finish(sync->remote);
	}
	table->both.to_void = NIL;
}

/* cancel_keys asks for it of some of them, by the name of a statement or its text. */
static void
cancel_keys(MtMerge *merge, MtPipelineFn ask, const char *statement, List *decisions, int at, int count)
{
	MtTable    *table = ((MtDecision *) list_nth(decisions, at))->table;
	int			each = table->key.count + 1;
	MemoryContext previous = MemoryContextSwitchTo(merge->sync->row_context);
	MtField    *fields = palloc(sizeof(MtField) * (1 + each * count));
	MtWriters	all = {NULL};

	for (int i = 0; i < count; i++)
	{
		MtDecision *decision = (MtDecision *) list_nth(decisions, at + i);
		char	   *xids = mt_writers_text(&decision->writers);
		MtField    *key = fields + 1 + i * each;

		memcpy(key, mt_side_key(table, decision->bytes, decision->length, 0), sizeof(MtField) * table->key.count);
		key[table->key.count] = (MtField) {.data = xids, .length = strlen(xids), .binary = false};
		mt_writers_add_all(&all, &decision->writers, CurrentMemoryContext);
	}
	fields[0].data = mt_writers_text(&all);
	fields[0].length = strlen(fields[0].data);
	fields[0].binary = false;
	ask(merge->sync->remote, statement, 1 + each * count, fields);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(merge->sync->row_context);
}

/* record_here keeps what lost and voids entries on the source. */
static void
record_here(MtMerge *merge)
{
	MtSpiScope	scope;
	ListCell   *cell;

	mt_spi_begin(&scope);
	foreach(cell, merge->decisions)
	{
		MtDecision *decision = (MtDecision *) lfirst(cell);

		MemoryContextSwitchTo(merge->sync->row_context);
		if (decision->conflict)
			keep_here(merge, decision);
		if (decision->cancel)
			cancel_here(merge, decision);
		MemoryContextReset(merge->sync->row_context);
	}
	mt_spi_end(&scope);
}

/* keep_here keeps a conflict on the source. */
static void
keep_here(MtMerge *merge, const MtDecision *decision)
{
	static SPIPlanPtr plan = NULL;
	MtConflictRow row;
	MtArg		args[lengthof(row.values)];

	describe(merge, decision, &row);
	row.values[0] = psprintf("%d", merge->sync->migration->id);
	row.values[1] = psprintf("%d", decision->table->id);
	for (int i = 0; i < lengthof(row.values); i++)
		args[i] = (MtArg) MT_TEXT(row.values[i]);
	mt_spi_exec_kept(&plan, SPI_OK_INSERT,
					 "INSERT INTO migrate_tiers.conflict (migration, relation, " COLUMNS_SQL ")"
					 " SELECT $1::pg_catalog.int4, $2::pg_catalog.int4," VALUES_SQL,
					 lengthof(args), args);
}

/* cancel_here voids our entries of a key: those of transactions that the last look saw. */
static void
cancel_here(MtMerge *merge, const MtDecision *decision)
{
	static SPIPlanPtr plan = NULL;
	bytea	   *key = palloc(decision->length + VARHDRSZ);

	SET_VARSIZE(key, decision->length + VARHDRSZ);
	memcpy(VARDATA(key), decision->bytes, decision->length);
	mt_spi_exec_kept(&plan, SPI_OK_INSERT,
					 "INSERT INTO migrate_tiers.cancelled (relation, key, seen)"
					 " VALUES ($1, $2, $3::pg_catalog.pg_snapshot)",
					 MT_ARGS(MT_INT4(decision->table->id), {BYTEAOID, PointerGetDatum(key), false},
							 MT_TEXT(merge->look)));
	merge->sync->cancelled = true;
}

/* mt_merge_carry brings conflicts that were found on the target here. */
void
mt_merge_carry(MtSync *sync)
{
	MtRows	   *rows;
	MtSpiScope	scope;

	mt_xact_begin();
	rows = mt_remote_query(sync->remote,
						   "SELECT token, relation, key, winner, policy, source_row, target_row, source_written, target_written, id"
						   " FROM migrate_tiers.conflict WHERE migration = $1 ORDER BY id LIMIT 1000",
						   MT_PARAMS(sync->migration->ident));
	mt_spi_begin(&scope);
	for (int row = 0; row < rows->count; row++)
	{
		MtArg		args[10];

		args[0] = (MtArg) MT_INT4(sync->migration->id);
		for (int i = 0; i < 9; i++)
			args[i + 1] = (MtArg) MT_TEXT(rows->values[row][i]);
		mt_spi_exec(SPI_OK_INSERT,
					"INSERT INTO migrate_tiers.conflict (migration, target_id, relation, " COLUMNS_SQL ")"
					" SELECT $1, $2::pg_catalog.uuid, r.id, $4::pg_catalog.jsonb, $5, $6, $7::pg_catalog.jsonb, $8::pg_catalog.jsonb,"
					" $9::pg_catalog.timestamptz, $10::pg_catalog.timestamptz"
					" FROM migrate_tiers.relation AS r WHERE r.id = $3::pg_catalog.int4"
					" ON CONFLICT (migration, target_id) DO NOTHING",
					lengthof(args), args);
	}
	mt_spi_end(&scope);
	mt_xact_commit();
	if (rows->count > 0)
		mt_remote_query(sync->remote, "DELETE FROM migrate_tiers.conflict WHERE migration = $1 AND id <= $2",
						MT_PARAMS(sync->migration->ident, rows->values[rows->count - 1][9]));
	sync->conflicts_there = rows->count == 1000;
}
