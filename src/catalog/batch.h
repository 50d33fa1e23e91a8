/*
 * batch.h
 *	  Pushes of batch tables as they are noted, and how each table is to be
 *	  pushed: rows of migrate_tiers.batch and migrate_tiers.policy.
 *
 * Whoever pushes a table holds a session lock of its own kind meanwhile.  A row of a push that has not
 * ended, while nobody holds the lock, is of one that was cut off; the next push of the table says so in it.
 */
#ifndef MT_BATCH_H
#define MT_BATCH_H

#include "catalog/relation.h"

#include "datatype/timestamp.h"

typedef struct MtPolicy
{
	char	   *mode;
	char	   *watermark;		/* of append, else NULL */
} MtPolicy;

/* A push, and what there is to say of it when it ends. */
typedef struct MtBatch
{
	int64		id;
	int32		relation;
	bool		reverse;
	bool		scheduled;
	int			failures;		/* of pushes before it, in a row */
	const char *mode;
	TimestampTz snapshot_time;
	int64		sender_rows;
	int64		receiver_rows;
	int64		inserted;
	int64		updated;
	int64		deleted;
	int64		bytes;
	int			ranges;
	int			ranges_sent;
	int			ranges_known;	/* not compared, since nobody touched them */
	char	   *digest;			/* of the sender's rows, or NULL: not kept; and of which expression */
	const char *shape;
	char	   *note;			/* or NULL */
	bool		maybe_applied;	/* the receiver was asked to commit */
	bool		applied;		/* and has said that it did */
} MtBatch;

/* The policy of a table, or what holds where there is none. */
extern MtPolicy *mt_policy_read(int32 relation);

/* Gives a push its number before it begins, so that who asks for it can find it. */
extern int64 mt_batch_next_id(void);

/* Takes a table for a push, for the session; false when somebody pushes it. */
extern bool mt_batch_lock(int32 relation);
extern void mt_batch_unlock(int32 relation);
extern void mt_batch_unlock_all(List *relations);

/* The same until the end of the transaction: no push of the table begins meanwhile. */
extern bool mt_batch_bar(int32 relation);

/* The table that is due by its interval for the longest time, or 0; one that failed waits longer each time. */
extern int32 mt_batch_due(int32 migration);

/* Whether some push of the table, or sync before, may have written the target. */
extern bool mt_batch_has_filled(int32 relation);
/* The newest push of a table that a verification can hold the receiver to; or why there is none. */
typedef struct MtBatchRecord
{
	int64		id;				/* of the newest push, whatever became of it; 0: none */
	bool		reverse;
	int64		rows;			/* of the sender */
	char	   *digest;
	char	   *shape;
	char	   *taken;			/* when its snapshot was taken */
	char	   *why;			/* nothing can be said, or NULL */
} MtBatchRecord;
extern MtBatchRecord *mt_batch_record(int32 relation);

/* Notes of a table that is locked that its pushes were cut off which have not ended. */
extern void mt_batch_cut_off(int32 relation);
extern int	mt_batch_failures(int32 relation, bool reverse);	/* in a row */

/* Notes that a push begins, and that those before it were cut off that did not end; and how it ended, NULL: applied. */
extern void mt_batch_begin(const MtBatch *batch);
extern void mt_batch_end(const MtBatch *batch, const char *error);

#endif							/* MT_BATCH_H */
