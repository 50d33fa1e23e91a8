/*
 * disarmed.c
 *	  Tables whose changes are not noted any more: see disarmed.h.
 *
 * Reading and adding is made by C and not by SQL, since it happens in the
 * transactions of applications, and in each tick; the table is nearly always empty.
 */
#include "catalog/disarmed.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "catalog/migration.h"
#include "catalog/queue.h"

/* mt_disarmed_list lists the tables of a migration that a snapshot sees disarmed. */
List *
mt_disarmed_list(int32 migration, Snapshot snapshot)
{
	Relation	table = table_open(mt_extension_table("disarmed"), AccessShareLock);
	List	   *relations = NIL;
	TableScanDesc scan;
	HeapTuple	tuple;

	if (RelationGetNumberOfBlocks(table) > 0)
	{
		Snapshot	used = RegisterSnapshot(snapshot ? snapshot : GetLatestSnapshot());

		scan = table_beginscan(table, used, 0, NULL);
		while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
		{
			Datum		values[3];
			bool		nulls[3];

			heap_deform_tuple(tuple, RelationGetDescr(table), values, nulls);
			if (DatumGetInt32(values[0]) == migration)
				relations = list_append_unique_int(relations, DatumGetInt32(values[1]));
		}
		table_endscan(scan);
		UnregisterSnapshot(used);
	}
	table_close(table, AccessShareLock);
	return relations;
}

/* mt_disarmed_is_final asks for a lock that whoever adds a row holds until its end, and gives it back. */
bool
mt_disarmed_is_final(void)
{
	Oid			table = mt_extension_table("disarmed");

	if (!ConditionalLockRelationOid(table, ShareLock))
		return false;
	UnlockRelationOid(table, ShareLock);
	return true;
}

/* mt_disarmed_add adds a row, and has every backend read them again when it is committed. */
bool
mt_disarmed_add(int32 migration, int32 relation)
{
	Relation	table = table_open(mt_extension_table("disarmed"), RowExclusiveLock);
	Datum		values[3] = {Int32GetDatum(migration), Int32GetDatum(relation),
							 TimestampTzGetDatum(GetCurrentTimestamp())};
	bool		nulls[3] = {false, false, false};
	MtQueue		queue;
	HeapTuple	tuple;

	/* What the writer knows of the migration may be older than the lock. */
	if (!mt_queue_load(migration, &queue) || queue.limit == 0)
	{
		table_close(table, RowExclusiveLock);
		return false;
	}
	tuple = heap_form_tuple(RelationGetDescr(table), values, nulls);
	heap_insert(table, tuple, GetCurrentCommandId(true), 0, NULL);
	heap_freetuple(tuple);
	table_close(table, NoLock);
	mt_migration_invalidate();
	return true;
}

/* mt_disarmed_forget deletes the rows for a table. */
void
mt_disarmed_forget(int32 relation)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_DELETE, "DELETE FROM migrate_tiers.disarmed WHERE relation = $1",
					   MT_ARGS(MT_INT4(relation)));
	mt_spi_end(&scope);
}
