/*
 * foreign.c
 *	  How the sync worker brings back the foreign keys that copies have set aside.
 *
 * When every table is in sync they are added again, between two ticks: an instant each.  Checking their rows takes
 * long, but hinders neither ticks nor anybody else.  So a session of its own does that, for one after the other, and
 * each round looks whether it has answered; no transaction is open here meanwhile.  Only the check of a partitioned
 * table's keeps writers out of the target's tables: ticks wait for that.
 *
 * A table that is to be copied again goes before: the check is given up, and begun anew when all have joined.  The
 * same where this worker ends, since the target ends the session that nobody listens to (endpoint/target_foreign.c).
 * What fails holds up neither ticks nor other foreign keys, and bars the way to where the target is written.
 */
#include "worker/copies.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"
#include "endpoint/target.h"
#include "worker/failure.h"

/* How long the first round waits for checks that end soon, in ms; and each one for a check that keeps ticks waiting. */
#define GRACE_MS 100

typedef struct MtChecker
{
	MemoryContext context;		/* of all of it, the session included */
	MtRemote   *remote;			/* NULL: not connected yet */
	List	   *checks;			/* MtForeignCheck that are to be done; the first is under way, if any is */
	bool		sent;			/* it is */
	uint32		timeline;		/* of the target's log when it began: another server has other foreign keys */
	bool		failed;			/* one before it has failed */
} MtChecker;

static void bring_back(void *arg);
static MtChecker *begin(MtWorker *worker);
static void connect_checker(MtWorker *worker, MtChecker *checker);
static bool await_answer(MtChecker *checker, TimestampTz deadline);
static void handle_failure(MtWorker *worker, ErrorData *error);
static void show_planned(MtWorker *worker, const List *checks);
static void show(const MtForeignCheck *check, const char *state);

/* Of the worker of this process. */
static MtCopyRetry retry = {0};

/* mt_worker_foreign_keys begins, or looks how far it is; returns whether it has waited for the target. */
bool
mt_worker_foreign_keys(MtWorker *worker)
{
	bool		begins = worker->checker == NULL;
	ErrorData  *error;

	if (worker->unjoined)
	{
		/* At once: it has locks that the copy needs. */
		mt_worker_foreign_end(worker);
		if (retry.failures > 0)
			mt_worker_tell(worker, MT_TOLD_COPY, NULL);
		retry = (MtCopyRetry) {0};
		return false;
	}
	if (!begins && worker->checker->timeline != worker->sync->target_timeline)
	{
		mt_worker_foreign_end(worker);
		return false;
	}
	if (begins && retry.retry > mt_clock_now())
		return false;
	MemoryContextSwitchTo(worker->round_context);
	error = mt_xact_catch(bring_back, worker);
	if (error != NULL)
		handle_failure(worker, error);
	return begins;
}

/* mt_worker_foreign_holds says whether a check is under way that no tick could go beside. */
bool
mt_worker_foreign_holds(const MtWorker *worker)
{
	const MtChecker *checker = worker->checker;

	return checker != NULL && checker->sent && ((MtForeignCheck *) linitial(checker->checks))->keeps_writers_out;
}

/* bring_back adds the foreign keys, and takes one answer after the other while they come quickly. */
static void
bring_back(void *arg)
{
	MtWorker   *worker = (MtWorker *) arg;
	long		grace = worker->checker == NULL || mt_worker_foreign_holds(worker) ? GRACE_MS : 0;
	MtChecker  *checker = worker->checker != NULL ? worker->checker : begin(worker);
	TimestampTz deadline = TimestampTzPlusMilliseconds(mt_clock_now(), grace);

	for (; checker->checks != NIL; checker->checks = list_delete_first(checker->checks))
	{
		MtForeignCheck *check = (MtForeignCheck *) linitial(checker->checks);

		if (!checker->sent)
		{
			show(check, "running");
			if (checker->remote == NULL)
				connect_checker(worker, checker);
			mt_remote_send(checker->remote, check->sql);
			checker->sent = true;
		}
		if (!await_answer(checker, deadline))
			return;
		checker->sent = false;
		(void) mt_remote_collect(checker->remote);
		show(check, "done");
	}
	worker->foreign_keys_due = checker->failed;
	if (!checker->failed && retry.failures > 0)
	{
		mt_worker_tell(worker, MT_TOLD_COPY, NULL);
		retry = (MtCopyRetry) {0};
	}
	mt_worker_foreign_end(worker);
}

