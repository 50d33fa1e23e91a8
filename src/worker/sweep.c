/*
 * sweep.c
 *	  Deletes from the target's queues what was sent long ago, and here what
 *	  only served until now.
 *
 * What was sent is kept for queue_retention: should the source fail over to a
 * standby that lacks the last ticks, they are sent again.  So a mark is remembered
 * for that long, and then all below it goes; a sent row is kept between one and two periods.
 */
#include "worker/reverse.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/xact.h"
#include "catalog/reverse.h"
#include "endpoint/statements_queue.h"
#include "sync/cancelled.h"

static void sweep_target(MtWorker *worker);

/* mt_worker_sweep deletes what is not needed any more, when it is time. */
void
mt_worker_sweep(MtWorker *worker)
{
	MtSync	   *sync = worker->sync;
	TimestampTz now = GetCurrentTimestamp();

	if (now - worker->swept < worker->migration->queue_retention)
		return;
	worker->swept = now;
	MemoryContextSwitchTo(worker->round_context);
	if (worker->sweep_below != NULL)
		sweep_target(worker);
	if (sync->reverse_mark != NULL)
	{
		if (worker->sweep_below)
			pfree(worker->sweep_below);
		worker->sweep_below = MemoryContextStrdup(worker->context, sync->reverse_mark);
	}
	mt_xact_begin();
	mt_reverse_mark_trim(worker->migration_id);
	mt_xact_commit();
	mt_cancelled_forget(sync);
}

static void
sweep_target(MtWorker *worker)
{
	MtSync	   *sync = worker->sync;
	HASH_SEQ_STATUS status;
	MtTable    *table;
	const char *delete = "DELETE FROM %s WHERE xid OPERATOR(pg_catalog.<)"
						 " pg_catalog.pg_snapshot_xmin($1::pg_catalog.pg_snapshot)";

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		mt_remote_query(sync->remote, psprintf(delete, mt_sql_queue_name(sync->migration, table->relation)),
						MT_PARAMS(worker->sweep_below));
	mt_remote_query(sync->remote, psprintf(delete, mt_sql_writer_name(sync->migration)),
					MT_PARAMS(worker->sweep_below));
}
