/*
 * claim.c
 *	  Takes the target for a session of sync: see claim.h.
 *
 * A mark is a set of transaction ids, and says something only to the server that gave
 * them out.  There may be others that think they are that server.
 *
 * One was promoted from a standby that lacked the end of the log: it gives out
 * again the ids that the old server had given out since, and a mark that sees these must not
 * be taken at its word.  So the target keeps with the mark the timeline of the source's log.  From a
 * mark of an earlier timeline counts only what a mark that is kept here sees, too: whatever a
 * row of ours tells has ids that were in the log before it, and these are not given out
 * again.  What came since is sent once more, which changes nothing where it is there already.
 * A chunk of a copy that the target has, and whose end is not noted here, may have been read behind
 * the end of what the standby had: that table is copied again.
 *
 * Another one is a copy of the source that was started: it has the same rows and the same
 * timeline.  That one is told by the sessions that it does not know: see endpoint/twin.h.
 */
#include "sync/claim.h"

#include "access/xlog.h"

#include "base/settings.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/reverse.h"
#include "catalog/session.h"
#include "endpoint/target.h"
#include "endpoint/twin.h"

#define CLAIM_TIMEOUT "10s"

static void read_found(MtSync *sync, MtFound *found);
static void take_lock(MtSync *sync);
static void check_floor(MtSync *sync);
static const char *hint_of_set_back(const MtMigration *migration);
static MtMark *begin_mark(const MtMigration *migration, const MtMark *stored);
static void recopy_doubtful(MtSync *sync);
static bool is_doubtful(MtSync *sync, const MtRelation *relation);
static bool is_done_here(int32 relation, const char *tasks);

/* mt_claim_target makes this session the only one that ticks, and reads the mark. */
void
mt_claim_target(MtSync *sync)
{
	MtFound		found;

	sync->timeline = GetWALInsertionTimeLine();
	/* Before anybody is ended: who must not tick shall not disturb who does. */
	read_found(sync, &found);
	take_lock(sync);
	read_found(sync, &found);
	sync->stored_mark = found.mark;
	sync->mark = mt_mark_parse(found.mark ? found.mark : "0:0:");
	check_floor(sync);
	sync->other_timeline = found.timeline != 0 && found.timeline != sync->timeline;
	if (found.timeline != 0 && found.timeline < sync->timeline)
		sync->mark = begin_mark(sync->migration, sync->mark);
	if (found.session_timeline != 0 && found.session_timeline < sync->timeline)
	{
		mt_failover_note(sync->migration->id);
		recopy_doubtful(sync);
	}
}

/* mt_claim_sign leaves this session's token on the target. */
void
mt_claim_sign(MtSync *sync)
{
	char	   *token = mt_session_add(sync->migration->id);

	mt_xact_commit();
	mt_xact_begin();
	mt_remote_query(sync->remote,
					"UPDATE migrate_tiers.migration SET session = $2, session_timeline = $3 WHERE ident = $1",
					MT_PARAMS(sync->migration->ident, token, psprintf("%u", sync->timeline)));
}

/* read_found reads who ticked last and up to where, and refuses what this server must not go on with. */
static void
read_found(MtSync *sync, MtFound *found)
{
	if (!mt_twin_read(sync->remote, sync->migration, found))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the target does not know migration \"%s\"", sync->migration->name),
				 errdetail("It may have been restored to a time before the migration began."),
				 errhint("%s", hint_of_set_back(sync->migration))));
	mt_twin_check(sync->migration, found, sync->timeline);
}

/*
 * take_lock makes this session the only one that ticks on the target.
 *
 * The session of a worker that is gone may still commit what it was sent last.  It is ended, and the
 * mark is read when it has.
 */
