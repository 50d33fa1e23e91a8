/*
 * steps_sync.c
 *	  Steps between planned and syncing.
 *
 * Forward: objects and fence on the target, queue and capture on the source,
 * then the worker, which copies and syncs.  Back: worker, capture, what was
 * copied, fence, queue, objects; the target's tables are left as they were found.
 */
#include "phase/step.h"

#include "utils/builtins.h"

#include "base/spi.h"
#include "capture/attach.h"
#include "catalog/batch.h"
#include "catalog/option.h"
#include "catalog/queue.h"
#include "catalog/worker.h"
#include "copy/copy.h"
#include "endpoint/target.h"

static void install_target(MtTransition *transition, MtRelation *relation);
static void uninstall_target(MtTransition *transition, MtRelation *relation);
static void empty_filled(MtTransition *transition);
static void forget_filled(int32 migration);
static char *describe_install(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void raise_fence(MtTransition *transition, MtRelation *relation);
static void lower_fence(MtTransition *transition, MtRelation *relation);
static char *describe_fence(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void empty_target(MtTransition *transition, MtRelation *relation);
static void take_copy_back(MtTransition *transition, MtRelation *relation);
static char *describe_empty(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void create_queue(MtTransition *transition, MtRelation *relation);
static char *describe_queue(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void attach_capture(MtTransition *transition, MtRelation *relation);
static void detach_capture(MtTransition *transition, MtRelation *relation);
static char *describe_capture(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void want_workers(MtTransition *transition, MtRelation *relation);
static void unwant_workers(MtTransition *transition, MtRelation *relation);
static char *describe_wish(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void start_workers(MtTransition *transition, MtRelation *relation);
static void end_workers(MtTransition *transition, MtRelation *relation);
static char *describe_workers(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void set_syncing(int32 migration, bool syncing);

const MtStep mt_steps_sync[] = {
	{"install_target", false, "target", install_target, uninstall_target, describe_install},
	{"raise_fence", true, "target", raise_fence, lower_fence, describe_fence},
	{"empty_target", true, "target", empty_target, take_copy_back, describe_empty},
	{"create_queue", false, "source", create_queue, mt_step_drop_queue, describe_queue},
	{"attach_capture", true, "source", attach_capture, detach_capture, describe_capture},
	/* Back, the wish for a worker is taken back first (and committed), then workers are ended. */
	{"end_workers", false, "source", NULL, end_workers, describe_workers},
	{"want_workers", false, "source", want_workers, unwant_workers, describe_wish},
	{"start_workers", false, "source", start_workers, NULL, describe_workers},
};
const int	mt_steps_sync_count = lengthof(mt_steps_sync);

static void
install_target(MtTransition *transition, MtRelation *relation)
{
	mt_target_install(mt_transition_remote(transition), transition->migration);
}

/* uninstall_target takes everything of ours from the target, with what batch tables were filled with. */
static void
uninstall_target(MtTransition *transition, MtRelation *relation)
{
	MtRemote   *remote = mt_transition_remote(transition);

	/* Else done before, by a transition that was cut off: what batch tables have now is not ours. */
	if (mt_target_installed(remote))
	{
		mt_target_bring_back(remote, transition->migration, NULL);
		empty_filled(transition);
		mt_target_uninstall(remote, transition->migration);
	}
	forget_filled(transition->migration->id);
}

/* empty_filled leaves the target's batch tables as they were found: those that we have filled are emptied. */
static void
empty_filled(MtTransition *transition)
{
	List	   *filled = NIL;
	ListCell   *cell;

	foreach(cell, mt_relation_list(transition->migration->id, "batch"))
		if (mt_batch_has_filled(((MtRelation *) lfirst(cell))->id))
			filled = lappend(filled, lfirst(cell));
	mt_target_empty(mt_transition_remote(transition), filled);
}

static void
forget_filled(int32 migration)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.relation SET filled = NULL WHERE migration = $1 AND filled IS NOT NULL",
				MT_ARGS(MT_INT4(migration)));
	mt_spi_end(&scope);
}

static char *
describe_install(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup(inverse ? "restore foreign keys that were set aside; TRUNCATE batch tables that were filled; DROP SCHEMA migrate_tiers, unless another migration uses it" :
		"CREATE SCHEMA migrate_tiers, with tables for the mark, the chunks and what is set aside");
}

static void
raise_fence(MtTransition *transition, MtRelation *relation)
{
	mt_target_fence(mt_transition_remote(transition), transition->migration, relation);
}

static void
lower_fence(MtTransition *transition, MtRelation *relation)
{
	mt_target_unfence(mt_transition_remote(transition), transition->migration, relation);
}

static char *
describe_fence(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf(inverse ? "DROP TRIGGER migrate_tiers_fence... ON %s" :
		"CREATE TRIGGER migrate_tiers_fence... BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s; ENABLE ALWAYS",
					mt_relation_target_name(relation));
}

/* empty_target empties a table that the DBA allowed us to overwrite (preflight saw to the rest), and notes it. */
static void
empty_target(MtTransition *transition, MtRelation *relation)
{
	MtRemote   *remote = mt_transition_remote(transition);

	if (strcmp(relation->state, "planned") != 0)
		return;
	if (mt_option_bool(transition->migration->id, "overwrite"))
		mt_target_empty(remote, list_make1(relation));
	if (!relation->captured)
		mt_copy_begin(transition->migration, remote, relation);
}

/*
 * take_copy_back leaves the target's table as it was found: empty, with its indexes and keys.
 *
 * A table without our fence is not ours any more: it was taken back before, by a transition that was cut off
 * later on its way, and what it has now was written by others; or it never was, since no worker came by after it
 * had been a batch table, and what pushes have left is taken away.
 */
static void
take_copy_back(MtTransition *transition, MtRelation *relation)
{
	MtRemote   *remote = mt_transition_remote(transition);
	MtSpiScope	scope;

	mt_copy_forget_tasks(relation);
	if (mt_target_has_fence(remote, transition->migration, relation))
	{
		mt_copy_forget_target(transition->migration, remote, relation);
		mt_target_bring_back(remote, transition->migration, relation);
	}
	else if (strcmp(relation->state, "recopy") == 0 && mt_batch_has_filled(relation->id))
		mt_target_empty(remote, list_make1(relation));
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.relation SET state = 'planned', note = NULL, estimated_rows = 0,"
				" copy_started = NULL, copy_finished = NULL WHERE id = $1",
				MT_ARGS(MT_INT4(relation->id)));
	mt_spi_end(&scope);
}

static char *
describe_empty(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	if (inverse)
		return psprintf("TRUNCATE %s; build again what was set aside of it", mt_relation_target_name(relation));
	if (mt_option_bool(migration->id, "overwrite"))
		return psprintf("TRUNCATE %s (option overwrite is on)", mt_relation_target_name(relation));
	return pstrdup("nothing: the table is empty, or preflight fails");
}

static void
create_queue(MtTransition *transition, MtRelation *relation)
{
	mt_queue_create(transition->migration);
}

/* mt_step_drop_queue drops the queue, with the marks. */
void
mt_step_drop_queue(MtTransition *transition, MtRelation *relation)
{
	MtSpiScope	scope;

	mt_queue_drop(transition->migration);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.migration SET mark = NULL, mark_time = NULL, floor = NULL, stopped = NULL,"
				" stopped_at = NULL, copy_error = NULL, copy_error_at = NULL, worker_pid = 0, worker_shared = 0 WHERE id = $1",
				MT_ARGS(MT_INT4(transition->migration->id)));
	mt_spi_end(&scope);
}

static char *
describe_queue(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf(inverse ? "DROP TABLE migrate_tiers.queue_%d_0, _1, _2" : "CREATE TABLE migrate_tiers.queue_%d_0, _1, _2",
					migration->id);
}

static void
attach_capture(MtTransition *transition, MtRelation *relation)
{
	MtRelation *now = mt_relation_by_id(relation->id, false);

	if (!now->captured)
		mt_attach_table(now);
}

/* detach_capture ends capture; what was copied is of no use from here on. */
static void
detach_capture(MtTransition *transition, MtRelation *relation)
{
	MtRelation *now = mt_relation_by_id(relation->id, true);

	if (now == NULL || !now->captured)
		return;
	mt_detach_table(now);
	if (strcmp(now->state, "planned") != 0)
		mt_relation_set_state(now->id, "recopy");
}

static char *
describe_capture(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	const char *table = quote_qualified_identifier(relation->schema, relation->name);

	return psprintf(inverse ? "DROP TRIGGER migrate_tiers_capture, migrate_tiers_capture_truncate ON %s" :
		"CREATE TRIGGER migrate_tiers_capture AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW,"
							  " migrate_tiers_capture_truncate BEFORE TRUNCATE; ENABLE ALWAYS",
					table);
}

static void
want_workers(MtTransition *transition, MtRelation *relation)
{
	set_syncing(transition->migration->id, true);
}

static void
unwant_workers(MtTransition *transition, MtRelation *relation)
{
	set_syncing(transition->migration->id, false);
}

static char *
describe_wish(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf("UPDATE migrate_tiers.migration SET syncing = %s", inverse ? "false" : "true");
}

static void
start_workers(MtTransition *transition, MtRelation *relation)
{
	(void) mt_worker_start(transition->migration->id);
}

static void
end_workers(MtTransition *transition, MtRelation *relation)
{
	mt_worker_stop(transition->migration->id);
}

static char *
describe_workers(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup(inverse ? "end the workers, and wait until they are gone" :
		"start the sync worker, which copies and then sends ticks");
}

static void
set_syncing(int32 migration, bool syncing)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.migration SET syncing = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(migration), MT_BOOL(syncing)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}
