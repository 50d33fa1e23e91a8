/*
 * xact.c
 *	  Transactions of workers and procedures: see xact.h.
 */
#include "base/xact.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "tcop/pquery.h"
#include "utils/hsearch.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/* mt_xact_begin begins a transaction; the memory context stays the caller's. */
void
mt_xact_begin(void)
{
	MemoryContext caller = CurrentMemoryContext;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller);
}

/*
 * mt_xact_commit commits it; the memory context stays the caller's, which must outlive it.
 *
 * Of a process that is no session nobody else hands on what it counted, by which autovacuum knows a table's dead rows.
 */
void
mt_xact_commit(void)
{
	MemoryContext caller = CurrentMemoryContext;

	PopActiveSnapshot();
	CommitTransactionCommand();
	(void) pgstat_report_stat(false);
	MemoryContextSwitchTo(caller);
}

/* mt_xact_abort ends whatever was begun and has failed; its error is in the context, which becomes the current one. */
ErrorData *
mt_xact_abort(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	/* Where there was no transaction, nobody else forgets the scans that were not gone through to their end. */
	AtEOXact_HashTables(false);
	MemoryContextSwitchTo(context);
	return error;
}

/*
 * mt_xact_next sets the level, and that it may write, before the transaction's first snapshot: a database that was
 * closed to its applications by default_transaction_read_only is still to be moved on.
 *
 * What the target has done by then stays done: a crash of this server is not to take back what goes with it.
 */
void
mt_xact_next(void)
{
	ForceSyncCommit();
	SPI_commit();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = RecoveryInProgress();
}

/* mt_xact_first leaves the caller with an active snapshot, as it had one before. */
void
mt_xact_first(void)
{
	if (XactIsoLevel == XACT_READ_COMMITTED && XactReadOnly == RecoveryInProgress())
		return;
	mt_xact_next();
	EnsurePortalSnapshotExists();
}

/*
 * mt_xact_flush writes the log up to a place, which was the end of the log when a snapshot had been taken.
 *
 * A place right behind a page's header is the end of the page before, which is all that can be flushed.
 */
void
mt_xact_flush(XLogRecPtr lsn)
{
	if (lsn % XLOG_BLCKSZ == SizeOfXLogShortPHD || XLogSegmentOffset(lsn, wal_segment_size) == SizeOfXLogLongPHD)
		lsn -= lsn % XLOG_BLCKSZ;
	XLogFlush(lsn);
}

/* mt_xact_try runs an action in a subtransaction; the subtransaction ends with what it locked if that fails. */
ErrorData *
mt_xact_try(void (*action)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		action(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/* mt_xact_catch runs an action in no transaction, and aborts what it has begun if it fails. */
ErrorData *
mt_xact_catch(void (*action)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		action(arg);
	}
	PG_CATCH();
	{
		error = mt_xact_abort(context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return error;
}
