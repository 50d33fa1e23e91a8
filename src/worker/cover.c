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
 * dies meanwhile, the target keeps it until it is noted here (target_armed.c).
 */
#include "worker/reverse.h"

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

static void mend(MtWorker *worker, MtRelation *relation);
static void attach(void *arg);

/* Of the one worker of this process. */
static TimestampTz looked = 0;
static TimestampTz covered = 0;

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
	ErrorData  *error = mt_xact_catch(attach, &mending);

	ereport(LOG,
			(errmsg("migration \"%s\": changes of table %s of the target may be missing on the source",
					worker->migration->name, mt_relation_target_name(relation)),
			 errdetail("The triggers that note them were disabled for a time."),
			 error ? errcontext("enabling them again: %s", mt_error_text(error)) : 0));
	mt_xact_begin();
	mt_relation_uncaptured(relation->id);
	mt_xact_commit();
	if (error == NULL)
		mt_target_disturbed_noted(worker->sync->remote, worker->migration, relation);
	else if (!mt_error_is_lock(error))
		ReThrowError(error);
}

static void
attach(void *arg)
{
	MtMending  *mending = (MtMending *) arg;

	mt_target_reverse_attach(mending->sync->remote, mending->sync->migration, mending->relation);
}
