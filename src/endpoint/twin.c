/*
 * twin.c
 *	  Keeps a copy of the source from changing the target: see twin.h.
 *
 * Each session of sync leaves a token on the target, which its server has noted before
 * (catalog/session.h).  One that is not known here is that of a copy, or of whom this is a copy of.  A tick goes on
 * from the token of an earlier timeline, since it takes the target over; all else waits until one has.
 *
 * Nothing of that is proof: which server is the source is for a person to say.  He names the token that does not
 * count, so that he has said nothing of the next one, nor for a copy that is made later.
 */
#include "endpoint/twin.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/mark.h"
#include "catalog/option.h"
#include "catalog/session.h"
#include "catalog/worker.h"
#include "endpoint/target.h"

/* How long the session of a worker of ours that has ended may stay there. */
#define LINGER_MS	   10000
#define LINGER_LOOK_MS 50

static uint32 parse_timeline(const char *text);
static void check_session(const MtMigration *migration, const MtFound *found, uint32 timeline);
static void check_set_back(const MtMigration *migration, const MtFound *found, uint32 timeline);
static void check_taken(const MtMigration *migration, const MtFound *found);
static void check_alone(MtRemote *remote, const MtMigration *migration, const char *session);
static char *who_is_it(const MtMigration *migration, const char *session);

/* mt_twin_open connects to change something on the target. */
MtRemote *
mt_twin_open(const MtMigration *migration)
{
	MtRemote   *remote = mt_remote_open(migration);
	MtFound		found;

	if (!mt_target_installed(remote) || !mt_twin_read(remote, migration, &found))
		return remote;
	if (found.session == NULL || strcmp(mt_option_text(migration->id, "take_target"), found.session) != 0)
	{
		mt_twin_check(migration, &found, GetWALInsertionTimeLine());
		check_taken(migration, &found);
		check_alone(remote, migration, found.session);
	}
	return remote;
}

/* mt_twin_read reads who ticked last and up to where. */
bool
mt_twin_read(MtRemote *remote, const MtMigration *migration, MtFound *found)
{
	MtRows	   *rows = mt_remote_query(remote,
									   "SELECT mark, timeline, session, session_timeline FROM migrate_tiers.migration"
									   " WHERE ident = $1",
									   MT_PARAMS(migration->ident));

	if (rows->count != 1)
		return false;
	found->mark = rows->values[0][0] ? pstrdup(rows->values[0][0]) : NULL;
	found->timeline = parse_timeline(rows->values[0][1]);
	found->session = rows->values[0][2];
	found->session_timeline = parse_timeline(rows->values[0][3]);
	return true;
}

static uint32
parse_timeline(const char *text)
{
	return text ? (uint32) strtoul(text, NULL, 10) : 0;
}

/* mt_twin_check refuses what a tick of this server must not go on with. */
void
mt_twin_check(const MtMigration *migration, const MtFound *found, uint32 timeline)
{
	check_session(migration, found, timeline);
	check_set_back(migration, found, timeline);
}

/*
 * check_session refuses a target that another server has written in our name.
 *
 * One that was promoted may lack the last sessions of the server before it, whose timeline is an earlier one.
 */
static void
check_session(const MtMigration *migration, const MtFound *found, uint32 timeline)
{
	if (found->session == NULL || found->session_timeline < timeline ||
		mt_session_known(migration->id, found->session))
		return;
	ereport(ERROR,
			(errcode(MT_ERRCODE_OTHER_SOURCE),
			 errmsg("the target was written by another server that is a copy of this one"),
			 errdetail("Its last session is not one of this server's: both send to it in the name of migration \"%s\".",
					   migration->name),
			 errhint("%s", who_is_it(migration, found->session))));
}

/* check_set_back refuses a mark with ids that this server has not given out, though its log was never another one. */
static void
check_set_back(const MtMigration *migration, const MtFound *found, uint32 timeline)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (found->mark == NULL || found->timeline != timeline || mt_mark_parse(found->mark)->xmax <= next)
		return;
	ereport(ERROR,
			(errcode(MT_ERRCODE_OTHER_SOURCE),
			 errmsg("the target has changes that were never made on this server"),
			 errdetail("The mark there is %s, and the next transaction here is " UINT64_FORMAT
					   ": this server is a copy of the source, or was set back to an earlier state of its files.",
					   found->mark, next),
			 errhint("%s", who_is_it(migration, found->session))));
}

/* check_taken refuses a target that a server before this one wrote last: its worker has not taken it over yet. */
static void
check_taken(const MtMigration *migration, const MtFound *found)
{
	if (found->session == NULL || mt_session_known(migration->id, found->session))
		return;
	ereport(ERROR,
			(errcode(MT_ERRCODE_OTHER_SOURCE),
			 errmsg("this server has not taken over the target of migration \"%s\"", migration->name),
			 errdetail("The last session there is one of timeline %u that is not known here: this server was promoted, or restored, since.",
					   found->session_timeline),
			 errhint("Where it goes on as the source, its worker takes the target over:"
					 " SELECT migrate_tiers.start_workers(), or migrate_tiers.resume() where it is paused. %s",
					 who_is_it(migration, found->session))));
}

/*
 * check_alone refuses a target that somebody ticks on while no worker of this server does.
 *
 * The session of one that has just ended goes within a moment.
 */
static void
check_alone(MtRemote *remote, const MtMigration *migration, const char *session)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LINGER_MS);
	MtRows	   *rows;

	for (;;)
	{
		if (mt_worker_lives(migration->id))
			return;
		rows = mt_remote_query(remote,
							   "SELECT l.pid, coalesce(pg_catalog.host(a.client_addr), 'a local one') FROM pg_catalog.pg_locks AS l"
							   " LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid WHERE " MT_SESSION_LOCK_HELD,
							   MT_PARAMS(migration->ident));
		if (rows->count == 0)
			return;
		if (GetCurrentTimestamp() >= deadline)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LINGER_LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR,
			(errcode(MT_ERRCODE_OTHER_SOURCE),
			 errmsg("another server sends to the target in the name of migration \"%s\"", migration->name),
			 errdetail("Process %s there, whose client address is %s, has the lock of the worker, and no worker of this server runs.",
					   rows->values[0][0], rows->values[0][1]),
			 errhint("If this server is a copy of the source, the target is left to the source by SELECT"
					 " migrate_tiers.set_option('forget_target', 'on'), then migrate_tiers.drop_migration()."
					 " If it is the source, call migrate_tiers.pause() on the copy, and try again."
					 " If it is a session of this server that was cut off, it ends by itself within a minute; or SELECT"
					 " migrate_tiers.set_option('take_target', '%s').",
					 session ? session : "")));
}

/* who_is_it says what to do on either server, since only a person knows which is which. */
static char *
who_is_it(const MtMigration *migration, const char *session)
{
	return psprintf("If this server is a copy of the source, the target is left to the source by SELECT"
					" migrate_tiers.set_option('forget_target', 'on'), then migrate_tiers.drop_migration()."
					" If it is the source, call migrate_tiers.pause() on the copy, and copy anew: SELECT"
					" migrate_tiers.set_option('take_target', '%s'), then %s.",
					session ? session : "", mt_twin_copy_anew(migration));
}

/* mt_twin_copy_anew names the calls by which the source copies anew. */
char *
mt_twin_copy_anew(const MtMigration *migration)
{
	return psprintf("%s, then CALL migrate_tiers.advance('syncing')", mt_phase_way_back(migration->phase, MT_PLANNED));
}
