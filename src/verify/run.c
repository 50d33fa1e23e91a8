/*
 * run.c
 *	  The keeper of a verification: see verify.h.
 *
 * It goes from point to point until every table of the run is compared.  What
 * fails meanwhile is tried again at another point, as long as some range gets done
 * in a minute; then the run is cut off: its tables are unknown, and the next one goes on
 * with what is left.
 *
 * Rows that are on their way from the target are looked at again point by point, at ends of ticks of both
 * directions in turn: a row that only one side changes is the same at the end of a tick from
 * there, however often it is changed.  The pauses between differ in length, so that no
 * rhythm of an application is ours.
 */
#include "verify/verify.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/option.h"
#include "catalog/suspect.h"
#include "catalog/verification.h"
#include "verify/batch.h"
#include "verify/table.h"

/* How long nothing may get done, how long to wait after a failure, and how often readers are looked for. */
#define PATIENCE_MS	   60000
#define FIRST_RETRY_MS 500
#define LAST_RETRY_MS  5000
#define LOOK_MS		   1000

/* How long rows may stay under way, and the pauses between looks at them. */
#define SETTLE_MS	  20000
#define FIRST_LOOK_MS 7
#define LAST_LOOK_MS  500

/* Readers of one point. */
typedef struct MtReaders
{
	int			count;
	BackgroundWorkerHandle *handle[MT_MAX_COPY_WORKERS];
} MtReaders;

/* What came of an attempt. */
typedef struct MtAttempt
{
	char	   *why;			/* what went wrong, or NULL */
	bool		final;			/* another attempt would be no better */
} MtAttempt;

/* How far a run is. */
typedef struct MtState
{
	bool		begun;
	int64		done;			/* ranges */
	int64		suspects;
	bool		settling;		/* they are all that is left */
	bool		stuck;			/* and will not come */
	bool		moved;			/* since the point before */
	TimestampTz progressed;
	long		pause;			/* before the next point, in ms */
} MtState;

static bool take_stock(const MtVerifyOrder *order, MtState *state);
static void begin_tables(int32 migration_id, const MtVerifyOrder *order, bool batch);
static bool try_begin(int32 migration_id, int32 relation, const MtVerifyOrder *order, bool patient);
static void begin_or_compare(int32 migration_id, int32 relation_id, const MtVerifyOrder *order);
static bool is_batch(const MtRelation *relation);
static void begin_table(const MtMigration *migration, MtRelation *relation, const MtVerifyOrder *order);
static void attempt(int32 migration_id, const MtVerifyOrder *order, bool back, MtAttempt *attempt);
static void use_point(int32 migration_id, const MtVerifyOrder *order, bool back, MtAttempt *attempt);
static void launch_readers(int32 migration_id, const MtVerifyOrder *order, int count, MtReaders *readers);
static void stop_readers(int code, Datum arg);
static void wait_for_readers(MtReaders *readers);
static void cut(int64 run, const char *why);
static void pause_ms(long ms);

/* mt_verify_run compares the tables of an order. */
void
mt_verify_run(int32 migration_id, const MtVerifyOrder *order)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers point", ALLOCSET_DEFAULT_SIZES);
	MtAttempt	last = {NULL};
	MtState		state = {false};
	bool		back = false;

	MemoryContextSwitchTo(context);
	begin_tables(migration_id, order, false);
	while (take_stock(order, &state))
	{
		if (!state.moved)
		{
			int			patience = !state.settling ? PATIENCE_MS : state.stuck ? 0 :
				SETTLE_MS;

			if (last.final || TimestampDifferenceExceeds(state.progressed, GetCurrentTimestamp(), patience))
			{
				cut(order->run, last.why);
				break;
			}
			pause_ms(state.pause);
			state.pause = Min(state.pause * 2, state.settling ? LAST_LOOK_MS : LAST_RETRY_MS);
		}
		MemoryContextReset(context);
		memset(&last, 0, sizeof(last));
		back = state.settling && !back;
		attempt(migration_id, order, back, &last);
	}
	begin_tables(migration_id, order, true);
	MemoryContextSwitchTo(MemoryContextGetParent(context));
	MemoryContextDelete(context);
}

