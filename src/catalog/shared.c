/*
 * shared.c
 *	  The worker's shared memory: see shared.h.
 */
#include "catalog/shared.h"

#include "miscadmin.h"
#include "storage/dsm.h"

static bool is_ours(dsm_segment *segment);

/* mt_shared_create creates the segment of this worker. */
MtShared *
mt_shared_create(int64 *handle)
{
	dsm_segment *segment;
	MtShared   *shared;

	Assert(CurrentResourceOwner != NULL);
	segment = dsm_create(sizeof(MtShared), 0);
	dsm_pin_mapping(segment);
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
			dsm_pin_mapping(mapped);
		else if (mapped != NULL)
		{
			dsm_detach(mapped);
			mapped = NULL;
		}
	}
	return mapped ? (MtShared *) dsm_segment_address(mapped) : NULL;
}

static bool
is_ours(dsm_segment *segment)
{
	return dsm_segment_map_length(segment) >= sizeof(MtShared) &&
		((MtShared *) dsm_segment_address(segment))->magic == MT_SHARED_MAGIC;
}
