/*
 * run.c
 *	  Takes the next piece of work of a copy and does it: see copy.h.
 *
 * A chunk is claimed by a lock on its row, held while it is worked on: a worker
 * that dies gives it back.  Whether it is in is asked of the target.  Indexes take
 * too long for that: see index.c.
 */
#include "copy/index.h"

#include "access/table.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/lock.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/option.h"
#include "endpoint/target.h"

/* Whether somebody has the lock of the index of task t: see index.c. */
#define IS_BEING_BUILT \
	"EXISTS (SELECT FROM pg_locks AS l WHERE l.locktype = 'object' AND l.classid = 'migrate_tiers.copy_task'::regclass" \
	" AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())" \
	" AND l.objid = t.relation::text::oid AND l.objsubid = t.task & " CppAsString2(MT_COPY_LOCK_MASK) ")"

/*
 * What is asked of a task t, each by a scalar subquery: not to be made a join, for which all tasks would be read and
 * sorted.  That its table is copied now; and of an index, that its table has all its rows.
 */
#define IS_WANTED \
	"(SELECT r.state = 'copying' AND m.syncing AND NOT m.paused FROM migrate_tiers.relation AS r" \
	" JOIN migrate_tiers.migration AS m ON m.id = r.migration WHERE r.id = t.relation AND m.id = $1)"
#define IS_READY \
	"(SELECT count(*) FROM (SELECT FROM migrate_tiers.copy_task AS c" \
	" WHERE c.relation = t.relation AND c.kind = 'chunk' AND c.state <> 'done' LIMIT 1) AS o) = 0 AND NOT " IS_BEING_BUILT

/* What is to be done next, in this order: each finds its task by an index of its own, however many there are. */
static const char *const next_task[] = {
	"t.kind = 'index' AND t.state = 'planned' AND " IS_READY " ORDER BY t.relation, t.task",
	"t.kind = 'chunk' AND t.state = 'planned' ORDER BY t.relation, t.task",
	"t.state = 'running' AND (t.kind = 'chunk' OR t.kind = 'index' AND " IS_READY ") ORDER BY t.started"};

static bool announce(const MtMigration *migration, MtCopyTask *task);
static bool run_chunk(const MtMigration *migration, MtRemote *remote, MtCopyTask *task);
static void copy(const MtMigration *migration, MtRemote *remote, MtCopyTask *task, int64 *bytes);
static void keep_noted(const MtCopyTask *task);
static bool is_rewritten(const MtCopyTask *task);
static void begin_there(const MtMigration *migration, MtRemote *remote, const char *relation_id);
static void finish_table(const MtCopyTask *task);
static void throttle(int32 migration, int64 bytes, TimestampTz started);

/* mt_copy_run_next runs one task; false when none is left. */
bool
mt_copy_run_next(const MtMigration *migration, MtRemote *remote)
{
	MtCopyTask	task;
	bool		found;

	mt_xact_begin();
	found = announce(migration, &task);
	mt_xact_commit();
	if (!found)
		return false;
	if (task.index)
	{
		mt_copy_run_index(migration, remote, &task);
		return true;
	}

	/* Not behind all others: by then more of its rows would be in doubt. */
	while (run_chunk(migration, remote, &task))
		;
	return true;
}

/* run_chunk copies a chunk that was announced; true when it has to be read again. */
static bool
run_chunk(const MtMigration *migration, MtRemote *remote, MtCopyTask *task)
{
	TimestampTz started = GetCurrentTimestamp();
	int64		bytes = 0;
	bool		claimed;

	mt_xact_begin();
	claimed = mt_copy_claim(task);
	if (claimed)
		copy(migration, remote, task, &bytes);
	mt_xact_commit();
	throttle(migration->id, bytes, started);
	return claimed && task->doubts > 0;
}

