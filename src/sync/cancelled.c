/*
 * cancelled.c
 *	  Entries of our queue that are void, since the target's row of the key has
 *	  won: see merge.h.
 *
 * A row of the queue holds many keys, so one of them cannot be taken out.  It is
 * noted instead which key is meant, and the snapshot of the look that decided:
 * entries of transactions that it sees are void, later ones count.  When the
 * mark has passed that snapshot, the note is of no use any more.
 */
#include "sync/cancelled.h"

#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/spi.h"
#include "base/xact.h"

/* Whether the mark $2 sees all transactions that a snapshot sees. */
#define PASSED "(pg_snapshot_xmax(c.seen) <= pg_snapshot_xmin($2::pg_snapshot))"

static bool all_follow(const MtSync *sync);
static void spare_keys(MtTable *table, MtTruncation *truncation);
static bool sees_all(const MtMark *mark, const MtWriters *writers);

/* mt_cancelled_load reads what is void of what the mark has not passed, under the tick's snapshot. */
void
mt_cancelled_load(MtSync *sync)
{
	static SPIPlanPtr plan = NULL;
	MtSpiScope	scope;
	uint64		count;
	MemoryContext context = CurrentMemoryContext;
	const char *mark = sync->mark != NULL && all_follow(sync) ? mt_mark_format(sync->mark) : "1:1:";

	mt_spi_begin(&scope);
	/* Rows come and go all the time: few are there, among many dead ones, whatever the statistics say. */
	if (plan == NULL)
		(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	count = mt_spi_exec_kept(&plan, SPI_OK_SELECT,
							 "SELECT c.relation, c.key, c.seen FROM migrate_tiers.relation AS r"
							 " JOIN migrate_tiers.cancelled AS c ON c.relation = r.id AND NOT " PASSED
							 " WHERE r.migration = $1",
							 MT_ARGS(MT_INT4(sync->migration->id), MT_TEXT(mark)));
	for (uint64 row = 0; row < count; row++)
	{
		int32		id = (int32) mt_spi_int8(row, 1);
		MtTable    *table = hash_search(sync->tables, &id, HASH_FIND, NULL);
		bool		isnull;
		bytea	   *bytes = DatumGetByteaPP(mt_spi_datum(row, 2, &isnull));
		MtUnsentKey *key;
		MemoryContext spi;

		if (table == NULL)
			continue;
		spi = MemoryContextSwitchTo(context);
		if (table->both.cancelled == NULL)
			table->both.cancelled = mt_unsent_create(table, context);
		key = mt_unsent_enter(table->both.cancelled, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		key->data = lappend((List *) key->data, mt_mark_parse(mt_spi_text(&scope, row, 3)));
		sync->cancelled = true;
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
}

/* all_follow says whether the mark holds for every table: one that is copied anew still needs what it has passed. */
static bool
all_follow(const MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	bool		all = true;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		all = all && table->joined;
	return all;
}

/* mt_cancelled_left says whether anything may be void. */
bool
mt_cancelled_left(int32 migration)
{
	MtSpiScope	scope;
	bool		left;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT,
					   "SELECT EXISTS (SELECT FROM migrate_tiers.cancelled AS c JOIN migrate_tiers.relation AS r ON r.id = c.relation"
					   " WHERE r.migration = $1)",
					   MT_ARGS(MT_INT4(migration)));
	left = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return left;
}

/* mt_cancelled_is says whether an entry of a key is void. */
bool
mt_cancelled_is(const MtTable *table, const char *bytes, int length, uint64 xid)
{
	MtUnsentKey *key;
	ListCell   *cell;

	if (table->both.cancelled == NULL)
		return false;
	key = mt_unsent_find(table->both.cancelled, bytes, length);
	if (key != NULL)
		foreach(cell, (List *) key->data)
			if (mt_mark_sees((MtMark *) lfirst(cell), xid))
				return true;
	return false;
}

/* mt_cancelled_spare lists the keys that the truncations of a tick do not concern. */
void
mt_cancelled_spare(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	ListCell   *cell;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->both.cancelled != NULL)
			foreach(cell, table->truncations)
				spare_keys(table, (MtTruncation *) lfirst(cell));
}

/* spare_keys lists those of which the row won over a truncation, whoever did it. */
static void
spare_keys(MtTable *table, MtTruncation *truncation)
{
	ListCell   *cell;
	ListCell   *mark;

	foreach(cell, table->both.cancelled->all)
	{
		MtUnsentKey *key = (MtUnsentKey *) lfirst(cell);

		foreach(mark, (List *) key->data)
			if (sees_all((MtMark *) lfirst(mark), &truncation->writers))
				mt_truncation_spare(truncation, key);
	}
}

static bool
sees_all(const MtMark *mark, const MtWriters *writers)
{
	for (int i = 0; i < writers->count; i++)
		if (!mt_mark_sees(mark, writers->xids[i]))
			return false;
	return true;
}

/*
 * mt_cancelled_forget forgets what the mark has passed: the one that is stored, which is read again after a crash.
 *
 * Where the source has failed over, that one is of another timeline until the next tick.
 */
void
mt_cancelled_forget(MtSync *sync)
{
	MtSpiScope	scope;

	if (sync->stored_mark == NULL || sync->other_timeline || !all_follow(sync))
		return;
	mt_xact_begin();
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE,
				"DELETE FROM migrate_tiers.cancelled AS c USING migrate_tiers.relation AS r"
				" WHERE r.id = c.relation AND r.migration = $1 AND " PASSED,
				MT_ARGS(MT_INT4(sync->migration->id), MT_TEXT(sync->stored_mark)));
	mt_spi_end(&scope);
	mt_xact_commit();
}
