/*
 * limit.c
 *	  Keeps the queue below queue_limit; catalog/disarmed.h says why nothing is
 *	  lost by that.
 *
 * Whether the queue is full is looked at by whoever begins a page of it, and by a
 * backend that writes for the first time: both are seldom, and an insertion costs
 * nothing otherwise.  Where it is full, notes of a table are dropped when they are about
 * to be written, and the first transaction that does so for a table says so in a row of
 * its own; so does who made the queue full for the tables that it has just written.  From
 * its commit on, notes of that table are dropped without a word, in every backend.
 * Tables that nobody changes meanwhile are not concerned.
 */
#include "capture/limit.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "catalog/disarmed.h"

/* A table that this transaction has disarmed; one that is rolled back to before that has not. */
typedef struct MtAdded
{
	int32		relation;
	SubTransactionId in;
} MtAdded;

static bool is_full(const MtQueue *queue);
static MtAdded *find_added(MtLimit *limit, int32 relation);
static bool is_dropped(MtLimit *limit, const MtQueue *queue, int32 relation);
static bool disarm(MtLimit *limit, const MtQueue *queue, int32 relation);

/* mt_limit_refresh reads which tables are disarmed. */
void
mt_limit_refresh(MtLimit *limit, const MtQueue *queue)
{
	List	   *disarmed = mt_disarmed_list(queue->migration, NULL);
	List	   *before = limit->disarmed;
	MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);

	limit->disarmed = list_copy(disarmed);
	MemoryContextSwitchTo(previous);
	list_free(before);
	list_free(disarmed);
	limit->full = is_full(queue);
}

/* mt_limit_grown looks whether the queue is full now, and disarms the tables of the last row then. */
void
mt_limit_grown(MtLimit *limit, const MtQueue *queue, const char *entries, int length)
{
	const char *at = entries;
	MtEntry		entry;

	limit->full = is_full(queue);
	while (limit->full && mt_entry_next(&at, entries + length, &entry))
		(void) is_dropped(limit, queue, entry.relation);
}

/* mt_limit_drop takes out entries of tables that are disarmed, or are now. */
int
mt_limit_drop(MtLimit *limit, const MtQueue *queue, char *entries, int length)
{
	const char *at = entries;
	const char *end = entries + length;
	char	   *to = entries;
	int32		last = 0;
	bool		dropped = false;
	MtEntry		entry;

	if (!limit->full && limit->disarmed == NIL)
		return length;
	if (limit->full)
		limit->full = is_full(queue);
	while (at < end)
	{
		const char *start = at;

		(void) mt_entry_next(&at, end, &entry);
		if (entry.relation != last)
			dropped = is_dropped(limit, queue, entry.relation);
		last = entry.relation;
		if (dropped)
			continue;
		memmove(to, start, at - start);
		to += at - start;
	}
	return to - entries;
}

/* mt_limit_join makes what a committed subtransaction has disarmed its parent's. */
void
mt_limit_join(MtLimit *limit, SubTransactionId id, SubTransactionId parent)
{
	ListCell   *cell;

	foreach(cell, limit->added)
	{
		MtAdded    *added = (MtAdded *) lfirst(cell);

		if (added->in == id)
			added->in = parent;
	}
}

/* mt_limit_reset forgets what this transaction has disarmed. */
void
mt_limit_reset(MtLimit *limit)
{
	list_free_deep(limit->added);
	limit->added = NIL;
}

static bool
is_full(const MtQueue *queue)
{
	return queue->limit > 0 && mt_queue_bytes(queue->segments) > queue->limit;
}

/* find_added returns what is known of a table that this transaction has disarmed, or NULL. */
static MtAdded *
find_added(MtLimit *limit, int32 relation)
{
	ListCell   *cell;

	foreach(cell, limit->added)
	{
		MtAdded    *added = (MtAdded *) lfirst(cell);

		if (added->relation == relation)
			return added;
	}
	return NULL;
}

/* is_dropped says whether a table's notes are dropped, and sees to it that this is known. */
static bool
is_dropped(MtLimit *limit, const MtQueue *queue, int32 relation)
{
	MtAdded    *added;

	if (list_member_int(limit->disarmed, relation))
		return true;
	if (!limit->full)
		return false;
	added = find_added(limit, relation);
	/* The row of a subtransaction that is not open any more was rolled back with it. */
	return (added != NULL && SubTransactionIsActive(added->in)) || disarm(limit, queue, relation);
}

/* disarm says that notes of a table are dropped from now on; false where they may not be any more. */
static bool
disarm(MtLimit *limit, const MtQueue *queue, int32 relation)
{
	MtAdded    *added;
	MemoryContext previous;

	if (!mt_disarmed_add(queue->migration, relation))
	{
		limit->full = false;
		return false;
	}
	added = find_added(limit, relation);
	if (added == NULL)
	{
		previous = MemoryContextSwitchTo(TopMemoryContext);
		added = palloc0(sizeof(MtAdded));
		limit->added = lappend(limit->added, added);
		MemoryContextSwitchTo(previous);
	}
	*added = (MtAdded) {.relation = relation, .in = GetCurrentSubTransactionId()};
	ereport(LOG,
			(errmsg("the queue of migration %d has reached its limit", queue->migration),
			 errdetail("Changes of table %d of the migration are not noted any more; it will be copied again.", relation)));
	return true;
}
