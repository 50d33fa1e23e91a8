/*
 * open.c
 *	  Opens the target for sync: the session, the mark, the tables.
 *
 * The mark of the target is the truth, read at each connection.  It may be older
 * than what was there before, if the target was failed over to a standby: what
 * came since is sent again.  If the queue does not reach back so far, sync stops (claim.c).
 */
#include "sync/cancelled.h"
#include "sync/claim.h"

#include "utils/memutils.h"
#include "utils/builtins.h"

#include "base/spi.h"
#include "base/xact.h"
#include "catalog/reverse.h"
#include "endpoint/target_reverse.h"
#include "sync/watch.h"

static void reload_migration(MtSync *sync, int32 id, bool was_reversing);
static void take_reverse_mark(MtSync *sync);
static void close_tables(MtSync *sync);
static void open_tables(MtSync *sync);
static void read_joined(MtSync *sync);
static void read_partitioned(MtSync *sync);

/* mt_sync_open opens the target for sync. */
MtSync *
mt_sync_open(MtMigration *migration, MemoryContext parent)
{
	/* Until it is open, the context is the caller's scratch: what fails half-way is freed and closed with that. */
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers sync", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous;
	MtSync	   *sync;

	mt_xact_begin();
	previous = MemoryContextSwitchTo(context);
	sync = palloc0(sizeof(MtSync));
	sync->context = context;
	sync->tick_context = AllocSetContextCreate(context, "migrate_tiers tick", ALLOCSET_DEFAULT_SIZES);
	sync->row_context = AllocSetContextCreate(context, "migrate_tiers rows", ALLOCSET_DEFAULT_SIZES);
	sync->migration = mt_migration_by_id(migration->id, false);
	sync->remote = mt_remote_open(sync->migration);
	mt_claim_target(sync);
	mt_remote_run(sync->remote, "SET session_replication_role = replica; SET work_mem = '64MB'; SET temp_buffers = '16MB'; SET jit = off");
	sync->reader = mt_queue_reader_create(sync->migration);
	take_reverse_mark(sync);
	mt_claim_sign(sync);
	sync->tables_context = AllocSetContextCreate(context, "migrate_tiers tables", ALLOCSET_DEFAULT_SIZES);
	open_tables(sync);
	MemoryContextSwitchTo(previous);
	mt_xact_commit();
	MemoryContextSetParent(context, parent);
	return sync;
}

/* mt_sync_reload reads the tables again, over the same connection; where it fails, whoever catches that closes it. */
void
mt_sync_reload(MtSync *sync)
{
	MemoryContext previous = CurrentMemoryContext;
	int32		id = sync->migration->id;
	bool		was_reversing = sync->migration->reversing;

	sync->whole = false;
	mt_remote_unprepare(sync->remote);
	sync->leaves = NULL;
	sync->target_unsent = false;
	mt_xact_begin();
	close_tables(sync);
	reload_migration(sync, id, was_reversing);
	open_tables(sync);
	mt_xact_commit();
	MemoryContextSwitchTo(previous);
}

/* reload_migration reads the migration again, which went with the tables: its phase and its way may have changed. */
static void
reload_migration(MtSync *sync, int32 id, bool was_reversing)
{
	MemoryContextSwitchTo(sync->tables_context);
	sync->migration = mt_migration_by_id(id, false);
	if (!was_reversing)
		take_reverse_mark(sync);
}

/*
 * take_reverse_mark begins where the way back has ended, or begins.
 *
 * A mark that the target's ids are none of any more is replaced here, too, and one of another timeline: others
 * read it.
 */
static void
take_reverse_mark(MtSync *sync)
{
	char	   *mark = mt_target_reverse_mark(sync->remote, sync->migration, &sync->target_timeline);
	const MtMigration *migration = sync->migration;
	bool		moved = false;

	if (mark != NULL)
		moved = sync->target_timeline != migration->reverse_timeline || strcmp(mark, migration->reverse_mark) != 0;
	sync->reverse_mark = mark ? MemoryContextStrdup(sync->context, mark) : NULL;
	if (moved)
	{
		mt_failover_note(sync->migration->id);
		mt_reverse_mark_set_back(sync->migration->id, mark, sync->target_timeline);
	}
	sync->reverse_mark_told = false;
	sync->conflicts_there = sync->migration->reversing;
}

