/*
 * cover.c
 *	  Looks now and then for what no trigger of the target tells: partitions that its tables
 *	  have gained or lost, and the triggers themselves.
 *
 * Of partitions each tick does so by itself.  But no trigger fires for rows that are attached,
 * detached or dropped with a partition, so that there need not be a tick; and a
 * partition that is busy gets the TRUNCATE trigger late.
 *
 * Where somebody has touched the triggers of a table, they are made again, and it is noted that
 * the target may have rows that are not here (view uncaptured): only a verification can tell.  Whatever
 * dies meanwhile, the target keeps it until it is noted here (target_armed.c).  Who waits for a table's lock
 * keeps its writers waiting, so that a table whose lock is not to be had is left in peace for longer and longer.
 */
#include "worker/reverse.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/xact.h"
#include "endpoint/target_reverse.h"
#include "sync/leaves.h"

#define LOOK_INTERVAL_MS  1000
#define RETRY_INTERVAL_MS 10000

/* A table whose triggers are made again. */
typedef struct MtMending
{
	MtSync	   *sync;
	MtRelation *relation;
} MtMending;

/* A table whose lock was not to be had. */
typedef struct MtBusy
{
	int32		relation;
	TimestampTz since;			/* of the last attempt */
	int			pause_ms;
} MtBusy;

static void mend(MtWorker *worker, MtRelation *relation);
static void attach(void *arg);
static void report(const MtWorker *worker, const MtRelation *relation, const MtBusy *busy, ErrorData *error);
static MtBusy *find_busy(int32 relation);
static void leave_in_peace(int32 relation, MtBusy *busy);

/* Of the one worker of this process. */
static TimestampTz looked = 0;
static TimestampTz covered = 0;
static List *busy_tables = NIL;	/* MtBusy */

/* mt_worker_cover sees to partitions that came or went, and to triggers that somebody has touched, when it is time. */
void
mt_worker_cover(MtWorker *worker)
{
	TimestampTz now = mt_clock_now();
	bool		again = TimestampDifferenceExceeds(covered, now, RETRY_INTERVAL_MS);
	char	   *at;

	if (!TimestampDifferenceExceeds(looked, now, LOOK_INTERVAL_MS))
		return;
	/* Before: a lock that is not to be had now is asked for again next time, not at once. */
	looked = now;
	if (again)
		covered = now;
	at = mt_leaves_look(worker->sync, again);
	if (at == NULL)
	{
		/* Somebody else may have mended them. */
		list_free_deep(busy_tables);
		busy_tables = NIL;
	}
	while (at != NULL && *at != '\0')
	{
		int32		id = (int32) strtol(at, &at, 10);
		MtTable    *table = hash_search(worker->sync->tables, &id, HASH_FIND, NULL);

		if (table != NULL)
			mend(worker, table->relation);
	}
}

/*
 * mend makes the triggers of a table again, and notes that changes may be missing: also where the lock is not to be
 * had yet, since changes may be missing as long.
 */
static void
mend(MtWorker *worker, MtRelation *relation)
{
	MtMending	mending = {worker->sync, relation};
	MtBusy	   *busy = find_busy(relation->id);
	ErrorData  *error;

	if (busy != NULL && !TimestampDifferenceExceeds(busy->since, mt_clock_now(), busy->pause_ms))
		return;
	error = mt_xact_catch(attach, &mending);
	report(worker, relation, busy, error);
	mt_xact_begin();
	mt_relation_uncaptured(relation->id);
	mt_xact_commit();
	if (error != NULL && mt_error_is_lock(error))
	{
		leave_in_peace(relation->id, busy);
		return;
	}
	if (busy != NULL)
	{
		busy_tables = list_delete_ptr(busy_tables, busy);
		pfree(busy);
	}
	if (error != NULL)
		ReThrowError(error);
	mt_target_disturbed_noted(worker->sync->remote, worker->migration, relation);
}

static void
attach(void *arg)
{
	MtMending  *mending = (MtMending *) arg;

	mt_target_reverse_attach(mending->sync->remote, mending->sync->migration, mending->relation);
}

/* report tells a person of the first attempt, and of the one that succeeds. */
static void
report(const MtWorker *worker, const MtRelation *relation, const MtBusy *busy, ErrorData *error)
{
	if (busy == NULL)
		ereport(LOG,
				(errmsg("migration \"%s\": changes of table %s of the target may be missing on the source",
						worker->migration->name, mt_relation_target_name(relation)),
				 errdetail("The triggers that note them were disabled for a time."),
				 error ? errcontext("enabling them again: %s", mt_error_text(error)) : 0));
	else if (error == NULL)
		ereport(LOG,
				(errmsg("migration \"%s\": changes of table %s of the target are noted again",
						worker->migration->name, mt_relation_target_name(relation))));
}

static MtBusy *
find_busy(int32 relation)
{
	ListCell   *cell;

	foreach(cell, busy_tables)
		if (((MtBusy *) lfirst(cell))->relation == relation)
			return (MtBusy *) lfirst(cell);
	return NULL;
}

/* leave_in_peace puts the next attempt off, twice as long as the last time. */
static void
leave_in_peace(int32 relation, MtBusy *busy)
{
	if (busy == NULL)
	{
		MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);

		busy = palloc0(sizeof(MtBusy));
		busy->relation = relation;
		busy->pause_ms = LOOK_INTERVAL_MS;
		busy_tables = lappend(busy_tables, busy);
		MemoryContextSwitchTo(previous);
	}
	busy->since = mt_clock_now();
	busy->pause_ms = Min(busy->pause_ms * 2, RETRY_INTERVAL_MS);
}
