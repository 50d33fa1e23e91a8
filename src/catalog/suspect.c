/*
 * suspect.c
 *	  Stores rows that are to be looked at again: see suspect.h.
 */
#include "catalog/suspect.h"

#include "utils/timestamp.h"

#include "base/spi.h"
#include "catalog/discrepancy.h"

/* mt_suspect_list reads the keys of a range's suspects. */
List *
mt_suspect_list(const MtRange *range)
{
	MtSpiScope	scope;
	uint64		count;
	List	   *keys = NIL;

	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT, "SELECT s.key FROM migrate_tiers.suspect AS s WHERE s.verification = $1 AND s.range = $2",
						MT_ARGS(MT_INT8(range->verification), MT_INT4(range->number)));
	for (uint64 row = 0; row < count; row++)
	{
		int			columns;
		char	  **key = mt_spi_texts(&scope, row, 1, &columns);
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		keys = lappend(keys, key);
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return keys;
}

/* mt_suspect_store replaces the suspects of a range. */
void
mt_suspect_store(const MtRange *range, const MtOutcome *outcome)
{
	ListCell   *cell;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE, "DELETE FROM migrate_tiers.suspect WHERE verification = $1 AND range = $2",
				MT_ARGS(MT_INT8(range->verification), MT_INT4(range->number)));
	foreach(cell, outcome->suspects)
		mt_spi_exec(SPI_OK_INSERT, "INSERT INTO migrate_tiers.suspect (verification, range, key) VALUES ($1, $2, $3)",
					MT_ARGS(MT_INT8(range->verification), MT_INT4(range->number),
							mt_spi_texts_arg(range->nkeys, (char **) lfirst(cell))));
	mt_spi_end(&scope);
}

/* mt_suspect_settle stores what came of another look. */
void
mt_suspect_settle(const MtRange *range, const MtOutcome *outcome)
{
	MtSpiScope	scope;

	mt_suspect_store(range, outcome);
	mt_discrepancy_store(range, outcome);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification_range SET state = $3, target_rows = target_rows + $4,"
				" different_rows = different_rows + $5, point = $6, finished = clock_timestamp()"
				" WHERE verification = $1 AND range = $2",
				MT_ARGS(MT_INT8(range->verification), MT_INT4(range->number),
						MT_TEXT(outcome->suspects ? "doubtful" : "done"), MT_INT8(outcome->target_rows),
						MT_INT8(outcome->different_rows),
						{TIMESTAMPTZOID, TimestampTzGetDatum(outcome->point), false}));
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.verification SET at_mark = $2::pg_snapshot, detail = NULL,"
							   " verdict = CASE WHEN $3 > 0 THEN 'different' ELSE verdict END WHERE id = $1",
				MT_ARGS(MT_INT8(range->verification), MT_TEXT(outcome->mark), MT_INT8(outcome->different_rows)));
	mt_spi_end(&scope);
}

/* mt_suspect_count counts the suspects of a run, and says whether they are all that is left of it, and stuck. */
int64
mt_suspect_count(int64 run, bool *only, bool *stuck)
{
	MtSpiScope	scope;
	int64		count;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT count(*), count(*) > 0 AND NOT EXISTS (SELECT FROM migrate_tiers.verification AS o WHERE o.run = $1"
				"  AND o.state = 'running' AND (NOT o.given_out OR EXISTS (SELECT FROM migrate_tiers.verification_range AS r"
				"   WHERE r.verification = o.id AND r.state IN ('free', 'running')))),"
				" coalesce(bool_or(m.reverse_stopped_at < clock_timestamp() - interval '5 s'), false)"
				" FROM migrate_tiers.suspect AS s JOIN migrate_tiers.verification AS v ON v.id = s.verification"
				" JOIN migrate_tiers.migration AS m ON m.id = v.migration WHERE v.run = $1 AND v.state = 'running'",
				MT_ARGS(MT_INT8(run)));
	count = mt_spi_int8(0, 1);
	*only = mt_spi_bool(0, 2);
	*stuck = mt_spi_bool(0, 3);
	mt_spi_end(&scope);
	return count;
}

/* mt_suspect_note notes for each table that has suspects which rows they are. */
void
mt_suspect_note(int64 run)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification AS v SET detail = format('%s rows differ, and changes of theirs were on the way"
				" from the target at each common point: %s%s%s', s.rows, s.keys, CASE WHEN s.rows > 5 THEN ', ...' ELSE '' END,"
				" '; sync from there is stopped: ' || m.reverse_stopped)"
				" FROM migrate_tiers.migration AS m, (SELECT n.verification, n.rows, string_agg(n.key::text, ', ' ORDER BY n.number) AS keys"
				"   FROM (SELECT u.verification, u.key, count(*) OVER w AS rows, row_number() OVER (w ORDER BY u.key) AS number"
				"     FROM migrate_tiers.suspect AS u WINDOW w AS (PARTITION BY u.verification)) AS n"
				"   WHERE n.number <= 5 GROUP BY n.verification, n.rows) AS s"
				" WHERE s.verification = v.id AND m.id = v.migration AND v.run = $1 AND v.state = 'running' AND v.detail IS NULL",
				MT_ARGS(MT_INT8(run)));
	mt_spi_end(&scope);
}
