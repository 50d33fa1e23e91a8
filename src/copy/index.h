/*
 * index.h
 *	  The tasks of a copy that build an index, apart from those of its chunks.
 */
#ifndef MT_COPY_INDEX_H
#define MT_COPY_INDEX_H

#include "copy/copy.h"

/* What of an index's task is in the number of its lock. */
#define MT_COPY_LOCK_MASK 32767

/* Lets a worker take a task that was announced to it, reads that, and notes that it is done; in run.c. */
extern bool mt_copy_claim(MtCopyTask *task);
extern void mt_copy_finish(const MtCopyTask *task, int64 rows, int64 bytes);

/* Does the task of an index; and waits until nobody does one of a table, nor will before the transaction ends. */
extern void mt_copy_run_index(const MtMigration *migration, MtRemote *remote, MtCopyTask *task);
extern void mt_copy_bar_indexes(const MtRelation *relation);

#endif							/* MT_COPY_INDEX_H */
