/*
 * give_way.h
 *	  Nobody waits for a lock of ours because the target does not answer.
 *
 * What is read here is locked until the target has it: by a tick, a chunk, a push, a
 * verification.  A target that stalls would then hold up a TRUNCATE here, and all who
 * queue behind that.  So a worker that hears nothing from the target looks whether somebody
 * waits for it, and if so ends what it does with ERRCODE_LOCK_NOT_AVAILABLE.  All of it can be
 * done again, also where its COMMIT was under way: the target says what it has.
 */
#ifndef MT_GIVE_WAY_H
#define MT_GIVE_WAY_H

#include "endpoint/endpoint.h"

/* How long a target may be silent before it is looked who waits: lock_timeout, doubled so often, up to the most. */
#define MT_MOST_PATIENCE 7
extern void mt_remote_set_patience(MtRemote *remote, int doublings);

/* Whether who waits for a row that this transaction has written counts, too. */
extern void mt_remote_writes_rows(MtRemote *remote, bool writes);

/* Whether that is what ended it. */
extern bool mt_remote_gave_way(const MtRemote *remote);

#endif							/* MT_GIVE_WAY_H */
