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
 */
#include "worker/worker.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* How long the asker may take, and how often it is looked for meanwhile. */
#define HANDOVER_MS 5000
#define LOOK_MS		100

static bool is_asked(MtShared *shared);
static void offer(MtShared *shared, const char *source, const char *target, TimestampTz time);
static void wait_until_taken(MtShared *shared);
static MtPointState read_state(MtShared *shared, int *asker);
static void set_state(MtShared *shared, MtPointState state);

/* mt_worker_give_point exports both sides' snapshots if somebody asks for them. */
void
mt_worker_give_point(MtSync *sync, Snapshot snapshot, TimestampTz time, void *arg)
{
	MtShared   *shared = (MtShared *) arg;
	MtRows	   *rows;

	if (!is_asked(shared))
		return;
	mt_remote_run(sync->remote, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	rows = mt_remote_query(sync->remote, "SELECT pg_catalog.pg_export_snapshot()", MT_NO_PARAMS);
	offer(shared, ExportSnapshot(snapshot), rows->values[0][0], time);
	wait_until_taken(shared);
	mt_remote_run(sync->remote, "COMMIT");
}

/* is_asked says whether somebody who lives asks for a point. */
static bool
is_asked(MtShared *shared)
{
	int			asker;

	if (read_state(shared, &asker) == MT_POINT_NONE)
		return false;
	if (read_state(shared, &asker) == MT_POINT_ASKED && BackendPidGetProc(asker) != NULL)
		return true;
	/* Left by one who is gone, or by an error in the middle. */
	set_state(shared, MT_POINT_NONE);
	return false;
}

static void
offer(MtShared *shared, const char *source, const char *target, TimestampTz time)
{
	if (strlen(source) >= MT_SNAPSHOT_NAME || strlen(target) >= MT_SNAPSHOT_NAME)
		elog(ERROR, "name of an exported snapshot is too long");
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	strlcpy(shared->point.source, source, MT_SNAPSHOT_NAME);
	strlcpy(shared->point.target, target, MT_SNAPSHOT_NAME);
	shared->point.time = time;
	shared->point.state = MT_POINT_OFFERED;
	LWLockRelease(&shared->lock);
	ConditionVariableBroadcast(&shared->point_moved);
}

/* wait_until_taken waits until the asker has both, is gone, or says nothing for too long. */
static void
wait_until_taken(MtShared *shared)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HANDOVER_MS);
	int			asker;

	ConditionVariablePrepareToSleep(&shared->point_moved);
	while (read_state(shared, &asker) == MT_POINT_OFFERED && BackendPidGetProc(asker) != NULL &&
		   GetCurrentTimestamp() < deadline)
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
