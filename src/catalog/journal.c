/*
 * journal.c
 *	  What was done: see journal.h.
 *
 * migration.transition is set for as long as a transition is not settled: who
 * finds it set, with nobody holding the migration's lock, finds one that was cut
 * off, and can finish or undo it.
 */
#include "catalog/journal.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/spi.h"

static void show_step(const MtMigration *migration, const char *text);

/* mt_journal_begin begins a transition, or takes up the one that was cut off. */
int32
mt_journal_begin(const MtMigration *migration, MtPhase to, const char *gates)
{
	MtSpiScope	scope;
	int32		id;
	char	   *requested_by = GetUserNameFromId(GetUserId(), false);

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT,
					"SELECT id FROM migrate_tiers.transition WHERE migration = $1 AND finished IS NULL"
					" AND from_phase = $2 AND to_phase = $3 ORDER BY id DESC LIMIT 1",
					MT_ARGS(MT_INT4(migration->id), MT_TEXT(mt_phase_name(migration->phase)),
							MT_TEXT(mt_phase_name(to)))) == 0)
	{
		mt_spi_exec(SPI_OK_UPDATE,
					"UPDATE migrate_tiers.transition SET finished = clock_timestamp(), outcome = 'failed',"
					" error = coalesce(error, 'cut off') WHERE migration = $1 AND finished IS NULL",
					MT_ARGS(MT_INT4(migration->id)));
		mt_spi_exec(SPI_OK_INSERT_RETURNING,
					"INSERT INTO migrate_tiers.transition (migration, from_phase, to_phase, requested_by, gates)"
					" VALUES ($1, $2, $3, $4, coalesce($5, '[]')::jsonb) RETURNING id",
					MT_ARGS(MT_INT4(migration->id), MT_TEXT(mt_phase_name(migration->phase)),
							MT_TEXT(mt_phase_name(to)), MT_TEXT(requested_by), MT_TEXT(gates)));
	}
	id = (int32) mt_spi_int8(0, 1);
	show_step(migration, psprintf("%s to %s", mt_phase_name(migration->phase), mt_phase_name(to)));
	/* A worker that waits after an error tries again: somebody looks after the migration. */
	mt_migration_invalidate();
	mt_spi_end(&scope);
	return id;
}

/*
 * mt_journal_open finds the transition that is not settled.
 *
 * What undoes it has a row of its own, from a phase to the same; so the move is that of the last row
 * between two phases.
 */
bool
mt_journal_open(const MtMigration *migration, MtPhase *from, MtPhase *to)
{
	MtSpiScope	scope;
	bool		found;

	if (migration->transition == NULL)
		return false;
	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_SELECT,
						"SELECT from_phase, to_phase FROM migrate_tiers.transition"
						" WHERE migration = $1 AND from_phase <> to_phase ORDER BY id DESC LIMIT 1",
						MT_ARGS(MT_INT4(migration->id))) > 0;
	if (found)
	{
		*from = mt_phase_parse(mt_spi_text(&scope, 0, 1));
		*to = mt_phase_parse(mt_spi_text(&scope, 0, 2));
	}
	mt_spi_end(&scope);
	return found;
}

/* mt_journal_step notes a step that is done, and shows it as the one under way. */
void
mt_journal_step(int32 id, const MtMigration *migration, const char *step, const char *object,
				const char *outcome, TimestampTz started)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.transition SET steps = steps || jsonb_build_object('step', $2, 'object', $3,"
				" 'started', $5, 'finished', clock_timestamp(), 'outcome', $4) WHERE id = $1",
				MT_ARGS(MT_INT4(id), MT_TEXT(step), MT_TEXT(object), MT_TEXT(outcome),
						{TIMESTAMPTZOID, TimestampTzGetDatum(started), false}));
	show_step(migration, object ? psprintf("%s of %s: %s", step, object, outcome) : psprintf("%s: %s", step, outcome));
	mt_spi_end(&scope);
}

/* mt_journal_end ends a transition. */
void
mt_journal_end(int32 id, const MtMigration *migration, const char *outcome, MtPhase phase,
			   const char *error, bool settled, bool rehearsal)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE,
				"UPDATE migrate_tiers.transition SET finished = clock_timestamp(), outcome = $2, error = $3, rehearsal = $4"
				" WHERE id = $1",
				MT_ARGS(MT_INT4(id), MT_TEXT(outcome), MT_TEXT(error), MT_BOOL(rehearsal)));
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.migration SET phase = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(migration->id), MT_TEXT(mt_phase_name(phase))));
	if (settled)
		show_step(migration, NULL);
	mt_migration_invalidate();
	mt_spi_end(&scope);
}

static void
show_step(const MtMigration *migration, const char *text)
{
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.migration SET transition = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(migration->id), MT_TEXT(text)));
}
