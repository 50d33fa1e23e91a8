/*
 * drop.c
 *	  Ends a migration, whatever state it is in, and cleans both sides.
 *
 * First the workers go, and their locks are kept, so that one that a writer
 * starts meanwhile finds them taken and leaves.  Then the target is cleaned, which
 * may take long; it is only the rest, on the source, that needs locks on users'
 * tables, and it ends with the transaction.  Each side is tried again while a
 * lock is not to be had, for attach_timeout in all; in between nothing of a user is locked.
 *
 * With forget_target the target is not touched, even where it can be reached: it may be that of another server, of
 * which this one is a copy, and a copy that is fresh cannot know.  It is only asked how far its sequences came.
 *
 * What the target did is done, whatever becomes of this transaction.  So where it
 * fails later, the migration is still there, stopped for want of its mark, and
 * drop_migration can be called again: it finds less to do.
 */
#include "phase/drop.h"

#include "access/xact.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/lock.h"
#include "base/settings.h"
#include "base/spi.h"
#include "base/xact.h"
#include "batch/cron.h"
#include "batch/push.h"
#include "capture/attach.h"
#include "capture/fence.h"
#include "catalog/journal.h"
#include "catalog/option.h"
#include "catalog/queue.h"
#include "catalog/relation.h"
#include "catalog/worker.h"
#include "endpoint/target.h"
#include "endpoint/target_sequence.h"
#include "endpoint/twin.h"
#include "phase/sequence.h"
#include "phase/sequence_source.h"

typedef struct MtDrop
{
	MtMigration *migration;
	List	   *relations;		/* MtRelation, the realtime tables */
	MtRemote   *remote;
	MtSourceRestore *sequences;	/* of the source, to be restored; NULL before the target was asked */
	TimestampTz deadline;
} MtDrop;

static void refuse_in_block(const MtMigration *migration);
static void check_phase(const MtMigration *migration);
static void leave_target(MtDrop *drop);
static void ask_turns(void *arg);
static char *leave_turns_sql(const MtDrop *drop);
static void clean_target(void *arg);
static void end_turns(MtDrop *drop);
pg_noreturn static void answer_target_error(ErrorData *error);
static void clean_source(void *arg);
static void delete_migration(const MtMigration *migration);

/* mt_drop_run ends a migration and cleans both sides. */
void
mt_drop_run(MtMigration *migration)
{
	MtDrop		drop = {.migration = migration};
	ErrorData  *error;

	check_phase(migration);
	if ((migration->phase == MT_PLANNED || migration->phase == MT_FINISHED) && migration->transition == NULL)
	{
		delete_migration(migration);
		return;
	}
	refuse_in_block(migration);
	/* The target stays as it is cleaned, whatever the caller's synchronous_commit is. */
	ForceSyncCommit();
	drop.relations = mt_relation_list(migration->id, "realtime");
	drop.deadline = GetCurrentTimestamp() + mt_option_microseconds(migration->id, "attach_timeout");
	mt_worker_bar(migration->id);
	if (mt_option_bool(migration->id, "forget_target"))
		leave_target(&drop);
	else
	{
		error = mt_lock_retry(clean_target, &drop, drop.deadline, "drop_migration waits for a lock on the target");
		if (drop.remote != NULL)
			mt_remote_close(drop.remote);
		if (error != NULL)
			answer_target_error(error);
	}
	error = mt_lock_retry(clean_source, &drop, drop.deadline, "drop_migration waits for a lock on the source");
	if (error != NULL)
	{
		if (error->hint == NULL)
			error->hint = "The target was seen to already. Call migrate_tiers.drop_migration() again when the cause is mended.";
		ThrowErrorData(error);
	}
}

/*
 * check_phase refuses to leave both sides to themselves while either may be written, or waits for what the other
 * has; unless the target is given up.
 */
