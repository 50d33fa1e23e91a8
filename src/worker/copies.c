/*
 * copies.c
 *	  How the sync worker brings copies forward.
 *
 * For each table that has not joined: a copy that has to be done again is taken
 * back, a captured table is planned, a table whose tasks are done gets its keys
 * back and joins with the next tick.  Each step is a transaction of its own and
 * can be repeated.  What fails for one table holds up neither another nor the ticks.
 */
#include "worker/copies.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"
#include "capture/attach.h"
#include "catalog/disarmed.h"
#include "copy/copy.h"
#include "endpoint/target.h"
#include "worker/failure.h"

#define FIRST_BACKOFF_MS 500
#define LAST_BACKOFF_MS	 30000

/* Failures to get a lock in a row that are no news yet. */
#define LOCK_FAILURES 5

/* What a round has found. */
typedef struct MtCopies
{
	List	   *disarmed;
	bool		work;			/* some table has not joined */
	bool		tasks;			/* there is something for copy workers */
	bool		reload;
	bool		failed;			/* some table waits for another attempt */
} MtCopies;

static void try_forward(MtWorker *worker, MtRelation *relation, MtCopies *copies);
static void handle_failure(MtWorker *worker, const MtRelation *relation, MtCopyRetry *retry);
static void bring_forward(MtWorker *worker, MtRelation *relation, MtCopies *copies);
static void refuse_copy(const MtMigration *migration, const MtRelation *relation);
static void copy_again(MtWorker *worker, MtRelation *relation);
static void plan(MtWorker *worker, MtRelation *relation);
static void join_when_done(MtWorker *worker, MtRelation *relation, MtCopies *copies);
static bool has_joined(MtWorker *worker, const MtRelation *relation);
static bool tasks_left(int32 relation_id);

/* mt_worker_copies brings copies forward; false when every table has joined. */
bool
mt_worker_copies(MtWorker *worker)
{
	MemoryContext context = CurrentMemoryContext;
	MtCopies	copies = {NIL};
	List	   *relations;
	ListCell   *cell;

	if (worker->copy_retries == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(int32), .entrysize = sizeof(MtCopyRetry), .hcxt = worker->context};

		worker->copy_retries = hash_create("migrate_tiers copy retries", 16, &control,
										   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	mt_xact_begin();
	MemoryContextReset(worker->sync->tick_context);
	MemoryContextSwitchTo(worker->sync->tick_context);
	relations = mt_relation_list(worker->migration_id, "realtime");
	copies.disarmed = mt_disarmed_list(worker->migration_id, NULL);
	mt_xact_commit();
	foreach(cell, relations)
		try_forward(worker, (MtRelation *) lfirst(cell), &copies);
	if (copies.reload)
		mt_sync_reload(worker->sync);
	if (!copies.failed && (worker->copy_failed || !worker->succeeded))
		mt_worker_tell(worker, MT_TOLD_COPY, NULL);
	worker->copy_failed = copies.failed;
	MemoryContextSwitchTo(context);
	if (copies.tasks)
		mt_worker_launch_copiers(worker);
	return copies.work;
}

/* try_forward brings one table forward; what fails is tried again later, and does not hold up others. */
static void
try_forward(MtWorker *worker, MtRelation *relation, MtCopies *copies)
{
	MtCopyRetry *retry = hash_search(worker->copy_retries, &relation->id, HASH_FIND, NULL);
	MemoryContext context = CurrentMemoryContext;

	if (retry != NULL && retry->retry > mt_clock_now())
	{
		copies->work = copies->failed = true;
		return;
	}
	PG_TRY();
	{
		bring_forward(worker, relation, copies);
		(void) hash_search(worker->copy_retries, &relation->id, HASH_REMOVE, NULL);
	}
	PG_CATCH();
	{
		bool		found;

		/* A connection in an unknown state is the affair of the whole round. */
		if (!mt_remote_usable(worker->sync->remote) || geterrcode() == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		retry = hash_search(worker->copy_retries, &relation->id, HASH_ENTER, &found);
		retry->failures = found ? retry->failures + 1 : 1;
		handle_failure(worker, relation, retry);
		copies->work = copies->failed = copies->reload = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
}

/* handle_failure ends what was begun, and puts the table off. */
static void
handle_failure(MtWorker *worker, const MtRelation *relation, MtCopyRetry *retry)
{
	ErrorData  *error = mt_xact_abort(worker->round_context);

	mt_remote_run(worker->sync->remote, "ROLLBACK");
	mt_worker_put_off_copy(worker, retry, error, "preparing a copy of",
						   quote_qualified_identifier(relation->schema, relation->name));
	FreeErrorData(error);
}

/* mt_worker_put_off_copy tells of an error and says when to try again. */
void
mt_worker_put_off_copy(MtWorker *worker, MtCopyRetry *retry, ErrorData *error, const char *action, const char *object)
{
	long		wait = FIRST_BACKOFF_MS;

	for (int i = 1; i < retry->failures && wait < LAST_BACKOFF_MS; i++)
		wait *= 2;
	wait = Min(wait, LAST_BACKOFF_MS);
	retry->retry = TimestampTzPlusMilliseconds(mt_clock_now(), wait);
	if (!mt_error_is_lock(error) || retry->failures > LOCK_FAILURES)
	{
		char	   *text = mt_error_text(error);

		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("migration \"%s\": %s %s failed, next attempt in %.1f s",
						worker->migration->name, action, object, (double) wait / 1000),
				 errdetail_internal("%s", text)));
		mt_worker_tell(worker, MT_TOLD_COPY, psprintf("%s: %s", object, text));
	}
}

/* bring_forward does the next step of a table. */
static void
bring_forward(MtWorker *worker, MtRelation *relation, MtCopies *copies)
{
	if (strcmp(relation->state, "recopy") == 0)
	{
		copies->work = true;
		if (worker->migration->reversing)
			refuse_copy(worker->migration, relation);
		/* With no room in the queue it would be disarmed again at once. */
		if (list_member_int(copies->disarmed, relation->id) && !mt_worker_has_room(worker))
			return;
		copy_again(worker, relation);
		copies->reload = true;
	}
	else if (strcmp(relation->state, "planned") == 0 && relation->captured)
	{
		plan(worker, relation);
		copies->reload = copies->work = copies->tasks = true;
	}
	else if (strcmp(relation->state, "copying") == 0)
	{
		copies->work = true;
		join_when_done(worker, relation, copies);
	}
	else if (strcmp(relation->state, "syncing") == 0 && !has_joined(worker, relation))
	{
		/* The target was set back to a time before it joined. */
		mt_xact_begin();
		mt_relation_recopy(relation->id, "the target was set back to a time before it joined");
		mt_xact_commit();
		copies->work = true;
	}
}

/* refuse_copy keeps a table whose target has changes of its own from being emptied. */
static void
refuse_copy(const MtMigration *migration, const MtRelation *relation)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s is to be copied again, but applications write the target",
					quote_qualified_identifier(relation->schema, relation->name)),
			 errdetail("A copy begins with an empty table."),
			 errhint("Go back: %s. The copy then begins by itself.", mt_phase_way_back(migration->phase, MT_SYNCING))));
}

