/*
 * cancelled.h
 *	  Entries of our queue that are void, since the target's row of the key has won.
 */
#ifndef MT_CANCELLED_H
#define MT_CANCELLED_H

#include "sync/tick.h"

/* Reads which entries of our queue are void, and forgets those that the mark has passed; whether there are any. */
extern void mt_cancelled_load(MtSync *sync);
extern void mt_cancelled_forget(MtSync *sync);
extern bool mt_cancelled_left(int32 migration);
extern bool mt_cancelled_is(const MtTable *table, const char *bytes, int length, uint64 xid);
extern void mt_cancelled_spare(MtSync *sync);

#endif							/* MT_CANCELLED_H */