/* take_stock gives verdicts and sees what has moved since the last point; false when nothing is left. */
static bool
take_stock(const MtVerifyOrder *order, MtState *state)
{
	int64		done;
	int64		suspects;
	bool		open;

	mt_xact_begin();
	done = mt_verification_free_ranges(order->run);
	mt_verification_finish(order->run);
	open = mt_verification_is_open(order->run);
	suspects = mt_suspect_count(order->run, &state->settling, &state->stuck);
	mt_xact_commit();
	state->moved = !state->begun || done > state->done || (state->settling && suspects < state->suspects);
	if (state->moved)
	{
		state->progressed = GetCurrentTimestamp();
		state->pause = state->settling ? FIRST_LOOK_MS : FIRST_RETRY_MS;
	}
	state->begun = true;
	state->done = done;
	state->suspects = suspects;
	return open;
}

/*
 * begin_tables begins, or goes on with, the verification of each table; one that is locked is tried again.
 *
 * Batch tables are not compared at a common point: they are done when this returns.
 */
static void
begin_tables(int32 migration_id, const MtVerifyOrder *order, bool batch)
{
	List	   *relations;
	ListCell   *cell;

	mt_xact_begin();
	relations = order->relation ? list_make1(mt_relation_by_id(order->relation, false)) :
		mt_relation_list(migration_id, batch ? "batch" : "realtime");
	mt_xact_commit();
	foreach(cell, relations)
	{
		TimestampTz began = GetCurrentTimestamp();
		int32		relation = ((MtRelation *) lfirst(cell))->id;

		if (is_batch((MtRelation *) lfirst(cell)) != batch)
			continue;
		for (;;)
		{
			bool		patient = !TimestampDifferenceExceeds(began, GetCurrentTimestamp(), PATIENCE_MS);

			if (try_begin(migration_id, relation, order, patient))
				break;
			pause_ms(FIRST_RETRY_MS);
		}
	}
}

/* try_begin begins one table; false when it should be tried again.  With its memory goes its connection. */
static bool
try_begin(int32 migration_id, int32 relation, const MtVerifyOrder *order, bool patient)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext once = AllocSetContextCreate(context, "migrate_tiers table", ALLOCSET_DEFAULT_SIZES);
	ErrorData  *volatile error = NULL;

	MemoryContextSwitchTo(once);
	PG_TRY();
	{
		begin_or_compare(migration_id, relation, order);
	}
	PG_CATCH();
	{
		error = mt_xact_abort(context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	MemoryContextDelete(once);
	if (error == NULL)
		return true;
	if (mt_error_is_lock(error) && patient)
		return false;
	mt_xact_begin();
	mt_verification_refuse(migration_id, relation, order->run, order->scheduled, mt_error_text(error));
	mt_xact_commit();
	return true;
}

static void
begin_or_compare(int32 migration_id, int32 relation_id, const MtVerifyOrder *order)
{
	MtMigration *migration;
	MtRelation *relation;

	mt_xact_begin();
	migration = mt_migration_by_id(migration_id, false);
	relation = mt_relation_by_id(relation_id, false);
	if (!is_batch(relation))
		begin_table(migration, relation, order);
	mt_xact_commit();
	if (is_batch(relation))
		mt_verify_batch(migration, relation, order);
}

static bool
is_batch(const MtRelation *relation)
{
	return strcmp(relation->tier, "batch") == 0 && relation->name[0] != '\0';
}

static void
begin_table(const MtMigration *migration, MtRelation *relation, const MtVerifyOrder *order)
{
	char	   *why = NULL;

	if (strcmp(relation->tier, "realtime") != 0)
		why = psprintf("its tier is %s", relation->tier);
	else if (relation->name[0] == '\0')
		why = pstrdup("the table was dropped");
	else if (strcmp(relation->state, "syncing") != 0)
		why = psprintf("it does not follow yet: its state is %s", relation->state);
	if (why != NULL)
		mt_verification_refuse(migration->id, relation->id, order->run, order->scheduled, why);
	else
		(void) mt_verification_begin(migration->id, relation->id, order->run, order->scheduled,
									 mt_verify_shape(mt_verify_describe(relation, migration->owner)),
									 mt_option_microseconds(migration->id, "max_age"));
}

/* attempt lets readers work at one common point; what goes wrong is told and no error. */
static void
attempt(int32 migration_id, const MtVerifyOrder *order, bool back, MtAttempt *attempt)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		use_point(migration_id, order, back, attempt);
	}
	PG_CATCH();
	{
		ErrorData  *error = mt_xact_abort(context);

		attempt->why = mt_error_text(error);
		ereport(LOG, (errcode(error->sqlerrcode),
					  errmsg("verification of migration %d waits for another common point", migration_id),
					  errdetail_internal("%s", attempt->why)));
	}
	PG_END_TRY();
}

