/*
 * verification.c
 *	  Stores how far verifications are and what came out: see verification.h.
 */
#include "catalog/verification.h"

#include "utils/timestamp.h"

#include "base/spi.h"
#include "catalog/discrepancy.h"
#include "catalog/suspect.h"

static void read_range(MtSpiScope *scope, MtRange *range);

/* mt_verification_new_run gives a number to a call. */
int64
mt_verification_new_run(void)
{
	MtSpiScope	scope;
	int64		run;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT nextval('migrate_tiers.verification_run')", MT_NO_ARGS);
	run = mt_spi_int8(0, 1);
	mt_spi_end(&scope);
	return run;
}

/* mt_verification_begin begins a verification of a table, or goes on with one. */
int64
mt_verification_begin(int32 migration, int32 relation, int64 run, bool scheduled, const char *shape, int64 max_age)
{
	MtSpiScope	scope;
	int64		id;

	mt_spi_begin(&scope);
	/* What was compared before the table was copied anew, or a server failed over, says nothing of its rows now. */
	if (mt_spi_exec(SPI_OK_UPDATE_RETURNING,
					"UPDATE migrate_tiers.verification AS v SET run = $2, state = 'running', verdict = nullif(v.verdict, 'unknown'),"
					" detail = NULL, finished = NULL WHERE v.id = (SELECT max(id) FROM migrate_tiers.verification WHERE relation = $1)"
					" AND v.state <> 'done' AND v.shape = $3"
					" AND (NOT v.given_out OR EXISTS (SELECT FROM migrate_tiers.verification_range AS r"
					"  WHERE r.verification = v.id AND r.state IN ('free', 'running')))"
					" AND coalesce(v.oldest, clock_timestamp()) > clock_timestamp() - $4 * interval '1 microsecond'"
					" AND EXISTS (SELECT FROM migrate_tiers.relation AS c WHERE c.id = v.relation"
					"  AND c.copy_finished <= coalesce(v.oldest, clock_timestamp()))"
					" AND NOT EXISTS (SELECT FROM migrate_tiers.failover AS f WHERE f.migration = v.migration AND f.noticed >= v.oldest)"
					" RETURNING v.id",
					MT_ARGS(MT_INT4(relation), MT_INT8(run), MT_TEXT(shape), MT_INT8(max_age))) == 0)
	{
		/* What an older one has found stays, since it may not be mended yet; its ranges are no use any more. */
		mt_spi_exec(SPI_OK_UPDATE,
					"UPDATE migrate_tiers.verification SET state = 'done', verdict = coalesce(verdict, 'unknown'),"
					" detail = coalesce(detail, 'it was cut off'), finished = coalesce(finished, clock_timestamp())"
					" WHERE relation = $1 AND state <> 'done'",
					MT_ARGS(MT_INT4(relation)));
		mt_spi_exec(SPI_OK_DELETE,
					"DELETE FROM migrate_tiers.verification_range WHERE verification IN"
					" (SELECT id FROM migrate_tiers.verification WHERE relation = $1)",
					MT_ARGS(MT_INT4(relation)));
		mt_spi_exec(SPI_OK_INSERT_RETURNING,
					"INSERT INTO migrate_tiers.verification (migration, relation, run, scheduled, shape)"
					" VALUES ($1, $2, $3, $4, $5) RETURNING id",
					MT_ARGS(MT_INT4(migration), MT_INT4(relation), MT_INT8(run), MT_BOOL(scheduled), MT_TEXT(shape)));
	}
	id = mt_spi_int8(0, 1);
	mt_spi_end(&scope);
	return id;
}

/* mt_verification_refuse stores that a table was not compared, and why. */
void
mt_verification_refuse(int32 migration, int32 relation, int64 run, bool scheduled, const char *detail)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.verification (migration, relation, run, scheduled, state, verdict, detail, finished)"
				" VALUES ($1, $2, $3, $4, 'done', 'unknown', $5, clock_timestamp())",
				MT_ARGS(MT_INT4(migration), MT_INT4(relation), MT_INT8(run), MT_BOOL(scheduled), MT_TEXT(detail)));
	mt_spi_end(&scope);
}

