/*
 * range.h
 *	  Ranges of keys: what of a large table is compared, and sent, by itself.
 *
 * The ranges are all keys, each in exactly one of them, on both sides: where the sides may order keys
 * differently, there is one range only.  That some bounds are in the same order on both proves nothing of the keys
 * between them, so it is asked what the order depends on (MtPushKey, structure.c).
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
	bool		unknown;		/* to be compared; else both sides are known to be equal there */
	bool		compared;
	bool		differs;
	int64		sender_rows;
	int64		receiver_rows;
	int64		known_rows;		/* when the sides were last equal: see imprint.h */
	int64		sender_kept;	/* of those, still there */
	int64		receiver_kept;
	char	   *sender_digest;
} MtRange;

typedef struct MtRanges
{
	int			count;
	MtRange    *ranges;
} MtRanges;

/* Makes ranges of bounds: a row each, columns as the key has them; NULL: one range.  All are unknown. */
extern MtRanges *mt_ranges_make(const MtRows *bounds);

/* Finds bounds in the sender's table; NULL where one range is enough. */
extern MtRows *mt_ranges_sample(MtPush *push);

/* Rows of the sender's table, about. */
extern double mt_ranges_estimate(MtPush *push);

/* The share of the sender's pages, in percent, that has so many rows or more. */
extern double mt_ranges_sample_share(MtPush *push, int rows);

/* Whether the receiver has the bounds in order: those that were kept may be older than its collations. */
extern bool mt_ranges_agree(MtPush *push, const MtRows *bounds);

/* A condition over the key's columns, each behind a prefix. */
extern char *mt_range_condition(const MtPush *push, const MtRange *range, const char *prefix);

/*
 * A query for count and digest of some ranges of a table (or its stage): position, rows, digest, and how many
 * rows meet a condition; and one for the count alone.
 */
extern char *mt_ranges_digest_sql(const MtPush *push, const MtRanges *ranges, const int *numbers, int count,
								  const char *table, const char *condition);
extern char *mt_ranges_count_sql(const MtPush *push, const MtRanges *ranges, const int *numbers, int count,
								 const char *table);

/* Bounds as JSON, and what a side has of them in an expression; NULL: none. */
extern char *mt_ranges_bounds_json(const MtRows *bounds);
extern MtRows *mt_ranges_read_bounds(MtPush *push, MtSide *side, const char *json);

#endif							/* MT_RANGE_H */
