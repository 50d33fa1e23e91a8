/*
 * begun.c
 *	  What the target has of a copy, where it was set back: see copy.h.
 *
 * A target that fails over to a standby, or is restored, may lack the last that
 * was committed there: chunks that are noted here as done, indexes that were built, or
 * even that a table was emptied to be copied again, so that chunks of the copy before
 * stand there with the rows that they brought.  Copies are therefore counted: the
 * target's table of chunks has a row that says for which copy a table was emptied.
 * What the target lost, it lost from the end, so where that row stands all that was done
 * before it stands as well, and what came later is asked for.
 */
#include "copy/copy.h"

#include "utils/builtins.h"

#include "base/spi.h"

/* mt_copy_begin notes on the target that a table is empty there for the copy that begins with the next attachment. */
void
mt_copy_begin(const MtMigration *migration, MtRemote *remote, const MtRelation *relation)
{
	mt_remote_query(remote,
					"INSERT INTO migrate_tiers.chunk (migration, relation, task, incarnation) VALUES ($1, $2, $3, $4)"
					" ON CONFLICT (migration, relation, task) DO UPDATE SET incarnation = excluded.incarnation",
					MT_PARAMS(migration->ident, psprintf("%d", relation->id), MT_COPY_BEGUN,
							  psprintf("%d", relation->incarnation + 1)));
}

/* mt_copy_list_begun lists the tables whose copy has begun on the target. */
List *
mt_copy_list_begun(const MtMigration *migration, MtRemote *remote)
{
	MtRows	   *begun = mt_remote_query(remote, "SELECT relation FROM migrate_tiers.chunk WHERE migration = $1 AND task = $2",
										MT_PARAMS(migration->ident, MT_COPY_BEGUN));
	List	   *ids = NIL;

	for (int row = 0; row < begun->count; row++)
		ids = lappend_int(ids, pg_strtoint32(begun->values[row][0]));
	return ids;
}

/* mt_copy_check_begun marks the tables to be copied again whose copy has not begun on this target. */
void
mt_copy_check_begun(const MtMigration *migration, MtRemote *remote)
{
	MtRows	   *begun;
	MtSpiScope	scope;
	uint64		count;

	begun = mt_remote_query(remote,
							"SELECT pg_catalog.array_agg(pg_catalog.format('%s:%s', relation, incarnation))"
							" FROM migrate_tiers.chunk WHERE migration = $1 AND task = $2",
							MT_PARAMS(migration->ident, MT_COPY_BEGUN));
	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_UPDATE_RETURNING,
						"UPDATE migrate_tiers.relation AS r SET state = 'recopy', note = '" MT_COPY_SET_BACK "'"
						" WHERE migration = $1 AND tier = 'realtime' AND captured AND state IN ('planned', 'copying')"
						" AND NOT EXISTS (SELECT FROM unnest($2::text[]) AS b WHERE b = format('%s:%s', r.id, r.incarnation))"
						" RETURNING relation::regclass::text",
						MT_ARGS(MT_INT4(migration->id), MT_TEXT(begun->values[0][0])));
	for (uint64 row = 0; row < count; row++)
		ereport(LOG,
				(errmsg("migration \"%s\": table %s will be copied to the target again", migration->name,
						mt_spi_text(&scope, row, 1)),
				 errdetail(MT_COPY_SET_BACK_DETAIL)));
	mt_spi_end(&scope);
}

/* mt_copy_await_chunks waits, for lock_timeout, until no chunk of a table can come to the target any more. */
void
mt_copy_await_chunks(const MtMigration *migration, MtRemote *remote, const MtRelation *relation)
{
	mt_remote_query(remote,
					"SELECT FROM migrate_tiers.chunk WHERE migration = $1 AND relation = $2"
					" AND task = " MT_COPY_BEGUN " FOR UPDATE",
					MT_PARAMS(migration->ident, psprintf("%d", relation->id)));
}

/*
 * mt_copy_reopen opens tasks again that are done, but not on this target; says whether there were any.
 *
 * A chunk without rows may have none there either: those of a truncated table are ended unread.
 */
bool
mt_copy_reopen(const MtMigration *migration, MtRemote *remote, const MtRelation *relation)
{
	MtRows	   *there;
	MtSpiScope	scope;
	uint64		count;

	there = mt_remote_query(remote,
							"SELECT (SELECT pg_catalog.array_agg(task) FROM migrate_tiers.chunk"
							" WHERE migration = $1 AND relation = $2 AND incarnation = $3),"
							" (SELECT pg_catalog.array_agg(name::pg_catalog.text) FROM migrate_tiers.set_aside"
							" WHERE migration = $1 AND relation = $2 AND kind <> 'foreign_key' AND state = 'aside'"
							" AND build IS NOT NULL)",
							MT_PARAMS(migration->ident, psprintf("%d", relation->id),
									  psprintf("%d", relation->incarnation)));
	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_UPDATE,
						"UPDATE migrate_tiers.copy_task AS t SET state = 'planned', rows = 0, bytes = 0,"
						" started = NULL, finished = NULL WHERE relation = $1 AND state = 'done' AND CASE kind"
						" WHEN 'chunk' THEN rows > 0 AND NOT EXISTS (SELECT FROM unnest($2::int[]) AS c WHERE c = t.task)"
						" ELSE EXISTS (SELECT FROM unnest($3::text[]) AS i WHERE i = t.object) END",
						MT_ARGS(MT_INT4(relation->id), MT_TEXT(there->values[0][0]), MT_TEXT(there->values[0][1])));
	mt_spi_end(&scope);
	if (count > 0)
		ereport(LOG,
				(errmsg("migration \"%s\": " UINT64_FORMAT " tasks of the copy of table %s are done again",
						migration->name, count, quote_qualified_identifier(relation->schema, relation->name)),
				 errdetail(MT_COPY_SET_BACK_DETAIL)));
	return count > 0;
}
