/*
 * limit.c
 *	  What the sync worker does about a queue that has reached its limit.
 *
 * Tables that writers have disarmed (catalog/disarmed.h) are marked to be copied
 * again; ticks go on without them.  They are attached again, and so armed, when
 * the queue has room: the segments that nobody needs are given back first, or else
 * the first writer would disarm them anew.  So they are, before their time, when the
 * limit is near; where nothing may be disarmed it is no reason to keep less.
 */
#include "worker/worker.h"

#include "base/spi.h"
#include "base/xact.h"
#include "catalog/disarmed.h"
#include "catalog/option.h"

static bool is_short_of_room(const MtWorker *worker);
static bool needs_old_entries(int32 migration);

/* mt_worker_recopy_disarmed marks tables that were disarmed to be copied again. */
void
mt_worker_recopy_disarmed(MtWorker *worker)
{
	MtSpiScope	scope;

	mt_xact_begin();
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.relation SET state = 'recopy', note = 'the queue has reached queue_limit'"
				" WHERE migration = $1 AND tier = 'realtime' AND state <> 'recopy' AND id IN (SELECT relation FROM migrate_tiers.disarmed)",
				MT_ARGS(MT_INT4(worker->migration_id)));
	mt_migration_invalidate();
	mt_spi_end(&scope);
	mt_xact_commit();
	worker->sync->disarmed = false;
	worker->unjoined = true;
	mt_sync_reload(worker->sync);
}

/* mt_worker_has_room says whether a table that was disarmed can be armed again. */
bool
mt_worker_has_room(MtWorker *worker)
{
	int64		limit;
	bool		room;

	mt_xact_begin();
	limit = mt_option_integer(worker->migration_id, "queue_limit");
	room = limit == 0 || mt_queue_bytes(worker->migration->queue) <= limit / 2;
	mt_xact_commit();
	return room;
}

/* mt_worker_rotate gives back what the queue does not need: what was sent long ago, or, where room gets short, all. */
void
mt_worker_rotate(MtWorker *worker)
{
	MtSync	   *sync = worker->sync;

	mt_xact_begin();
	if (needs_old_entries(worker->migration_id))
		/* nothing can go */;
	else if (is_short_of_room(worker))
		mt_queue_reclaim(sync->reader, &worker->queue_sent, worker->migration, sync->mark, sync->stored_mark);
	else
		mt_queue_rotate(sync->reader, &worker->queue_sent, worker->migration, sync->mark, sync->stored_mark);
	mt_xact_commit();
}

/* is_short_of_room says whether the limit is near, or a table that was disarmed waits for room. */
static bool
is_short_of_room(const MtWorker *worker)
{
	const MtMigration *migration = worker->migration;
	int64		limit = mt_option_integer(migration->id, "queue_limit");
	int64		bytes;

	if (limit == 0 || migration->phase > MT_SYNCING || migration->reversing)
		return false;
	bytes = mt_queue_bytes(migration->queue);
	return bytes > limit / 4 * 3 || (bytes > limit / 2 && mt_disarmed_list(migration->id, NULL) != NIL);
}

/*
 * needs_old_entries says whether a table is being copied, and will need all that is in the queue since.
 *
 * It asks the catalog: what is in memory may be older than an attachment that was just made.
 */
static bool
needs_old_entries(int32 migration)
{
	MtSpiScope	scope;
	bool		needs;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT EXISTS (SELECT FROM migrate_tiers.relation WHERE migration = $1 AND captured"
				" AND state IN ('planned', 'copying'))",
				MT_ARGS(MT_INT4(migration)));
	needs = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return needs;
}
