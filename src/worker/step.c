/*
 * step.c
 *	  One round of the sync worker: see worker.h.
 */
#include "worker/worker.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/spi.h"
#include "base/xact.h"
#include "copy/copy.h"
#include "worker/copies.h"
#include "worker/left.h"
#include "worker/point.h"
#include "worker/reverse.h"
#include "worker/roster.h"

/* How long to wait for something to do, in ms: with nothing known, while transactions that
 * wrote to the queue are in progress (a prepared one commits without a word), while tables are copied. */
#define WAIT_IDLE	 1000
#define WAIT_WAITING 50
#define WAIT_COPYING 200

#define PERSIST_INTERVAL_MS 5000
#define ROTATE_INTERVAL_MS	1000

/* The more keys a tick had, the more it is worth to wait for others that go with the next; but no longer than this. */
#define BREATHE_A_KEY_US   40
#define BREATHE_LONGEST_US 25000

static void breathe(MtWorker *worker);
static void publish(MtWorker *worker);
static void note_joined(MtWorker *worker);
static void persist_mark(MtWorker *worker);

/* mt_worker_step does one round and returns how long to wait for the next. */
long
mt_worker_step(MtWorker *worker)
{
	TimestampTz now;
	bool		sent;

	breathe(worker);
	if (worker->sync == NULL)
		mt_worker_open_sync(worker);
	mt_worker_let_go(worker);
	if (worker->unjoined)
	{
		worker->unjoined = mt_worker_copies(worker);
		/* A copy that was begun, the first or a later one, sets aside what refers to its table. */
		worker->foreign_keys_due = true;
	}
	worker->tick_started = mt_clock_now();
	/* A tick would only be refused the locks. */
	sent = !mt_worker_foreign_holds(worker) && mt_tick_run(worker->sync);
	worker->tick_keys = worker->sync->keys;
	worker->tick_ended = sent ? mt_clock_now() : 0;
	if (worker->sync->disarmed)
		mt_worker_recopy_disarmed(worker);
	if (worker->unjoined)
		note_joined(worker);
	/* Those that are quickly there are there when the first wait for sync ends. */
	if (worker->foreign_keys_due && mt_worker_foreign_keys(worker))
		sent = true;
	publish(worker);
	now = mt_clock_now();
	if (TimestampDifferenceExceeds(worker->rotated, now, ROTATE_INTERVAL_MS))
	{
		mt_worker_save_roster(worker, now);
		mt_worker_rotate(worker);
		worker->rotated = now;
		mt_worker_merge_roster(worker, now);
	}
	if (TimestampDifferenceExceeds(worker->persisted, now, PERSIST_INTERVAL_MS))
		persist_mark(worker);
	mt_worker_start_pushes(worker);
	mt_worker_verify_when_due(worker);
	/* While the target was waited for, a writer may have set the latch in vain. */
	if (sent)
		return 0;
	if (worker->unjoined || worker->checker != NULL)
		return WAIT_COPYING;
	return worker->sync->reader->waiting ? WAIT_WAITING : WAIT_IDLE;
}

/*
 * breathe lets some time pass between the starts of ticks that follow each other, by the keys that the last one had.
 *
 * What is committed meanwhile goes with the next tick together, which costs less than a tick each.  After few
 * keys there is no pause: waiting would cost more in lag than it saves.
 */
static void
breathe(MtWorker *worker)
{
	int64		since = mt_clock_now() - worker->tick_started;
	int64		wait = Min((int64) worker->tick_keys * BREATHE_A_KEY_US, BREATHE_LONGEST_US) - since;

	if (worker->tick_ended != 0 && wait > 0)
		pg_usleep(wait);
}

/* mt_worker_open_sync connects to the target, whichever direction is the first to need it. */
void
mt_worker_open_sync(MtWorker *worker)
{
	worker->sync = mt_sync_open(worker->migration, worker->context);
	worker->sync->at_mark = mt_worker_give_point;
	worker->sync->at_reverse_mark = mt_worker_give_point_back;
	worker->sync->at_mark_arg = worker->shared;
	mt_worker_open_sweep(worker);
	mt_queue_sent_check(&worker->queue_sent, worker->sync->mark);
	mt_worker_open_roster(worker);
	worker->unjoined = worker->foreign_keys_due = true;
	mt_worker_look_for_left();
	/* Before the first tick: it would let in again a table that had joined before its copy began anew. */
	mt_xact_begin();
	mt_copy_check_begun(worker->migration, worker->sync->remote);
	mt_xact_commit();
}

/* publish shows how far the target is, and wakes who waits for it. */
static void
publish(MtWorker *worker)
{
	MtShared   *shared = worker->shared;
	MtSync	   *sync = worker->sync;
	MemoryContext previous = MemoryContextSwitchTo(sync->tick_context);
	char	   *mark = mt_mark_format(sync->mark);
	Size		length = strlen(mark) + 1;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (length <= MT_SHARED_MARK)
	{
		memcpy(shared->mark, mark, length);
		shared->mark_time = sync->mark_time;
		shared->complete = !worker->unjoined;
		for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
			shared->settled[i] = sync->reader->segments[i].settled;
	}
	shared->ticks++;
	shared->rows += sync->rows;
	shared->bytes += sync->bytes;
	LWLockRelease(&shared->lock);
	ConditionVariableBroadcast(&shared->progressed);
	MemoryContextSwitchTo(previous);
}

/* note_joined writes down which tables follow the mark now. */
static void
note_joined(MtWorker *worker)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	MtSpiScope	scope;
	bool		unjoined = false;

	mt_xact_begin();
	mt_spi_begin(&scope);
	hash_seq_init(&status, worker->sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		unjoined = unjoined || !table->joined;
		if (table->joined)
			mt_spi_exec(SPI_OK_UPDATE,
						"UPDATE migrate_tiers.relation SET state = 'syncing',"
						" copy_finished = coalesce(copy_finished, clock_timestamp()) WHERE id = $1 AND state = 'copying'",
						MT_ARGS(MT_INT4(table->id)));
	}
	mt_spi_end(&scope);
	mt_xact_commit();
	worker->unjoined = unjoined;
}

/* persist_mark keeps a copy of the mark for times when no worker runs. */
static void
persist_mark(MtWorker *worker)
{
	MtSync	   *sync = worker->sync;
	char	   *mark;
	bool		kept;

	worker->persisted = mt_clock_now();
	mark = MemoryContextStrdup(sync->tick_context, mt_mark_format(sync->mark));
	if (worker->persisted_mark != NULL && strcmp(worker->persisted_mark, mark) == 0)
		return;
	mt_xact_begin();
	kept = mt_migration_keep_mark(worker->migration_id, mark, sync->mark_time);
	mt_xact_commit();
	if (!kept)
		return;
	if (worker->persisted_mark)
		pfree(worker->persisted_mark);
	worker->persisted_mark = MemoryContextStrdup(worker->context, mark);
}
