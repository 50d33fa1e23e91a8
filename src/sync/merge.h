/*
 * merge.h
 *	  What happens to rows that both sides changed.
 *
 * A tick is applied while applications write the receiver, too.  It first writes, which locks the rows that it changes,
 * then looks into the receiver's queue with a snapshot taken after that.  A key of the tick that is found there
 * unsent was changed on both sides: it is decided which row wins, and the tick is applied again by that (rows that are
 * written all the time: see hold.h).  It may commit when a look finds nothing that was not decided.  Whatever an
 * application commits after the look waited for our rows, or met none of them: it comes after the tick, and stays in
 * the queue.
 *
 * The receiver's row wins: the key leaves the tick; the queue still holds it and
 * the way back brings it.  The sender's row wins: it is set, and the entries of the receiver's
 * queue are void, or they would come back as a change.  The rows are equal: no
 * conflict, and the entries are void.  The loser is kept in the same transaction.
 */
#ifndef MT_MERGE_H
#define MT_MERGE_H

#include "sync/tick.h"

/* No application waits for us for long, and none is ended by a deadlock with us: we give up much earlier. */
#define MT_MERGE_LOCK_TIMEOUT_VALUE "50ms"
#define MT_MERGE_LOCK_TIMEOUT		"SET LOCAL lock_timeout = '" MT_MERGE_LOCK_TIMEOUT_VALUE "'"

typedef struct MtDecision
{
	MtTable    *table;
	const char *bytes;			/* the key */
	int			length;
	MtWriters	writers;		/* transactions of the receiver that it is about */
	bool		by_truncate;	/* they truncated, and left no entry of the key */
	bool		decided;
	bool		hot;			/* written again after it had been decided */
	bool		differs;		/* the rows do */
	bool		conflict;		/* and one of them is lost */
	bool		cancel;			/* entries of the receiver are void */
	bool		sender_wins;
	bool		note;			/* the receiver's queue has to hold the key, and does not yet */
	bool		joined;			/* the sender did not change it: a group has brought it into the tick */
	int			group;			/* of keys whose rows cannot stand together (link.h), or 0 */
	TimestampTz sender_written;
	char	   *sender_row;		/* jsonb text, NULL: absent */
	char	   *receiver_row;
} MtDecision;

typedef struct MtMerge
{
	MtSync	   *sync;
	bool		forward;
	MemoryContext context;
	List	   *decisions;		/* MtDecision */
	bool		undecided;		/* some of them */
	int			attempts;		/* how often the tick was applied in vain */
	bool		hot;			/* some keys are */
	bool		recorded;		/* some were conflicts */
	int			groups;
	const char *policy;
	char	   *look;			/* snapshot of the last look, of the receiver (where that is the source) */
	bool		every_key;		/* the last look kept all that the receiver has, not only keys of the tick */
	Snapshot	snapshot;		/* of the tick, where the source sends */
} MtMerge;

extern MtMerge *mt_merge_begin(MtSync *sync, bool forward, Snapshot snapshot);

/* Looks into the receiver's queue, in its transaction; true when all that is there was decided. */
extern bool mt_merge_look(MtMerge *merge);

/* Decides what the look has found, before any of it is written. */
extern void mt_merge_decide(MtMerge *merge);

/* The same, and counts: where applications are always faster, the tick is given up, to be tried later. */
extern void mt_merge_decide_again(MtMerge *merge);

extern void mt_merge_record(MtMerge *merge);	/* keeps what lost, voids entries, in the receiver's transaction */

/* Whether the key stays in the tick: its row has not lost. */
static inline bool
mt_merge_keeps(const MtTable *table, const char *bytes, int length)
{
	MtUnsentKey *key = table->both.skip ? mt_unsent_find(table->both.known, bytes, length) : NULL;

	return key == NULL || ((MtDecision *) key->data)->sender_wins;
}

extern void mt_merge_carry(MtSync *sync);	/* from the target, where they were found */

#endif							/* MT_MERGE_H */
