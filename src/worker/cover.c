/*
 * cover.c
 *	  Looks now and then for partitions that the target's tables have gained or lost.
 *
 * Each tick does so by itself.  But no trigger fires for rows that are attached,
 * detached or dropped with a partition, so that there need not be a tick; and a
 * partition that is busy gets the TRUNCATE trigger late.
 */
#include "worker/reverse.h"

#include "utils/timestamp.h"

#include "base/clock.h"
#include "sync/leaves.h"

#define LOOK_INTERVAL_MS  1000
#define RETRY_INTERVAL_MS 10000

/* Of the one worker of this process. */
static TimestampTz looked = 0;
static TimestampTz covered = 0;

/* mt_worker_cover sees to partitions that came or went, when it is time. */
void
mt_worker_cover(MtWorker *worker)
{
	TimestampTz now = mt_clock_now();
	bool		again = TimestampDifferenceExceeds(covered, now, RETRY_INTERVAL_MS);

	if (!TimestampDifferenceExceeds(looked, now, LOOK_INTERVAL_MS))
		return;
	/* Before: a lock that is not to be had now is asked for again next time, not at once. */
	looked = now;
	if (again)
		covered = now;
	mt_leaves_look(worker->sync, again);
}
