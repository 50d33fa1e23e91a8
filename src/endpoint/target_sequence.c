/*
 * target_sequence.c
 *	  Alters sequences of the target, each in one block and so in one
 *	  transaction: see endpoint/sequence.h.
 *
 * What a sequence was is kept on the target itself, in migrate_tiers.sequence,
 * so that it cannot be known of a sequence that was not altered, nor unknown of one that was.
 */
#include "endpoint/target_sequence.h"

#include "utils/builtins.h"

#include "base/settings.h"
#include "endpoint/target_block.h"

static bool has_sequences(MtRemote *remote);
static char *of_migration(const MtMigration *migration);

/* mt_target_sequence_uses lists the sequences behind a table's columns. */
List *
mt_target_sequence_uses(MtRemote *remote, const MtRelation *relation)
{
	MtRows	   *rows = mt_remote_query(remote,
									   "WITH RECURSIVE tree(id, oid) AS (SELECT 0, to_regclass($1)::oid"
									   " UNION SELECT 0, p.relid::oid FROM pg_partition_tree(to_regclass($1)) p)," MT_SQL_SEQUENCE_USES
									   " named AS (SELECT DISTINCT u.attname, c.oid, c.relname FROM uses u JOIN pg_class c ON c.oid = u.sequence)"
									   " SELECT attname, oid, relname, oid::regclass FROM named ORDER BY 1, 3, 2",
									   MT_PARAMS(mt_relation_target_name(relation)));
	List	   *uses = NIL;

	for (int row = 0; row < rows->count; row++)
	{
		MtSequenceUse *use = palloc(sizeof(MtSequenceUse));

		use->column = rows->values[row][0];
		use->sequence = (Oid) strtoul(rows->values[row][1], NULL, 10);
		use->name = rows->values[row][2];
		use->full_name = rows->values[row][3];
		uses = lappend(uses, use);
	}
	return uses;
}

/* mt_target_sequence_interleave has a sequence take turns with one of the source. */
void
mt_target_sequence_interleave(MtRemote *remote, const MtMigration *migration, MtTurn *turn)
{
	turn->migration = quote_literal_cstr(migration->ident);
	mt_target_block(remote, mt_sequence_interleave_sql(false, turn), mt_lock_timeout_text());
}

/* mt_target_sequence_turns lists the sequences of a table that take turns, as sequence and source. */
MtRows *
mt_target_sequence_turns(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	if (!has_sequences(remote))
		return palloc0(sizeof(MtRows));
	return mt_remote_query(remote,
						   "SELECT sequence, source FROM migrate_tiers.sequence"
						   " WHERE migration = $1 AND relation = $2 AND NOT restored ORDER BY sequence",
						   MT_PARAMS(migration->ident, psprintf("%d", relation->id)));
}

/* mt_target_sequence_restore gives a sequence its own settings again. */
void
mt_target_sequence_restore(MtRemote *remote, const MtMigration *migration, Oid sequence, bool keep,
						   const char *other, const char *other_lapped)
{
	char	   *condition = psprintf("%s AND q.sequence = %u", of_migration(migration), sequence);

	mt_target_block(remote, mt_sequence_restore_sql(false, condition, keep, other, other_lapped, false),
					mt_lock_timeout_text());
}

/* mt_target_sequence_given returns the furthest value given out in turns that have ended. */
char *
mt_target_sequence_given(MtRemote *remote, const MtMigration *migration, Oid source, char **lapped)
{
	MtRows	   *rows;

	*lapped = NULL;
	if (!has_sequences(remote))
		return NULL;
	rows = mt_remote_query(remote,
						   "SELECT handed, lapped, restored, sequence::pg_catalog.regclass FROM migrate_tiers.sequence"
						   " WHERE migration = $1 AND source = $2 AND (handed IS NOT NULL OR NOT restored)"
						   " ORDER BY restored, lapped DESC, handed * pg_catalog.sign(increment::numeric) DESC LIMIT 1",
						   MT_PARAMS(migration->ident, psprintf("%u", source)));
	if (rows->count == 0)
		return NULL;
	if (strcmp(rows->values[0][2], "t") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence %s of the target still takes turns", rows->values[0][3]),
				 errhint("Go on with the transition that was cut off: call advance or revert again.")));
	*lapped = rows->values[0][1];
	return rows->values[0][0];
}

/* mt_target_sequence_reached returns the furthest value given out in turns, whether they have ended or not. */
char *
mt_target_sequence_reached(MtRemote *remote, const MtMigration *migration, Oid source, char **lapped)
{
	MtRows	   *rows;

	*lapped = NULL;
	if (!has_sequences(remote))
		return NULL;
	rows = mt_remote_query(remote,
						   "SELECT own, CASE WHEN restored THEN lapped ELSE cycle AND turn * own < turn * begun END AS lap"
						   " FROM (SELECT q.*, pg_catalog.sign(q.increment::numeric) AS turn,"
						   " CASE WHEN q.restored THEN q.handed ELSE pg_catalog.pg_sequence_last_value(q.sequence) END AS own"
						   " FROM migrate_tiers.sequence AS q JOIN pg_catalog.pg_class AS c ON c.oid = q.sequence AND c.relkind = 'S'"
						   " WHERE q.migration = $1 AND q.source = $2) AS q"
						   " WHERE own IS NOT NULL ORDER BY lap DESC NULLS LAST, own * turn DESC LIMIT 1",
						   MT_PARAMS(migration->ident, psprintf("%u", source)));
	if (rows->count == 0)
		return NULL;
	*lapped = rows->values[0][1];
	return rows->values[0][0];
}

/* mt_target_sequences_forget deletes the rows of sequences that are restored, or are gone. */
void
mt_target_sequences_forget(MtRemote *remote, const MtMigration *migration)
{
	if (has_sequences(remote))
		mt_remote_query(remote,
						"DELETE FROM migrate_tiers.sequence AS s WHERE migration = $1"
						" AND (restored OR NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.sequence))",
						MT_PARAMS(migration->ident));
}

/* mt_target_sequences_leave restores what still takes turns when a migration ends. */
void
mt_target_sequences_leave(MtRemote *remote, const MtMigration *migration)
{
	if (has_sequences(remote))
		mt_target_block(remote, mt_target_sequences_leave_sql(migration), mt_lock_timeout_text());
}

/* mt_target_sequences_leave_sql returns the block that does so. */
char *
mt_target_sequences_leave_sql(const MtMigration *migration)
{
	return mt_sequence_restore_sql(false, of_migration(migration), true, NULL, NULL, true);
}

/* mt_target_sequence_leave_sql returns the block for those that take turns with one of the source. */
char *
mt_target_sequence_leave_sql(const MtMigration *migration, Oid source, bool keep, const char *other,
							 const char *other_lapped)
{
	return mt_sequence_restore_sql(false, psprintf("%s AND q.source = %u", of_migration(migration), source), keep, other,
								   other_lapped, true);
}

static bool
has_sequences(MtRemote *remote)
{
	return mt_remote_query(remote, "SELECT pg_catalog.to_regclass('migrate_tiers.sequence')", MT_NO_PARAMS)->values[0][0] != NULL;
}

/* of_migration returns a condition on rows q. */
static char *
of_migration(const MtMigration *migration)
{
	return psprintf("q.migration = %s", quote_literal_cstr(migration->ident));
}
