/*
 * tick.h
 *	  Forward sync: everything committed between two snapshots of the source,
 *	  applied in one transaction of the target.
 */
#ifndef MT_TICK_H
#define MT_TICK_H

#include "base/compat.h"

#include "access/xlogdefs.h"
#include "utils/hsearch.h"

#include "base/mark.h"
#include "catalog/instance.h"
#include "catalog/queue_read.h"
#include "endpoint/endpoint.h"
#include "sync/table.h"

typedef struct MtSync
{
	MtMigration *migration;
	MtRemote   *remote;
	HTAB	   *tables;			/* of MtTable, by relation id */
	MemoryContext tables_context;
	bool		whole;			/* all of them are open: a tick would pass over others' changes for good */
	MtQueueReader *reader;
	MtMark	   *mark;			/* everything up to here is on the target, for joined tables */
	char	   *stored_mark;	/* as the target has it: may be older, where nothing had to be sent */
	uint32		timeline;		/* of the source's log */
	bool		other_timeline;	/* the target's mark is of another: the next tick is stored in any case */
	uint32		target_timeline;	/* of the target's log */
	XLogRecPtr	visible_lsn;	/* all that the tick's snapshot sees is before it in the log */
	TimestampTz mark_time;		/* when the snapshot of the mark was taken */
	MemoryContext context;		/* of the connection: tables, mark */
	MemoryContext tick_context;	/* reset with each tick */
	MemoryContext row_context;	/* of rows on their way */
	MtInstances *instances;		/* who wrote what was read, for whoever opened this; or NULL */
	struct MtFiles *files;		/* of the tables that are read: files.h */
	/* Called at the end of a forward tick, when both sides are equal, inside of its transaction; or NULL. */
	void (*at_mark)(struct MtSync *sync, Snapshot snapshot, TimestampTz time, void *arg);
	/* The same of a tick from the target, whose transaction there is still open: in a new one here. */
	void (*at_reverse_mark)(struct MtSync *sync, Snapshot snapshot, TimestampTz time, void *arg);
	void	   *at_mark_arg;
	struct MtMerge *merge;		/* of the tick under way, while both sides are written; else NULL */
	char	   *reverse_mark;	/* the target's snapshot up to which we have all of it, as text */
	TimestampTz reverse_mark_time;
	bool		reverse_mark_told;	/* the target knows it, for those who wait there */
	char	   *target_lsn;		/* of a reverse tick, as visible_lsn */
	bool		target_flushed;	/* the target's log was seen to be on disk up to there */
	char	   *leaves;			/* state of the target's leaf partitions up to which all is noted; NULL: unknown */
	struct MtGathering *early;	/* rows of the reverse tick that came with its entries, or NULL */
	bool		target_active;	/* the target is likely to have something: it is not asked before the tick begins */
	bool		target_unsent;	/* the target was seen to have something unsent */
	bool		target_small;	/* the reverse tick is read in pipelines */
	bool		cancelled;		/* entries of our queue are void */
	bool		void_left;		/* some may be although nothing comes back any more */
	bool		conflicts_there;	/* conflicts may wait on the target to be brought here */
	int64		reverse_rows;	/* of the last reverse tick */
	TimestampTz reverse_oldest;	/* commit time of the oldest change of the target that is not here, or 0 */
	TimestampTz reverse_seen;	/* when the target was last asked */
	bool		disarmed;		/* a table was found disarmed that is not marked for a new copy yet */
	uint64		keys;			/* of the tick under way, or the last one */
	int64		rows;
	int64		bytes;
	MtTable    *sending;		/* whose rows are read or staged at this moment; NULL: those of any */
	TimestampTz oldest;			/* commit time of the oldest transaction in it, or 0 */
} MtSync;

/* Opens the target for sync in a context of its own, and reads the mark and what has joined. */
extern MtSync *mt_sync_open(MtMigration *migration, MemoryContext parent);
extern void mt_sync_close(MtSync *sync);

/* Reads the tables again, over the same connection: they came, went or changed.  A failure leaves only some. */
extern void mt_sync_reload(MtSync *sync);

extern bool mt_sync_target_moved(const MtSync *sync);	/* since it was opened */

/* Runs one tick.  Tables that are joining join with it.  Returns whether anything was sent. */
extern bool mt_tick_run(MtSync *sync);

/* One tick from the target to the source; returns whether anything was sent. */
extern bool mt_reverse_run(MtSync *sync);
extern MtField mt_reverse_mark_param(const MtSync *sync);	/* the mark of the way back */

#endif							/* MT_TICK_H */
