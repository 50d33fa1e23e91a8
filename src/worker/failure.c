/*
 * failure.c
 *	  What the sync worker does about an error: see failure.h.
 *
 * The reason that status tells stands in the migration's row.  Whoever has called
 * set_option() or pause() in a transaction that is still open has that row
 * locked: then the reason is kept here, and told when it can be.
 */
#include "worker/failure.h"

#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"

/* How often it is tried to tell a reason. */
#define TELL_AGAIN_MS 1000

/* Where each reason stands; only news touch the row. */
static const char *const told_updates[] = {
	[MT_TOLD_FORWARD] = "UPDATE migrate_tiers.migration SET stopped = $2,"
						" stopped_at = CASE WHEN $2 IS NOT NULL THEN coalesce(stopped_at, clock_timestamp()) END"
						" WHERE id = $1 AND stopped IS DISTINCT FROM $2",
	/* A tick may fail after the way back has ended: nobody would take back then what it says. */
	[MT_TOLD_REVERSE] = "UPDATE migrate_tiers.migration SET reverse_stopped = $2,"
						" reverse_stopped_at = CASE WHEN $2 IS NOT NULL THEN coalesce(reverse_stopped_at, clock_timestamp()) END"
						" WHERE id = $1 AND reverse_stopped IS DISTINCT FROM $2 AND (reversing OR $2 IS NULL)",
	[MT_TOLD_COPY] = "UPDATE migrate_tiers.migration SET copy_error = $2,"
					 " copy_error_at = CASE WHEN $2 IS NOT NULL THEN coalesce(copy_error_at, clock_timestamp()) END"
					 " WHERE id = $1 AND copy_error IS DISTINCT FROM $2",
};

typedef struct MtTold
{
	char	   *reason;			/* NULL: there is none */
	bool		due;			/* status does not say it yet */
} MtTold;

typedef struct MtTelling
{
	MtTold		told[lengthof(told_updates)];
	bool		due;			/* one of them is */
	bool		failed;			/* the last attempt */
	TimestampTz next;			/* no attempt before this moment */
} MtTelling;

static void roll_back(void *arg);
static void tell(void *arg);

/* mt_worker_roll_back ends the transaction on the target, or else the connection. */
bool
mt_worker_roll_back(MtWorker *worker)
{
	ErrorData  *error;

	if (worker->sync->whole && mt_remote_usable(worker->sync->remote))
	{
		worker->sync->merge = NULL;
		error = mt_xact_catch(roll_back, worker->sync->remote);
		if (error == NULL)
			return true;
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("migration \"%s\": the connection to the target is given up", worker->migration->name),
				 errdetail_internal("%s", mt_error_text(error))));
	}
	mt_worker_disconnect(worker);
	return false;
}

static void
roll_back(void *arg)
{
	mt_remote_run((MtRemote *) arg, "ROLLBACK");
}

/* mt_worker_disconnect closes the connection to the target, where there is one. */
void
mt_worker_disconnect(MtWorker *worker)
{
	if (worker->sync != NULL)
		mt_sync_close(worker->sync);
	worker->sync = NULL;
}

/* mt_worker_tell takes a reason to be told, in place of one that could not be told yet. */
void
mt_worker_tell(MtWorker *worker, MtToldKind kind, const char *reason)
{
	MtTold	   *told;

	if (worker->telling == NULL)
		worker->telling = MemoryContextAllocZero(worker->context, sizeof(MtTelling));
	told = &worker->telling->told[kind];
	if (told->reason)
		pfree(told->reason);
	told->reason = reason ? MemoryContextStrdup(worker->context, reason) : NULL;
	told->due = worker->telling->due = true;
	(void) mt_worker_tell_again(worker);
}

/* mt_worker_told says whether there is a reason, be it told already or not. */
bool
mt_worker_told(const MtWorker *worker, MtToldKind kind)
{
	return worker->telling != NULL && worker->telling->told[kind].reason != NULL;
}

/* mt_worker_tell_again tells what is due, unless that failed just now. */
long
mt_worker_tell_again(MtWorker *worker)
{
	MtTelling  *telling = worker->telling;
	ErrorData  *error;
	long		wait;

	if (telling == NULL || !telling->due)
		return LONG_MAX;
	wait = TimestampDifferenceMilliseconds(mt_clock_now(), telling->next);
	if (wait > 0)
		return wait;
	error = mt_xact_catch(tell, worker);
	/* Once: it may stay so for as long as somebody leaves a transaction open. */
	if (error != NULL && !telling->failed)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("migration \"%s\": what status says of it cannot be changed yet",
						worker->migration ? worker->migration->name : ""),
				 errdetail_internal("%s", mt_error_text(error))));
	telling->due = telling->failed = error != NULL;
	if (error == NULL)
		return LONG_MAX;
	telling->next = TimestampTzPlusMilliseconds(mt_clock_now(), TELL_AGAIN_MS);
	return TELL_AGAIN_MS;
}

/* tell writes down what is due. */
static void
tell(void *arg)
{
	MtWorker   *worker = (MtWorker *) arg;
	MtTold	   *told = worker->telling->told;
	MtSpiScope	scope;

	mt_xact_begin();
	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT, "SELECT 1 WHERE " MT_MIGRATION_IF_FREE " IS NOT NULL",
					MT_ARGS(MT_INT4(worker->migration_id))) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("a transaction that has changed the migration has not ended")));
	for (int kind = 0; kind < lengthof(told_updates); kind++)
		if (told[kind].due)
			mt_spi_exec(SPI_OK_UPDATE, told_updates[kind],
						MT_ARGS(MT_INT4(worker->migration_id), MT_TEXT(told[kind].reason)));
	mt_spi_end(&scope);
	mt_xact_commit();
	for (int kind = 0; kind < lengthof(told_updates); kind++)
		told[kind].due = false;
}
