/*
 * queue_read.c
 *	  Reading the queue: see queue_read.h.
 *
 * A page is settled when no row on it, now or later, can be one that is not yet
 * sent.  Two things make that knowable.  A row goes to the last page or a new
 * one (queue.c), and the writer holds the segment's lock while it inserts: so,
 * with the segment's ShareLock held for a moment, all pages but the last are
 * frozen.  And of a frozen page it is remembered for which one transaction in
 * progress it waits: until that has ended, reading it again would show nothing
 * new.  Pages with rows of several transactions in progress are read each time.
 *
 * Example: transaction 7 writes rows on page 3 and stays open for an hour, while
 * others fill pages 4 to 9000.  Pages 4 to 9000 settle as they are sent; page 3
 * waits for 7 and is not read; low stays at 3 until 7 ends.
 *
 * All of it is true of the pages only that were looked at.  VACUUM may cut off
 * pages at the end whose rows were all rolled back, and others are then written in
 * their place.  It cannot cut off a frozen page without the last one of them: so
 * that one is looked at again each time.  If it is not there, or is the last of
 * the segment, or holds other rows than it did, all that is known is forgotten,
 * which costs reading and nothing else: the mark tells what is sent.
 */
#include "catalog/queue_read.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "base/spi.h"

/* What a page waits for, besides the transaction that it may name. */
#define PAGE_UNKNOWN InvalidTransactionId	/* read it */
#define PAGE_SETTLED FrozenTransactionId

typedef struct MtPageRead
{
	Relation	relation;
	Snapshot	snapshot;
	const MtMark *mark;
	bool		everything;
	MtQueueRowFn row_function;
	void	   *arg;
	MemoryContext scratch;
} MtPageRead;

static void read_segment(MtQueueReader *reader, int number, MtPageRead *read);
static void start_segment(MtQueueReader *reader, int number, Relation relation, bool everything);
static void freeze(Relation relation, MtSettled *settled);
static uint64 page_identity(Relation relation, BlockNumber block);
static TransactionId read_page(MtPageRead *read, BlockNumber block);
static void give_row(MtPageRead *read, HeapTuple tuple);
static void drop_settled(MtSegment *segment);

/* mt_queue_reader_create makes a reader that knows nothing yet. */
MtQueueReader *
mt_queue_reader_create(const MtMigration *migration)
{
	MtQueueReader *reader = palloc0(sizeof(MtQueueReader));

	reader->context = CurrentMemoryContext;
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		reader->segments[i].relid = migration->queue[i];
	return reader;
}

/* mt_queue_read gives every row that the snapshot sees and the mark does not. */
void
mt_queue_read(MtQueueReader *reader, Snapshot snapshot, const MtMark *mark, bool everything,
			  MtQueueRowFn row_function, void *arg)
{
	MtPageRead	read = {
		.snapshot = snapshot,
		.mark = mark,
		.everything = everything,
		.row_function = row_function,
		.arg = arg,
		.scratch = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers queue row", ALLOCSET_DEFAULT_SIZES),
	};

	reader->waiting = false;
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		if (OidIsValid(reader->segments[i].relid))
		{
			read.relation = table_open(reader->segments[i].relid, AccessShareLock);
			read_segment(reader, i, &read);
			table_close(read.relation, AccessShareLock);
		}
	MemoryContextDelete(read.scratch);
}

/* mt_queue_read_done takes over what the last read found out. */
void
mt_queue_read_done(MtQueueReader *reader)
{
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
	{
		MtSegment  *segment = &reader->segments[i];
		MtSegment  *next = &reader->next[i];
		TransactionId *waiting = segment->waiting;

		if (!OidIsValid(segment->relid))
			continue;
		*segment = *next;
		next->waiting = waiting;	/* the room is used again */
		drop_settled(segment);
	}
}

/* read_segment reads the pages of one segment that may hold something new. */
static void
read_segment(MtQueueReader *reader, int number, MtPageRead *read)
{
	MtSegment  *known = &reader->segments[number];
	MtSegment  *next = &reader->next[number];
	BlockNumber blocks;

	start_segment(reader, number, read->relation, read->everything);
	blocks = RelationGetNumberOfBlocks(read->relation);
	next->count = blocks > next->settled.low ? blocks - next->settled.low : 0;
	next->waiting = next->waiting == NULL ?
		MemoryContextAllocHuge(reader->context, sizeof(TransactionId) * Max(next->count, 64)) :
		repalloc_huge(next->waiting, sizeof(TransactionId) * Max(next->count, 64));
	for (uint32 i = 0; i < next->count; i++)
	{
		BlockNumber block = next->settled.low + i;
		TransactionId waiting = PAGE_UNKNOWN;

		if (!read->everything && block < known->settled.frozen && block - known->settled.low < known->count)
			waiting = known->waiting[block - known->settled.low];
		if (waiting == PAGE_UNKNOWN ||
			(waiting != PAGE_SETTLED && !XidInMVCCSnapshot(waiting, read->snapshot)))
			waiting = read_page(read, block);
		if (waiting != PAGE_SETTLED)
			reader->waiting = true;
		next->waiting[i] = waiting;
		CHECK_FOR_INTERRUPTS();
	}
}

