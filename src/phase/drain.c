/*
 * drain.c
 *	  Waiting until what was written on a side that is not written any more has
 *	  arrived on the other: see wait.h.
 */
#include "phase/wait.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/spi.h"
#include "catalog/worker.h"
#include "endpoint/target_reverse.h"

/* Applications are refused for so long, at most; and no longer where nothing comes any more. */
#define LONGEST_DRAIN_MS 60000
#define STOPPED_FOR_MS	 3000

#define LOOK_MS		10
#define CHECK_LOOKS 50

/* Says what is left, by a number that changes when something comes; 0: nothing. */
typedef int64 (*MtLeft)(const MtMigration *migration, MtRemote *remote);

static void wait_until_none(const MtMigration *migration, MtRemote *remote, MtLeft left, const char *column,
							const char *what);
static int64 reverse_left(const MtMigration *migration, MtRemote *remote);
static int64 conflicts_left(const MtMigration *migration, MtRemote *remote);
static bool is_stopped(const MtMigration *migration, const char *column, TimestampTz begun);
static char *stopped_reason(const MtMigration *migration, const char *column);
static void raise_timeout(const MtMigration *migration, const char *column, const char *what);

/* mt_wait_drained_forward waits until the target has all that is committed here now. */
void
mt_wait_drained_forward(const MtMigration *migration)
{
	MtMark	   *token = mt_wait_token();
	TimestampTz begun = GetCurrentTimestamp();
	bool		reached;

	do
		reached = mt_wait_forward(migration, token,
								  TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_MS * CHECK_LOOKS));
	while (!reached && !is_stopped(migration, "stopped", begun) &&
		   !TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), LONGEST_DRAIN_MS));
	if (!reached)
		raise_timeout(migration, "stopped", gettext_noop("the target has not got every change of the source"));
}

/* mt_wait_drained_reverse waits until all that is committed on the target is here. */
void
mt_wait_drained_reverse(const MtMigration *migration, MtRemote *remote)
{
	wait_until_none(migration, remote, reverse_left, "reverse_stopped",
					gettext_noop("the source has not got every change of the target"));
}

/* mt_wait_conflicts_carried waits until rows that lost on the target are noted here. */
void
mt_wait_conflicts_carried(const MtMigration *migration, MtRemote *remote)
{
	wait_until_none(migration, remote, conflicts_left, "reverse_stopped",
					gettext_noop("conflicts that were found on the target are not noted on the source"));
}

static void
wait_until_none(const MtMigration *migration, MtRemote *remote, MtLeft left, const char *column, const char *what)
{
	/* What an answer of the target takes; there are a hundred a second. */
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers drain", ALLOCSET_SMALL_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	TimestampTz begun = GetCurrentTimestamp();
	int64		last = 0;
	int64		now;

	for (int looks = 1; (now = left(migration, remote)) != 0; looks++)
	{
		if (now != last)
			begun = GetCurrentTimestamp();
		last = now;
		if (TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), LONGEST_DRAIN_MS) ||
			(looks % CHECK_LOOKS == 0 && is_stopped(migration, column, begun)))
			raise_timeout(migration, column, what);
		(void) mt_worker_wake(mt_worker_pid(migration->id, MT_WORKER_SYNC));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
}

/* reverse_left says 1 while the reverse mark does not see every transaction that wrote the target. */
static int64
reverse_left(const MtMigration *migration, MtRemote *remote)
{
	uint32		timeline;
	const char *mark = mt_target_reverse_mark(remote, mt_migration_by_id(migration->id, false), &timeline);
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   psprintf("SELECT NOT EXISTS (SELECT FROM migrate_tiers.writer_%.8s"
									" WHERE xid >= pg_catalog.pg_snapshot_xmin($1)"
									" AND NOT pg_catalog.pg_visible_in_snapshot(xid, $1))",
									migration->ident),
						   MT_PARAMS(mark));
	return rows->values[0][0][0] == 't' ? 0 : 1;
}

/* conflicts_left says which conflict is carried next: they go by their numbers, some at a time. */
static int64
conflicts_left(const MtMigration *migration, MtRemote *remote)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "SELECT coalesce(pg_catalog.min(id), 0) FROM migrate_tiers.conflict WHERE migration = $1",
						   MT_PARAMS(migration->ident));
	return pg_strtoint64(rows->values[0][0]);
}

/*
 * is_stopped says whether a direction is stopped and does not go on: what stopped it before the wait began may
 * be mended, and the worker tries again when a transition begins.
 */
static bool
is_stopped(const MtMigration *migration, const char *column, TimestampTz begun)
{
	return TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), STOPPED_FOR_MS) &&
		stopped_reason(migration, column) != NULL;
}

/* stopped_reason says why a direction is stopped, or NULL. */
static char *
stopped_reason(const MtMigration *migration, const char *column)
{
	MtSpiScope	scope;
	char	   *reason;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT, psprintf("SELECT %s FROM migrate_tiers.migration WHERE id = $1", column),
					   MT_ARGS(MT_INT4(migration->id)));
	reason = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return reason;
}

static void
raise_timeout(const MtMigration *migration, const char *column, const char *what)
{
	char	   *reason = stopped_reason(migration, column);

	ereport(ERROR,
			(errcode(MT_ERRCODE_SYNC_TIMEOUT),
			 errmsg_internal("%s", what),
			 reason ? errdetail_internal("%s", reason) : 0,
			 errhint("SELECT * FROM migrate_tiers.status shows what is in the way; then give the call again.")));
}