static void
use_point(int32 migration_id, const MtVerifyOrder *order, bool back, MtAttempt *attempt)
{
	MtHeldPoint point = {NULL};
	MtVerifyOrder reading = *order;
	MtReaders	readers = {0};
	int			count;

	mt_xact_begin();
	count = Min(mt_option_integer(migration_id, "verify_workers"), mt_option_integer(migration_id, "copy_workers"));
	mt_xact_commit();
	attempt->why = mt_point_take(migration_id, back, &point);
	attempt->final = attempt->why != NULL;
	if (attempt->final)
		return;
	reading.point = point.time;
	reading.back = point.back;
	strlcpy(reading.source, point.source, sizeof(reading.source));
	strlcpy(reading.target, point.target, sizeof(reading.target));
	PG_ENSURE_ERROR_CLEANUP(stop_readers, PointerGetDatum(&readers));
	{
		launch_readers(migration_id, &reading, count, &readers);
		wait_for_readers(&readers);
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_readers, PointerGetDatum(&readers));
	mt_point_release(&point);
}

/* launch_readers launches as many as can be had; one at least is needed. */
static void
launch_readers(int32 migration_id, const MtVerifyOrder *order, int count, MtReaders *readers)
{
	for (int i = 0; i < count; i++)
	{
		BackgroundWorkerHandle *handle = mt_worker_launch_verify(migration_id, MT_WORKER_READER + i, order);

		if (handle == NULL)
			break;
		readers->handle[readers->count++] = handle;
	}
	if (readers->count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is free to read"),
				 errdetail("All of max_worker_processes (%d) are in use.", max_worker_processes)));
}

static void
stop_readers(int code, Datum arg)
{
	MtReaders  *readers = (MtReaders *) DatumGetPointer(arg);

	for (int i = 0; i < readers->count; i++)
		TerminateBackgroundWorker(readers->handle[i]);
}

/* wait_for_readers waits until all have ended, whatever they came to. */
static void
wait_for_readers(MtReaders *readers)
{
	for (int i = 0; i < readers->count; i++)
	{
		pid_t		pid;

		while (GetBackgroundWorkerPid(readers->handle[i], &pid) != BGWH_STOPPED)
			pause_ms(LOOK_MS);
	}
}

/* cut ends a run before its end; a reader knows best why. */
static void
cut(int64 run, const char *why)
{
	char	   *noted;

	mt_xact_begin();
	noted = mt_verification_noted(run);
	if (noted != NULL)
		why = noted;
	mt_suspect_note(run);
	mt_verification_cut(run, why ? why : "nothing could be compared for a minute");
	mt_xact_commit();
}

static void
pause_ms(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}