/* start_segment begins the new state of a segment; one whose pages are not those that are known is a new one. */
static void
start_segment(MtQueueReader *reader, int number, Relation relation, bool everything)
{
	MtSegment  *known = &reader->segments[number];
	MtSegment  *next = &reader->next[number];
	TransactionId *room = next->waiting;

	if (!mt_queue_still_settled(&known->settled, relation))
	{
		known->settled = (MtSettled) {.filenode = mt_relation_filenode(relation)};
		known->count = 0;
	}
	*next = *known;
	next->waiting = room;
	if (everything)
		next->settled.low = 0;
	freeze(relation, &next->settled);
}

/* mt_queue_still_settled says whether what is known of a segment's pages is still true. */
bool
mt_queue_still_settled(const MtSettled *settled, Relation relation)
{
	if (settled->filenode != mt_relation_filenode(relation))
		return false;
	return settled->frozen == 0 ||
		(RelationGetNumberOfBlocks(relation) > settled->frozen &&
		 page_identity(relation, settled->frozen - 1) == settled->last);
}

/*
 * freeze finds out up to where no page can get another row; without waiting, so maybe nothing new.  A standby cannot
 * have the lock, nor know who has it on the primary.
 */
static void
freeze(Relation relation, MtSettled *settled)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(relation);

	if (blocks <= settled->frozen + 1 || RecoveryInProgress() || !ConditionalLockRelation(relation, ShareLock))
		return;
	blocks = RelationGetNumberOfBlocks(relation);
	UnlockRelation(relation, ShareLock);
	settled->frozen = blocks - 1;
	settled->last = page_identity(relation, settled->frozen - 1);
}

/*
 * page_identity returns what tells the rows of a frozen page from those that another life of the page would hold.
 *
 * A page is cut off, and a place on it used again, only where the transaction that wrote there has
 * been rolled back: it writes nothing more.  A page without rows is told by when it was last changed.
 */
static uint64
page_identity(Relation relation, BlockNumber block)
{
	Buffer		buffer = ReadBuffer(relation, block);
	Page		page;
	uint64		identity = 0;
	bool		empty = true;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	for (OffsetNumber offset = FirstOffsetNumber;
		 !PageIsNew(page) && offset <= PageGetMaxOffsetNumber(page); offset++)
	{
		ItemId		item = PageGetItemId(page, offset);

		if (!ItemIdIsNormal(item))
			continue;
		empty = false;
		identity = hash_bytes_uint32_extended(HeapTupleHeaderGetRawXmin((HeapTupleHeader) PageGetItem(page, item)),
											  identity + offset);
	}
	if (empty)
		identity = BufferGetLSNAtomic(buffer);
	UnlockReleaseBuffer(buffer);
	return identity;
}

/* read_page gives the new rows of a page, and returns what the page waits for. */
static TransactionId
read_page(MtPageRead *read, BlockNumber block)
{
	Buffer		buffer = ReadBuffer(read->relation, block);
	Page		page;
	OffsetNumber visible[MaxHeapTuplesPerPage];
	int			nvisible = 0;
	TransactionId waiting = PAGE_SETTLED;
	HeapTupleData tuple;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple.t_tableOid = RelationGetRelid(read->relation);
	for (OffsetNumber offset = FirstOffsetNumber;
		 !PageIsNew(page) && offset <= PageGetMaxOffsetNumber(page); offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		TransactionId xmin;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		ItemPointerSet(&tuple.t_self, block, offset);
		if (HeapTupleSatisfiesVisibility(&tuple, read->snapshot, buffer))
			visible[nvisible++] = offset;
		else if (xmin = HeapTupleHeaderGetXmin(tuple.t_data),
				 TransactionIdIsNormal(xmin) && XidInMVCCSnapshot(xmin, read->snapshot))
			waiting = waiting == PAGE_SETTLED || waiting == xmin ? xmin : PAGE_UNKNOWN;
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	for (int i = 0; i < nvisible; i++)
	{
		ItemId		item = PageGetItemId(page, visible[i]);

		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		ItemPointerSet(&tuple.t_self, block, visible[i]);
		give_row(read, &tuple);
	}
	ReleaseBuffer(buffer);
	return waiting;
}

static void
give_row(MtPageRead *read, HeapTuple tuple)
{
	Datum		values[4];
	bool		nulls[4];
	MtQueueRow	row;
	MemoryContext previous;
	struct varlena *entries;

	heap_deform_tuple(tuple, RelationGetDescr(read->relation), values, nulls);
	row.xid = U64FromFullTransactionId(DatumGetFullTransactionId(values[0]));
	row.committed = DatumGetTimestampTz(values[1]);
	row.sent = mt_mark_sees(read->mark, row.xid);
	if (row.sent && !read->everything)
		return;
	previous = MemoryContextSwitchTo(read->scratch);
	row.application = TextDatumGetCString(values[2]);
	entries = PG_DETOAST_DATUM_PACKED(values[3]);
	row.entries = VARDATA_ANY(entries);
	row.length = VARSIZE_ANY_EXHDR(entries);
	MemoryContextSwitchTo(previous);
	read->row_function(read->arg, &row);
	MemoryContextReset(read->scratch);
}

/* drop_settled moves low over pages that are settled for good. */
static void
drop_settled(MtSegment *segment)
{
	uint32		settled = 0;

	while (settled < segment->count && segment->settled.low + settled < segment->settled.frozen &&
		   segment->waiting[settled] == PAGE_SETTLED)
		settled++;
	if (settled == 0)
		return;
	segment->settled.low += settled;
	segment->count -= settled;
	memmove(segment->waiting, segment->waiting + settled, sizeof(TransactionId) * segment->count);
}
