/*
 * worker_wait.c
 *	  Waits until the sync worker has noticed that ticks go both ways, or one way:
 *	  see worker_wait.h.
 */
#include "catalog/worker_wait.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "catalog/shared.h"
#include "catalog/worker.h"

/* How long to wait in one piece: who waits longer lets others have their turn in between. */
#define LONGEST_WAIT_MS 60000
#define LOOK_MS			10

static bool has_noticed(int32 migration, int pid, bool reversing);

/* mt_worker_wait_reversing waits for the worker. */
void
mt_worker_wait_reversing(int32 migration, bool reversing)
{
	TimestampTz begun = GetCurrentTimestamp();

	for (;;)
	{
		int			pid = mt_worker_pid(migration, MT_WORKER_SYNC);

		/* One that comes later reads what the migration says then. */
		if (pid == 0 || has_noticed(migration, pid, reversing))
			return;
		if (TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), LONGEST_WAIT_MS))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("the sync worker is in the middle of a long tick"),
					 errhint("Look at the lags in migrate_tiers.status; give the call of advance or revert again when they are short.")));
		(void) mt_worker_wake(pid);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static bool
has_noticed(int32 migration, int pid, bool reversing)
{
	static SPIPlanPtr plan = NULL;
	MtSpiScope	scope;
	int64		handle;
	MtShared   *shared;
	bool		noticed;

	mt_spi_begin(&scope);
	mt_spi_exec_kept(&plan, SPI_OK_SELECT, "SELECT worker_shared FROM migrate_tiers.migration WHERE id = $1",
					 MT_ARGS(MT_INT4(migration)));
	handle = mt_spi_int8(0, 1);
	mt_spi_end(&scope);
	shared = mt_shared_attach(handle);
	if (shared == NULL)
		return false;
	LWLockAcquire(&shared->lock, LW_SHARED);
	noticed = shared->pid == pid && shared->acknowledged && shared->reversing == reversing;
	LWLockRelease(&shared->lock);
	return noticed;
}
