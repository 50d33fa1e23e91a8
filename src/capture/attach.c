/*
 * attach.c
 *	  Puts the capture triggers on a table, and takes them off: see attach.h.
 *
 * S0 is taken while the lock is held that made every writer of the table end or
 * wait: what S0 sees was written before capture, everything else is captured.
 */
#include "capture/attach.h"

#include "access/table.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/lock.h"
#include "base/mark.h"
#include "base/spi.h"
#include "capture/ddl_fingerprint.h"
#include "capture/fence.h"
#include "capture/own_trigger.h"
#include "catalog/disarmed.h"

static const MtOwnTrigger row_trigger = {
	"migrate_tiers_capture", "capture", "AFTER INSERT OR UPDATE OR DELETE",
	TRIGGER_TYPE_ROW | TRIGGER_TYPE_AFTER | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE};

static const MtOwnTrigger truncate_trigger = {
	"migrate_tiers_capture_truncate", "capture", "BEFORE TRUNCATE",
	TRIGGER_TYPE_STATEMENT | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_TRUNCATE};

static MtMark *running_now(const MtMark *before);
static char *files_of(const List *tables);
static List *lock_tables(const MtRelation *relation, LOCKMODE mode);
static void drop_triggers(const MtRelation *relation, const List *tables);
static void create_row_trigger(const MtRelation *relation, const List *tables);
static void create_truncate_trigger(Oid relid, const MtRelation *relation);

/* mt_attach_table attaches capture to a table and records S0. */
void
mt_attach_table(const MtRelation *relation)
{
	MtMark	   *before = running_now(NULL);
	List	   *tables = lock_tables(relation, ShareRowExclusiveLock);
	MtSpiScope	scope;
	char	   *captured_from;
	ListCell   *cell;

	mt_spi_begin(&scope);
	create_row_trigger(relation, tables);
	foreach(cell, tables)
		create_truncate_trigger(lfirst_oid(cell), relation);
	mt_disarmed_forget(relation->id);
	captured_from = mt_mark_format(running_now(before));
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.relation SET captured = true, captured_from = $2::pg_snapshot,"
				" files = $3::jsonb, incarnation = incarnation + 1 WHERE id = $1",
				MT_ARGS(MT_INT4(relation->id), MT_TEXT(captured_from), MT_TEXT(files_of(tables))));
	mt_ddl_record(relation->id);
	mt_migration_invalidate();
	mt_spi_end(&scope);
}

/* running_now takes the transactions that run; a first look, before writers have to wait, leaves the second little. */
static MtMark *
running_now(const MtMark *before)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	MtMark	   *mark = mt_mark_with_subtransactions(snapshot, before);

	UnregisterSnapshot(snapshot);
	return mark;
}

/* files_of returns the file of each locked table as a JSON object: the rows that S0 sees are there. */
static char *
files_of(const List *tables)
{
	StringInfoData files;
	ListCell   *cell;

	initStringInfo(&files);
	foreach(cell, tables)
	{
		Relation	table = table_open(lfirst_oid(cell), NoLock);

		appendStringInfo(&files, "%s\"%u\": %u", foreach_current_index(cell) ? ", " : "{", lfirst_oid(cell),
						 mt_relation_filenode(table));
		table_close(table, NoLock);
	}
	appendStringInfoChar(&files, '}');
	return files.data;
}

/* mt_detach_table takes capture off a table, if the table is still there. */
void
mt_detach_table(const MtRelation *relation)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.relation SET captured = false, captured_from = NULL WHERE id = $1",
				MT_ARGS(MT_INT4(relation->id)));
	if (get_rel_name(relation->relid) != NULL)
		drop_triggers(relation, lock_tables(relation, AccessExclusiveLock));
	mt_disarmed_forget(relation->id);
	mt_migration_invalidate();
	mt_spi_end(&scope);
}

/* mt_reattach_table makes the triggers of a captured table again, in a transaction that has it locked. */
void
mt_reattach_table(const MtRelation *relation)
{
	List	   *tables = lock_tables(relation, AccessExclusiveLock);
	MtSpiScope	scope;
	ListCell   *cell;

	mt_spi_begin(&scope);
	drop_triggers(relation, tables);
	create_row_trigger(relation, tables);
	foreach(cell, tables)
		create_truncate_trigger(lfirst_oid(cell), relation);
	mt_spi_end(&scope);
}

/* mt_attach_partition gives a new partition the triggers that are not cloned. */
void
mt_attach_partition(Oid leaf, int32 relation_id)
{
	MtRelation *relation = mt_relation_by_id(relation_id, false);
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	create_truncate_trigger(leaf, relation);
	mt_fence_cover(relation, leaf);
	mt_spi_end(&scope);
}

/* mt_attach_tables lists a table and, if it is partitioned, all below it. */
List *
mt_attach_tables(const MtRelation *relation)
{
	if (relation->partitioned)
		return find_all_inheritors(relation->relid, NoLock, NULL);
	return list_make1_oid(relation->relid);
}

/* lock_tables locks a table with all below it; when it has them, no partition can come any more. */
static List *
lock_tables(const MtRelation *relation, LOCKMODE mode)
{
	List	   *tables = mt_attach_tables(relation);
	List	   *now;

	mt_lock_tables(tables, mode);
	now = mt_attach_tables(relation);
	mt_lock_tables(list_difference_oid(now, tables), mode);
	return now;
}

/* drop_triggers drops what is there of the capture triggers. */
static void
drop_triggers(const MtRelation *relation, const List *tables)
{
	ListCell   *cell;

	if (mt_own_trigger_exists(relation->relid, &row_trigger))
		mt_own_trigger_drop(relation->relid, &row_trigger);
	foreach(cell, tables)
		if (mt_own_trigger_exists(lfirst_oid(cell), &truncate_trigger))
			mt_own_trigger_drop(lfirst_oid(cell), &truncate_trigger);
}

/* create_row_trigger looks at every partition, too: a trigger of one may stand in the way of the clone. */
static void
create_row_trigger(const MtRelation *relation, const List *tables)
{
	bool		whole = true;
	ListCell   *cell;

	foreach(cell, tables)
		whole &= mt_own_trigger_whole(lfirst_oid(cell), &row_trigger, NIL);
	if (!whole)
		mt_own_trigger_make(relation->relid, &row_trigger, NIL);
}

/* create_truncate_trigger says which table it belongs to, for the time when the partition has left it (ddl_check.c). */
static void
create_truncate_trigger(Oid relid, const MtRelation *relation)
{
	List	   *arguments = list_make1_int(relation->id);

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE && !mt_own_trigger_whole(relid, &truncate_trigger, arguments))
		mt_own_trigger_make(relid, &truncate_trigger, arguments);
}