static void
check_phase(const MtMigration *migration)
{
	MtPhase		phase = migration->phase;
	MtPhase		from;
	MtPhase		to;
	const char *call = NULL;

	if (mt_journal_open(migration, &from, &to))
	{
		/* One that was cut off may have done all but say so. */
		call = to > from ? psprintf("advance('%s')", mt_phase_name(to)) : psprintf("revert('%s')", mt_phase_name(to));
		phase = Max(from, to);
	}
	if (phase <= MT_SYNCING || migration->phase == MT_FINISHED || mt_option_bool(migration->id, "forget_target"))
		return;
	if (call == NULL)
		call = psprintf("revert('%s')", mt_phase_name(phase - 1));
	ereport(ERROR,
			(errcode(MT_ERRCODE_WRONG_PHASE),
			 errmsg("migration \"%s\" is in phase %s", migration->name, mt_phase_name(migration->phase)),
			 errdetail("Dropped now, changes that were not sent yet would stay on one side only."),
			 migration->transition == NULL && phase == MT_TARGET_ONLY ?
			 errhint("CALL migrate_tiers.advance('finished') ends it, CALL migrate_tiers.revert('read_target') goes back."
					 " Where the target is lost: SELECT migrate_tiers.set_option('forget_target', 'on').") :
			 errhint("CALL migrate_tiers.%s first. Where the target is lost:"
					 " SELECT migrate_tiers.set_option('forget_target', 'on').", call)));
}

/* refuse_in_block refuses to keep users' tables locked for as long as a session likes, or to be rolled back. */
static void
refuse_in_block(const MtMigration *migration)
{
	if (IsInTransactionBlock(true))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("migration \"%s\" cannot be dropped inside a transaction block while it is in phase %s",
						migration->name, mt_phase_name(migration->phase)),
				 errhint("Call migrate_tiers.drop_migration() in a transaction of its own.")));
}

/* leave_target leaves the target as it is, and tells what is left there and how it goes. */
static void
leave_target(MtDrop *drop)
{
	const MtMigration *migration = drop->migration;

	if (mt_source_turns(migration->id) != NIL)
	{
		ErrorData  *error = mt_xact_try(ask_turns, drop);

		if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ThrowErrorData(error);
		if (drop->remote != NULL)
			mt_remote_close(drop->remote);
	}
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("the target of migration \"%s\" was left as it is", migration->name),
			 errdetail("Option forget_target is on. %s",
					   migration->phase <= MT_SYNCING ?
					   "Tables there refuse writes, and keys that were set aside for the copy are missing." :
					   "Triggers and the schema migrate_tiers are still there."),
			 errhint("If no other server uses it as its target, run in that database:\n%s;",
					 mt_target_uninstall_sql(migration, leave_turns_sql(drop)))));
}

/* ask_turns asks the target how far its sequences came, so that the source's go on beyond. */
static void
ask_turns(void *arg)
{
	MtDrop	   *drop = (MtDrop *) arg;
	MtSourceRestore *sequences = NULL;
	ListCell   *cell;

	drop->remote = mt_remote_open(drop->migration);
	foreach(cell, drop->relations)
		sequences = mt_source_sequences_prepare(sequences, drop->migration, (MtRelation *) lfirst(cell), drop->remote,
												true);
	drop->sequences = sequences;
}

/* leave_turns_sql returns the blocks that have the target's sequences go on beyond the source's; or be as they were. */
static char *
leave_turns_sql(const MtDrop *drop)
{
	StringInfoData blocks;
	ListCell   *cell;
	bool		goes_on = drop->migration->phase > MT_SYNCING;

	initStringInfo(&blocks);
	foreach(cell, mt_source_turns(drop->migration->id))
	{
		char	   *lapped = NULL;
		char	   *given = goes_on ? mt_source_sequence_given(lfirst_oid(cell), &lapped) : NULL;

		appendStringInfo(&blocks, "%s;\n",
						 mt_target_sequence_leave_sql(drop->migration, lfirst_oid(cell), goes_on, given, lapped));
	}
	return blocks.data;
}

