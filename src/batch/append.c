/*
 * append.c
 *	  A push in mode append: rows above the highest watermark that the receiver has.
 *
 * That a row is above it says nothing of when it was committed.  So the rows at or
 * below it are counted on both sides: where one came late, or went, the push fails
 * and says so, instead of losing it.
 *
 * All rows come in one transaction, since readers must not see half of them; so a push that
 * was cut off begins anew.  What it would save by a stage is less than what a stage costs
 * every time: each row would be written twice.
 */
#include "batch/stage.h"

#include "utils/builtins.h"

static void check_watermark(const MtPush *push, const char *mark, MtRows *sender, const char *receiver_rows);

/* mt_push_append sends the rows above the watermark. */
void
mt_push_append(MtPush *push)
{
	MtBatch    *batch = push->batch;
	const char *name = quote_identifier(mt_push_watermark(push)->name);
	MtRows	   *receiver;
	MtRows	   *sender;
	char	   *mark;
	char	   *above;

	mt_side_begin(push->receiver);
	mt_stage_forget(push);
	receiver = mt_side_query(push->receiver, psprintf("SELECT count(*), max(%s)::text FROM %s", name, push->to));
	mark = receiver->values[0][1];
	if (mark == NULL)
		mark = "NULL";
	else
		mark = psprintf("%s::%s", quote_literal_cstr(mark), push->mark_type);
	/* With no mark all rows are above it. */
	above = psprintf("coalesce(%s > %s, true)", name, mark);
	if (receiver->values[0][1] != NULL)
		above = psprintf("%s > %s", name, mark);
	sender = mt_side_query(push->sender,
						   psprintf("SELECT count(*), count(*) FILTER (WHERE NOT %s), count(*) - count(%s),"
									" max(%s)::text, coalesce(max(%s) < %s, true) FROM %s",
									above, name, name, name, mark, push->from));
	check_watermark(push, receiver->values[0][1], sender, receiver->values[0][0]);
	batch->inserted = mt_side_transfer(push->sender,
									   psprintf("SELECT %s FROM %s AS t WHERE %s", mt_push_columns(push, "t."),
												push->from, above),
									   push->receiver, push->into, push->columns, &push->pace);
	batch->sender_rows = strtoll(sender->values[0][0], NULL, 10);
	batch->receiver_rows = strtoll(receiver->values[0][0], NULL, 10) + batch->inserted;
	mt_side_commit(push->receiver);
}

/* mt_push_watermark finds the column of the watermark. */
MtColumn *
mt_push_watermark(const MtPush *push)
{
	const char *table = push->sender_name;

	if (push->policy->watermark == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s has no watermark to append by", table),
				 errhint("Name the column: SELECT migrate_tiers.batch_policy(%s, mode => 'append', watermark => '...').",
						 quote_literal_cstr(table))));
	for (int i = 0; i < push->columns->count; i++)
		if (strcmp(push->columns->columns[i].name, push->policy->watermark) == 0)
			return &push->columns->columns[i];
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("the watermark of table %s, column \"%s\", does not exist", table, push->policy->watermark),
			 errhint("Name another one with migrate_tiers.batch_policy, or push in mode diff or replace.")));
}

/* check_watermark refuses a table that did not only grow above its watermark. */
static void
check_watermark(const MtPush *push, const char *mark, MtRows *sender, const char *receiver_rows)
{
	const char *hint = "Push it once in mode diff or replace, see migrate_tiers.batch_policy.";
	char	  **row = sender->values[0];

	if (strcmp(row[2], "0") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s rows of table %s have no watermark", row[2], push->sender_name),
				 errdetail("A row whose column \"%s\" is null would never be sent.", push->policy->watermark),
				 errhint("%s", hint)));
	if (mark == NULL)
		return;
	if (row[4][0] == 't')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the watermark of table %s went backwards", push->sender_name),
				 errdetail("The receiver has rows up to %s, the sender up to %s.", mark, row[3] ? row[3] : "none"),
				 errhint("%s", hint)));
	if (strcmp(row[1], receiver_rows) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rows of table %s that were sent have changed", push->sender_name),
				 errdetail("The sender has %s rows up to watermark %s, the receiver %s.", row[1], mark, receiver_rows),
				 errhint("%s", hint)));
}
