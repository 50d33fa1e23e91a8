/*
 * copy.h
 *	  The initial copy of a table: what was there before capture began.
 *
 * A chunk is a range of blocks.  Of the rows that its own short snapshot sees,
 * those are copied whose xmin S0 sees: any other version was written after
 * capture began, so its key is in the queue and sync brings it.  Hence no
 * snapshot is held for longer than a chunk, no row is copied twice, and rows go
 * by COPY straight into the target's table, which nobody else writes.
 *
 * Blocks are those of the file that was cut into chunks.  A table that has another
 * file now was rewritten, and is copied again, or truncated, and has nothing left
 * to copy: sync replays the TRUNCATE and brings every row that came after it.
 *
 * A chunk's rows and its row in the target's table of chunks are committed
 * together; what the source notes of it may lag, and is only for progress.  It may
 * also be ahead, of a target that was set back: so before a table joins, the target is asked.
 */
#ifndef MT_COPY_H
#define MT_COPY_H

#include "base/xact.h"
#include "catalog/relation.h"
#include "endpoint/endpoint.h"

typedef struct MtCopyTask
{
	int32		relation;
	int32		task;
	bool		index;			/* else a chunk */
	Oid			table;			/* the table or leaf partition */
	Oid			filenode;
	int64		first_block;
	int64		last_block;		/* exclusive */
	char	   *object;			/* of an index: its name on the target */
	TransactionId noted;		/* rows of ids given out since S0 and before this one are noted; or 0 */
	int64		doubts;			/* rows that were noted now: the chunk has to be read again */
	XLogRecPtr	visible_lsn;	/* the log up to here holds all that was seen of the chunk */
} MtCopyTask;

/* Task of the row in the target's table of chunks that says for which copy a table was emptied. */
#define MT_COPY_BEGUN "-1"

/* Why a table is copied again whose copy has not begun on the target. */
#define MT_COPY_SET_BACK \
	"the target was set back to a time before its copy began"
#define MT_COPY_SET_BACK_DETAIL \
	"The target has lost what was committed there last, as in a failover to a standby that lags."

/* Notes on the target that a table is empty there, for the copy of its next attachment. */
extern void mt_copy_begin(const MtMigration *migration, MtRemote *remote, const MtRelation *relation);

/* Lists the tables whose copy has begun on the target, by their numbers. */
extern List *mt_copy_list_begun(const MtMigration *migration, MtRemote *remote);

/* After a connection was made: has the tables copied again whose copy has not begun on this target. */
extern void mt_copy_check_begun(const MtMigration *migration, MtRemote *remote);

/* Before a table joins: one that a worker has left behind may commit late, and is then not to be missed. */
extern void mt_copy_await_chunks(const MtMigration *migration, MtRemote *remote, const MtRelation *relation);

/* When all tasks of a table are done: opens those again that this target lacks, and says whether there were any. */
extern bool mt_copy_reopen(const MtMigration *migration, MtRemote *remote, const MtRelation *relation);

/* Cuts a captured table into tasks and sets its indexes aside; its state becomes copying. */
extern void mt_copy_plan(const MtMigration *migration, MtRemote *remote, const MtRelation *relation);

/* Takes back what was copied of a table, so that it can be planned again. */
extern void mt_copy_forget_tasks(const MtRelation *relation);
extern void mt_copy_forget_target(const MtMigration *migration, MtRemote *remote, const MtRelation *relation);

/* Forgets on the target that a table was copied; its rows stay.  Cut off, mt_copy_list_begun has it still. */
extern void mt_copy_forget_notes(const MtMigration *migration, MtRemote *remote, int32 relation);

/* Runs one task, in transactions of its own; false when there is none.  Pauses as copy_rate asks. */
extern bool mt_copy_run_next(const MtMigration *migration, MtRemote *remote);

/* Whether a table or leaf partition was truncated since S0: what it holds now is noted, and not to be copied. */
extern bool mt_copy_is_emptied(const MtMigration *migration, const MtRelation *relation, Oid table);

/*
 * Copies one chunk, in the current transaction of the source; returns rows, adds
 * to *bytes.  Where task->doubts is set after it, the target has to roll back.
 */
extern int64 mt_copy_chunk(const MtMigration *migration, MtRemote *remote, const MtRelation *relation,
						   MtCopyTask *task, int64 *bytes);

#endif							/* MT_COPY_H */
