/*
 * sweep.c
 *	  Deletes from the target's queues what was sent long ago, and here what
 *	  only served until now.
 *
 * What was sent is kept for queue_retention: should the source fail over to a
 * standby that lacks the last ticks, they are sent again.  So a mark is remembered
 * for that long, and then all below it goes; a sent row is kept between one and two periods.
 * It goes some thousand rows a round: ticks wait for it.
 *
 * Ids say something only to the server that gave them out.  A target that was promoted, or set
 * back, gives out again those of what it lost: nothing that the mark of this session does not see may go.
 */
#include "worker/reverse.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/xact.h"
#include "catalog/reverse.h"
#include "endpoint/statements_queue.h"
#include "sync/cancelled.h"

/* Rows that one round deletes of one queue. */
#define SWEPT_ROWS "5000"

/* How often it is forgotten which entries of ours were void. */
#define FORGET_EVERY_MS 10000

/* Below what a queue holds nothing any more. */
typedef struct MtSwept
{
	int32		id;				/* hash key: of the table; 0: the writers */
	uint64		below;
} MtSwept;

/* Of the one worker of this process: a round has left some; how far queues are swept, since the session began. */
static bool sweeping = false;
static HTAB *swept = NULL;

static void forget_swept(MtWorker *worker);
static bool sweep_target(MtWorker *worker);
static bool sweep_queue(MtWorker *worker, int32 id, const char *queue);

/* mt_worker_open_sweep begins with a session, whose target may have lost some of what the remembered mark sees. */
void
mt_worker_open_sweep(MtWorker *worker)
{
	char	   *remembered = worker->sweep_below;
	char	   *mark = worker->sync->reverse_mark;

	sweeping = false;
	forget_swept(worker);
	worker->sweep_below = NULL;
	if (remembered == NULL)
		return;
	if (mark != NULL)
	{
		mark = mt_mark_format(mt_mark_intersect(mt_mark_parse(remembered), mt_mark_parse(mark)));
		worker->sweep_below = MemoryContextStrdup(worker->context, mark);
	}
	pfree(remembered);
}

/* forget_swept begins anew: a target that was set back has in its queues again what was deleted there. */
static void
forget_swept(MtWorker *worker)
{
	HASHCTL		control = {.keysize = sizeof(int32), .entrysize = sizeof(MtSwept), .hcxt = worker->context};

	if (swept != NULL)
		hash_destroy(swept);
	swept = hash_create("migrate_tiers swept queues", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* mt_worker_sweep deletes what is not needed any more, when it is time. */
void
mt_worker_sweep(MtWorker *worker)
{
	static TimestampTz forgot = 0;
	MtSync	   *sync = worker->sync;
	TimestampTz now = mt_clock_now();

	MemoryContextSwitchTo(worker->round_context);
	if (TimestampDifferenceExceeds(forgot, now, FORGET_EVERY_MS))
	{
		forgot = now;
		mt_cancelled_forget(sync);
	}
	if (!sweeping && now - worker->swept < worker->migration->queue_retention)
		return;
	sweeping = worker->sweep_below != NULL && sync->reverse_mark != NULL && !sweep_target(worker);
	if (sweeping)
		return;
	worker->swept = now;
	if (sync->reverse_mark != NULL)
	{
		if (worker->sweep_below)
			pfree(worker->sweep_below);
		worker->sweep_below = MemoryContextStrdup(worker->context, sync->reverse_mark);
	}
	mt_xact_begin();
	mt_reverse_mark_trim(worker->migration_id);
	mt_xact_commit();
}

/* sweep_target deletes some rows of each queue; true when none is left. */
static bool
sweep_target(MtWorker *worker)
{
	MtSync	   *sync = worker->sync;
	HASH_SEQ_STATUS status;
	MtTable    *table;
	bool		done;

	done = sweep_queue(worker, 0, mt_sql_writer_name(sync->migration));
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		done &= sweep_queue(worker, table->id, mt_sql_queue_name(sync->migration, table->relation));
	return done;
}

/*
 * sweep_queue deletes some rows of one queue, found by its index.
 *
 * It begins where the last round ended: before that is what was deleted, which VACUUM cannot take away while somebody
 * has an old snapshot, and which would be passed again and again.
 */
static bool
sweep_queue(MtWorker *worker, int32 id, const char *queue)
{
	const char *delete =
		"WITH b AS (SELECT LEAST(pg_catalog.pg_snapshot_xmin($1::pg_catalog.pg_snapshot),"
		" pg_catalog.pg_snapshot_xmin($2::pg_catalog.pg_snapshot)) AS below),"
		" d AS (DELETE FROM %s AS q WHERE q.ctid = ANY (ARRAY(SELECT o.ctid FROM %s AS o"
		" WHERE o.xid OPERATOR(pg_catalog.>=) $3::pg_catalog.xid8 AND o.xid OPERATOR(pg_catalog.<) (SELECT b.below FROM b)"
		" ORDER BY o.xid LIMIT " SWEPT_ROWS ")) RETURNING q.xid)"
		" SELECT n.n, CASE WHEN n.n OPERATOR(pg_catalog.<) " SWEPT_ROWS " THEN b.below"
		" ELSE (SELECT d.xid FROM d ORDER BY d.xid DESC LIMIT 1) END"
		" FROM b CROSS JOIN (SELECT pg_catalog.count(*) AS n FROM d) AS n";
	bool		found;
	MtSwept    *from = hash_search(swept, &id, HASH_ENTER, &found);
	MtRows	   *rows;

	if (!found)
		from->below = 0;
	rows = mt_remote_query(worker->sync->remote, psprintf(delete, queue, queue),
						   MT_PARAMS(worker->sweep_below, worker->sync->reverse_mark,
									 psprintf(UINT64_FORMAT, from->below)));
	from->below = strtou64(rows->values[0][1], NULL, 10);
	return strtol(rows->values[0][0], NULL, 10) < atoi(SWEPT_ROWS);
}
