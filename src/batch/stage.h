/*
 * stage.h
 *	  Where the receiver keeps rows that came until all have come: a table of ours
 *	  there, of the columns of the pushed one and with its key.
 *
 * It outlives a push that is cut off: each range is put there by a transaction of its
 * own, and the next push finds by digests which of them are still as the sender has them.
 * It is unlogged: a crash of the receiver empties it, and then they are sent again.
 * Its comment holds the bounds of the ranges, so that those of the next push are the same.
 */
#ifndef MT_STAGE_H
#define MT_STAGE_H

#include "batch/range.h"

typedef struct MtStage
{
	char	   *table;
	char	   *signature;		/* of what its columns and digests mean */
	bool		exists;
	bool		reused;			/* it was there before this push */
	MtRows	   *bounds;			/* of the push that made it */
} MtStage;

/* Looks for the stage that a push before left; one of another structure is dropped. */
extern MtStage *mt_stage_find(MtPush *push);

/* Makes it, unless it exists. */
extern void mt_stage_create(MtPush *push, MtStage *stage, const MtRows *bounds);

extern void mt_stage_drop(MtPush *push, MtStage *stage);

/* Drops what a push of another kind has left, in the transaction that is open. */
extern void mt_stage_forget(MtPush *push);

/* Brings the rows of a range there, and returns how many; what the stage has of it goes. */
extern int64 mt_stage_fill(MtPush *push, MtStage *stage, const MtRange *range);

/* Whether it has a range with just these rows, from a push before. */
extern bool mt_stage_has(MtPush *push, MtStage *stage, const MtRanges *ranges, int number);

/* Makes it fit to be compared with the receiver's table; in the transaction that is open. */
extern void mt_stage_finish(MtPush *push, MtStage *stage);

/* Finds by that which ranges differ, where all of them were sent. */
extern void mt_stage_compare(MtPush *push, MtStage *stage, MtRanges *ranges);

/* Makes the receiver's rows of the ranges that differ those of the stage; in the transaction that is open. */
extern void mt_stage_apply(MtPush *push, MtStage *stage, const MtRanges *ranges);

/* The condition that a row t of the table and a row s of the stage have the same key. */
extern char *mt_stage_key_match(const MtPush *push);

#endif							/* MT_STAGE_H */
