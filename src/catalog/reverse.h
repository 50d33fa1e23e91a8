/*
 * reverse.h
 *	  The reverse mark: the target's snapshot up to which the source has
 *	  everything; stored in the transaction that applied it.
 *
 * A row a tick that is only ever inserted, and the newest counts: so it is found
 * at once, whatever old snapshots keep of the others.  And when a server failed over.
 */
#ifndef MT_REVERSE_H
#define MT_REVERSE_H

#include "base/compat.h"

#include "datatype/timestamp.h"

/* Stores a mark (a pg_snapshot of the target, as text) with the timeline of the target's log. */
extern void mt_reverse_mark_store(int32 migration, const char *mark, TimestampTz mark_time, uint32 timeline);

/* The same of a mark that goes less far than the newest, which does not count any more; its time stays. */
extern void mt_reverse_mark_set_back(int32 migration, const char *mark, uint32 timeline);

/* Notes that another server, which may lack some of it, has taken over on either side. */
extern void mt_failover_note(int32 migration);

/* The newest mark in the transaction's snapshot, or NULL: what it stands for is in that snapshot, too. */
extern char *mt_reverse_mark_seen(int32 migration);

/* When the newest was taken, or 0. */
extern TimestampTz mt_reverse_mark_time(int32 migration);

/* Deletes old ones but for some; or all, when the migration goes back to one way. */
extern void mt_reverse_mark_trim(int32 migration);
extern void mt_reverse_mark_forget(int32 migration);

#endif							/* MT_REVERSE_H */
