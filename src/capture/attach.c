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
#include "commands/trigger.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/lock.h"
#include "base/mark.h"
#include "base/spi.h"
#include "capture/ddl_fingerprint.h"
#include "capture/ddl_own.h"
#include "capture/fence.h"
#include "catalog/disarmed.h"

#define ROW_TRIGGER		 "migrate_tiers_capture"
#define TRUNCATE_TRIGGER "migrate_tiers_capture_truncate"

static MtMark *running_now(const MtMark *before);
static char *files_of(const List *tables);
static List *lock_tables(const MtRelation *relation, LOCKMODE mode);
static void drop_triggers(const MtRelation *relation, const List *tables);
static void create_row_trigger(const MtRelation *relation);
static void create_truncate_trigger(Oid relid, const MtRelation *relation);
static char *qualified_name(Oid relid);
static bool has_trigger(Oid relid, const char *name);

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
	if (!has_trigger(relation->relid, ROW_TRIGGER))
		create_row_trigger(relation);
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
	create_row_trigger(relation);
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

	if (has_trigger(relation->relid, ROW_TRIGGER))
		mt_ddl_own_exec(psprintf("DROP TRIGGER " ROW_TRIGGER " ON %s", qualified_name(relation->relid)));
	foreach(cell, tables)
		if (has_trigger(lfirst_oid(cell), TRUNCATE_TRIGGER))
			mt_ddl_own_exec(psprintf("DROP TRIGGER " TRUNCATE_TRIGGER " ON %s", qualified_name(lfirst_oid(cell))));
}

static void
create_row_trigger(const MtRelation *relation)
{
	char	   *table = qualified_name(relation->relid);

	mt_ddl_own_exec(psprintf("CREATE TRIGGER " ROW_TRIGGER " AFTER INSERT OR UPDATE OR DELETE ON %s"
							 " FOR EACH ROW EXECUTE FUNCTION migrate_tiers.capture()",
							 table));
	mt_ddl_own_exec(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER " ROW_TRIGGER, table));
}

/* create_truncate_trigger says which table it belongs to, for the time when the partition has left it (ddl_check.c). */
static void
create_truncate_trigger(Oid relid, const MtRelation *relation)
{
	char	   *table = qualified_name(relid);

	if (get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE || has_trigger(relid, TRUNCATE_TRIGGER))
		return;
	mt_ddl_own_exec(psprintf("CREATE TRIGGER " TRUNCATE_TRIGGER " BEFORE TRUNCATE ON %s"
							 " FOR EACH STATEMENT EXECUTE FUNCTION migrate_tiers.capture('%d')",
							 table, relation->id));
	mt_ddl_own_exec(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER " TRUNCATE_TRIGGER, table));
}

static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

/* has_trigger says whether a table has one of our triggers, whatever the transaction's snapshot is. */
static bool
has_trigger(Oid relid, const char *name)
{
	return OidIsValid(get_trigger_oid(relid, name, true));
}