/*
 * announce finds the next task and shows it as running, for whoever watches.
 *
 * One that was begun before and not ended comes after all others, the oldest first: a task that fails
 * whenever it is tried does not keep workers from the rest.  There is none while the migration is paused: a
 * worker may have begun while pause() was called but not yet committed.
 */
static bool
announce(const MtMigration *migration, MtCopyTask *task)
{
	MtSpiScope	scope;
	bool		found = false;

	mt_spi_begin(&scope);
	for (int i = 0; i < lengthof(next_task) && !found; i++)
		found = mt_spi_exec(SPI_OK_UPDATE_RETURNING,
							psprintf("UPDATE migrate_tiers.copy_task AS u SET state = 'running', started = clock_timestamp()"
									 " FROM (SELECT t.relation, t.task FROM migrate_tiers.copy_task AS t WHERE " IS_WANTED " AND %s"
									 "   LIMIT 1 FOR UPDATE SKIP LOCKED) AS n"
									 " WHERE (u.relation, u.task) = (n.relation, n.task)"
									 " RETURNING u.relation, u.task, u.kind = 'index'",
									 next_task[i]),
							MT_ARGS(MT_INT4(migration->id))) > 0;
	if (found)
	{
		task->relation = (int32) mt_spi_int8(0, 1);
		task->task = (int32) mt_spi_int8(0, 2);
		task->index = mt_spi_bool(0, 3);
	}
	mt_spi_end(&scope);
	return found;
}

/* mt_copy_claim locks the task and reads it; false when another worker was faster. */
bool
mt_copy_claim(MtCopyTask *task)
{
	MtSpiScope	scope;
	bool		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_SELECT,
						"SELECT source_table, filenode, first_block, last_block, object, noted"
						" FROM migrate_tiers.copy_task WHERE relation = $1 AND task = $2 AND state = 'running'"
						" AND (kind = 'index') = $3 FOR UPDATE SKIP LOCKED",
						MT_ARGS(MT_INT4(task->relation), MT_INT4(task->task), MT_BOOL(task->index))) > 0;
	if (found)
	{
		task->table = (Oid) mt_spi_int8(0, 1);
		task->filenode = (Oid) mt_spi_int8(0, 2);
		task->first_block = mt_spi_int8(0, 3);
		task->last_block = mt_spi_int8(0, 4);
		task->object = mt_spi_text(&scope, 0, 5);
		task->noted = (TransactionId) mt_spi_int8(0, 6);
		task->doubts = 0;
	}
	mt_spi_end(&scope);
	return found;
}

/* copy copies a claimed chunk, unless its table has to be copied again; with doubts it has to be read again. */
static void
copy(const MtMigration *migration, MtRemote *remote, MtCopyTask *task, int64 *bytes)
{
	MtRelation *relation = mt_relation_by_id(task->relation, false);
	char	   *relation_id = psprintf("%d", task->relation);
	char	   *task_id = psprintf("%d", task->task);
	char	   *incarnation = psprintf("%d", relation->incarnation);
	MtRows	   *there;
	int64		rows;

	there = mt_remote_query(remote,
							"SELECT rows, bytes FROM migrate_tiers.chunk WHERE migration = $1 AND relation = $2"
							" AND incarnation = $3 AND task IN (" MT_COPY_BEGUN ", $4) ORDER BY task",
							MT_PARAMS(migration->ident, relation_id, incarnation, task_id));
	if (there->count == 0)
	{
		mt_relation_recopy(task->relation, MT_COPY_SET_BACK);
		return;
	}
	if (there->count > 1)
	{
		mt_copy_finish(task, strtoll(there->values[1][0], NULL, 10), strtoll(there->values[1][1], NULL, 10));
		return;
	}
	mt_lock_tables(list_make1_oid(task->table), AccessShareLock);
	if (is_rewritten(task))
	{
		if (mt_copy_is_emptied(migration, relation, task->table))
			finish_table(task);
		else
			mt_relation_recopy(task->relation, "its rows were rewritten");
		return;
	}
	begin_there(migration, remote, relation_id);
	rows = mt_copy_chunk(migration, remote, relation, task, bytes);
	if (task->doubts > 0)
	{
		mt_remote_run(remote, "ROLLBACK");
		keep_noted(task);
		return;
	}
	mt_remote_query(remote,
					"INSERT INTO migrate_tiers.chunk (migration, relation, incarnation, task, rows, bytes)"
					" VALUES ($1, $2, $3, $4, $5, $6)",
					MT_PARAMS(migration->ident, relation_id, incarnation, task_id, psprintf(INT64_FORMAT, rows),
							  psprintf(INT64_FORMAT, *bytes)));
	/* An old row that was not seen any more is not sent; nor is its change, if a crash takes that. */
	mt_xact_flush(task->visible_lsn);
	mt_remote_run(remote, "COMMIT");
	mt_copy_finish(task, rows, *bytes);
}