/* copy_again takes a copy back and attaches the table anew, with a new S0. */
static void
copy_again(MtWorker *worker, MtRelation *relation)
{
	mt_xact_begin();
	mt_copy_forget_tasks(relation);
	mt_xact_commit();
	mt_xact_begin();
	mt_copy_forget_target(worker->migration, worker->sync->remote, relation);
	mt_copy_begin(worker->migration, worker->sync->remote, relation);
	mt_xact_commit();
	mt_xact_begin();
	mt_attach_table(relation);
	mt_relation_set_state(relation->id, "planned");
	mt_xact_commit();
}

static void
plan(MtWorker *worker, MtRelation *relation)
{
	mt_xact_begin();
	mt_target_fence(worker->sync->remote, worker->migration, relation);
	mt_copy_plan(worker->migration, worker->sync->remote, relation);
	mt_xact_commit();
}

/*
 * join_when_done lets a table join with the next tick once all of its tasks are done, also on this target.
 *
 * What is finished there may be an exclusion constraint, whose index is built by that: no transaction is open here.
 */
static void
join_when_done(MtWorker *worker, MtRelation *relation, MtCopies *copies)
{
	MtTable    *table = hash_search(worker->sync->tables, &relation->id, HASH_FIND, NULL);
	bool		whole = false;

	mt_xact_begin();
	if (tasks_left(relation->id))
		copies->tasks = true;
	else if (table != NULL && !table->joined)
	{
		mt_copy_await_chunks(worker->migration, worker->sync->remote, relation);
		if (mt_copy_reopen(worker->migration, worker->sync->remote, relation))
			copies->tasks = true;
		else
			whole = true;
	}
	mt_xact_commit();
	if (!whole)
		return;
	mt_target_restore_constraints(worker->sync->remote, worker->migration, relation);
	table->joining = true;
}

static bool
has_joined(MtWorker *worker, const MtRelation *relation)
{
	MtTable    *table = hash_search(worker->sync->tables, &relation->id, HASH_FIND, NULL);

	return table == NULL || table->joined;
}

static bool
tasks_left(int32 relation_id)
{
	MtSpiScope	scope;
	bool		left;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT EXISTS (SELECT FROM migrate_tiers.copy_task WHERE relation = $1 AND state <> 'done')",
				MT_ARGS(MT_INT4(relation_id)));
	left = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return left;
}