/* mt_verification_store stores a comparison made in one go, with the rows that differ, where these were sought. */
void
mt_verification_store(int32 migration, int32 relation, int64 run, bool scheduled, const char *verdict,
					  const MtOutcome *outcome, const char *detail)
{
	bool		known = strcmp(verdict, "equal") == 0 || outcome->different_rows > 0;
	MtArg		different = {INT8OID, Int64GetDatum(outcome->different_rows), !known};
	MtRange		range = {.nkeys = outcome->nkeys};
	MtArg		at = {TIMESTAMPTZOID, TimestampTzGetDatum(outcome->point), false};
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT_RETURNING,
				"INSERT INTO migrate_tiers.verification (migration, relation, run, scheduled, state, verdict, source_rows,"
				" target_rows, different_rows, oldest, started, finished, detail)"
				" VALUES ($1, $2, $3, $4, 'done', $5, $6, $7, $8, $9, $9, clock_timestamp(), $10) RETURNING id",
				MT_ARGS(MT_INT4(migration), MT_INT4(relation), MT_INT8(run), MT_BOOL(scheduled), MT_TEXT(verdict),
						MT_INT8(outcome->source_rows), MT_INT8(outcome->target_rows), different, at, MT_TEXT(detail)));
	range.verification = mt_spi_int8(0, 1);
	mt_spi_end(&scope);
	mt_discrepancy_store(&range, outcome);
	mt_discrepancy_forget_older(run);
}

/* mt_verification_cut ends a run before its end; the next one goes on with what is there. */
void
mt_verification_cut(int64 run, const char *detail)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification AS v SET state = 'cut', detail = coalesce(v.detail, $2), finished = clock_timestamp(),"
				" verdict = coalesce(v.verdict, 'unknown'), (source_rows, target_rows, different_rows) ="
				" (SELECT sum(r.source_rows), sum(r.target_rows), sum(r.different_rows) FROM migrate_tiers.verification_range AS r"
				"  WHERE r.verification = v.id AND r.state IN ('doubtful', 'done')) WHERE v.run = $1 AND v.state = 'running'",
				MT_ARGS(MT_INT8(run), MT_TEXT(detail)));
	mt_spi_end(&scope);
}

/* mt_verification_fail ends the verification of one table that cannot be compared. */
void
mt_verification_fail(int64 id, const char *detail)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification SET state = 'done', verdict = coalesce(verdict, 'unknown'), detail = $2,"
				" finished = clock_timestamp() WHERE id = $1 AND state = 'running'",
				MT_ARGS(MT_INT8(id), MT_TEXT(detail)));
	mt_spi_end(&scope);
}

/* mt_verification_note keeps what went wrong last. */
void
mt_verification_note(int64 id, const char *detail)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.verification SET detail = $2 WHERE id = $1 AND state = 'running'",
				MT_ARGS(MT_INT8(id), MT_TEXT(detail)));
	mt_spi_end(&scope);
}

/* mt_verification_noted returns what went wrong last in a run, or NULL. */
char *
mt_verification_noted(int64 run)
{
	MtSpiScope	scope;
	char	   *detail;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT max(detail) FROM migrate_tiers.verification WHERE run = $1 AND state = 'running'",
				MT_ARGS(MT_INT8(run)));
	detail = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return detail;
}

/* mt_verification_free_ranges frees the ranges of readers that are gone, and counts those that are done. */
int64
mt_verification_free_ranges(int64 run)
{
	MtSpiScope	scope;
	int64		done;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification_range AS r SET state = CASE WHEN EXISTS (SELECT FROM migrate_tiers.suspect AS s"
				"  WHERE (s.verification, s.range) = (r.verification, r.range)) THEN 'doubtful' ELSE 'free' END"
				" FROM migrate_tiers.verification AS v WHERE v.id = r.verification AND v.run = $1 AND r.state = 'running'",
				MT_ARGS(MT_INT8(run)));
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT count(*) FROM migrate_tiers.verification_range AS r JOIN migrate_tiers.verification AS v"
				" ON v.id = r.verification WHERE v.run = $1 AND r.state IN ('doubtful', 'done')",
				MT_ARGS(MT_INT8(run)));
	done = mt_spi_int8(0, 1);
	mt_spi_end(&scope);
	return done;
}

