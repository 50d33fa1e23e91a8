/*
 * steps_last.c
 *	  Steps from read_target to target_only, and back; and to finished: see
 *	  step.h.
 *
 * The source's fence is put on table by table while it is open.  It closes by
 * a flag; then those who were writing are waited for, and what they wrote is
 * drained, before the phase is target_only.  What ends a migration cannot be
 * taken back, so it can only be gone on with: first the two sides are made
 * independent of each other, then what is ours is taken away.
 */
#include "phase/step.h"

#include "base/spi.h"
#include "capture/attach.h"
#include "capture/fence.h"
#include "catalog/worker.h"
#include "endpoint/target.h"
#include "endpoint/target_reverse.h"
#include "phase/sequence.h"
#include "phase/wait.h"
#include "utils/builtins.h"

static void attach_fence(MtTransition *transition, MtRelation *relation);
static void detach_fence(MtTransition *transition, MtRelation *relation);
static char *describe_fence(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void close_source(MtTransition *transition, MtRelation *relation);
static void open_source(MtTransition *transition, MtRelation *relation);
static char *describe_close(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void await_writers(MtTransition *transition, MtRelation *relation);
static char *describe_writers(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void drain_forward(MtTransition *transition, MtRelation *relation);
static char *describe_drain(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void publish_target_only(MtTransition *transition, MtRelation *relation);
static void publish_read_target(MtTransition *transition, MtRelation *relation);
static char *describe_publish(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void unwant_workers(MtTransition *transition, MtRelation *relation);
static char *describe_unwant(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void end_workers(MtTransition *transition, MtRelation *relation);
static char *describe_end(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void detach_capture(MtTransition *transition, MtRelation *relation);
static char *describe_capture(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void lift_fence(MtTransition *transition, MtRelation *relation);
static char *describe_lift(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void drop_queue(MtTransition *transition, MtRelation *relation);
static char *describe_queue(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void uninstall_target(MtTransition *transition, MtRelation *relation);
static char *describe_uninstall(const MtMigration *migration, const MtRelation *relation, bool inverse);

const MtStep mt_steps_only[] = {
	{"attach_source_fence", true, "source", attach_fence, detach_fence, describe_fence},
	/* Back, the source is opened first, and the target told if it can be: one that is gone must not keep it closed. */
	{"republish_phase", false, "target", NULL, publish_read_target, describe_publish},
	{"close_source", false, "source", close_source, open_source, describe_close},
	{"await_writers", false, "source", await_writers, NULL, describe_writers},
	{"drain_forward", false, "both", drain_forward, NULL, describe_drain},
	{"publish_phase", false, "target", publish_target_only, NULL, describe_publish},
};
const int	mt_steps_only_count = lengthof(mt_steps_only);

const MtStep mt_steps_finish[] = {
	{"carry_conflicts", false, "both", mt_step_carry_conflicts, NULL, mt_step_describe_carry},
	{"drain_forward", false, "both", drain_forward, NULL, describe_drain},
	{"unwant_workers", false, "source", unwant_workers, NULL, describe_unwant},
	{"end_workers", false, "source", end_workers, NULL, describe_end},
	MT_STEPS_FINISH_SEQUENCES,
	{"uninstall_target", false, "target", uninstall_target, NULL, describe_uninstall},
	{"detach_capture", true, "source", detach_capture, NULL, describe_capture},
	{"drop_queue", false, "source", drop_queue, NULL, describe_queue},
	{"lift_source_fence", true, "source", lift_fence, NULL, describe_lift},
};
const int	mt_steps_finish_count = lengthof(mt_steps_finish);

static void
attach_fence(MtTransition *transition, MtRelation *relation)
{
	mt_fence_attach(relation);
}

/* detach_fence takes the fence off a table that may be gone. */
static void
detach_fence(MtTransition *transition, MtRelation *relation)
{
	MtRelation *now = mt_relation_by_id(relation->id, true);

	if (now != NULL)
		mt_fence_detach(now);
}

static char *
describe_fence(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	const char *table = quote_qualified_identifier(relation->schema, relation->name);

	return psprintf(inverse ? "DROP TRIGGER migrate_tiers_fence ON %s" :
		"CREATE TRIGGER migrate_tiers_fence BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s; ENABLE ALWAYS",
					table);
}

static void
close_source(MtTransition *transition, MtRelation *relation)
{
	mt_fence_set(transition->migration->id, true);
}

static void
open_source(MtTransition *transition, MtRelation *relation)
{
	mt_fence_set(transition->migration->id, false);
}

static char *
describe_close(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf("UPDATE migrate_tiers.migration SET fenced = %s: writes are %s", inverse ? "false" : "true",
					inverse ? "let through" : "refused");
}

static void
await_writers(MtTransition *transition, MtRelation *relation)
{
	mt_fence_wait(transition->migration);
}

static char *
describe_writers(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup("wait for the transactions that were writing");
}

/* drain_forward waits for the target to have all; once sync has ended, there is nothing to wait for. */
static void
drain_forward(MtTransition *transition, MtRelation *relation)
{
	if (mt_migration_by_id(transition->migration->id, false)->syncing)
		mt_wait_drained_forward(transition->migration);
}

static char *
describe_drain(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup("wait until every change of the source is on the target");
}

static void
publish_target_only(MtTransition *transition, MtRelation *relation)
{
	mt_target_publish_phase(mt_transition_remote(transition), transition->migration, MT_TARGET_ONLY);
}

static void
publish_read_target(MtTransition *transition, MtRelation *relation)
{
	mt_step_publish_back(transition, MT_READ_TARGET);
}

static char *
describe_publish(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf("UPDATE migrate_tiers.migration SET phase = '%s'", inverse ? "read_target" : "target_only");
}

static void
unwant_workers(MtTransition *transition, MtRelation *relation)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.migration SET syncing = false, reversing = false, paused = false WHERE id = $1",
				MT_ARGS(MT_INT4(transition->migration->id)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

static char *
describe_unwant(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup("UPDATE migrate_tiers.migration SET syncing = false, reversing = false");
}

static void
end_workers(MtTransition *transition, MtRelation *relation)
{
	mt_worker_stop(transition->migration->id);
}

static char *
describe_end(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup("end the workers, and wait until they are gone");
}

static void
uninstall_target(MtTransition *transition, MtRelation *relation)
{
	MtRemote   *remote = mt_transition_remote(transition);

	mt_target_reverse_uninstall(remote, transition->migration);
	mt_target_uninstall(remote, transition->migration);
}

static char *
describe_uninstall(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup("DROP every trigger and queue of ours; DROP SCHEMA migrate_tiers, unless another migration uses it");
}

static void
detach_capture(MtTransition *transition, MtRelation *relation)
{
	MtRelation *now = mt_relation_by_id(relation->id, true);

	if (now == NULL || !now->captured)
		return;
	mt_detach_table(now);
	mt_relation_set_state(now->id, "stopped");
}

static char *
describe_capture(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf("DROP TRIGGER migrate_tiers_capture, migrate_tiers_capture_truncate ON %s",
					quote_qualified_identifier(relation->schema, relation->name));
}

static void
drop_queue(MtTransition *transition, MtRelation *relation)
{
	mt_step_drop_queue(transition, relation);
}

static char *
describe_queue(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf("DROP TABLE migrate_tiers.queue_%d_0, _1, _2", migration->id);
}

static void
lift_fence(MtTransition *transition, MtRelation *relation)
{
	detach_fence(transition, relation);
	mt_fence_set(transition->migration->id, false);
}

static char *
describe_lift(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return describe_fence(migration, relation, true);
}