/* keep_noted remembers, with the notes themselves, which rows of a chunk are noted. */
static void
keep_noted(const MtCopyTask *task)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.copy_task SET noted = $3 WHERE relation = $1 AND task = $2",
				MT_ARGS(MT_INT4(task->relation), MT_INT4(task->task), MT_INT8(task->noted)));
	mt_spi_end(&scope);
}

/* is_rewritten says whether the table's blocks are others than those that were cut into chunks. */
static bool
is_rewritten(const MtCopyTask *task)
{
	Relation	table = try_table_open(task->table, NoLock);
	bool		rewritten = table == NULL || mt_relation_filenode(table) != task->filenode;

	if (table != NULL)
		table_close(table, NoLock);
	return rewritten;
}

/*
 * begin_there begins the target's transaction; mt_copy_await_chunks waits for its end.
 *
 * It may still commit after this process has gone, or has given it up: what is truncated here
 * by then must not be found there after the TRUNCATE was replayed.
 */
static void
begin_there(const MtMigration *migration, MtRemote *remote, const char *relation_id)
{
	mt_remote_run(remote, "BEGIN");
	mt_remote_query(remote,
					"SELECT FROM migrate_tiers.chunk WHERE migration = $1 AND relation = $2"
					" AND task = " MT_COPY_BEGUN " FOR SHARE",
					MT_PARAMS(migration->ident, relation_id));
}

/* mt_copy_finish notes that a task is done. */
void
mt_copy_finish(const MtCopyTask *task, int64 rows, int64 bytes)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.copy_task SET state = 'done', rows = $3, bytes = $4, finished = clock_timestamp()"
				" WHERE relation = $1 AND task = $2",
				MT_ARGS(MT_INT4(task->relation), MT_INT4(task->task), MT_INT8(rows), MT_INT8(bytes)));
	mt_spi_end(&scope);
}

/* finish_table ends all chunks of a truncated table; those of other workers are theirs to end. */
static void
finish_table(const MtCopyTask *task)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.copy_task AS u SET state = 'done', finished = clock_timestamp()"
				" FROM (SELECT task FROM migrate_tiers.copy_task WHERE relation = $1 AND kind = 'chunk'"
				"   AND source_table = $2 AND state <> 'done' FOR UPDATE SKIP LOCKED) AS n"
				" WHERE u.relation = $1 AND u.task = n.task",
				MT_ARGS(MT_INT4(task->relation), MT_OID(task->table)));
	mt_spi_end(&scope);
}

/* throttle waits, holding nothing, until the bytes sent are what this worker's share of the rate allows. */
static void
throttle(int32 migration, int64 bytes, TimestampTz started)
{
	int64		rate;
	TimestampTz until;

	if (bytes == 0)
		return;
	mt_xact_begin();
	rate = mt_option_integer(migration, "copy_rate") / Max(mt_option_integer(migration, "copy_workers"), 1);
	mt_xact_commit();
	if (rate <= 0)
		return;
	until = started + (int64) ((double) bytes / rate * USECS_PER_SEC);
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