/* clean_target brings back what is set aside, and takes everything of ours away. */
static void
clean_target(void *arg)
{
	MtDrop	   *drop = (MtDrop *) arg;
	ListCell   *cell;

	if (drop->remote != NULL && !mt_remote_usable(drop->remote))
		mt_remote_close(drop->remote);
	if (drop->remote == NULL || !mt_remote_usable(drop->remote))
		drop->remote = mt_twin_open(drop->migration);
	foreach(cell, drop->relations)
		mt_target_bring_back(drop->remote, drop->migration, (MtRelation *) lfirst(cell));
	mt_target_bring_back(drop->remote, drop->migration, NULL);
	end_turns(drop);
	mt_target_uninstall(drop->remote, drop->migration);
}

/* end_turns gives the target's sequences their settings again, and asks how far they came before that is forgotten. */
static void
end_turns(MtDrop *drop)
{
	MtSourceRestore *sequences = NULL;
	ListCell   *cell;

	foreach(cell, drop->relations)
	{
		const MtRelation *relation = (MtRelation *) lfirst(cell);

		mt_sequences_restore_target(drop->migration, drop->remote, relation, drop->migration->phase > MT_SYNCING);
		sequences = mt_source_sequences_prepare(sequences, drop->migration, relation, drop->remote, false);
	}
	drop->sequences = sequences;
}

/* answer_target_error raises what went wrong with the target. */
static void
answer_target_error(ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == MT_ERRCODE_OTHER_SOURCE)
		ThrowErrorData(error);
	error->detail = psprintf("Nothing has changed on the source.%s%s", error->detail ? " " : "",
							 error->detail ? error->detail : "");
	error->hint = "Call migrate_tiers.drop_migration() again when the target can be reached; or, if it never will be,"
				  " after SELECT migrate_tiers.set_option('forget_target', 'on').";
	ThrowErrorData(error);
	pg_unreachable();
}

/*
 * clean_source takes capture off, drops the queue and forgets the migration: all at once, within one
 * lock_timeout.
 */
static void
clean_source(void *arg)
{
	MtDrop	   *drop = (MtDrop *) arg;
	int			guc_level = NewGUCNestLevel();
	List	   *captured = NIL;
	List	   *tables = NIL;
	ListCell   *cell;

	(void) set_config_option("lock_timeout", mt_lock_timeout_text(), PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	foreach(cell, drop->relations)
	{
		MtRelation *relation = mt_relation_by_id(((MtRelation *) lfirst(cell))->id, true);

		if (relation == NULL || (!relation->captured && !relation->fenced))
			continue;
		captured = lappend(captured, relation);
		if (relation->name[0] != '\0')
			tables = list_concat(tables, mt_attach_tables(relation));
	}
	/* In the order of writers, who come to the queue when they have their tables. */
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		if (OidIsValid(drop->migration->queue[i]))
			tables = lappend_oid(tables, drop->migration->queue[i]);
	mt_lock_tables(tables, AccessExclusiveLock);
	if (drop->sequences == NULL)
		foreach(cell, drop->relations)
			drop->sequences = mt_source_sequences_prepare(drop->sequences, drop->migration,
														  (MtRelation *) lfirst(cell), NULL, false);
	if (drop->sequences != NULL)
		mt_source_sequences_restore(drop->sequences);
	foreach(cell, captured)
	{
		if (((MtRelation *) lfirst(cell))->fenced)
			mt_fence_detach((MtRelation *) lfirst(cell));
		mt_detach_table((MtRelation *) lfirst(cell));
	}
	mt_queue_drop(drop->migration);
	delete_migration(drop->migration);
	AtEOXact_GUC(true, guc_level);
}

static void
delete_migration(const MtMigration *migration)
{
	MtSpiScope	scope;
	ListCell   *cell;

	foreach(cell, mt_relation_list(migration->id, "batch"))
		(void) mt_cron_unschedule((MtRelation *) lfirst(cell));
	mt_push_clean(migration);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE, "DELETE FROM migrate_tiers.migration WHERE id = $1",
				MT_ARGS(MT_INT4(migration->id)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}
