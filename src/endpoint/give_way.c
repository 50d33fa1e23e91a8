/*
 * give_way.c
 *	  Ends the wait for a silent target where somebody waits for us: see give_way.h.
 */
#include "endpoint/give_way.h"

#include "postmaster/bgworker.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/settings.h"
#include "endpoint/remote.h"

/* mt_remote_patience says how long to wait at most until it is looked again who waits; 0 where nobody looks. */
long
mt_remote_patience(const MtRemote *remote)
{
	/* What a person asks for is not given up. */
	if (MyBgworkerEntry == NULL)
		return 0;
	return (long) mt_lock_timeout << remote->patience;
}

/* mt_remote_set_patience sets it for this connection. */
void
mt_remote_set_patience(MtRemote *remote, int doublings)
{
	remote->patience = Min(doublings, MT_MOST_PATIENCE);
}

/* mt_remote_writes_rows tells that rows are locked, too, or that they no longer are. */
void
mt_remote_writes_rows(MtRemote *remote, bool writes)
{
	remote->writes_rows = writes;
}

/* mt_remote_gave_way tells this end of an exchange from others. */
bool
mt_remote_gave_way(const MtRemote *remote)
{
	return remote->gave_way;
}

/*
 * mt_remote_heard_nothing is called when a wait has ended and the socket had nothing to do with it.
 *
 * Every commit here may set the latch of the sync worker, so the time is counted over many waits.
 */
void
mt_remote_heard_nothing(MtRemote *remote, bool expired)
{
	long		patience = mt_remote_patience(remote);
	TimestampTz now;

	if (patience == 0)
		return;
	now = mt_clock_now();
	if (remote->silent_since == 0)
		remote->silent_since = now;
	if (!expired && !TimestampDifferenceExceeds(remote->silent_since, now, patience))
		return;
	remote->silent_since = now;
	if (!mt_lock_is_wanted(remote->writes_rows))
		return;
	remote->gave_way = true;
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("the target is silent, and somebody waits for a lock that is held here until it answers"),
			 errdetail("What was under way is given up and tried again.")));
}
