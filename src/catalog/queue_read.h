/*
 * queue_read.h
 *	  Reading the queue: every row that a snapshot sees and a mark does not.
 *
 * A reader remembers which pages hold nothing that could still matter, so a
 * tick reads what is new and not what is there.  What it remembers is exact
 * whatever the order in which transactions insert and commit: see queue_read.c.
 */
#ifndef MT_QUEUE_READ_H
#define MT_QUEUE_READ_H

#include "catalog/queue.h"

#include "storage/block.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#include "base/mark.h"

typedef struct MtQueueRow
{
	uint64		xid;			/* top-level transaction */
	TimestampTz committed;
	char	   *application;
	const char *entries;
	int			length;
	bool		sent;			/* the mark sees it; given only when "everything" was asked for */
} MtQueueRow;

typedef void (*MtQueueRowFn)(void *arg, const MtQueueRow *row);

/* What is known of a segment's pages, for as long as they are the same pages. */
typedef struct MtSettled
{
	Oid			filenode;
	BlockNumber low;			/* every page below is settled */
	BlockNumber frozen;			/* no page below will get another row */
	uint64		last;			/* of the last frozen page: what tells its rows from any others */
} MtSettled;

typedef struct MtSegment
{
	Oid			relid;
	MtSettled	settled;
	TransactionId *waiting;		/* of pages low .. low + count - 1 */
	uint32		count;
} MtSegment;

typedef struct MtQueueReader
{
	MemoryContext context;
	MtSegment	segments[MT_QUEUE_SEGMENTS];
	MtSegment	next[MT_QUEUE_SEGMENTS];	/* as it will be when the rows read are dealt with */
	bool		waiting;		/* rows of transactions in progress were seen */
} MtQueueReader;

extern MtQueueReader *mt_queue_reader_create(const MtMigration *migration);

/* Reads; "everything" gives also rows that the mark sees, from the first page on. */
extern void mt_queue_read(MtQueueReader *reader, Snapshot snapshot, const MtMark *mark, bool everything,
						  MtQueueRowFn row_function, void *arg);

/* What the last mt_queue_read gave is dealt with: the mark is now what its snapshot saw. */
extern void mt_queue_read_done(MtQueueReader *reader);

/* Whether what is known of the segment's pages is still true of them; the segment is locked. */
extern bool mt_queue_still_settled(const MtSettled *settled, Relation relation);

#endif							/* MT_QUEUE_READ_H */