/* mt_sync_close closes the connection and frees all. */
void
mt_sync_close(MtSync *sync)
{
	close_tables(sync);
	MemoryContextDelete(sync->context);
}

/*
 * mt_sync_target_moved says whether server or mapping lead elsewhere now: pushes, gates and transitions go there.
 *
 * What the catalog has is looked at before a round, not after it has ticked.
 */
bool
mt_sync_target_moved(const MtSync *sync)
{
	bool		moved = false;

	mt_xact_begin();
	if (mt_watch_servers_changed())
		moved = !mt_remote_is_current(sync->remote, sync->migration);
	mt_xact_commit();
	return moved;
}

static void
close_tables(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	mt_watch_no_tables();
	sync->whole = false;
	if (sync->tables == NULL)
		return;
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		mt_table_close(table);
	sync->tables = NULL;
	MemoryContextReset(sync->tables_context);
}

static void
open_tables(MtSync *sync)
{
	HASHCTL		control = {.keysize = sizeof(int32), .entrysize = sizeof(MtTable), .hcxt = sync->tables_context};
	List	   *relations;
	List	   *captured = NIL;
	List	   *relids = NIL;
	ListCell   *cell;

	MemoryContextSwitchTo(sync->tables_context);
	relations = mt_relation_list(sync->migration->id, "realtime");
	sync->tables = hash_create("migrate_tiers tables", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(cell, relations)
	{
		MtRelation *relation = (MtRelation *) lfirst(cell);

		if (!relation->captured || relation->captured_from == NULL)
			continue;
		captured = lappend(captured, relation);
		relids = lappend_oid(relids, relation->relid);
	}
	mt_watch_tables(relids);
	foreach(cell, captured)
	{
		MtRelation *relation = (MtRelation *) lfirst(cell);
		MtTable    *table = hash_search(sync->tables, &relation->id, HASH_ENTER, NULL);

		memset(table, 0, sizeof(*table));
		table->id = relation->id;
		mt_table_open(table, relation);
	}
	read_joined(sync);
	read_partitioned(sync);
	sync->void_left = !sync->migration->reversing && mt_cancelled_left(sync->migration->id);
	sync->whole = true;
}

/*
 * read_joined marks the tables whose copy the target follows.
 *
 * One that is to be copied again is none of them, whatever the target says; nor one that was
 * attached after the target's mark: that it joined was before, and the target is set back.
 */
static void
read_joined(MtSync *sync)
{
	/* What the target has, also where some of it is sent again. */
	const MtMark *mark = sync->other_timeline ? mt_mark_parse(sync->stored_mark) : sync->mark;
	MtRows	   *rows = mt_remote_query(sync->remote,
									   "SELECT relation FROM migrate_tiers.joined WHERE migration = $1",
									   MT_PARAMS(sync->migration->ident));

	for (int row = 0; row < rows->count; row++)
	{
		int32		id = pg_strtoint32(rows->values[row][0]);
		MtTable    *table = hash_search(sync->tables, &id, HASH_FIND, NULL);

		if (table != NULL)
			table->joined = strcmp(table->relation->state, "recopy") != 0 &&
				mt_mark_covers(mark, table->captured_from);
	}
}

/* read_partitioned asks which tables are partitioned on the target. */
static void
read_partitioned(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	MtRows	   *rows = mt_remote_query(sync->remote,
									   "SELECT n.nspname, c.relname FROM pg_catalog.pg_class AS c"
									   " JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'p'",
									   MT_NO_PARAMS);

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		for (int row = 0; row < rows->count; row++)
			if (strcmp(rows->values[row][0], table->relation->target_schema) == 0 &&
				strcmp(rows->values[row][1], table->relation->target_name) == 0)
				table->relation->target_partitioned = table->mirror->partitioned = true;
}
