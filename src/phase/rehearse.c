/*
 * rehearse.c
 *	  A transition and its way back, gone for practice: see rehearse.h.
 *
 * The migration is locked by the session from the first transition to the
 * last, so that nobody goes elsewhere in between.  Where the way back is barred
 * (somebody wrote the target meanwhile), the rehearsal ends in the phase that it
 * went to, and says so: that is what it was made to find out.  Batch tables are not
 * pushed meanwhile: the jobs that fill them stay where they are, so that a push in the
 * new direction would bring old rows over those that they compute.
 */
#include "phase/rehearse.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/xact.h"
#include "catalog/batch.h"
#include "catalog/option.h"
#include "phase/wait.h"

static void check_way(const MtMigration *migration, MtPhase to);
static void there_and_back(const char *name, MtPhase from, MtPhase to, MtRehearsal *rehearsal);
static void check_sync(const char *name);
static void tell_where_it_ended(void *arg);

/* mt_rehearse_run goes to the next phase and comes back. */
void
mt_rehearse_run(const char *migration_name, MtPhase to)
{
	MemoryContext context = AllocSetContextCreate(PortalContext, "migrate_tiers rehearsal", ALLOCSET_SMALL_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	MtMigration *migration = mt_migration_get_owned(migration_name);
	MtRehearsal *rehearsal = palloc0(sizeof(MtRehearsal));
	int32		id = migration->id;

	rehearsal->context = context;
	check_way(migration, to);
	if (!mt_migration_lock_session(id))
		mt_transition_refuse_busy(migration);
	PG_TRY();
	{
		there_and_back(migration->name, migration->phase, to, rehearsal);
	}
	PG_FINALLY();
	{
		mt_batch_unlock_all(rehearsal->barred);
		mt_migration_unlock_session(id);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
}

/* check_way refuses what cannot be practised. */
static void
check_way(const MtMigration *migration, MtPhase to)
{
	const MtMove *move = mt_transition_check(migration, to, true);

	if (move->final)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("phase %s cannot be rehearsed", mt_phase_name(to)),
				 errdetail("There is no way back from it."),
				 errhint("CALL migrate_tiers.advance('%s') when all is done.", mt_phase_name(to))));
	if (migration->transition != NULL)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("migration \"%s\" is in the middle of a transition", migration->name),
				 errhint("Finish or undo it first with CALL migrate_tiers.advance or migrate_tiers.revert.")));
}

static void
there_and_back(const char *name, MtPhase from, MtPhase to, MtRehearsal *rehearsal)
{
	ErrorContextCallback callback = {error_context_stack, tell_where_it_ended, (void *) mt_phase_name(to)};

	mt_transition_run(name, to, true, rehearsal);
	error_context_stack = &callback;
	check_sync(name);
	mt_transition_run(name, from, false, rehearsal);
	error_context_stack = callback.previous;
	check_sync(name);
}

/* check_sync waits until what is committed here now is on the target. */
static void
check_sync(const char *name)
{
	MtMigration *migration;

	PushActiveSnapshot(GetTransactionSnapshot());
	migration = mt_migration_get_owned(name);
	if (migration->syncing)
	{
		TimestampTz deadline = GetCurrentTimestamp() + mt_option_microseconds(migration->id, "attach_timeout");

		if (!mt_wait_forward(migration, mt_wait_token(), deadline))
			ereport(ERROR,
					(errcode(MT_ERRCODE_SYNC_TIMEOUT),
					 errmsg("the target of migration \"%s\" did not catch up in time", migration->name),
					 errhint("SELECT * FROM migrate_tiers.status shows the lag, and whether a worker runs.")));
		ereport(NOTICE, (errmsg("sync works in phase %s", mt_phase_name(migration->phase))));
	}
	PopActiveSnapshot();
	mt_xact_next();
}

static void
tell_where_it_ended(void *arg)
{
	errcontext("rehearsal of phase %s", (const char *) arg);
}
