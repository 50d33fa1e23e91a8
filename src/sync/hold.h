/*
 * hold.h
 *	  Rows that the receiver writes faster than a tick is applied.
 *
 * Every look would find them written again, and a tick that is applied in vain is longer next time.
 * So they are locked before the tick is applied, and decided under the lock.
 */
#ifndef MT_HOLD_H
#define MT_HOLD_H

#include "sync/merge.h"

/* After so many attempts all rows of the tick are locked: of many, each attempt finds others written. */
#define MT_HOLD_ALL_AFTER 3

/* Whether rows are to be locked first. */
static inline bool
mt_holds_first(const MtMerge *merge)
{
	return merge != NULL && (merge->hot || merge->attempts >= MT_HOLD_ALL_AFTER);
}

/* Locks them, in the receiver's transaction, and decides what a look finds then. */
extern void mt_hold(MtMerge *merge);

#endif							/* MT_HOLD_H */
