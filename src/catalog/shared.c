/*
 * shared.c
 *	  The worker's shared memory: see shared.h.
 */
#include "catalog/shared.h"

#include "miscadmin.h"
#include "storage/dsm.h"
#include "utils/resowner.h"

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
	shared->pid = MyProcPid;
	*handle = dsm_segment_handle(segment);
	return shared;
}

/* mt_shared_attach attaches to the segment of a worker. */
MtShared *
mt_shared_attach(int64 handle)
{
	dsm_segment *segment;

	if (handle == 0)
		return NULL;
	segment = dsm_find_mapping((dsm_handle) handle);
	if (segment == NULL)
		segment = dsm_attach((dsm_handle) handle);
	return segment ? (MtShared *) dsm_segment_address(segment) : NULL;
}
