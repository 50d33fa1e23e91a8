/*
 * apply.h
 *	  Applies what a tick has collected.
 */
#ifndef MT_APPLY_H
#define MT_APPLY_H

#include "sync/tick.h"

/* How it ended: by being applied, or it is to be applied again (merge.h), or to be taken again (files.h). */
typedef enum MtApplied
{
	MT_APPLIED,
	MT_APPLY_AGAIN,
	MT_TAKE_AGAIN,
} MtApplied;

/* Ways to apply what a tick has collected, in the receiver's transaction: apply.c, apply_large.c, reverse_apply.c. */
typedef MtApplied (*MtApply)(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace);

/* Applies a tick, again and again where need be; false: take it again; what fails for good is raised (attempt.c). */
extern bool mt_apply_run(MtSync *sync, MtApply way, const char *new_mark, TimestampTz snapshot_time);

/* Applies what a tick has collected on the target. */
extern MtApplied mt_apply_small(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace);
extern MtApplied mt_apply_large(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace);
extern char *mt_apply_mark_sql(void);

/* Locks the rows of a table that the tick is about to write, of the target or here. */
extern void mt_apply_lock(MtSync *sync, MtTable *table);
extern void mt_reverse_lock(MtSync *sync, MtTable *table);

/* Waits until what the tick has read survives a crash of the source. */
extern void mt_apply_flush(MtSync *sync);
extern void mt_reverse_flush(MtSync *sync);	/* of the target */

/* Asks in a pipeline, once it was prepared, whether that survives one: target_flushed. */
extern void mt_reverse_prepare_flushed(MtSync *sync);
extern void mt_reverse_ask_flushed(MtSync *sync);

/* Writes a tick of the target here. */
extern MtApplied mt_reverse_apply(MtSync *sync, const char *new_mark, TimestampTz snapshot_time, bool replace);

/* Adds to the error of a tick that was rolled back which row of which table it is about; in culprit.c. */
extern void mt_culprit_name(MtSync *sync, ErrorData *error, bool replace);

#endif							/* MT_APPLY_H */
