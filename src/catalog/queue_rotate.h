/*
 * queue_rotate.h
 *	  Giving back what the queue does not need any more.
 */
#ifndef MT_QUEUE_ROTATE_H
#define MT_QUEUE_ROTATE_H

#include "catalog/queue_read.h"

/* A segment that was found wholly sent. */
typedef struct MtSegmentSent
{
	char	   *mark;			/* that sees all of it, or NULL: not found yet */
	char	   *stored;			/* what the target had of that mark, or NULL */
	TimestampTz at;
	MtSettled	settled;
} MtSegmentSent;

/* What is known of the segments whatever becomes of a session with the target. */
typedef struct MtQueueSent
{
	MemoryContext context;
	MtSegmentSent segments[MT_QUEUE_SEGMENTS];
} MtQueueSent;

/*
 * Truncate segments that were wholly sent a retention ago; or all that are wholly sent.
 * Neither waits.  "stored" is the mark that the target has, as text, or NULL.
 */
extern void mt_queue_rotate(MtQueueReader *reader, MtQueueSent *all, const MtMigration *migration,
							const MtMark *mark, const char *stored);
extern void mt_queue_reclaim(MtQueueReader *reader, MtQueueSent *all, const MtMigration *migration,
							 const MtMark *mark, const char *stored);

/* A session begins with a target that has this mark. */
extern void mt_queue_sent_check(MtQueueSent *all, const MtMark *mark);

#endif							/* MT_QUEUE_ROTATE_H */
