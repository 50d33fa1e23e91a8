/*
 * stage_apply.c
 *	  Makes the receiver's rows those of the stage: see stage.h.
 *
 * Rows are applied in an order that suits every unique index: what the sender does
 * not have goes first.  Where a second one could refuse an UPDATE, since rows
 * exchange their values, rows that differ go, too, and come again.
 */
#include "batch/stage.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "endpoint/statements.h"

/* How rows of the stage are applied. */
typedef struct MtApply
{
	MtPush	   *push;
	MtStage    *stage;
	bool		update;			/* else what differs is deleted and inserted */
	char	   *match;			/* t and s have the same key */
} MtApply;

static int64 delete_absent(const MtApply *apply, const MtRange *range);
static int64 change_different(const MtApply *apply, const MtRange *range);
static int64 insert_missing(const MtApply *apply, const MtRange *range);
static bool can_update(MtPush *push);

/* mt_stage_apply changes what differs. */
void
mt_stage_apply(MtPush *push, MtStage *stage, const MtRanges *ranges)
{
	MtBatch    *batch = push->batch;
	MtApply		apply = {push, stage, can_update(push), mt_stage_key_match(push)};
	int64	   *rows = MemoryContextAllocExtended(CurrentMemoryContext, sizeof(int64) * ranges->count, MCXT_ALLOC_HUGE);

	/* A planner that takes tables which nobody has analyzed for small goes through one for each row of the other. */
	mt_side_manage(push->receiver, "SET enable_nestloop = off");
	/* All deletions come first, so that no other unique index is in the way. */
	for (int i = 0; i < ranges->count; i++)
	{
		int64		gone = delete_absent(&apply, &ranges->ranges[i]);

		batch->deleted += gone;
		rows[i] = ranges->ranges[i].receiver_rows - gone;
	}
	for (int i = 0; i < ranges->count; i++)
	{
		int64		changed = change_different(&apply, &ranges->ranges[i]);

		batch->updated += changed;
		rows[i] -= apply.update ? 0 : changed;
	}
	/* What is left are rows of the sender's keys: where there are as many, none is missing. */
	for (int i = 0; i < ranges->count; i++)
		if (rows[i] != ranges->ranges[i].sender_rows)
			batch->inserted += insert_missing(&apply, &ranges->ranges[i]);
	mt_side_manage(push->receiver, "RESET enable_nestloop");
	/* Rows that were deleted to be changed came again among those that were missing. */
	if (!apply.update)
		batch->inserted -= batch->updated;
}

/*
 * In each of these three the range is said of both tables: a planner that is told of one alone may read the
 * other from its beginning.
 */
static int64
delete_absent(const MtApply *apply, const MtRange *range)
{
	MtPush	   *push = apply->push;

	if (!range->differs || range->receiver_rows == 0)
		return 0;
	return mt_side_execute(push->receiver,
						   psprintf("DELETE FROM %s AS t WHERE %s AND NOT EXISTS (SELECT FROM %s AS s WHERE %s AND %s)",
									push->to, mt_range_condition(push, range, "t."), apply->stage->table, apply->match,
									mt_range_condition(push, range, "s.")));
}

static int64
change_different(const MtApply *apply, const MtRange *range)
{
	MtPush	   *push = apply->push;
	char	   *which;

	if (!range->differs || range->receiver_rows == 0 || range->sender_rows == 0)
		return 0;
	which = psprintf("%s AS s WHERE %s AND %s AND %s AND (%s)", apply->stage->table,
					 mt_range_condition(push, range, "s."), mt_range_condition(push, range, "t."), apply->match,
					 mt_sql_differs(NULL, push->columns, "t.", "s."));
	return mt_side_execute(push->receiver,
						   apply->update ? psprintf("UPDATE %s AS t SET %s FROM %s", push->to, mt_sql_set_list(push->columns, "s."), which) :
							   psprintf("DELETE FROM %s AS t USING %s", push->to, which));
}

static int64
insert_missing(const MtApply *apply, const MtRange *range)
{
	MtPush	   *push = apply->push;

	if (!range->differs || range->sender_rows == 0)
		return 0;
	return mt_side_execute(push->receiver,
						   psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s AS s"
									" WHERE %s AND NOT EXISTS (SELECT FROM %s AS t WHERE %s AND %s)",
									push->into_sql, mt_push_columns(push, ""), mt_push_columns(push, "s."),
									apply->stage->table, mt_range_condition(push, range, "s."), push->to, apply->match,
									mt_range_condition(push, range, "t.")));
}

/* can_update says whether no other unique index, and no column, could refuse an UPDATE. */
static bool
can_update(MtPush *push)
{
	const char *table = quote_literal_cstr(push->into);
	StringInfoData names;
	MtRows	   *answer;

	initStringInfo(&names);
	for (int i = 0; i < push->columns->count; i++)
	{
		/* The source's is not assigned on either side. */
		if (push->columns->columns[i].identity_always)
			return false;
		appendStringInfo(&names, "%s%s", i ? ", " : "", quote_literal_cstr(push->columns->columns[i].name));
	}
	answer = mt_side_query(push->receiver,
						   psprintf("SELECT count(*) <= 1 AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = %s::regclass"
									"  AND a.attidentity = 'a' AND a.attname = ANY (ARRAY[%s]::name[]))"
									" FROM pg_index WHERE indrelid = %s::regclass AND (indisunique OR indisexclusion)",
									table, names.data, table));
	return mt_sql_set_list(push->columns, "s.")[0] != '\0' && answer->values[0][0][0] == 't';
}
