/*
 * diff.c
 *	  A push in mode diff: ranges of keys whose digests are equal on both sides are
 *	  not sent; of the others only rows that differ are changed.
 *
 * Both sides compute digests at the same time, some ranges at once.  Where nothing
 * differs nothing is written, not even begun, on the receiver.  What nobody has touched since
 * the push before is not even compared: imprint.h.
 */
#include "batch/imprint.h"
#include "batch/stage.h"

#include "miscadmin.h"
#include "utils/memutils.h"

/* Ranges whose digests are asked for at once. */
#define RANGES_AT_ONCE 16

/* A range that has grown to this is cut anew, with all others. */
#define MOST_RANGE_ROWS (8 * MT_RANGE_ROWS)

static MtRanges *cut(MtPush *push, MtStage *stage, MtImprint *imprint, MtRows **bounds);
static bool is_coarse(MtPush *push, const MtImprint *imprint);
static void send_different(MtPush *push, MtStage *stage, MtImprint *imprint, MtRanges *ranges, const MtRows *bounds);
static int	next_unknown(const MtRanges *ranges, int *next, int *numbers);
static void compare(MtPush *push, MtImprint *imprint, MtRanges *ranges, const int *numbers, int count);
static void send_all(MtPush *push, MtStage *stage, MtRanges *ranges);
static void apply(MtPush *push, MtStage *stage, MtImprint *imprint, MtRanges *ranges, const MtRows *bounds, bool whole);
static void check_applied(MtPush *push, MtRanges *ranges);
static bool has_different(const MtRanges *ranges);
static void count_rows(MtPush *push, const MtRanges *ranges, bool whole);

/* mt_push_diff compares, sends and applies. */
void
mt_push_diff(MtPush *push)
{
	MtStage    *stage = mt_stage_find(push);
	MtImprint  *imprint = mt_imprint_open(push);
	MtRows	   *bounds;
	MtRanges   *ranges = cut(push, stage, imprint, &bounds);
	bool		known = imprint != NULL && imprint->valid;

	push->batch->ranges = ranges->count;
	if (known)
		mt_imprint_look(push, imprint, ranges);
	send_different(push, stage, imprint, ranges, bounds);
	if (known)
	{
		mt_imprint_find_lost(push, imprint, ranges);
		send_different(push, stage, imprint, ranges, bounds);
	}
	if (stage->exists)
		apply(push, stage, imprint, ranges, bounds, false);
	else
	{
		count_rows(push, ranges, false);
		if (imprint != NULL)
			mt_imprint_renew(push, imprint);
	}
}

/* mt_push_whole sends all rows, and has the receiver change those that differ. */
void
mt_push_whole(MtPush *push)
{
	MtStage    *stage = mt_stage_find(push);
	MtImprint  *imprint = mt_imprint_open(push);
	MtRows	   *bounds;
	MtRanges   *ranges;

	if (imprint != NULL)
		imprint->valid = false;
	ranges = cut(push, stage, imprint, &bounds);
	push->batch->ranges = ranges->count;
	mt_stage_create(push, stage, bounds);
	send_all(push, stage, ranges);
	apply(push, stage, imprint, ranges, bounds, true);
}

/* send_all sends the ranges that the stage does not have from a push that was cut off. */
static void
send_all(MtPush *push, MtStage *stage, MtRanges *ranges)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext step = AllocSetContextCreate(outer, "migrate_tiers ranges", ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(step);
	for (int i = 0; i < ranges->count; i++)
	{
		MtRange    *range = &ranges->ranges[i];
		bool		staged = false;

		CHECK_FOR_INTERRUPTS();
		if (stage->reused)
		{
			MtRows	   *now = mt_side_query(push->sender, mt_ranges_digest_sql(push, ranges, &i, 1, push->from, "false"));

			range->sender_rows = strtoll(now->values[0][1], NULL, 10);
			range->sender_digest = now->values[0][2];
			staged = mt_stage_has(push, stage, ranges, i);
			range->sender_digest = NULL;
		}
		if (!staged)
		{
			range->sender_rows = mt_stage_fill(push, stage, range);
			push->batch->ranges_sent++;
		}
		MemoryContextReset(step);
	}
	MemoryContextSwitchTo(outer);
	MemoryContextDelete(step);
}

/* cut makes the ranges: those of a push that was cut off, those of the last one that was applied, or new ones. */
static MtRanges *
cut(MtPush *push, MtStage *stage, MtImprint *imprint, MtRows **bounds)
{
	if (imprint != NULL && (stage->reused || (imprint->valid && is_coarse(push, imprint))))
		imprint->valid = false;
	if (stage->reused)
		*bounds = stage->bounds;
	else if (imprint != NULL && imprint->valid)
		*bounds = imprint->bounds;
	else
		*bounds = mt_ranges_sample(push);
	/* What was kept may be of a time when keys were sorted in another way. */
	if (*bounds != NULL && !(push->key->ordered && mt_ranges_agree(push, *bounds)))
	{
		*bounds = NULL;
		if (imprint != NULL)
			imprint->valid = false;
	}
	return mt_ranges_make(*bounds);
}

/* is_coarse says whether some range has become too large to be compared, and sent, by itself. */
static bool
is_coarse(MtPush *push, const MtImprint *imprint)
{
	if (!push->key->ordered)
		return false;
	if (mt_ranges_estimate(push) > (double) MOST_RANGE_ROWS / 2 * imprint->rows->count)
		return true;
	for (int i = 0; i < imprint->rows->count; i++)
		if (strtoll(imprint->rows->values[i][0], NULL, 10) > MOST_RANGE_ROWS)
			return true;
	return false;
}

