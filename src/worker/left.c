/*
 * left.c
 *	  Takes what is ours off the target's tables that are realtime no more.
 *
 * Who tags a table batch ends its capture, and leaves the target to us: what is done there
 * cannot be taken back with a transaction of the source.  A table that has left is known by what the
 * target says of its copy, which goes last: so this is done again where it was cut off, and on a
 * target that was set back.  Until then the fence stays on it, which lets pushes through.
 */
#include "worker/left.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/xact.h"
#include "copy/copy.h"
#include "endpoint/target.h"

#define FIRST_BACKOFF_MS 500
#define LAST_BACKOFF_MS	 30000

/* Failures to get a lock in a row that are no news yet. */
#define LOCK_FAILURES 5

typedef struct MtLeft
{
	MtWorker   *worker;
	MtRelation	relation;		/* its number; the rest may be gone */
} MtLeft;

/* Of this process, which is one migration's. */
static bool due = false;
static int	failures = 0;		/* in a row */
static TimestampTz retry = 0;	/* not before this moment */

static List *list_left(MtWorker *worker);
static void clean(void *arg);
static const char *name_of(int32 id);
static void handle_failure(MtWorker *worker, const char *table, const ErrorData *error);

/* mt_worker_look_for_left has the next round look which tables have left. */
void
mt_worker_look_for_left(void)
{
	due = true;
}

/* mt_worker_let_go sees to the tables that have left; one that is in use there is tried again later. */
void
mt_worker_let_go(MtWorker *worker)
{
	MtLeft		left = {.worker = worker};
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *failure = NULL;
	const char *failed = NULL;
	ListCell   *cell;

	if (!due || retry > mt_clock_now())
		return;
	mt_xact_begin();
	MemoryContextReset(worker->sync->tick_context);
	MemoryContextSwitchTo(worker->sync->tick_context);
	foreach(cell, list_left(worker))
	{
		ErrorData  *error;

		left.relation.id = lfirst_int(cell);
		error = mt_xact_try(clean, &left);
		if (error == NULL)
			continue;
		/* A connection in an unknown state is the affair of the whole round. */
		if (!mt_remote_usable(worker->sync->remote) || error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ThrowErrorData(error);
		mt_remote_run(worker->sync->remote, "ROLLBACK");
		failure = error;
		failed = name_of(left.relation.id);
	}
	mt_xact_commit();
	due = failure != NULL;
	if (failure != NULL)
		handle_failure(worker, failed, failure);
	else
		failures = 0;
	MemoryContextSwitchTo(context);
}

/* list_left lists the tables that the target follows, or did, and that are realtime no more. */
static List *
list_left(MtWorker *worker)
{
	List	   *realtime = NIL;
	ListCell   *cell;

	foreach(cell, mt_relation_list(worker->migration_id, "realtime"))
		realtime = lappend_int(realtime, ((MtRelation *) lfirst(cell))->id);
	return list_difference_int(mt_copy_list_begun(worker->migration, worker->sync->remote), realtime);
}

static void
clean(void *arg)
{
	MtLeft	   *left = (MtLeft *) arg;
	MtRemote   *remote = left->worker->sync->remote;

	/* Before the fence goes, under which nobody has to wait for that. */
	mt_target_restore_left(remote, left->worker->migration, left->relation.id);
	mt_target_unfence(remote, left->worker->migration, &left->relation);
	mt_copy_forget_notes(left->worker->migration, remote, left->relation.id);
}

/* name_of names a table on the target; it may have left the migration altogether. */
static const char *
name_of(int32 id)
{
	MtRelation *relation = mt_relation_by_id(id, true);

	return relation ? mt_relation_target_name(relation) : psprintf("number %d", id);
}

/* handle_failure says when to try again, and tells of what does not pass. */
static void
handle_failure(MtWorker *worker, const char *table, const ErrorData *error)
{
	long		wait = FIRST_BACKOFF_MS;

	for (int i = 0; i < failures && wait < LAST_BACKOFF_MS; i++)
		wait *= 2;
	wait = Min(wait, LAST_BACKOFF_MS);
	failures++;
	retry = TimestampTzPlusMilliseconds(mt_clock_now(), wait);
	if (mt_error_is_lock(error) && failures <= LOCK_FAILURES)
		return;
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("migration \"%s\": leaving the target's table %s failed, next attempt in %.1f s",
					worker->migration->name, table, (double) wait / 1000),
			 errdetail_internal("%s", mt_error_text(error))));
}
