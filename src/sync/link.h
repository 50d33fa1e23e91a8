/*
 * link.h
 *	  Rows of different keys that cannot stand together, since another unique or
 *	  exclusion constraint refuses it: one that the sender has, one that the receiver
 *	  has written meanwhile.
 *
 * Such keys are linked, and decided as one: the sender's rows win, and those of
 * the receiver go; or the other way round, and what leaves the tick is noted in the receiver's
 * queue, so that the way back takes it from the sender.
 */
#ifndef MT_LINK_H
#define MT_LINK_H

#include "sync/merge.h"

typedef struct MtKeyBytes
{
	const char *bytes;
	int			length;
} MtKeyBytes;

/*
 * In merge.c.  The decision about a key and who wrote it on the receiver's side: open, unless it was made
 * about the same.
 */
extern MtDecision *mt_merge_decision(MtMerge *merge, MtTable *table, const char *bytes, int length,
									 const MtWriters *writers);
extern bool mt_merge_sender_wins(MtMerge *merge, const MtDecision *decision);
extern void mt_merge_settle(MtDecision *decision, bool sender_wins);

/* Finds such rows after a tick was refused and rolled back; whether it found any that were not linked. */
extern bool mt_link_find(MtMerge *merge);

/* Links a row of the tick and one that is in its way; whether they were not linked. */
extern bool mt_link_keys(MtMerge *merge, MtTable *table, const MtKeyBytes *key, const MtKeyBytes *other);

/* Lets the keys of each group be decided as one; after the decision of each. */
extern void mt_link_decide(MtMerge *merge);

/* Notes a key that has left the tick in the receiver's queue, in its transaction. */
extern void mt_link_note(MtMerge *merge, const MtDecision *decision);

#endif							/* MT_LINK_H */
