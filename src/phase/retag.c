/*
 * retag.c
 *	  Between the tiers while syncing: see retag.h.
 *
 * Neither way loses a change.  A table that becomes realtime is captured before its
 * copy begins, as any other; a push that is under way meanwhile would write what the
 * copy brings, so it has to end first.  One that becomes batch keeps on the target what
 * sync brought, and the next push brings the rest, captured or not; what is to be done on the
 * target is done first, since applications wait for the lock that ends capture.
 */
#include "phase/retag.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/spi.h"
#include "base/xact.h"
#include "capture/attach.h"
#include "catalog/batch.h"
#include "catalog/option.h"
#include "copy/copy.h"
#include "endpoint/target.h"
#include "phase/preflight.h"

#define RETRY_MS 100

static void check_not_referred(const MtRelation *tagged, const char *name);
static void keep_worker_out(const MtRelation *tagged);
static void detach_when_free(const MtMigration *migration, const MtRelation *tagged);
static void detach(void *arg);

/* mt_retag_check_new finds out, with its tag stored, whether a table that preflight has not seen can be realtime. */
void
mt_retag_check_new(const MtMigration *migration, const char *name)
{
	StringInfoData detail;
	ListCell   *cell;

	initStringInfo(&detail);
	foreach(cell, mt_preflight_failures(migration, NULL))
	{
		const MtPreflightRow *row = (const MtPreflightRow *) lfirst(cell);

		/* Of several new tables one has to be the first; and others have rows on the target by now. */
		if (strcmp(row->check_name, "tables_tagged") == 0 ||
			(strcmp(row->check_name, "target_empty") == 0 && strcmp(row->object, name) != 0))
			continue;
		appendStringInfo(&detail, "%s%s%s%s: %s", detail.len ? "\n" : "", row->check_name, row->object ? " of " : "",
						 row->object ? row->object : "", row->detail);
	}
	if (detail.len > 0)
		ereport(ERROR,
				(errcode(MT_ERRCODE_GATE_FAILED),
				 errmsg("table %s cannot join the migration now", name),
				 errdetail_internal("%s", detail.data),
				 errhint("Mend it, and tag the table again. SELECT * FROM migrate_tiers.preflight() has more to each check.")));
}

/* mt_retag_check refuses what cannot be done now. */
void
mt_retag_check(const MtMigration *migration, const MtRelation *tagged, bool realtime)
{
	char	   *name = quote_qualified_identifier(tagged->schema, tagged->name);

	if (migration->phase != MT_SYNCING)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("the tier of %s cannot change in phase %s", name, mt_phase_name(migration->phase)),
				 errdetail("Between batch and realtime a table can change in phases planned and syncing."),
				 migration->phase == MT_FINISHED ?
				 errhint("SELECT migrate_tiers.drop_migration() forgets the migration.") :
				 errhint("Go back first: %s.", mt_phase_way_back(migration->phase, MT_SYNCING))));
	if (realtime)
	{
		if (!mt_batch_bar(tagged->id))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("a push of table %s is under way", name),
					 errhint("Tag it again when it has ended.")));
		return;
	}
	if (strcmp(tagged->state, "syncing") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("table %s is in state %s", name, tagged->state),
				 errhint("Tag it again when its copy has ended: see migrate_tiers.tables.")));
	check_not_referred(tagged, name);
}

/* check_not_referred keeps the realtime tier closed: rows and those that they refer to follow together. */
static void
check_not_referred(const MtRelation *tagged, const char *name)
{
	MtSpiScope	scope;
	char	   *child = NULL;

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT,
					"SELECT k.conrelid::regclass FROM pg_constraint AS k"
					" JOIN migrate_tiers.relation AS r ON r.relation = coalesce(pg_partition_root(k.conrelid), k.conrelid)"
					" WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = $1 AND k.conrelid <> $1 AND r.tier = 'realtime'",
					MT_ARGS(MT_OID(tagged->relid))) > 0)
		child = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	if (child != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("realtime table %s refers to table %s", child, name),
				 errhint("Tag that one batch first, or leave both realtime.")));
}

/* mt_retag_leave_realtime ends capture, and takes what is ours off the target's table. */
void
mt_retag_leave_realtime(const MtMigration *migration, const MtRelation *tagged)
{
	MtRemote   *remote = mt_remote_open(migration);
	char	   *id = psprintf("%d", tagged->id);
	MtSpiScope	scope;

	keep_worker_out(tagged);
	mt_copy_forget_tasks(tagged);
	/* Cut off from here on, the worker finds that the table has not joined, and copies it anew. */
	mt_remote_query(remote, "DELETE FROM migrate_tiers.joined WHERE migration = $1 AND relation = $2",
					MT_PARAMS(migration->ident, id));
	mt_remote_query(remote, "DELETE FROM migrate_tiers.chunk WHERE migration = $1 AND relation = $2",
					MT_PARAMS(migration->ident, id));
	mt_target_unfence(remote, migration, tagged);
	mt_remote_close(remote);
	detach_when_free(migration, tagged);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.relation SET copy_started = NULL, copy_finished = NULL, estimated_rows = 0, note = NULL"
				" WHERE id = $1",
				MT_ARGS(MT_INT4(tagged->id)));
	mt_spi_end(&scope);
}

/* keep_worker_out holds the table's row: a worker that finds the table not joined cannot copy it anew meanwhile. */
static void
keep_worker_out(const MtRelation *tagged)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT, "SELECT FROM migrate_tiers.relation WHERE id = $1 FOR NO KEY UPDATE",
					   MT_ARGS(MT_INT4(tagged->id)));
	mt_spi_end(&scope);
}

/* detach_when_free ends capture as soon as the lock is to be had; in between nothing is held that others wait for. */
static void
detach_when_free(const MtMigration *migration, const MtRelation *tagged)
{
	TimestampTz deadline = GetCurrentTimestamp() + mt_option_microseconds(migration->id, "attach_timeout");
	ErrorData  *error;

	while ((error = mt_xact_try(detach, (void *) tagged)) != NULL)
	{
		if (!mt_error_is_lock(error) || GetCurrentTimestamp() >= deadline)
			ThrowErrorData(error);
		FreeErrorData(error);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, RETRY_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
detach(void *arg)
{
	mt_detach_table((const MtRelation *) arg);
}

/* mt_retag_enter_realtime has the sync worker empty, attach and copy the table. */
void
mt_retag_enter_realtime(const MtRelation *relation, const char *note)
{
	MtSpiScope	scope;

	mt_relation_set_state(relation->id, "recopy");
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.relation SET note = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(relation->id), MT_TEXT(note)));
	mt_spi_exec(SPI_OK_DELETE, "DELETE FROM migrate_tiers.policy WHERE relation = $1", MT_ARGS(MT_INT4(relation->id)));
	mt_spi_end(&scope);
}
