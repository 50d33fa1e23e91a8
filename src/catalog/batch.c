/*
 * batch.c
 *	  Pushes of batch tables as they are noted: see batch.h.
 */
#include "catalog/batch.h"

#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/timestamp.h"

#include "base/spi.h"

#define PUSH_LOCK 1				/* objsubid; the view freshness looks for it */

/* When the migration of table $1 left phase planned: what was pushed before is gone from the target. */
#define CYCLE_BEGAN \
	"(SELECT max(x.started) FROM migrate_tiers.transition AS x JOIN migrate_tiers.relation AS y ON y.migration = x.migration" \
	" WHERE y.id = $1 AND x.from_phase = 'planned')"

/* The target's table of a row "r" of relation: pushes into one that it had before say nothing of this one. */
#define TARGET_OF_R "ARRAY[r.target_schema, r.target_name]"

/* Read when a lock is taken: it may have to be given back where the catalog cannot be read. */
static Oid	locked_class = InvalidOid;

static void set_tag(LOCKTAG *tag, int32 relation);

/* mt_policy_read reads how a table is to be pushed. */
MtPolicy *
mt_policy_read(int32 relation)
{
	MtPolicy   *policy = palloc0(sizeof(MtPolicy));
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT, "SELECT mode, watermark FROM migrate_tiers.policy WHERE relation = $1",
					MT_ARGS(MT_INT4(relation))) > 0)
	{
		policy->mode = mt_spi_text(&scope, 0, 1);
		policy->watermark = mt_spi_text(&scope, 0, 2);
	}
	mt_spi_end(&scope);
	if (policy->mode == NULL)
		policy->mode = pstrdup("diff");
	return policy;
}

/* mt_batch_next_id takes the next number; it is used up even if the transaction fails. */
int64
mt_batch_next_id(void)
{
	MtSpiScope	scope;
	int64		id;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT nextval('migrate_tiers.batch_id_seq')", MT_NO_ARGS);
	id = mt_spi_int8(0, 1);
	mt_spi_end(&scope);
	return id;
}

