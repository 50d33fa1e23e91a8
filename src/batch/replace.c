/*
 * replace.c
 *	  A push in mode replace: all rows are sent, and take the place of the
 *	  receiver's in one transaction.
 *
 * Readers with an older snapshot go on to see what was there, and nobody waits for a
 * lock.  So the table is neither truncated nor exchanged for another one: that would
 * wait for every reader, show an empty table to those with an older snapshot, and leave
 * views and foreign keys behind.  What is left is to delete rows and to insert rows, which
 * costs more than twice what a COPY into an empty table does.  Where a key shows that
 * most of the receiver's rows are right already, as they are from night to night, rows go to
 * a stage and only those that differ are changed: half the time, and a fraction of the WAL and
 * of the dead rows.
 */
#include "batch/stage.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

/* Rows of the sender that are looked up on the receiver. */
#define SAMPLE_ROWS 500

static bool is_alike(MtPush *push);
static MtRows *sample_rows(MtPush *push);
static int64 count_equal(MtPush *push, const MtRows *sample);

/* mt_push_replace sends the whole table. */
void
mt_push_replace(MtPush *push)
{
	MtBatch    *batch = push->batch;
	bool		filled = mt_side_query(push->receiver, psprintf("SELECT EXISTS (SELECT FROM %s)", push->to))->values[0][0][0] == 't';

	if (filled && push->key != NULL && is_alike(push))
	{
		mt_push_whole(push);
		return;
	}
	mt_side_begin(push->receiver);
	mt_stage_forget(push);
	if (filled)
		batch->deleted = mt_side_execute(push->receiver, psprintf("DELETE FROM %s", push->to));
	batch->inserted = mt_side_transfer(push->sender,
									   psprintf("SELECT %s FROM %s AS t", mt_push_columns(push, "t."), push->from),
									   push->receiver, push->into_sql, push->columns, &push->pace);
	batch->sender_rows = batch->receiver_rows = batch->inserted;
	mt_push_commit(push);
}

/* is_alike says whether at least half of some rows of the sender are on the receiver as they are. */
static bool
is_alike(MtPush *push)
{
	MtRows	   *sample = sample_rows(push);

	return sample->count > 0 && count_equal(push, sample) * 2 >= sample->count;
}

/* sample_rows reads keys and digests of some rows of the sender. */
static MtRows *
sample_rows(MtPush *push)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&sql, "t.%s::text, ", push->key->columns[i]);
	appendStringInfo(&sql, "(%s)::text FROM %s AS t TABLESAMPLE SYSTEM (%f) ORDER BY random() LIMIT %d", push->digest, push->from,
					 mt_ranges_sample_share(push, SAMPLE_ROWS), SAMPLE_ROWS);
	return mt_side_query(push->sender, sql.data);
}

/* count_equal looks them up on the receiver. */
static int64
count_equal(MtPush *push, const MtRows *sample)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT count(*) FROM (VALUES ");
	for (int row = 0; row < sample->count; row++)
	{
		appendStringInfoString(&sql, row ? ", (" : "(");
		for (int i = 0; i < push->key->count; i++)
			appendStringInfo(&sql, "%s::%s, ", quote_literal_cstr(sample->values[row][i]), push->key->types[i]);
		appendStringInfo(&sql, "%s)", sample->values[row][push->key->count]);
	}
	appendStringInfoString(&sql, ") AS s(");
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&sql, "k%d, ", i);
	appendStringInfo(&sql, "digest) JOIN %s AS t ON %s = s.digest", push->to, push->digest);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&sql, " AND t.%s %s s.k%d", push->key->columns[i], push->key->operators[i], i);
	return strtoll(mt_side_query(push->receiver, sql.data)->values[0][0], NULL, 10);
}
