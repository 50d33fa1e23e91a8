/*
 * look.h
 *	  Looks into the queue of the side that receives a tick, for what it has not
 *	  sent yet; and asks the sender when it wrote what it sends.
 */
#ifndef MT_LOOK_H
#define MT_LOOK_H

#include "sync/merge.h"

/*
 * Fill "unsent" of the tables of the tick, with the keys that it concerns or with every key; false when the
 * receiver has nothing unsent at all.
 */
extern bool mt_look_target(MtMerge *merge, bool every_key);
extern bool mt_look_source(MtMerge *merge, bool every_key);

/* Whether the target has anything unsent: one question, mostly with the answer no. */
extern bool mt_look_target_unsent(MtSync *sync);
extern void mt_look_prepare_unsent(MtSync *sync);
extern void mt_look_ask_unsent(MtSync *sync);

/* Fills sender_written of the decisions that are open. */
extern void mt_look_sender_times(MtMerge *merge);

/* An entry of the target's queue: kind, xid, time, condition, key. */
typedef struct MtTargetEntry
{
	int			kind;
	uint64		xid;
	TimestampTz written;		/* 0: not asked for */
	const char *condition;		/* with a zero byte at its end, or NULL */
	const char *key;			/* bytes, NULL where there is none */
	int			length;
} MtTargetEntry;

typedef void (*MtTargetEntryFn)(void *arg, MtTable *table, const MtTargetEntry *entry);

/* Gives the entries of a table's queue on the target that the reverse mark does not see. */
extern void mt_look_entries(MtSync *sync, MtTable *table, bool times, MtTargetEntryFn function, void *arg);

/* The same in a pipeline, without times, once mt_look_prepare was called for the table. */
extern void mt_look_prepare(MtSync *sync, MtTable *table);
extern void mt_look_ask(MtSync *sync, MtTable *table, MtTargetEntryFn function, void *arg);

/* Kinds of the target's queue, besides those of ours. */
#define MT_TARGET_SPARE 3		/* a key that truncations named by the condition do not concern */

#endif							/* MT_LOOK_H */