/* mt_verification_is_open says whether a run has something left to compare. */
bool
mt_verification_is_open(int64 run)
{
	MtSpiScope	scope;
	bool		open;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT EXISTS (SELECT FROM migrate_tiers.verification AS v WHERE v.run = $1 AND v.state = 'running'"
				" AND (NOT v.given_out OR EXISTS (SELECT FROM migrate_tiers.verification_range AS r"
				"  WHERE r.verification = v.id AND r.state <> 'done')))",
				MT_ARGS(MT_INT8(run)));
	open = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return open;
}

/* mt_range_take takes a range that was given out before and is free, or has to be looked at again at this point. */
bool
mt_range_take(int64 run, TimestampTz point, MtRange *range)
{
	MtSpiScope	scope;
	bool		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_UPDATE_RETURNING,
						"UPDATE migrate_tiers.verification_range AS u SET state = 'running', started = clock_timestamp()"
						" FROM (SELECT r.verification, r.range, v.relation, v.range_rows, r.state FROM migrate_tiers.verification_range AS r"
						"   JOIN migrate_tiers.verification AS v ON v.id = r.verification"
						"   WHERE v.run = $1 AND v.state = 'running' AND (r.state = 'free' OR r.state = 'doubtful' AND r.point < $2)"
						"   ORDER BY r.verification, r.range LIMIT 1 FOR UPDATE OF r SKIP LOCKED) AS n"
						" WHERE (u.verification, u.range) = (n.verification, n.range)"
						" RETURNING u.verification, n.relation, u.range, n.range_rows, u.low, u.high, n.state = 'doubtful'",
						MT_ARGS(MT_INT8(run), {TIMESTAMPTZOID, TimestampTzGetDatum(point), false})) > 0;
	if (found)
		read_range(&scope, range);
	mt_spi_end(&scope);
	return found;
}

/* mt_range_next locks a verification that has ranges to give out; of its next one the begin is known. */
bool
mt_range_next(int64 run, MtRange *range)
{
	MtSpiScope	scope;
	bool		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_SELECT,
						"SELECT v.id, v.relation, v.ranges + 1, v.range_rows, v.next_key, NULL::text[], false"
						" FROM migrate_tiers.verification AS v WHERE v.run = $1 AND v.state = 'running' AND NOT v.given_out"
						" ORDER BY v.id LIMIT 1 FOR UPDATE",
						MT_ARGS(MT_INT8(run))) > 0;
	if (found)
		read_range(&scope, range);
	mt_spi_end(&scope);
	return found;
}

/* read_range copies a range; the number of columns of the key is that of its bounds. */
static void
read_range(MtSpiScope *scope, MtRange *range)
{
	int			low;
	int			high;

	range->verification = mt_spi_int8(0, 1);
	range->relation = (int32) mt_spi_int8(0, 2);
	range->number = (int32) mt_spi_int8(0, 3);
	range->rows = mt_spi_int8(0, 4);
	range->low = mt_spi_texts(scope, 0, 5, &low);
	range->high = mt_spi_texts(scope, 0, 6, &high);
	range->nkeys = Max(low, high);
	range->doubtful = mt_spi_bool(0, 7);
}

