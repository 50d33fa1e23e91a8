/*
 * batches.c
 *	  How the sync worker sees to it that batch tables are pushed: it starts a
 *	  batch worker when one is due, and does nothing else about it.
 */
#include "worker/worker.h"

#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/xact.h"
#include "catalog/batch.h"

#define LOOK_INTERVAL_MS 1000

/* mt_worker_start_pushes starts the worker of the schedule when something is due and it does not run. */
void
mt_worker_start_pushes(MtWorker *worker)
{
	TimestampTz now = mt_clock_now();

	if (!TimestampDifferenceExceeds(worker->pushes_looked, now, LOOK_INTERVAL_MS))
		return;
	worker->pushes_looked = now;
	mt_xact_begin();
	/* Without a free slot it is tried again: status and batches show that nothing comes. */
	if (mt_batch_due(worker->migration_id) != 0 && mt_worker_pid(worker->migration_id, MT_WORKER_BATCH) == 0)
		(void) mt_worker_launch(worker->migration_id, MT_WORKER_BATCH, false);
	mt_xact_commit();
}
