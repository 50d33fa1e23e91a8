/*
 * plan.c
 *	  Cuts a table into pieces of work: see copy.h.
 */
#include "copy/index.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/lock.h"
#include "base/spi.h"
#include "catalog/option.h"
#include "endpoint/target.h"

/* With a rate set, a chunk is what the rate allows in this time: shorter waits, shorter snapshots. */
#define THROTTLED_CHUNK_MS 1000
#define SMALLEST_CHUNK	   (256 * 1024)

static List *tables_to_read(const MtRelation *relation);
static bool is_replaced(const MtMigration *migration, const MtRelation *relation, const List *tables);
static int64 blocks_a_chunk(int32 migration);
static int64 blocks_out_of_line(Relation table);
static int32 plan_chunks(const MtRelation *relation, Oid table, int32 task, int64 step, double *rows);

/* mt_copy_plan cuts a captured table into tasks and sets its indexes aside, or has it captured anew first. */
void
mt_copy_plan(const MtMigration *migration, MtRemote *remote, const MtRelation *relation)
{
	List	   *tables = tables_to_read(relation);
	List	   *indexes;
	MtSpiScope	scope;
	ListCell   *cell;
	int32		task = 0;
	int64		step = blocks_a_chunk(migration->id);
	double		rows = 0;

	mt_lock_tables(tables, AccessShareLock);
	if (is_replaced(migration, relation, tables))
	{
		mt_relation_recopy(relation->id, "its rows were rewritten");
		return;
	}
	if (mt_option_bool(migration->id, "defer_indexes"))
		(void) mt_target_set_aside(remote, migration, relation);
	indexes = mt_target_aside(remote, migration, relation);
	mt_copy_forget_tasks(relation);
	mt_spi_begin(&scope);
	foreach(cell, tables)
		task = plan_chunks(relation, lfirst_oid(cell), task, step, &rows);
	foreach(cell, indexes)
		mt_spi_exec(SPI_OK_INSERT,
					"INSERT INTO migrate_tiers.copy_task (relation, task, kind, source_table, object)"
					" VALUES ($1, $2, 'index', 0, $3)",
					MT_ARGS(MT_INT4(relation->id), MT_INT4(task++), MT_TEXT((char *) lfirst(cell))));
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.relation SET state = 'copying', note = NULL, copy_started = clock_timestamp(),"
				" copy_finished = NULL, estimated_rows = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(relation->id), MT_INT8((int64) rows)));
	mt_spi_end(&scope);
}

/* mt_copy_forget_tasks drops the tasks of a table; waits for the chunks and indexes that are under way. */
void
mt_copy_forget_tasks(const MtRelation *relation)
{
	MtSpiScope	scope;

	mt_copy_bar_indexes(relation);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE, "DELETE FROM migrate_tiers.copy_task WHERE relation = $1",
				MT_ARGS(MT_INT4(relation->id)));
	mt_spi_end(&scope);
}

/* mt_copy_forget_target empties the target's table, and forgets there that it was copied. */
void
mt_copy_forget_target(const MtMigration *migration, MtRemote *remote, const MtRelation *relation)
{
	/* What a worker that has ended has sent last is there or not from here on. */
	mt_target_await_writers(remote, relation);
	/* First what says that rows are there, then the rows: cut off in between, it is done again. */
	mt_copy_forget_notes(migration, remote, relation->id);
	mt_target_empty(remote, list_make1((void *) relation));
}

/* mt_copy_forget_notes forgets on the target that a table was copied. */
void
mt_copy_forget_notes(const MtMigration *migration, MtRemote *remote, int32 relation)
{
	char	   *id = psprintf("%d", relation);

	mt_remote_query(remote, "DELETE FROM migrate_tiers.joined WHERE migration = $1 AND relation = $2",
					MT_PARAMS(migration->ident, id));
	mt_remote_query(remote, "DELETE FROM migrate_tiers.chunk WHERE migration = $1 AND relation = $2",
					MT_PARAMS(migration->ident, id));
}

