/*
 * retag.c
 *	  Between the tiers while syncing: see retag.h.
 *
 * Neither way loses a change.  A table that becomes realtime is captured before its
 * copy begins, as any other; a push that is under way meanwhile would write what the
 * copy brings, so it has to end first.  One that becomes batch keeps on the target what
 * sync brought, and the next push brings the rest, captured or not.
 *
 * All who use a table wait for the lock that ends its capture, until the transaction ends.  So nothing may come
 * after it that takes its time: it is the last thing that is done, not inside a transaction block, once a transaction.
 * And what the target does is done whatever becomes of the transaction, so it is
 * left to the sync worker, which does it after the commit (worker/left.c).
 */
#include "phase/retag.h"

#include "access/transam.h"
#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/lock.h"
#include "base/spi.h"
#include "capture/attach.h"
#include "catalog/batch.h"
#include "catalog/option.h"
#include "copy/copy.h"
#include "phase/preflight.h"

static char *object_name(Oid relid);
static void refuse_in_block(const char *name);
static void refuse_after_detach(const char *name);
static void check_follows(const MtRelation *tagged, const char *state);
static void check_not_referred(const MtRelation *tagged, const char *name);
static void detach(void *arg);

/* The last transaction that took a table out of the realtime tier: it has the table locked until its end. */
static FullTransactionId detached_in = {0};

/*
 * mt_retag_check_new finds out, with its tag stored, whether a table can be realtime that preflight has not seen so:
 * its copy empties the target's table.
 */
void
mt_retag_check_new(const MtMigration *migration, const MtRelation *relation, bool filled)
{
	char	   *name = quote_qualified_identifier(relation->schema, relation->name);
	char	   *object = object_name(relation->relid);
	StringInfoData detail;
	ListCell   *cell;

	refuse_after_detach(name);
	initStringInfo(&detail);
	foreach(cell, mt_preflight_failures(migration, NULL))
	{
		const MtPreflightRow *row = (const MtPreflightRow *) lfirst(cell);

		/*
		 * Of several new tables one has to be the first; and others have rows on the target by now.  Deferrable
		 * constraints and rules of the source do no harm before both sides are written, which has gates.
		 */
		if (strcmp(row->check_name, "tables_tagged") == 0 || strcmp(row->check_name, "deferrable") == 0 ||
			strcmp(row->check_name, "source_rules") == 0 ||
			(strcmp(row->check_name, "target_empty") == 0 && (filled || strcmp(row->object, object) != 0)))
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

/* object_name names a table as the checks of preflight do, whatever this session has for quote_all_identifiers. */
static char *
object_name(Oid relid)
{
	MtSpiScope	scope;
	char	   *name;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT $1::regclass", MT_ARGS(MT_OID(relid)));
	name = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return name;
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
	refuse_in_block(name);
	refuse_after_detach(name);
	check_follows(tagged, tagged->state);
	check_not_referred(tagged, name);
}

/* refuse_in_block refuses to keep a user's table locked for as long as a session likes. */
static void
refuse_in_block(const char *name)
{
	if (IsInTransactionBlock(true))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("table %s cannot become batch inside a transaction block", name),
				 errdetail("It would be locked until the transaction ends, also for those who read it."),
				 errhint("Call migrate_tiers.tag() in a transaction of its own.")));
}

/* refuse_after_detach refuses to wait for anything while a table is locked that has left the tier before. */
static void
refuse_after_detach(const char *name)
{
	FullTransactionId now = GetTopFullTransactionIdIfAny();

	if (FullTransactionIdIsValid(now) && FullTransactionIdEquals(now, detached_in))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("table %s cannot be tagged in a transaction in which another one has become batch", name),
				 errdetail("That one is locked until the transaction ends, also for those who read it."),
				 errhint("Call migrate_tiers.tag() once a statement.")));
}

/* check_follows refuses a table that is copied, or is to be copied again. */
static void
check_follows(const MtRelation *tagged, const char *state)
{
	if (strcmp(state, "syncing") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("table %s is in state %s", quote_qualified_identifier(tagged->schema, tagged->name), state),
				 errhint("Tag it again when its copy has ended: see migrate_tiers.tables.")));
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

/* mt_retag_leave_realtime ends capture; the lock that this takes, and all that wait for it, wait for the commit. */
void
mt_retag_leave_realtime(const MtMigration *migration, const MtRelation *tagged)
{
	TimestampTz deadline = GetCurrentTimestamp() + mt_option_microseconds(migration->id, "attach_timeout");
	ErrorData  *error = mt_lock_retry(detach, (void *) tagged, deadline, "tag waits for a lock on the table");
	MtSpiScope	scope;

	if (error != NULL)
		ThrowErrorData(error);
	detached_in = GetTopFullTransactionId();
	mt_copy_forget_tasks(tagged);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.relation SET copy_started = NULL, copy_finished = NULL, estimated_rows = 0, note = NULL,"
				" filled = ARRAY[target_schema, target_name] WHERE id = $1",
				MT_ARGS(MT_INT4(tagged->id)));
	mt_spi_end(&scope);
}

/* detach ends capture, unless the table is to be copied again by now. */
static void
detach(void *arg)
{
	const MtRelation *tagged = (const MtRelation *) arg;
	MtSpiScope	scope;
	char	   *state;

	mt_spi_begin(&scope);
	(void) mt_spi_exec_latest(SPI_OK_SELECT, "SELECT state FROM migrate_tiers.relation WHERE id = $1 FOR NO KEY UPDATE",
							  MT_ARGS(MT_INT4(tagged->id)));
	state = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	check_follows(tagged, state);
	mt_detach_table(tagged);
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