/* mt_range_give notes that the next range is given out, and where the one after it begins. */
void
mt_range_give(MtRange *range)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.verification_range (verification, range, low, high) VALUES ($1, $2, $3, $4)",
				MT_ARGS(MT_INT8(range->verification), MT_INT4(range->number),
						mt_spi_texts_arg(range->nkeys, range->low), mt_spi_texts_arg(range->nkeys, range->high)));
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification SET next_key = $2, given_out = $2 IS NULL, ranges = $3 WHERE id = $1",
				MT_ARGS(MT_INT8(range->verification), mt_spi_texts_arg(range->nkeys, range->high),
						MT_INT4(range->number)));
	mt_spi_end(&scope);
}

/* mt_range_finish stores the outcome of a range, and how long the next ones should be. */
void
mt_range_finish(const MtRange *range, const MtOutcome *outcome)
{
	int64		rows = Max(outcome->source_rows, outcome->target_rows);
	double		wanted = (double) rows * MT_RANGE_US / Max(outcome->microseconds, 1000);
	MtSpiScope	scope;

	mt_suspect_store(range, outcome);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE, "DELETE FROM migrate_tiers.discrepancy WHERE verification = $1 AND range = $2",
				MT_ARGS(MT_INT8(range->verification), MT_INT4(range->number)));
	mt_discrepancy_store(range, outcome);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification_range SET state = $7, source_rows = $3, target_rows = $4,"
				" different_rows = $5, point = $6, finished = clock_timestamp() WHERE verification = $1 AND range = $2",
				MT_ARGS(MT_INT8(range->verification), MT_INT4(range->number), MT_INT8(outcome->source_rows),
						MT_INT8(outcome->target_rows), MT_INT8(outcome->different_rows),
						{TIMESTAMPTZOID, TimestampTzGetDatum(outcome->point), false},
						MT_TEXT(outcome->suspects ? "doubtful" : "done")));
	/* A range that has few rows says nothing of the others; nor does a single one say all. */
	wanted = Min(Max(wanted, range->rows / 4.0), range->rows * 4.0);
	if (rows < range->rows / 2)
		wanted = Max(wanted, range->rows);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification SET range_rows = greatest($2, 1000), at_mark = $3::pg_snapshot,"
				" oldest = least(oldest, $4), detail = NULL,"
				" verdict = CASE WHEN $5 > 0 THEN 'different' ELSE verdict END WHERE id = $1",
				MT_ARGS(MT_INT8(range->verification), MT_INT8((int64) wanted), MT_TEXT(outcome->mark),
						{TIMESTAMPTZOID, TimestampTzGetDatum(outcome->point), false},
						MT_INT8(outcome->different_rows)));
	mt_spi_end(&scope);
}

/* mt_verification_finish gives a verdict to the tables of a run that were compared to their end. */
void
mt_verification_finish(int64 run)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.verification AS v SET state = 'done', finished = clock_timestamp(),"
				" source_rows = s.source_rows, target_rows = s.target_rows, different_rows = s.different_rows,"
				" verdict = CASE WHEN s.different_rows = 0 AND s.source_rows = s.target_rows THEN 'equal' ELSE 'different' END,"
				" detail = CASE WHEN s.different_rows > k.kept THEN format('%s of the rows that differ are in discrepancies;"
				" the next verification after repair has kept others', k.kept)"
				" WHEN s.points > 1 THEN format('compared at %s common points, the first of %s', s.points, v.oldest) END"
				" FROM migrate_tiers.verification AS w CROSS JOIN LATERAL (SELECT sum(r.source_rows) AS source_rows,"
				"  sum(r.target_rows) AS target_rows, sum(r.different_rows) AS different_rows, count(DISTINCT r.point) AS points,"
				"  bool_and(r.state = 'done') AS done FROM migrate_tiers.verification_range AS r WHERE r.verification = w.id) AS s"
				" CROSS JOIN LATERAL (SELECT count(*) AS kept FROM migrate_tiers.discrepancy AS d WHERE d.verification = w.id) AS k"
				" WHERE w.id = v.id AND v.run = $1 AND v.state = 'running' AND v.given_out AND s.done",
				MT_ARGS(MT_INT8(run)));
	mt_spi_end(&scope);
	mt_discrepancy_forget_older(run);
}