/* tables_to_read lists the table itself, or the leaf partitions that hold its rows. */
static List *
tables_to_read(const MtRelation *relation)
{
	List	   *leaves = NIL;
	ListCell   *cell;

	if (!relation->partitioned)
		return list_make1_oid(relation->relid);
	foreach(cell, find_all_inheritors(relation->relid, NoLock, NULL))
		if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_RELATION)
			leaves = lappend_oid(leaves, lfirst_oid(cell));
	return leaves;
}

/*
 * is_replaced says whether a table has another file than when S0 was taken, and was not truncated.
 *
 * Whoever exchanges files behind the guard's back, as pg_repack does, leaves rows of ids that S0 does not see: none
 * would be copied, and none is noted.  A file that was only written anew holds the same rows, but so early there is
 * nothing yet that would be lost with a new S0.
 */
static bool
is_replaced(const MtMigration *migration, const MtRelation *relation, const List *tables)
{
	MtSpiScope	scope;
	StringInfoData oids;
	ListCell   *cell;
	List	   *changed = NIL;
	uint64		count;

	initStringInfo(&oids);
	foreach(cell, tables)
		appendStringInfo(&oids, "%s%u", foreach_current_index(cell) ? "," : "", lfirst_oid(cell));
	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT,
						"SELECT t FROM migrate_tiers.relation AS r, unnest(string_to_array($2, ',')::oid[]) AS t"
						" WHERE r.id = $1 AND (r.files ->> t::text)::oid <> pg_relation_filenode(t)",
						MT_ARGS(MT_INT4(relation->id), MT_TEXT(oids.data)));
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		changed = lappend_oid(changed, (Oid) mt_spi_int8(row, 1));
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	foreach(cell, changed)
		if (!mt_copy_is_emptied(migration, relation, lfirst_oid(cell)))
			return true;
	return false;
}

static int64
blocks_a_chunk(int32 migration)
{
	int64		bytes = mt_option_integer(migration, "chunk_size");
	int64		rate = mt_option_integer(migration, "copy_rate");
	int64		share = rate / Max(mt_option_integer(migration, "copy_workers"), 1);

	if (rate > 0)
		bytes = Min(bytes, Max(share * THROTTLED_CHUNK_MS / 1000, SMALLEST_CHUNK));
	return Max(bytes / BLCKSZ, 1);
}

/* blocks_out_of_line says how many blocks the values have that rows only point to. */
static int64
blocks_out_of_line(Relation table)
{
	Relation	toast;
	int64		blocks;

	if (!OidIsValid(table->rd_rel->reltoastrelid))
		return 0;
	toast = table_open(table->rd_rel->reltoastrelid, AccessShareLock);
	blocks = RelationGetNumberOfBlocks(toast);
	table_close(toast, NoLock);
	return blocks;
}

/*
 * plan_chunks adds the chunks of one table; returns the number of the next task.
 *
 * What stands out of line is read with the rows: it is taken as spread over them evenly.
 */
static int32
plan_chunks(const MtRelation *relation, Oid table, int32 task, int64 step, double *rows)
{
	Relation	opened = table_open(table, NoLock);
	int64		blocks = RelationGetNumberOfBlocks(opened);

	if (blocks > 0)
		step = Max((int64) ((double) step * blocks / (blocks + blocks_out_of_line(opened))), 1);
	*rows += Max(opened->rd_rel->reltuples, 0);
	for (int64 first = 0; first < blocks; first += step)
		mt_spi_exec(SPI_OK_INSERT,
					"INSERT INTO migrate_tiers.copy_task"
					" (relation, task, kind, source_table, filenode, first_block, last_block)"
					" VALUES ($1, $2, 'chunk', $3, $4, $5, $6)",
					MT_ARGS(MT_INT4(relation->id), MT_INT4(task++), MT_OID(table),
							MT_OID(mt_relation_filenode(opened)), MT_INT8(first),
							MT_INT8(Min(first + step, blocks))));
	table_close(opened, NoLock);
	return task;
}