/* begin adds the foreign keys and finds out which of them are to be checked. */
static MtChecker *
begin(MtWorker *worker)
{
	MemoryContext context = AllocSetContextCreate(worker->context, "migrate_tiers foreign keys",
												  ALLOCSET_DEFAULT_SIZES);
	MtChecker  *checker = MemoryContextAllocZero(context, sizeof(MtChecker));
	MemoryContext previous = MemoryContextSwitchTo(context);

	checker->context = context;
	worker->checker = checker;
	checker->checks = mt_target_add_foreign_keys(worker->sync->remote, worker->migration);
	checker->timeline = worker->sync->target_timeline;
	show_planned(worker, checker->checks);
	MemoryContextSwitchTo(previous);
	return checker;
}

static void
connect_checker(MtWorker *worker, MtChecker *checker)
{
	MemoryContext previous = MemoryContextSwitchTo(checker->context);

	/* The session that ticks has been let in. */
	mt_xact_begin();
	checker->remote = mt_remote_open(worker->migration);
	mt_xact_commit();
	mt_target_check_alone(checker->remote);
	MemoryContextSwitchTo(previous);
}

/* await_answer waits until the answer is there, the deadline or whatever else wants to be seen to. */
static bool
await_answer(MtChecker *checker, TimestampTz deadline)
{
	while (!mt_remote_answered(checker->remote))
	{
		long		left = TimestampDifferenceMilliseconds(mt_clock_now(), deadline);

		if (left <= 0)
			return false;
		/* The latch stays as it is: whoever set it wants a tick. */
		if (WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							  mt_remote_socket(checker->remote), left, PG_WAIT_EXTENSION) &
			WL_LATCH_SET)
			return false;
	}
	return true;
}

/* mt_worker_foreign_end closes the session; what it was doing is undone. */
void
mt_worker_foreign_end(MtWorker *worker)
{
	MtChecker  *checker = worker->checker;

	worker->checker = NULL;
	if (checker != NULL)
		MemoryContextDelete(checker->context);
}

/* handle_failure tells of the error, and goes on with the next foreign key where the session is still good for that. */
static void
handle_failure(MtWorker *worker, ErrorData *error)
{
	MtChecker  *checker = worker->checker;
	const char *name = "foreign keys of the target";

	/* A connection in an unknown state is the affair of the whole round. */
	if (checker == NULL || !mt_remote_usable(worker->sync->remote) || error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		mt_worker_foreign_end(worker);
		ThrowErrorData(error);
	}
	if (checker->checks != NIL)
		name = psprintf("foreign key %s", ((MtForeignCheck *) linitial(checker->checks))->name);
	if (checker->remote != NULL && mt_remote_usable(checker->remote))
	{
		checker->failed = true;
		checker->sent = false;
		checker->checks = list_delete_first(checker->checks);
	}
	else
		mt_worker_foreign_end(worker);
	retry.failures++;
	mt_worker_put_off_copy(worker, &retry, error, "bringing back", name);
	FreeErrorData(error);
}

/* show_planned makes a task of each check, for whoever watches; no copy worker takes it, since its table is in sync. */
static void
show_planned(MtWorker *worker, const List *checks)
{
	MtSpiScope	scope;
	ListCell   *cell;

	mt_xact_begin();
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE,
				"DELETE FROM migrate_tiers.copy_task WHERE kind = 'foreign_key'"
				" AND relation IN (SELECT id FROM migrate_tiers.relation WHERE migration = $1)",
				MT_ARGS(MT_INT4(worker->migration_id)));
	foreach(cell, checks)
	{
		const MtForeignCheck *check = (const MtForeignCheck *) lfirst(cell);

		mt_spi_exec(SPI_OK_INSERT,
					"INSERT INTO migrate_tiers.copy_task (relation, task, kind, source_table, object)"
					" SELECT r.id, (SELECT coalesce(max(task) + 1, 0) FROM migrate_tiers.copy_task WHERE relation = r.id),"
					" 'foreign_key', 0, $2 FROM migrate_tiers.relation AS r WHERE r.id = $1",
					MT_ARGS(MT_INT4(check->relation), MT_TEXT(check->name)));
	}
	mt_spi_end(&scope);
	mt_xact_commit();
}

/* show tells how far a check is. */
static void
show(const MtForeignCheck *check, const char *state)
{
	MtSpiScope	scope;

	mt_xact_begin();
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.copy_task SET state = $3,"
				" started = CASE $3 WHEN 'running' THEN clock_timestamp() ELSE started END,"
				" finished = CASE $3 WHEN 'done' THEN clock_timestamp() END"
				" WHERE relation = $1 AND kind = 'foreign_key' AND object = $2",
				MT_ARGS(MT_INT4(check->relation), MT_TEXT(check->name), MT_TEXT(state)));
	mt_spi_end(&scope);
	mt_xact_commit();
}
