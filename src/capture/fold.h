/*
 * fold.h
 *	  Which keys the buffer of a transaction holds already, so that none is noted twice.
 *
 * It saves room and nothing else: a key that is noted twice is sent once.  So what is
 * remembered may be forgotten at any time, and must be when entries leave the buffer.
 */
#ifndef MT_FOLD_H
#define MT_FOLD_H

#include "base/compat.h"

#include "lib/stringinfo.h"

typedef struct MtFold
{
	uint32	   *slots;			/* position + 1, 0 is free */
	int			from;			/* entries before this position are not looked at */
	int			count;			/* of entries in the slots, or since "from" before there are any */
	bool		hashed;
} MtFold;

/* Whether the entry from a position to the end stands in the buffer already; remembers it if not. */
extern bool mt_fold(MtFold *fold, const StringInfoData *data, int position);

/* Forgets all positions: entries have left the buffer, and so many bytes are left in it. */
extern void mt_fold_clear(MtFold *fold, int left);

#endif							/* MT_FOLD_H */