/* mt_batch_lock takes a table for a push, unless somebody has it. */
bool
mt_batch_lock(int32 relation)
{
	LOCKTAG		tag;

	locked_class = mt_extension_table("relation");
	set_tag(&tag, relation);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* mt_batch_bar keeps pushes of a table off until the end of the transaction, unless one is under way. */
bool
mt_batch_bar(int32 relation)
{
	LOCKTAG		tag;

	locked_class = mt_extension_table("relation");
	set_tag(&tag, relation);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* mt_batch_unlock gives it back. */
void
mt_batch_unlock(int32 relation)
{
	LOCKTAG		tag;

	set_tag(&tag, relation);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

/* mt_batch_unlock_all gives several back. */
void
mt_batch_unlock_all(List *relations)
{
	ListCell   *cell;

	foreach(cell, relations)
		mt_batch_unlock(lfirst_int(cell));
}

/* set_tag makes a lock that lasts over transactions that fail, as those of the workers do. */
static void
set_tag(LOCKTAG *tag, int32 relation)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, locked_class, (uint32) relation, PUSH_LOCK);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/*
 * mt_batch_due finds what is to be pushed next.
 *
 * After failures a table is tried again after 5 s, 10 s, 20 s and so on, but at least as often as it is to be pushed.
 * It is looked each second: no more than the newest pushes are read.  What a clock that was set back has put into the
 * future is waited for by nobody.
 */
int32
mt_batch_due(int32 migration)
{
	MtSpiScope	scope;
	int32		relation = 0;

	mt_spi_begin(&scope);
	if (mt_spi_exec_latest(SPI_OK_SELECT,
						   "SELECT r.id FROM migrate_tiers.policy AS p JOIN migrate_tiers.relation AS r ON r.id = p.relation"
						   " JOIN migrate_tiers.freshness AS f ON f.relation = r.relation"
						   " JOIN migrate_tiers.migration AS m ON m.id = r.migration"
						   " CROSS JOIN LATERAL (SELECT max(x.started) AS began FROM migrate_tiers.transition AS x"
						   "  WHERE x.migration = m.id AND x.from_phase = 'planned') AS c"
						   " CROSS JOIN LATERAL (SELECT max(l.started) AS last,"
						   "  coalesce(min(l.number) FILTER (WHERE l.error IS NULL) - 1, count(*)) AS failures"
						   "  FROM (SELECT b.started, b.error, row_number() OVER (ORDER BY b.started DESC) AS number FROM migrate_tiers.batch AS b"
						   "   WHERE b.relation = r.id AND b.direction = f.direction AND b.target = " TARGET_OF_R
						   "   AND b.started > c.began AND b.started <= clock_timestamp() AND b.finished IS NOT NULL"
						   "   ORDER BY b.started DESC LIMIT 9) AS l) AS t"
						   " CROSS JOIN LATERAL (SELECT CASE WHEN t.failures = 0 THEN t.last + p.every"
						   "  ELSE t.last + least(p.every, interval '5 s' * 2 ^ least(t.failures - 1, 8)) END AS due) AS d"
						   " WHERE r.migration = $1 AND r.tier = 'batch' AND p.every IS NOT NULL AND NOT f.pushing AND NOT m.paused"
						   " AND m.phase NOT IN ('planned', 'finished') AND coalesce(d.due <= clock_timestamp(), true)"
						   " ORDER BY d.due NULLS FIRST LIMIT 1",
						   MT_ARGS(MT_INT4(migration))) > 0)
		relation = (int32) mt_spi_int8(0, 1);
	mt_spi_end(&scope);
	return relation;
}

/*
 * mt_batch_has_filled looks for a push forward since phase planned that was applied, or of which that is not known; or
 * for the time when the table was realtime.
 */
bool
mt_batch_has_filled(int32 relation)
{
	MtSpiScope	scope;
	bool		filled;

	mt_spi_begin(&scope);
	filled = mt_spi_exec(SPI_OK_SELECT,
						 "SELECT FROM migrate_tiers.batch AS b JOIN migrate_tiers.relation AS r ON r.id = b.relation"
						 " WHERE r.id = $1 AND b.direction = 'forward' AND b.target = " TARGET_OF_R " AND b.started > " CYCLE_BEGAN
						 " AND (b.finished IS NULL OR b.error IS NULL OR b.error LIKE '57P01: the push was cut off%')"
						 " UNION ALL SELECT FROM migrate_tiers.relation AS r WHERE r.id = $1 AND r.filled = " TARGET_OF_R
						 " AND r.tagged > " CYCLE_BEGAN,
						 MT_ARGS(MT_INT4(relation))) > 0;
	mt_spi_end(&scope);
	return filled;
}

/* mt_batch_record reads what the receiver should have; a push takes its number before its turn, so that is no order. */
MtBatchRecord *
mt_batch_record(int32 relation)
{
	MtBatchRecord *record = palloc0(sizeof(MtBatchRecord));
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT,
					   "SELECT coalesce(n.id, 0), g.direction = 'reverse', CASE g.direction WHEN 'reverse' THEN g.target_rows"
					   " ELSE g.source_rows END, g.digest, g.shape, g.snapshot_time::text,"
					   " CASE WHEN n.id IS NULL THEN 'it was never pushed'"
					   " WHEN n.finished IS NULL THEN 'a push of it is under way, or was cut off'"
					   " WHEN u.id IS NOT NULL THEN format('whether the push of %s, which was cut off, was applied is not known', u.started)"
					   " WHEN g.id IS NULL THEN 'no push of it was applied'"
					   " WHEN g.mode = 'refresh' THEN 'in mode refresh the receiver computes its rows itself' END"
					   " FROM (SELECT $1 AS id, " CYCLE_BEGAN " AS began,"
					   "  (SELECT " TARGET_OF_R " FROM migrate_tiers.relation AS r WHERE r.id = $1) AS target) AS r LEFT JOIN LATERAL"
					   " (SELECT * FROM migrate_tiers.batch AS b WHERE b.relation = r.id AND b.started > r.began AND b.target = r.target"
					   "  ORDER BY b.started DESC, b.id DESC LIMIT 1) AS n ON true"
					   " LEFT JOIN LATERAL (SELECT * FROM migrate_tiers.batch AS b WHERE b.relation = r.id AND b.started > r.began AND b.target = r.target"
					   "  AND b.finished IS NOT NULL AND b.error IS NULL ORDER BY b.started DESC, b.id DESC LIMIT 1) AS g ON true"
					   " LEFT JOIN LATERAL (SELECT * FROM migrate_tiers.batch AS b WHERE b.relation = r.id AND b.started > r.began AND b.target = r.target"
					   "  AND b.error LIKE '57P01: the push was cut off%'"
					   "  AND (g.id IS NULL OR (b.started, b.id) > (g.started, g.id)) LIMIT 1) AS u ON true",
					   MT_ARGS(MT_INT4(relation)));
	record->id = mt_spi_int8(0, 1);
	record->why = mt_spi_text(&scope, 0, 7);
	if (record->why == NULL)
	{
		record->reverse = mt_spi_bool(0, 2);
		record->rows = mt_spi_int8(0, 3);
		record->digest = mt_spi_text(&scope, 0, 4);
		record->shape = mt_spi_text(&scope, 0, 5);
		record->taken = mt_spi_text(&scope, 0, 6);
	}
	mt_spi_end(&scope);
	return record;
}

/* mt_batch_cut_off ends the rows of pushes that nobody can end any more. */
void
mt_batch_cut_off(int32 relation)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.batch SET finished = clock_timestamp(),"
				" error = '57P01: the push was cut off; whether it was applied is not known'"
				" WHERE relation = $1 AND finished IS NULL",
				MT_ARGS(MT_INT4(relation)));
	mt_spi_end(&scope);
}

