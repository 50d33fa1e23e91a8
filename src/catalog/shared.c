/*
 * shared.c
 *	  The worker's shared memory: see shared.h.
 */
#include "catalog/shared.h"

#include "miscadmin.h"
#include "storage/dsm.h"

static void keep_mapped(dsm_segment *segment);
static void cancel_sleep(dsm_segment *segment, Datum arg);
static bool is_ours(dsm_segment *segment);

/* mt_shared_create creates the segment of this worker. */
MtShared *
mt_shared_create(int64 *handle)
{
	dsm_segment *segment;
	MtShared   *shared;

	Assert(CurrentResourceOwner != NULL);
	segment = dsm_create(sizeof(MtShared), 0);
	keep_mapped(segment);
	shared = (MtShared *) dsm_segment_address(segment);
	memset(shared, 0, sizeof(*shared));
	LWLockInitialize(&shared->lock, LWLockNewTrancheId());
	ConditionVariableInit(&shared->progressed);
	ConditionVariableInit(&shared->point_moved);
	shared->pid = MyProcPid;
	shared->magic = MT_SHARED_MAGIC;
	*handle = dsm_segment_handle(segment);
	return shared;
}

/* mt_shared_attach attaches to the segment of a worker; the last one stays mapped. */
MtShared *
mt_shared_attach(int64 handle)
{
	static dsm_segment *mapped = NULL;

	if (mapped != NULL && dsm_segment_handle(mapped) != (dsm_handle) handle)
	{
		dsm_detach(mapped);
		mapped = NULL;
	}
	if (mapped == NULL && handle != 0)
	{
		mapped = dsm_attach((dsm_handle) handle);
		if (mapped != NULL && is_ours(mapped))
			keep_mapped(mapped);
		else if (mapped != NULL)
		{
			dsm_detach(mapped);
			mapped = NULL;
		}
	}
	return mapped ? (MtShared *) dsm_segment_address(mapped) : NULL;
}

/* keep_mapped keeps a segment for longer than the transaction. */
static void
keep_mapped(dsm_segment *segment)
{
	on_dsm_detach(segment, cancel_sleep, (Datum) 0);
	dsm_pin_mapping(segment);
}

/*
 * cancel_sleep leaves the condition variable that this process sleeps on, before the memory goes that it is in.
 *
 * The end of a transaction does so, too; but a process can be ended, or find another worker, outside of one.  The
 * server lets go of the memory before it cancels the sleep of a process that ends, and would then
 * write where nothing is any more: that brings down all sessions.
 */
static void
cancel_sleep(dsm_segment *segment, Datum arg)
{
	ConditionVariableCancelSleep();
}

static bool
is_ours(dsm_segment *segment)
{
	return dsm_segment_map_length(segment) >= sizeof(MtShared) &&
		((MtShared *) dsm_segment_address(segment))->magic == MT_SHARED_MAGIC;
}
