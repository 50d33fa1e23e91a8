/*
 * fence_attach.c
 *	  Puts the triggers of the source's fence on tables, and takes them off:
 *	  see fence.h.
 *
 * A statement trigger is not cloned to partitions, which can be written
 * directly: each has its own, and one that comes later gets it from the guard
 * of DDL.  It fires in every session, also in replica role.
 */
#include "capture/fence.h"

#include "catalog/pg_class_d.h"
#include "catalog/pg_trigger.h"
#include "utils/lsyscache.h"

#include "base/lock.h"
#include "base/spi.h"
#include "capture/attach.h"
#include "capture/ddl_fingerprint.h"
#include "capture/own_trigger.h"

static const MtOwnTrigger fence_trigger = {
	"migrate_tiers_fence", "fence", "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE",
	TRIGGER_TYPE_STATEMENT | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE |
		TRIGGER_TYPE_TRUNCATE};

static void set_fenced(int32 relation, bool fenced);
static void create_trigger(Oid relid, const MtRelation *relation);

/* mt_fence_attach puts the fence on a table and its partitions. */
void
mt_fence_attach(const MtRelation *relation)
{
	List	   *tables = mt_attach_tables(relation);
	MtSpiScope	scope;
	ListCell   *cell;

	mt_lock_tables(tables, ShareRowExclusiveLock);
	mt_spi_begin(&scope);
	/* A partition that came before the lock on the root is among these, one that comes now is covered by the guard. */
	set_fenced(relation->id, true);
	foreach(cell, mt_attach_tables(relation))
		create_trigger(lfirst_oid(cell), relation);
	mt_ddl_record(relation->id);
	mt_spi_end(&scope);
}

/* mt_fence_detach takes the fence off, if the table is still there. */
void
mt_fence_detach(const MtRelation *relation)
{
	MtSpiScope	scope;
	List	   *tables = NIL;
	ListCell   *cell;

	if (get_rel_name(relation->relid) != NULL)
		tables = mt_attach_tables(relation);
	mt_spi_begin(&scope);
	set_fenced(relation->id, false);
	foreach(cell, tables)
		if (!mt_own_trigger_exists(lfirst_oid(cell), &fence_trigger))
			tables = foreach_delete_current(tables, cell);
	mt_lock_tables(tables, AccessExclusiveLock);
	foreach(cell, tables)
		mt_own_trigger_drop(lfirst_oid(cell), &fence_trigger);
	if (get_rel_name(relation->relid) != NULL)
		mt_ddl_record(relation->id);
	mt_spi_end(&scope);
}

/* mt_fence_cover puts the fence on a partition that came to a table that has it. */
void
mt_fence_cover(const MtRelation *relation, Oid partition)
{
	MtSpiScope	scope;

	if (!relation->fenced)
		return;
	mt_spi_begin(&scope);
	create_trigger(partition, relation);
	mt_spi_end(&scope);
}

static void
set_fenced(int32 relation, bool fenced)
{
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.relation SET fenced = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(relation), MT_BOOL(fenced)));
}

static void
create_trigger(Oid relid, const MtRelation *relation)
{
	List	   *arguments = list_make2_int(relation->migration, relation->id);

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE && !mt_own_trigger_whole(relid, &fence_trigger, arguments))
		mt_own_trigger_make(relid, &fence_trigger, arguments);
}
