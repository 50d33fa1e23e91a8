/*
 * roster.c
 *	  What the sync worker keeps of application servers: see roster.h.
 *
 * Gates read the queue themselves, so that what they say is exact.  All that
 * has to be kept is what the queue may not hold any more: so it is saved
 * before a segment can be given back.
 */
#include "worker/roster.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/xact.h"
#include "catalog/option.h"
#include "endpoint/target.h"

/* A segment is given back no sooner than queue_retention after its last row, unless there is a limit. */
#define SAVE_INTERVAL_MS 5000

/* Of the one worker of this process: writers of the target that this mark of the way back sees are saved. */
static char *saved_mark = NULL;

static void keep_mark(MtWorker *worker);

/* mt_worker_open_roster begins to listen to ticks; what was sent before is read from the queue. */
void
mt_worker_open_roster(MtWorker *worker)
{
	if (worker->instances == NULL)
	{
		MemoryContext previous = MemoryContextSwitchTo(worker->context);

		worker->instances = mt_instances_create();
		MemoryContextSwitchTo(previous);
		mt_xact_begin();
		mt_instances_read_queue(worker->instances, worker->migration);
		mt_xact_commit();
	}
	worker->sync->instances = worker->instances;
	/* A target that has failed over gives out again the ids of what it lost. */
	if (saved_mark)
		pfree(saved_mark);
	saved_mark = NULL;
}

/*
 * keep_mark remembers up to where the target's writers are known.
 *
 * It keeps them all for queue_retention, which would be too many to read every time.
 */
static void
keep_mark(MtWorker *worker)
{
	if (saved_mark)
		pfree(saved_mark);
	saved_mark = worker->sync->reverse_mark ?
		MemoryContextStrdup(worker->context, worker->sync->reverse_mark) :
		NULL;
}

/* mt_worker_save_roster saves what ticks have seen, when it is time. */
void
mt_worker_save_roster(MtWorker *worker, TimestampTz now)
{
	const MtMigration *migration = worker->migration;
	bool		due = TimestampDifferenceExceeds(worker->roster_saved, now, SAVE_INTERVAL_MS);

	if (!mt_instances_any(worker->instances))
		return;
	mt_xact_begin();
	due = due || migration->queue_retention < 2 * SAVE_INTERVAL_MS * INT64CONST(1000) ||
		mt_option_integer(migration->id, "queue_limit") > 0;
	if (due)
		mt_instances_save(worker->instances, migration->id);
	mt_xact_commit();
	if (due)
		mt_instances_clear(worker->instances);
}

/*
 * mt_worker_merge_roster takes over what the target knows, when it is time.
 *
 * The queue does not wait for it: where the target cannot tell, segments are given back all the same.
 */
void
mt_worker_merge_roster(MtWorker *worker, TimestampTz now)
{
	if (!TimestampDifferenceExceeds(worker->roster_saved, now, SAVE_INTERVAL_MS))
		return;
	mt_xact_begin();
	mt_instance_merge(worker->migration->id,
					  mt_target_instances(worker->sync->remote, worker->migration, saved_mark));
	mt_xact_commit();
	keep_mark(worker);
	worker->roster_saved = now;
}
