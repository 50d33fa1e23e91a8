/*
 * discrepancy.c
 *	  Stores rows that differ: see discrepancy.h.
 */
#include "catalog/discrepancy.h"

#include "utils/timestamp.h"

#include "base/spi.h"

static void keep(const MtRange *range, const MtOutcome *outcome, const MtDiscrepancy *discrepancy);

/* mt_discrepancy_store keeps rows that differ, as long as their verification has room for them. */
void
mt_discrepancy_store(const MtRange *range, const MtOutcome *outcome)
{
	ListCell   *cell;
	MtSpiScope	scope;
	int64		rows;
	int64		bytes;

	if (outcome->discrepancies == NIL)
		return;
	mt_spi_begin(&scope);
	/* One reader after the other. */
	mt_spi_exec(SPI_OK_SELECT, "SELECT FROM migrate_tiers.verification WHERE id = $1 FOR UPDATE",
				MT_ARGS(MT_INT8(range->verification)));
	mt_spi_exec_latest(SPI_OK_SELECT,
					   "SELECT count(*), coalesce(sum(pg_column_size(d.source_row)), 0) + coalesce(sum(pg_column_size(d.target_row)), 0)"
					   " FROM migrate_tiers.discrepancy AS d"
					   " WHERE d.verification = $1",
					   MT_ARGS(MT_INT8(range->verification)));
	rows = mt_spi_int8(0, 1);
	bytes = mt_spi_int8(0, 2);
	foreach(cell, outcome->discrepancies)
	{
		const MtDiscrepancy *discrepancy = (MtDiscrepancy *) lfirst(cell);

		if (rows++ >= MT_KEPT_ROWS || bytes >= MT_KEPT_BYTES)
			break;
		bytes += discrepancy->source_row ? strlen(discrepancy->source_row) : 0;
		bytes += discrepancy->target_row ? strlen(discrepancy->target_row) : 0;
		keep(range, outcome, discrepancy);
	}
	mt_spi_end(&scope);
}

static void
keep(const MtRange *range, const MtOutcome *outcome, const MtDiscrepancy *discrepancy)
{
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.discrepancy (verification, migration, relation, range, kind, key, columns,"
				" source_row, target_row, found) SELECT v.id, v.migration, v.relation, $2, $3, $4, $5::name[],"
				" $6::jsonb, $7::jsonb, $8 FROM migrate_tiers.verification AS v WHERE v.id = $1",
				MT_ARGS(MT_INT8(range->verification), MT_INT4(range->number), MT_TEXT(discrepancy->kind),
						mt_spi_texts_arg(range->nkeys, discrepancy->key), MT_TEXT(discrepancy->columns),
						MT_TEXT(discrepancy->source_row), MT_TEXT(discrepancy->target_row),
						{TIMESTAMPTZOID, TimestampTzGetDatum(outcome->point), false}));
}

/*
 * mt_discrepancy_forget_older deletes what older verifications than those that a run has finished have found.
 *
 * What was repaired stays: it shows what was overwritten.
 */
void
mt_discrepancy_forget_older(int64 run)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE,
				"DELETE FROM migrate_tiers.discrepancy AS d USING migrate_tiers.verification AS v WHERE v.run = $1"
				" AND v.state = 'done' AND v.different_rows IS NOT NULL AND d.relation = v.relation AND d.verification < v.id"
				" AND d.repaired IS NULL",
				MT_ARGS(MT_INT8(run)));
	mt_spi_end(&scope);
}
