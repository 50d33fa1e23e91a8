/*
 * xact.c
 *	  Transactions of a worker: see xact.h.
 */
#include "base/xact.h"

#include "access/xact.h"
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

/* mt_xact_commit commits it; the memory context stays the caller's, which must outlive it. */
void
mt_xact_commit(void)
{
	MemoryContext caller = CurrentMemoryContext;

	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}
