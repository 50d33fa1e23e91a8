/*
 * reverse.c
 *	  The reverse mark: see reverse.h.
 */
#include "catalog/reverse.h"

#include "utils/timestamp.h"

#include "base/spi.h"

/* Marks that are kept to look back at. */
#define MARKS_KEPT 1000

/* mt_reverse_mark_store stores a mark. */
void
mt_reverse_mark_store(int32 migration, const char *mark, TimestampTz mark_time, uint32 timeline)
{
	static SPIPlanPtr plan = NULL;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec_kept(&plan, SPI_OK_INSERT,
					 "INSERT INTO migrate_tiers.reverse_mark (migration, tick, mark, mark_time, timeline)"
					 " VALUES ($1, coalesce((SELECT max(tick) FROM migrate_tiers.reverse_mark WHERE migration = $1), 0) + 1,"
					 " $2::pg_snapshot, $3, $4)",
					 MT_ARGS(MT_INT4(migration), MT_TEXT(mark),
							 {TIMESTAMPTZOID, TimestampTzGetDatum(mark_time), false}, MT_INT8(timeline)));
	mt_spi_end(&scope);
}

/* mt_reverse_mark_set_back stores a mark that goes less far than the newest. */
void
mt_reverse_mark_set_back(int32 migration, const char *mark, uint32 timeline)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_INSERT,
					   "INSERT INTO migrate_tiers.reverse_mark (migration, tick, mark, mark_time, timeline)"
					   " SELECT migration, tick + 1, $2::pg_snapshot, mark_time, $3 FROM migrate_tiers.reverse_mark"
					   " WHERE migration = $1 ORDER BY tick DESC LIMIT 1",
					   MT_ARGS(MT_INT4(migration), MT_TEXT(mark), MT_INT8(timeline)));
	mt_spi_end(&scope);
}

/* mt_failover_note notes that a server took over: what was verified before says nothing of it. */
void
mt_failover_note(int32 migration)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_INSERT, "INSERT INTO migrate_tiers.failover (migration) VALUES ($1)",
					   MT_ARGS(MT_INT4(migration)));
	mt_spi_end(&scope);
}

/* mt_reverse_mark_seen returns the mark that the transaction's snapshot shows. */
char *
mt_reverse_mark_seen(int32 migration)
{
	MtSpiScope	scope;
	char	   *mark = NULL;

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT,
					"SELECT mark FROM migrate_tiers.reverse_mark WHERE migration = $1 ORDER BY tick DESC LIMIT 1",
					MT_ARGS(MT_INT4(migration))) > 0)
		mark = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return mark;
}

/* mt_reverse_mark_time returns the moment up to which the source has everything. */
TimestampTz
mt_reverse_mark_time(int32 migration)
{
	MtSpiScope	scope;
	TimestampTz time;
	bool		isnull;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT max(mark_time) FROM migrate_tiers.reverse_mark WHERE migration = $1",
				MT_ARGS(MT_INT4(migration)));
	time = DatumGetTimestampTz(mt_spi_datum(0, 1, &isnull));
	mt_spi_end(&scope);
	return isnull ? 0 : time;
}

/* mt_reverse_mark_trim deletes old marks. */
void
mt_reverse_mark_trim(int32 migration)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE,
				"DELETE FROM migrate_tiers.reverse_mark WHERE migration = $1 AND tick <="
				" (SELECT max(tick) FROM migrate_tiers.reverse_mark WHERE migration = $1) - $2",
				MT_ARGS(MT_INT4(migration), MT_INT4(MARKS_KEPT)));
	mt_spi_end(&scope);
}

/* mt_reverse_mark_forget deletes all marks, and what is void in the queue by them. */
void
mt_reverse_mark_forget(int32 migration)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE, "DELETE FROM migrate_tiers.reverse_mark WHERE migration = $1",
				MT_ARGS(MT_INT4(migration)));
	mt_spi_end(&scope);
}
