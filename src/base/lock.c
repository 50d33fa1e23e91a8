/*
 * lock.c
 *	  Locks on users' tables: see lock.h.
 */
#include "base/lock.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/settings.h"
#include "base/spi.h"
#include "base/xact.h"

#define FIRST_RETRY_MS 100
#define LAST_RETRY_MS  5000

static void lock_or_give_up(Oid relid, LOCKMODE mode);
static bool is_wanted(const PROCLOCK *held, bool rows);

/* mt_lock_tables locks tables within one lock_timeout for all of them. */
void
mt_lock_tables(const List *relids, LOCKMODE mode)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(mt_clock_now(), mt_lock_timeout);
	ListCell   *cell;

	foreach(cell, relids)
	{
		int			guc_level = NewGUCNestLevel();
		long		left = TimestampDifferenceMilliseconds(mt_clock_now(), deadline);

		(void) set_config_option("lock_timeout", psprintf("%ld", Max(left, 1)), PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
		/* An autovacuum in the way is cancelled by the deadlock check: it has to come before we give up. */
		(void) set_config_option("deadlock_timeout", psprintf("%ld", Max(left / 2, 1)), PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
		lock_or_give_up(lfirst_oid(cell), mode);
		AtEOXact_GUC(true, guc_level);
	}
}

/* lock_or_give_up takes a lock; a deadlock is one more way of not getting it, and to be tried again. */
static void
lock_or_give_up(Oid relid, LOCKMODE mode)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		LockRelationOid(relid, mode);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		if (geterrcode() != ERRCODE_T_R_DEADLOCK_DETECTED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		error->sqlerrcode = ERRCODE_LOCK_NOT_AVAILABLE;
		ReThrowError(error);
	}
	PG_END_TRY();
}

/* mt_lock_retry tries an action again and again while a lock is not to be had. */
ErrorData *
mt_lock_retry(void (*action)(void *arg), void *arg, TimestampTz deadline, const char *waits)
{
	long		wait = FIRST_RETRY_MS;

	for (;;)
	{
		ErrorData  *error = mt_xact_try(action, arg);

		if (error == NULL || !mt_error_is_lock(error) || GetCurrentTimestamp() >= deadline)
			return error;
		if (wait == LAST_RETRY_MS)
			ereport(NOTICE,
					(errmsg_internal("%s", waits),
					 error->context ? errdetail_internal("%s", error->context) : 0));
		FreeErrorData(error);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		wait = Min(wait * 2, LAST_RETRY_MS);
	}
}

/* mt_lock_blockers says who holds what conflicts with a lock on a table. */
char *
mt_lock_blockers(Oid relid, LOCKMODE mode)
{
	MtSpiScope	scope;
	char	   *blockers = NULL;
	List	   *modes = NIL;
	StringInfoData conflicting;

	initStringInfo(&conflicting);
	for (LOCKMODE other = AccessShareLock; other <= AccessExclusiveLock; other++)
		if (DoLockModesConflict(mode, other))
			modes = lappend_int(modes, other);
	for (int i = 0; i < list_length(modes); i++)
		appendStringInfo(&conflicting, "%s%s", i ? "," : "",
						 GetLockmodeName(DEFAULT_LOCKMETHOD, list_nth_int(modes, i)));
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT string_agg(CASE WHEN l.pid IS NULL THEN 'a prepared transaction'"
				" ELSE format('pid %s (%s, %s since %s)', l.pid, coalesce(nullif(a.application_name, ''), a.backend_type),"
				" a.state, date_trunc('second', coalesce(a.xact_start, a.state_change))) END, '; ' ORDER BY a.xact_start)"
				" FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)"
				" WHERE l.relation = $1 AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()"
				" AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
				" AND l.mode = ANY (string_to_array($2, ','))",
				MT_ARGS(MT_OID(relid), MT_TEXT(conflicting.data)));
	blockers = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return blockers;
}

/*
 * mt_lock_is_wanted looks into the shared lock table: who comes to wait for a lock of a fast path moves it there.
 *
 * The server's own LockHasWaiters does not expect a lock that was taken on the fast path.
 */
bool
mt_lock_is_wanted(bool rows)
{
	bool		wanted = false;

	for (int partition = 0; partition < NUM_LOCK_PARTITIONS && !wanted; partition++)
	{
		MtLockIterator iterator;

		LWLockAcquire(LockHashPartitionLockByIndex(partition), LW_SHARED);
		mt_foreach_lock(iterator, MyProc, partition)
			wanted = wanted || is_wanted(mt_this_lock(iterator), rows);
		LWLockRelease(LockHashPartitionLockByIndex(partition));
	}
	return wanted;
}

/* is_wanted says whether a lock of ours stands in the way of somebody. */
static bool
is_wanted(const PROCLOCK *held, bool rows)
{
	const LOCK *lock = held->tag.myLock;
	LockMethod	method = GetLockTagsMethodTable(&lock->tag);

	switch ((LockTagType) lock->tag.locktag_type)
	{
		case LOCKTAG_RELATION:
		case LOCKTAG_VIRTUALTRANSACTION:
			break;
		case LOCKTAG_TRANSACTION:
			if (rows)
				break;
			return false;
		default:
			return false;
	}
	for (LOCKMODE mode = AccessShareLock; mode <= method->numLockModes; mode++)
		if ((held->holdMask & LOCKBIT_ON(mode)) && (lock->waitMask & method->conflictTab[mode]))
			return true;
	return false;
}
