/*
 * point.c
 *	  Gives a common point to whoever compares both sides: see catalog/shared.h.
 *
 * It is called at the end of a tick: the receiver has committed, the transaction
 * of the tick with its snapshot S is still there.  What follows the mark is on
 * the target as it is in S, and nobody but this worker writes there while
 * applications are kept out.  So S, and a snapshot that the target takes now, show the
 * same rows.  Both are exported, and this worker waits until the asker has them.
 * The wait is a few milliseconds; it ends also when the asker goes or says nothing.
 *
 * Where applications write the target, too, its snapshot shows also what they have written since
 * the last tick from there: rows of keys that the target's queue holds.  A row that they write
 * all the time is best seen at the end of such a tick, and the asker can ask for that: the target's
 * snapshot is the one that the tick has read, and ours is taken when it has committed.
 */
#include "worker/point.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "catalog/shared.h"

/* How long the asker may take, and how often it is looked for meanwhile. */
#define HANDOVER_MS 5000
#define LOOK_MS		100

/* Forward ticks after which one who asked for a tick from the target gets one of these: maybe nothing comes. */
#define MOST_PASSED 3

static bool is_asked(MtShared *shared, bool back);
static bool is_time(MtShared *shared, bool back);
static void hand_over(MtSync *sync, MtShared *shared, Snapshot snapshot, TimestampTz time, bool back);
static void offer(MtShared *shared, const char *source, const char *target, TimestampTz time, bool back);
static void wait_until_taken(MtShared *shared);
static MtPointState read_state(MtShared *shared, int *asker);
static void set_state(MtShared *shared, MtPointState state);

/* mt_worker_give_point exports both sides' snapshots if somebody asks for them. */
void
mt_worker_give_point(MtSync *sync, Snapshot snapshot, TimestampTz time, void *arg)
{
	MtShared   *shared = (MtShared *) arg;

	if (!is_asked(shared, false))
		return;
	mt_remote_run(sync->remote, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	hand_over(sync, shared, snapshot, time, false);
	mt_remote_run(sync->remote, "COMMIT");
}

/* mt_worker_give_point_back does the same at the end of a tick from the target, in that transaction there. */
void
mt_worker_give_point_back(MtSync *sync, Snapshot snapshot, TimestampTz time, void *arg)
{
	MtShared   *shared = (MtShared *) arg;

	if (is_asked(shared, true))
		hand_over(sync, shared, snapshot, time, true);
}

static void
hand_over(MtSync *sync, MtShared *shared, Snapshot snapshot, TimestampTz time, bool back)
{
	MtRows	   *rows = mt_remote_query(sync->remote, "SELECT pg_catalog.pg_export_snapshot()", MT_NO_PARAMS);

	offer(shared, ExportSnapshot(snapshot), rows->values[0][0], time, back);
	wait_until_taken(shared);
}

/* is_asked says whether somebody who lives asks for a point of this kind. */
static bool
is_asked(MtShared *shared, bool back)
{
	int			asker;

	if (read_state(shared, &asker) == MT_POINT_NONE)
		return false;
	if (read_state(shared, &asker) == MT_POINT_ASKED && BackendPidGetProc(asker) != NULL)
		return is_time(shared, back);
	/* Left by one who is gone, or by an error in the middle. */
	set_state(shared, MT_POINT_NONE);
	return false;
}

/* is_time says whether this kind of tick is the one that is asked for, or is to do. */
static bool
is_time(MtShared *shared, bool back)
{
	bool		time;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	time = shared->point.back == back || (!back && ++shared->point.passed > MOST_PASSED);
	LWLockRelease(&shared->lock);
	return time;
}

static void
offer(MtShared *shared, const char *source, const char *target, TimestampTz time, bool back)
{
	if (strlen(source) >= MT_SNAPSHOT_NAME || strlen(target) >= MT_SNAPSHOT_NAME)
		elog(ERROR, "name of an exported snapshot is too long");
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	strlcpy(shared->point.source, source, MT_SNAPSHOT_NAME);
	strlcpy(shared->point.target, target, MT_SNAPSHOT_NAME);
	shared->point.time = time;
	shared->point.back = back;
	shared->point.state = MT_POINT_OFFERED;
	LWLockRelease(&shared->lock);
	ConditionVariableBroadcast(&shared->point_moved);
}

/* wait_until_taken waits until the asker has both, is gone, or says nothing for too long. */
static void
wait_until_taken(MtShared *shared)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(mt_clock_now(), HANDOVER_MS);
	int			asker;

	ConditionVariablePrepareToSleep(&shared->point_moved);
	while (read_state(shared, &asker) == MT_POINT_OFFERED && BackendPidGetProc(asker) != NULL &&
		   mt_clock_now() < deadline)
		(void) ConditionVariableTimedSleep(&shared->point_moved, LOOK_MS, PG_WAIT_EXTENSION);
	ConditionVariableCancelSleep();
	set_state(shared, MT_POINT_NONE);
	ConditionVariableBroadcast(&shared->point_moved);
}

static MtPointState
read_state(MtShared *shared, int *asker)
{
	MtPointState state;

	LWLockAcquire(&shared->lock, LW_SHARED);
	state = shared->point.state;
	*asker = shared->point.asker;
	LWLockRelease(&shared->lock);
	return state;
}

static void
set_state(MtShared *shared, MtPointState state)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->point.state = state;
	LWLockRelease(&shared->lock);
}