/* mt_batch_failures counts those since the last that was applied. */
int
mt_batch_failures(int32 relation, bool reverse)
{
	MtSpiScope	scope;
	int			failures;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT count(*) FROM migrate_tiers.batch AS b WHERE b.relation = $1 AND b.direction = $2 AND b.error IS NOT NULL"
				" AND b.id > coalesce((SELECT max(g.id) FROM migrate_tiers.batch AS g WHERE g.relation = $1"
				"  AND g.direction = $2 AND g.finished IS NOT NULL AND g.error IS NULL), 0)",
				MT_ARGS(MT_INT4(relation), MT_TEXT(reverse ? "reverse" : "forward")));
	failures = (int) mt_spi_int8(0, 1);
	mt_spi_end(&scope);
	return failures;
}

/* mt_batch_begin adds the row of a push. */
void
mt_batch_begin(const MtBatch *batch)
{
	MtSpiScope	scope;

	mt_batch_cut_off(batch->relation);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.batch (id, relation, direction, mode, scheduled, target)"
				" OVERRIDING SYSTEM VALUE SELECT $1, $2, $3, $4, $5, " TARGET_OF_R
				" FROM migrate_tiers.relation AS r WHERE r.id = $2",
				MT_ARGS(MT_INT8(batch->id), MT_INT4(batch->relation),
						MT_TEXT(batch->reverse ? "reverse" : "forward"), MT_TEXT(batch->mode),
						MT_BOOL(batch->scheduled)));
	mt_spi_end(&scope);
}

/* mt_batch_end completes the row of a push; counts of one that failed would say nothing. */
void
mt_batch_end(const MtBatch *batch, const char *error)
{
	MtSpiScope	scope;
	bool		failed = error != NULL;
	int64		source_rows = batch->reverse ? batch->receiver_rows : batch->sender_rows;
	int64		target_rows = batch->reverse ? batch->sender_rows : batch->receiver_rows;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.batch SET finished = clock_timestamp(), snapshot_time = $2,"
				" source_rows = $3, target_rows = $4, inserted = $5, updated = $6, deleted = $7,"
				" bytes = $8, ranges = $9, ranges_sent = $10, note = $11, error = $12, mode = $13, ranges_known = $14,"
				" digest = $15, shape = md5($16) WHERE id = $1",
				MT_ARGS(MT_INT8(batch->id),
						{TIMESTAMPTZOID, TimestampTzGetDatum(batch->snapshot_time), batch->snapshot_time == 0},
						{INT8OID, Int64GetDatum(source_rows), failed},
						{INT8OID, Int64GetDatum(target_rows), failed},
						{INT8OID, Int64GetDatum(batch->inserted), failed},
						{INT8OID, Int64GetDatum(batch->updated), failed},
						{INT8OID, Int64GetDatum(batch->deleted), failed},
						MT_INT8(batch->bytes),
						{INT4OID, Int32GetDatum(batch->ranges), batch->ranges == 0},
						{INT4OID, Int32GetDatum(batch->ranges_sent), batch->ranges == 0},
						MT_TEXT(batch->note), MT_TEXT(error), MT_TEXT(batch->mode),
						{INT4OID, Int32GetDatum(batch->ranges_known), batch->ranges == 0},
						MT_TEXT(failed ? NULL : batch->digest), MT_TEXT(batch->shape)));
	mt_spi_end(&scope);
}