/* send_different compares what is unknown, and sends what differs. */
static void
send_different(MtPush *push, MtStage *stage, MtImprint *imprint, MtRanges *ranges, const MtRows *bounds)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext step = AllocSetContextCreate(outer, "migrate_tiers ranges", ALLOCSET_DEFAULT_SIZES);
	int			numbers[RANGES_AT_ONCE];
	int			next = 0;
	int			count;

	while ((count = next_unknown(ranges, &next, numbers)) > 0)
	{
		MemoryContextSwitchTo(step);
		compare(push, imprint, ranges, numbers, count);
		for (int i = 0; i < count; i++)
		{
			bool		staged;

			CHECK_FOR_INTERRUPTS();
			if (!ranges->ranges[numbers[i]].differs)
				continue;
			MemoryContextSwitchTo(outer);
			mt_stage_create(push, stage, bounds);
			MemoryContextSwitchTo(step);
			staged = mt_stage_has(push, stage, ranges, numbers[i]);
			if (!staged)
				(void) mt_stage_fill(push, stage, &ranges->ranges[numbers[i]]);
			/* What an earlier push has sent is not sent again. */
			push->batch->ranges_sent += staged && stage->reused ? 0 : 1;
		}
		MemoryContextSwitchTo(outer);
		MemoryContextReset(step);
	}
	MemoryContextDelete(step);
}

/* next_unknown collects the next ranges that are to be compared. */
static int
next_unknown(const MtRanges *ranges, int *next, int *numbers)
{
	int			count = 0;

	for (; *next < ranges->count && count < RANGES_AT_ONCE; (*next)++)
		if (ranges->ranges[*next].unknown)
			numbers[count++] = *next;
	return count;
}

/* compare reads count and digest of some ranges on both sides. */
static void
compare(MtPush *push, MtImprint *imprint, MtRanges *ranges, const int *numbers, int count)
{
	MtRows	   *sender;
	MtRows	   *receiver;
	MemoryContext keep = GetMemoryChunkContext(ranges);
	bool		known = imprint != NULL && imprint->valid;
	const char *kept_there = known ? imprint->sender.known : "false";
	const char *kept_here = known ? imprint->receiver.known : "false";
	char	   *there = mt_ranges_digest_sql(push, ranges, numbers, count, push->from, kept_there);
	char	   *here = mt_ranges_digest_sql(push, ranges, numbers, count, push->to, kept_here);

	mt_side_query_both(push->sender, there, &sender, push->receiver, here, &receiver);
	for (int i = 0; i < count; i++)
	{
		MtRange    *range = &ranges->ranges[numbers[i]];
		char	  **sent = sender->values[i];
		char	  **had = receiver->values[i];

		range->unknown = false;
		range->compared = true;
		range->sender_rows = strtoll(sent[1], NULL, 10);
		range->receiver_rows = strtoll(had[1], NULL, 10);
		range->sender_kept = strtoll(sent[3], NULL, 10);
		range->receiver_kept = strtoll(had[3], NULL, 10);
		range->differs = range->sender_rows != range->receiver_rows || strcmp(sent[2], had[2]) != 0;
		if (range->differs)
			range->sender_digest = MemoryContextStrdup(keep, sent[2]);
		push->batch->bytes += strlen(had[1]) + strlen(had[2]);
	}
}

/* apply has the receiver change what differs, in one transaction. */
static void
apply(MtPush *push, MtStage *stage, MtImprint *imprint, MtRanges *ranges, const MtRows *bounds, bool whole)
{
	bool		changing = whole || has_different(ranges);

	mt_side_begin(push->receiver);
	if (changing)
		mt_stage_finish(push, stage);
	if (whole)
		mt_stage_compare(push, stage, ranges);
	count_rows(push, ranges, whole);
	if (changing)
	{
		mt_stage_apply(push, stage, ranges);
		check_applied(push, ranges);
		if (imprint != NULL)
			mt_imprint_keep(push, imprint, ranges, bounds);
	}
	mt_stage_drop(push, stage);
	mt_push_commit(push);
}

static bool
has_different(const MtRanges *ranges)
{
	for (int i = 0; i < ranges->count; i++)
		if (ranges->ranges[i].differs)
			return true;
	return false;
}

/* count_rows adds the ranges up. */
static void
count_rows(MtPush *push, const MtRanges *ranges, bool whole)
{
	for (int i = 0; i < ranges->count; i++)
	{
		push->batch->sender_rows += ranges->ranges[i].sender_rows;
		push->batch->receiver_rows += ranges->ranges[i].receiver_rows;
		push->batch->ranges_known += whole || ranges->ranges[i].compared ? 0 : 1;
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
		now = mt_side_query(push->receiver, mt_ranges_digest_sql(push, ranges, &i, 1, push->to, "false"));
		if (strtoll(now->values[0][1], NULL, 10) != range->sender_rows ||
			strcmp(now->values[0][2], range->sender_digest) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("the receiver has other rows of table %s than were sent", push->into),
					 errdetail("Keys: %s.", mt_range_condition(push, range, "")),
					 errhint("Look for who else writes it, and for a trigger or a rule that is enabled ALWAYS.")));
	}
}