static void
take_lock(MtSync *sync)
{
	MtRows	   *rows = mt_remote_query(sync->remote, "SELECT pg_catalog.pg_try_advisory_lock(" MT_SESSION_LOCK ")",
									   MT_PARAMS(sync->migration->ident));

	if (strcmp(rows->values[0][0], "t") == 0)
		return;
	mt_remote_query(sync->remote,
					"SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks AS l"
					" WHERE " MT_SESSION_LOCK_HELD,
					MT_PARAMS(sync->migration->ident));
	mt_remote_run(sync->remote, "SET lock_timeout = '" CLAIM_TIMEOUT "'");
	mt_remote_query(sync->remote, "SELECT pg_catalog.pg_advisory_lock(" MT_SESSION_LOCK ")",
					MT_PARAMS(sync->migration->ident));
	mt_remote_query(sync->remote, "SELECT pg_catalog.set_config('lock_timeout', $1, false)",
					MT_PARAMS(mt_lock_timeout_text()));
}

/* check_floor refuses a mark that the queue does not reach back to. */
static void
check_floor(MtSync *sync)
{
	const char *floor = sync->migration->floor;

	if (floor != NULL && !mt_mark_covers(sync->mark, mt_mark_parse(floor)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the target is in a state older than the queue reaches back"),
				 errdetail("Its mark is %s, and the queue begins at %s.",
						   sync->stored_mark ? sync->stored_mark : "missing", floor),
				 errhint("%s Option queue_retention sets how long sent changes are kept.",
						 hint_of_set_back(sync->migration))));
}

/* hint_of_set_back says what can be done when the target lacks what the queue has not any more. */
static const char *
hint_of_set_back(const MtMigration *migration)
{
	if (migration->phase <= MT_SYNCING)
		return psprintf("To copy anew: %s.", mt_twin_copy_anew(migration));
	return psprintf("Restore the target to a later time, if you can; or copy anew: %s. To give the target up:"
					" SELECT migrate_tiers.set_option('forget_target', 'on'), then migrate_tiers.drop_migration().",
					mt_twin_copy_anew(migration));
}

/*
 * begin_mark returns what is certain of a mark of an earlier timeline.
 *
 * The mark that the worker leaves here every few seconds makes for few changes that are sent again; each of them
 * may meet one of the target as if it were new.
 */
static MtMark *
begin_mark(const MtMigration *migration, const MtMark *stored)
{
	const char *known = migration->mark ? migration->mark : migration->floor;

	return mt_mark_intersect(stored, mt_mark_parse(known ? known : "0:0:"));
}

/* recopy_doubtful has those tables copied again of which a chunk may be of a state that is no more. */
static void
recopy_doubtful(MtSync *sync)
{
	ListCell   *cell;

	foreach(cell, mt_relation_list(sync->migration->id, "realtime"))
	{
		const MtRelation *relation = (const MtRelation *) lfirst(cell);

		if (!relation->captured || !is_doubtful(sync, relation))
			continue;
		mt_relation_recopy(relation->id, "the source has failed over");
		mt_migration_invalidate();
	}
}

/* is_doubtful says whether the target has a chunk of a table that is not noted here. */
static bool
is_doubtful(MtSync *sync, const MtRelation *relation)
{
	MtRows	   *rows;

	if (strcmp(relation->state, "planned") != 0 && strcmp(relation->state, "copying") != 0)
		return false;
	/* One may commit in this moment. */
	mt_target_await_writers(sync->remote, relation);
	rows = mt_remote_query(sync->remote,
						   "SELECT pg_catalog.array_agg(task) FROM migrate_tiers.chunk WHERE migration = $1 AND relation = $2"
						   " AND incarnation = $3 AND task >= 0",
						   MT_PARAMS(sync->migration->ident, psprintf("%d", relation->id),
									 psprintf("%d", relation->incarnation)));
	return rows->values[0][0] != NULL && !is_done_here(relation->id, rows->values[0][0]);
}

/* is_done_here says whether all of some tasks, given as an array, are noted as done. */
static bool
is_done_here(int32 relation, const char *tasks)
{
	MtSpiScope	scope;
	bool		done;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT $2::integer[] <@ coalesce(array_agg(task), '{}') FROM migrate_tiers.copy_task"
				" WHERE relation = $1 AND state = 'done'",
				MT_ARGS(MT_INT4(relation), MT_TEXT(tasks)));
	done = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return done;
}
