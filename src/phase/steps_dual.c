/*
 * steps_dual.c
 *	  Steps between syncing, dual_write and read_target: see step.h.
 *
 * Forward: everything that captures and sends back the changes of the target
 * is there before the fence opens, which is the last step and flips a flag.
 * Back: the fence closes first, and what was written until then is brought here
 * before anything is taken away.  The worker has to know before the fence opens that
 * both sides are written: it is waited for.
 */
#include "phase/step.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/spi.h"
#include "catalog/batch.h"
#include "catalog/disarmed.h"
#include "catalog/reverse.h"
#include "catalog/worker.h"
#include "catalog/worker_wait.h"
#include "endpoint/target.h"
#include "endpoint/target_reverse.h"
#include "phase/sequence.h"
#include "phase/wait.h"

static void install_reverse(MtTransition *transition, MtRelation *relation);
static void uninstall_reverse(MtTransition *transition, MtRelation *relation);
static char *describe_install(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void attach_reverse(MtTransition *transition, MtRelation *relation);
static void detach_reverse(MtTransition *transition, MtRelation *relation);
static char *describe_attach(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void await_one_way(MtTransition *transition, MtRelation *relation);
static void await_both_ways(MtTransition *transition, MtRelation *relation);
static char *describe_await(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void begin_reverse(MtTransition *transition, MtRelation *relation);
static void end_reverse(MtTransition *transition, MtRelation *relation);
static char *describe_reverse(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void drain_reverse(MtTransition *transition, MtRelation *relation);
static void require_captured(MtTransition *transition);
static char *describe_drain(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void open_target(MtTransition *transition, MtRelation *relation);
static void close_target(MtTransition *transition, MtRelation *relation);
static char *describe_open(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void bar_pushes(MtTransition *transition, MtRelation *relation);
static char *describe_bar(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void publish_read_target(MtTransition *transition, MtRelation *relation);
static void publish_dual_write(MtTransition *transition, MtRelation *relation);
static char *describe_publish(const MtMigration *migration, const MtRelation *relation, bool inverse);
static void require_in_sync(const MtMigration *migration, MtRemote *remote);
static void require_no_dropping(void);
static void set_reversing(int32 migration, bool reversing);

const MtStep mt_steps_dual[] = {
	{"install_reverse", false, "target", install_reverse, uninstall_reverse, describe_install},
	{"attach_reverse", true, "target", attach_reverse, detach_reverse, describe_attach},
	MT_STEPS_INTERLEAVE,
	{"await_one_way", false, "source", NULL, await_one_way, describe_await},
	{"begin_reverse", false, "source", begin_reverse, end_reverse, describe_reverse},
	{"await_both_ways", false, "source", await_both_ways, NULL, describe_await},
	{"carry_conflicts", false, "both", NULL, mt_step_carry_conflicts, mt_step_describe_carry},
	{"drain_reverse", false, "both", NULL, drain_reverse, describe_drain},
	{"open_target", false, "target", open_target, close_target, describe_open},
};
const int	mt_steps_dual_count = lengthof(mt_steps_dual);

/* Pushes go the other way from here on: those under way have to end before anybody is told, whichever way it goes. */
const MtStep mt_steps_read[] = {
	{"bar_pushes", false, "source", bar_pushes, NULL, describe_bar},
	{"publish_phase", false, "target", publish_read_target, publish_dual_write, describe_publish},
	{"bar_pushes", false, "source", NULL, bar_pushes, describe_bar},
};
const int	mt_steps_read_count = lengthof(mt_steps_read);

static void
install_reverse(MtTransition *transition, MtRelation *relation)
{
	mt_target_reverse_install(mt_transition_remote(transition), transition->migration);
}

static void
uninstall_reverse(MtTransition *transition, MtRelation *relation)
{
	mt_target_reverse_uninstall(mt_transition_remote(transition), transition->migration);
}

static char *
describe_install(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf(inverse ? "DROP TABLE migrate_tiers.writer_%.8s" :
		"CREATE TABLE migrate_tiers.writer_%.8s: a row for each transaction that writes",
					migration->ident);
}

static void
attach_reverse(MtTransition *transition, MtRelation *relation)
{
	mt_target_reverse_attach(mt_transition_remote(transition), transition->migration, relation);
}

static void
detach_reverse(MtTransition *transition, MtRelation *relation)
{
	mt_target_reverse_detach(mt_transition_remote(transition), transition->migration, relation);
}

static char *
describe_attach(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	const char *table = mt_relation_target_name(relation);

	if (inverse)
		return psprintf("DROP TRIGGER migrate_tiers_reverse_%.8s_%d_... ON %s; DROP TABLE migrate_tiers.queue_%.8s_%d",
						migration->ident, relation->id, table, migration->ident, relation->id);
	return psprintf("CREATE TABLE migrate_tiers.queue_%.8s_%d for changed keys;"
					" CREATE TRIGGER migrate_tiers_reverse_%.8s_%d_... ON %s; ENABLE ALWAYS",
					migration->ident, relation->id, migration->ident, relation->id, table);
}

/*
 * begin_reverse begins to send back what is written on the target from here on.
 *
 * Nobody writes there yet but us: so the first mark is any snapshot of this moment.  Where the target is open
 * already, this server has lost that it has come here before, in a failover: what was written there since is noted, and
 * the first mark sees nothing.  From here on no table is copied again, and so nothing of the queue may be dropped
 * (catalog/queue.c); what was dropped before bars the way.
 */
static void
begin_reverse(MtTransition *transition, MtRelation *relation)
{
	MtMigration *now = mt_migration_by_id(transition->migration->id, false);
	MtRows	   *rows;
	ListCell   *cell;
	bool		open;

	require_in_sync(now, mt_transition_remote(transition));
	if (now->reversing)
		return;
	open = mt_target_fence_is_open(mt_transition_remote(transition), now);
	if (open)
		foreach(cell, mt_relation_list(now->id, "realtime"))
			if (mt_target_forget_truncates(mt_transition_remote(transition), now, lfirst(cell)))
				mt_relation_uncaptured(((MtRelation *) lfirst(cell))->id);
	rows = mt_remote_query(mt_transition_remote(transition), "SELECT pg_catalog.pg_current_snapshot(), " MT_TARGET_TIMELINE,
						   MT_NO_PARAMS);
	mt_reverse_mark_forget(now->id);
	mt_reverse_mark_store(now->id, open ? "1:1:" : rows->values[0][0], GetCurrentTimestamp(),
						  mt_target_parse_timeline(rows->values[0][1]));
	set_reversing(now->id, true);
}

static void
end_reverse(MtTransition *transition, MtRelation *relation)
{
	set_reversing(transition->migration->id, false);
	mt_reverse_mark_forget(transition->migration->id);
}

static char *
describe_reverse(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup(inverse ? "UPDATE migrate_tiers.migration SET reversing = false; forget the reverse mark" :
		"store the target's snapshot as the reverse mark; UPDATE migrate_tiers.migration SET reversing = true");
}

static void
await_one_way(MtTransition *transition, MtRelation *relation)
{
	mt_worker_wait_reversing(transition->migration->id, false);
}

static void
await_both_ways(MtTransition *transition, MtRelation *relation)
{
	mt_worker_wait_reversing(transition->migration->id, true);
}

static char *
describe_await(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup(inverse ? "wait until the worker sends one way only" :
		"wait until the worker sends both ways, and looks for rows that both sides changed");
}

/* drain_reverse waits until all that was written on the target is here; nobody writes there any more. */
static void
drain_reverse(MtTransition *transition, MtRelation *relation)
{
	if (!mt_migration_by_id(transition->migration->id, false)->reversing)
		return;
	mt_wait_drained_reverse(transition->migration, mt_transition_remote(transition));
	require_captured(transition);
}

/*
 * require_captured refuses a way back while the source may lack what was written on the target unseen.
 *
 * The fence does not wait for who disabled its triggers in a transaction that goes on; but that holds
 * a lock on the table to its end.  The target is asked first: what it has forgotten since, the source knows.
 */
static void
require_captured(MtTransition *transition)
{
	MtRemote   *remote = mt_transition_remote(transition);
	MtSpiScope	scope;
	char	   *tables;
	ListCell   *cell;

	foreach(cell, transition->relations)
		mt_target_await_writers(remote, (MtRelation *) lfirst(cell));
	mt_target_require_undisturbed(remote, transition->migration, transition->relations);
	/* What was known before is no reason to leave a way on half undone. */
	if (transition->to >= transition->from)
		return;
	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT, "SELECT string_agg(name, ', ' ORDER BY name) FROM migrate_tiers.uncaptured WHERE migration = $1",
					   MT_ARGS(MT_INT4(transition->migration->id)));
	tables = mt_spi_text(&scope, 0, 1);
	if (tables != NULL)
		ereport(ERROR,
				(errcode(MT_ERRCODE_GATE_FAILED),
				 errmsg("what was written on the target may be missing in tables: %s", tables),
				 errdetail("The triggers that note changes on the target were disabled for a time."),
				 errhint("SELECT * FROM migrate_tiers.verify(); then migrate_tiers.repair(relation, side => 'target')"
						 " for tables that differ, and call it again.")));
	mt_spi_end(&scope);
}

static char *
describe_drain(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup("wait until every change of the target is on the source");
}

/*
 * open_target lets applications write, at the last moment before which a table could be found unfit for that:
 * gates were looked at long ago, perhaps by a call that was cut off.
 */
static void
open_target(MtTransition *transition, MtRelation *relation)
{
	MtRemote   *remote = mt_transition_remote(transition);

	require_no_dropping();
	require_in_sync(transition->migration, remote);
	mt_target_fence_open(remote, transition->migration);
	mt_target_publish_phase(remote, transition->migration, MT_DUAL_WRITE);
}

/* close_target tells applications first, and returns when nobody writes the target any more. */
static void
close_target(MtTransition *transition, MtRelation *relation)
{
	MtRemote   *remote = mt_transition_remote(transition);

	mt_target_publish_phase(remote, transition->migration, MT_SYNCING);
	mt_target_fence_close(remote, transition->migration);
}

static char *
describe_open(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf(inverse ?
		"publish the phase; setval('migrate_tiers.fence_%.8s', 1): writes are refused; wait for those under way" :
		"setval('migrate_tiers.fence_%.8s', 2): writes are let through; publish the phase",
					migration->ident);
}

/*
 * bar_pushes ends pushes under way, and lets none begin until the transition has ended.
 *
 * One that goes on would bring rows over those that the side that is read from here on has computed since.
 */
static void
bar_pushes(MtTransition *transition, MtRelation *relation)
{
	ListCell   *cell;

	foreach(cell, mt_relation_list(transition->migration->id, "batch"))
	{
		int32		table = ((MtRelation *) lfirst(cell))->id;

		while (!list_member_int(transition->barred, table))
			if (mt_batch_lock(table))
				transition->barred = lappend_int(transition->barred, table);
			else
				mt_worker_end_pushes(transition->migration->id);
		mt_batch_cut_off(table);
	}
}

static char *
describe_bar(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup("end the pushes that are under way; the next ones go the other way");
}

static void
publish_read_target(MtTransition *transition, MtRelation *relation)
{
	mt_target_publish_phase(mt_transition_remote(transition), transition->migration, MT_READ_TARGET);
}

static void
publish_dual_write(MtTransition *transition, MtRelation *relation)
{
	mt_step_publish_back(transition, MT_DUAL_WRITE);
}

static char *
describe_publish(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return psprintf("UPDATE migrate_tiers.migration SET phase = '%s'", inverse ? "dual_write" : "read_target");
}

/* require_in_sync refuses to go on while the target does not have each realtime table whole, with all of its keys. */
static void
require_in_sync(const MtMigration *migration, MtRemote *remote)
{
	List	   *disarmed = mt_disarmed_list(migration->id, NULL);
	char	   *aside;
	ListCell   *cell;

	foreach(cell, mt_relation_list(migration->id, "realtime"))
	{
		const MtRelation *relation = (const MtRelation *) lfirst(cell);
		bool		armed = !list_member_int(disarmed, relation->id);

		if (armed && strcmp(relation->state, "syncing") == 0)
			continue;
		ereport(ERROR,
				(errcode(MT_ERRCODE_GATE_FAILED),
				 errmsg("migration \"%s\" cannot go to phase %s yet", migration->name, mt_phase_name(MT_DUAL_WRITE)),
				 errdetail(armed ? "Table %s is in state %s: the target may not be written before it is in sync." :
					 "Changes of table %s were not noted, since the queue has reached queue_limit: it is copied again"
						   " (state %s) before the target may be written.",
						   quote_qualified_identifier(relation->schema, relation->name), relation->state),
				 errhint("Wait for the copy: SELECT migrate_tiers.wait_for_sync(timeout => '1 hour'); then verify and advance again.")));
	}
	aside = mt_target_still_aside(remote, migration);
	if (aside != NULL)
		ereport(ERROR,
				(errcode(MT_ERRCODE_GATE_FAILED),
				 errmsg("migration \"%s\" cannot go to phase %s yet", migration->name, mt_phase_name(MT_DUAL_WRITE)),
				 errdetail("The target does not have everything again that was set aside for the copy: %s.", aside),
				 errhint("The worker brings it back: advance again when gate copied passes. SELECT * FROM migrate_tiers.status shows more.")));
}

/* require_no_dropping has the step tried again until those have ended who began before begin_reverse. */
static void
require_no_dropping(void)
{
	if (!mt_disarmed_is_final())
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("a transaction that found the queue full has not ended"),
				 errhint("Look for who holds a lock on migrate_tiers.disarmed in pg_locks.")));
}

static void
set_reversing(int32 migration, bool reversing)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.migration SET reversing = $2, reverse_stopped = NULL, reverse_stopped_at = NULL WHERE id = $1",
				MT_ARGS(MT_INT4(migration), MT_BOOL(reversing)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}
