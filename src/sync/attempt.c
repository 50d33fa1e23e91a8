/*
 * attempt.c
 *	  Applies a tick until it is applied.
 *
 * Rows that exchange values of another unique key cannot be set one by one; the
 * same tick is then applied as "delete all that it touches, insert what is there".
 * Where a look has found rows that the receiver has changed, too, it is applied again by
 * what was decided of them.  Each attempt is a subtransaction here; on the
 * target a transaction, which the attempt begins and the last one commits.
 */
#include "sync/apply.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/xact.h"
#include "endpoint/give_way.h"
#include "sync/link.h"

/* How often ticks, forward and back, gave way in a row: one that is slow comes to its end, too. */
static int	gave_way[2];

static ErrorData *attempt(MtSync *sync, MtApply way, const char *new_mark, TimestampTz snapshot_time,
						  bool replace, MtApplied *end);
static void be_patient(MtSync *sync, bool back);
static void count_giving_way(MtSync *sync, bool back, bool done);
static bool is_swap(int sqlerrcode);

/* mt_apply_run applies what a tick has collected. */
bool
mt_apply_run(MtSync *sync, MtApply way, const char *new_mark, TimestampTz snapshot_time)
{
	bool		forward = way != mt_reverse_apply;
	bool		replace = false;
	MtApplied	end = MT_APPLY_AGAIN;
	ErrorData  *error;

	for (;;)
	{
		sync->rows = sync->bytes = 0;
		error = attempt(sync, way, new_mark, snapshot_time, replace, &end);
		if (error == NULL && end == MT_APPLIED)
			return true;
		if (error != NULL && (!is_swap(error->sqlerrcode) || !mt_remote_settle(sync->remote)))
			break;
		if (forward)
			mt_remote_run(sync->remote, "ROLLBACK");
		if (error == NULL && end == MT_TAKE_AGAIN)
			return false;
		/* Refused again, although all that the tick touches is gone: by something that the receiver wrote. */
		if (error != NULL && replace && (sync->merge == NULL || !mt_link_find(sync->merge)))
			break;
		if (error == NULL || replace)
			mt_merge_decide_again(sync->merge);
		replace = replace || error != NULL;
		if (error != NULL)
			FreeErrorData(error);
	}
	if (forward)
		mt_culprit_name(sync, error, replace);
	ReThrowError(error);
}

/*
 * mt_apply_flush writes the log up to where the tick's snapshot was taken.
 *
 * A transaction with synchronous_commit off is seen before it is on disk.  Were it lost in a
 * crash after the target has it, its number would be given again, and the mark would count
 * the other one as sent.  Mostly the log is there already.
 */
void
mt_apply_flush(MtSync *sync)
{
	mt_xact_flush(sync->visible_lsn);
}

/* attempt applies once, and returns the error if there was one. */
static ErrorData *
attempt(MtSync *sync, MtApply way, const char *new_mark, TimestampTz snapshot_time, bool replace, MtApplied *end)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	bool		back = way == mt_reverse_apply;

	sync->sending = NULL;
	be_patient(sync, back);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		*end = way(sync, new_mark, snapshot_time, replace);
		if (*end == MT_APPLIED)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
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
	count_giving_way(sync, back, error == NULL && *end == MT_APPLIED);
	return error;
}

/* be_patient says how long the target may be silent while somebody waits for what the tick has locked. */
static void
be_patient(MtSync *sync, bool back)
{
	mt_remote_set_patience(sync->remote, gave_way[back]);
	mt_remote_writes_rows(sync->remote, back);
}

static void
count_giving_way(MtSync *sync, bool back, bool done)
{
	mt_remote_set_patience(sync->remote, 0);
	mt_remote_writes_rows(sync->remote, false);
	if (mt_remote_gave_way(sync->remote))
		gave_way[back]++;
	else if (done)
		gave_way[back] = 0;
}

static bool
is_swap(int sqlerrcode)
{
	/* Two keys that look different and are equal bring one row twice into a statement: cardinality. */
	return sqlerrcode == ERRCODE_UNIQUE_VIOLATION || sqlerrcode == ERRCODE_EXCLUSION_VIOLATION ||
		sqlerrcode == ERRCODE_CARDINALITY_VIOLATION;
}
