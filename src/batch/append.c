/*
 * append.c
 *	  A push in mode append: rows above the highest watermark that the receiver has.
 *
 * That a row is above it says nothing of when it was committed.  So the rows at or
 * below it are counted on both sides, and their digests compared: where one came late,
 * went or changed, the push fails and says so, instead of losing it.
 *
 * All rows come in one transaction, since readers must not see half of them; so a push that
 * was cut off begins anew.  What it would save by a stage is less than what a stage costs
 * every time: each row would be written twice.
 */
#include "batch/stage.h"

#include "utils/builtins.h"

#include "base/name.h"

/* Two servers of another byte order have other hashes: their digests cannot be compared. */
#define HASHES "hashtextextended('migrate_tiers' COLLATE \"C\", 1)"

static void check_watermark(const MtPush *push, const char *mark, char **sender, char **receiver);
static bool is_same(char **sender, char **receiver);

/* mt_push_append sends the rows above the watermark. */
void
mt_push_append(MtPush *push)
{
	MtBatch    *batch = push->batch;
	const char *name = mt_name_quote(mt_push_watermark(push)->name);
	MtRows	   *receiver;
	MtRows	   *sender;
	char	   *highest;
	char	   *mark;
	char	   *above;

	mt_side_begin(push->receiver);
	mt_stage_forget(push);
	highest = mt_side_query(push->receiver, psprintf("SELECT max(%s)::text FROM %s", name, push->to))->values[0][0];
	/* With no mark all rows are above it. */
	mark = highest == NULL ? "NULL" : psprintf("%s::%s", quote_literal_cstr(highest), push->mark_type);
	above = psprintf(highest == NULL ? "coalesce(%s > %s, true)" : "%s > %s", name, mark);
	mt_side_query_both(push->sender,
					   psprintf("SELECT count(*), count(*) FILTER (WHERE NOT %s), count(*) - count(%s), max(%s)::text,"
								" coalesce(max(%s) < %s, true), coalesce(sum(%s) FILTER (WHERE NOT %s), 0)::text, " HASHES
								" FROM %s AS t",
								above, name, name, name, mark, push->digest, above, push->from),
					   &sender, push->receiver,
					   psprintf("SELECT count(*), coalesce(sum(%s), 0)::text, " HASHES " FROM %s AS t", push->digest, push->to),
					   &receiver);
	check_watermark(push, highest, sender->values[0], receiver->values[0]);
	batch->inserted = mt_side_transfer(push->sender,
									   psprintf("SELECT %s FROM %s AS t WHERE %s", mt_push_columns(push, "t."),
												push->from, above),
									   push->receiver, push->into_sql, push->columns, &push->pace);
	batch->sender_rows = strtoll(sender->values[0][0], NULL, 10);
	batch->receiver_rows = strtoll(receiver->values[0][0], NULL, 10) + batch->inserted;
	mt_push_commit(push);
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
check_watermark(const MtPush *push, const char *mark, char **sender, char **receiver)
{
	const char *hint = "Push it once in mode diff or replace, see migrate_tiers.batch_policy.";

	if (strcmp(sender[2], "0") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s rows of table %s have no watermark", sender[2], push->sender_name),
				 errdetail("A row whose column \"%s\" is null would never be sent.", push->policy->watermark),
				 errhint("%s", hint)));
	if (mark == NULL)
		return;
	if (sender[4][0] == 't')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the watermark of table %s went backwards", push->sender_name),
				 errdetail("The receiver has rows up to %s, the sender up to %s.", mark, sender[3] ? sender[3] : "none"),
				 errhint("%s", hint)));
	if (!is_same(sender, receiver))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rows of table %s that were sent have changed", push->sender_name),
				 strcmp(sender[1], receiver[0]) == 0 ?
				 errdetail("Both sides have %s rows up to watermark %s, but not the same rows.", sender[1], mark) :
				 errdetail("The sender has %s rows up to watermark %s, the receiver %s.", sender[1], mark, receiver[0]),
				 errhint("%s", hint)));
}

/* is_same compares the rows at or below the mark, as far as their digests can be compared. */
static bool
is_same(char **sender, char **receiver)
{
	return strcmp(sender[1], receiver[0]) == 0 &&
		(strcmp(sender[5], receiver[1]) == 0 || strcmp(sender[6], receiver[2]) != 0);
}
