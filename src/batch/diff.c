/*
 * diff.c
 *	  A push in mode diff: ranges of keys whose digests are equal on both sides are
 *	  not sent; of the others only rows that differ are changed.
 *
 * Both sides compute digests at the same time, some ranges at once.  Where nothing
 * differs nothing is written, not even begun, on the receiver.
 */
#include "batch/stage.h"

#include "miscadmin.h"
#include "utils/memutils.h"

/* Ranges whose digests are asked for at once. */
#define RANGES_AT_ONCE 16

static MtRanges *cut(MtPush *push, MtStage *stage, MtRows **bounds);
static void compare(MtPush *push, MtStage *stage, MtRanges *ranges, int first, int last);
static bool is_staged(MtPush *push, MtStage *stage, MtRanges *ranges, int number);
static void check_applied(MtPush *push, MtRanges *ranges);
static void count_rows(MtPush *push, const MtRanges *ranges);

/* mt_push_diff compares, sends and applies. */
void
mt_push_diff(MtPush *push)
{
	MtBatch    *batch = push->batch;
	MtStage    *stage;
	MtRanges   *ranges;
	MtRows	   *bounds;
	MemoryContext step;
	MemoryContext outer = CurrentMemoryContext;

	stage = mt_stage_find(push);
	ranges = cut(push, stage, &bounds);
	batch->ranges = ranges->count;
	step = AllocSetContextCreate(outer, "migrate_tiers ranges", ALLOCSET_DEFAULT_SIZES);
	for (int first = 0; first < ranges->count; first += RANGES_AT_ONCE)
	{
		int			last = Min(first + RANGES_AT_ONCE, ranges->count);

		MemoryContextSwitchTo(step);
		compare(push, stage, ranges, first, last);
		for (int i = first; i < last; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (!ranges->ranges[i].differs)
				continue;
			batch->ranges_sent++;
			MemoryContextSwitchTo(outer);
			mt_stage_create(push, stage, bounds);
			MemoryContextSwitchTo(step);
			if (!is_staged(push, stage, ranges, i))
				mt_stage_fill(push, stage, &ranges->ranges[i]);
		}
		MemoryContextSwitchTo(outer);
		MemoryContextReset(step);
	}
	MemoryContextDelete(step);
	count_rows(push, ranges);
	if (stage->exists)
	{
		mt_side_begin(push->receiver);
		if (batch->ranges_sent > 0)
		{
			mt_stage_apply(push, stage, ranges);
			check_applied(push, ranges);
		}
		mt_stage_drop(push, stage);
		mt_side_commit(push->receiver);
	}
}

/* cut makes the ranges: those of a push that was cut off, or new ones. */
static MtRanges *
cut(MtPush *push, MtStage *stage, MtRows **bounds)
{
	*bounds = stage->reused ? stage->bounds : mt_ranges_sample(push);
	if (*bounds != NULL && !mt_ranges_agree(push, *bounds))
		*bounds = NULL;
	return mt_ranges_make(*bounds);
}

/* compare reads count and digest of some ranges on both sides. */
static void
compare(MtPush *push, MtStage *stage, MtRanges *ranges, int first, int last)
{
	MtRows	   *sender;
	MtRows	   *receiver;
	MemoryContext keep = GetMemoryChunkContext(ranges);

	mt_side_query_both(push->sender, mt_ranges_digest_sql(push, ranges, first, last, push->from), &sender,
					   push->receiver, mt_ranges_digest_sql(push, ranges, first, last, push->to), &receiver);
	for (int i = first; i < last; i++)
	{
		MtRange    *range = &ranges->ranges[i];
		char	  **here = sender->values[i - first];
		char	  **there = receiver->values[i - first];

		range->sender_rows = strtoll(here[1], NULL, 10);
		range->receiver_rows = strtoll(there[1], NULL, 10);
		range->differs = range->sender_rows != range->receiver_rows || strcmp(here[2], there[2]) != 0;
		if (range->differs)
			range->sender_digest = MemoryContextStrdup(keep, here[2]);
		push->batch->bytes += strlen(there[1]) + strlen(there[2]);
	}
}

/* is_staged says whether a push before brought the range, and the sender still has it so. */
static bool
is_staged(MtPush *push, MtStage *stage, MtRanges *ranges, int number)
{
	MtRange    *range = &ranges->ranges[number];
	MtRows	   *staged;

	if (!stage->reused)
		return range->sender_rows == 0;
	staged = mt_side_query(push->receiver, mt_ranges_digest_sql(push, ranges, number, number + 1, stage->table));
	return strtoll(staged->values[0][1], NULL, 10) == range->sender_rows &&
		strcmp(staged->values[0][2], range->sender_digest) == 0;
}

/* count_rows adds the ranges up. */
static void
count_rows(MtPush *push, const MtRanges *ranges)
{
	for (int i = 0; i < ranges->count; i++)
	{
		push->batch->sender_rows += ranges->ranges[i].sender_rows;
		push->batch->receiver_rows += ranges->ranges[i].receiver_rows;
	}
}

/* check_applied compares what the receiver has now of the ranges that were applied. */
static void
check_applied(MtPush *push, MtRanges *ranges)
{
	MtBatch    *batch = push->batch;

	batch->receiver_rows += batch->inserted - batch->deleted;
	for (int i = 0; i < ranges->count; i++)
	{
		MtRange    *range = &ranges->ranges[i];
		MtRows	   *now;

		if (!range->differs)
			continue;
		now = mt_side_query(push->receiver, mt_ranges_digest_sql(push, ranges, i, i + 1, push->to));
		if (strtoll(now->values[0][1], NULL, 10) != range->sender_rows ||
			strcmp(now->values[0][2], range->sender_digest) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("the receiver has other rows of table %s than were sent", push->into),
					 errdetail("Keys: %s.", mt_range_condition(push, range, "")),
					 errhint("Look for who else writes it, and for a trigger or a rule that is enabled ALWAYS.")));
	}
}
