/*
 * range.h
 *	  Ranges of keys: what of a large table is compared, and sent, by itself.
 *
 * The ranges are all keys, each in exactly one of them, on both sides: also
 * where the sides order keys differently, since then there is one range only.
 */
#ifndef MT_RANGE_H
#define MT_RANGE_H

#include "batch/push.h"

/* Rows that a range has, about. */
#define MT_RANGE_ROWS 10000

typedef struct MtRange
{
	char	  **low;			/* values of the key, inclusive; NULL: open */
	char	  **high;			/* exclusive; NULL: open */
	int64		sender_rows;
	int64		receiver_rows;
	char	   *sender_digest;
	char	   *receiver_digest;
	bool		differs;
} MtRange;

typedef struct MtRanges
{
	int			count;
	MtRange    *ranges;
} MtRanges;

/* Makes ranges of bounds: a row each, columns as the key has them; NULL: one range. */
extern MtRanges *mt_ranges_make(const MtRows *bounds);

/* Finds bounds in the sender's table; NULL where one range is enough. */
extern MtRows *mt_ranges_sample(MtPush *push);

/* Whether the receiver has the bounds in the same order. */
extern bool mt_ranges_agree(MtPush *push, const MtRows *bounds);

/* A condition over the key's columns, each behind a prefix. */
extern char *mt_range_condition(const MtPush *push, const MtRange *range, const char *prefix);

/* A query for count and digest of ranges [first, last) of a table (or its stage): number, rows, digest. */
extern char *mt_ranges_digest_sql(const MtPush *push, const MtRanges *ranges, int first, int last, const char *table);

#endif							/* MT_RANGE_H */
