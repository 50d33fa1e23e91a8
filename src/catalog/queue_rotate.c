/*
 * queue_rotate.c
 *	  Gives back what the queue does not need any more.
 *
 * A segment is truncated as a whole, under a lock that is not waited for, and
 * after every row in it was looked at under that lock.  Correctness does not rest
 * on it: readers read all segments.  What the target must have, so that what is
 * truncated can never be needed, is kept as the floor of the migration: it is the mark that
 * the target has stored.  What came after that mark and is seen by the one in
 * memory was of no concern to any table.
 */
#include "catalog/queue_read.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/spi.h"

static bool truncate_sent(MtSegment *segment, int32 migration, const MtMark *mark, const char *stored);
static bool wholly_sent(MtSegment *segment, Relation relation, const MtMark *mark);
static bool page_sent(Relation relation, BlockNumber block, const MtMark *mark);

/* mt_queue_rotate truncates the segment that will be written next, if nothing in it is needed. */
bool
mt_queue_rotate(MtQueueReader *reader, const MtMigration *migration, const MtMark *mark, const char *stored)
{
	TimestampTz now = GetCurrentTimestamp();
	int			next = (mt_queue_segment_at(migration->queue_retention, now) + 1) % MT_QUEUE_SEGMENTS;
	MtSegment  *segment = &reader->segments[next];

	return segment->newest + migration->queue_retention <= now &&
		truncate_sent(segment, migration->id, mark, stored);
}

/* mt_queue_reclaim truncates whatever segment is wholly sent, however young. */
bool
mt_queue_reclaim(MtQueueReader *reader, const MtMigration *migration, const MtMark *mark, const char *stored)
{
	bool		truncated = false;

	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		truncated = truncate_sent(&reader->segments[i], migration->id, mark, stored) || truncated;
	return truncated;
}

/* truncate_sent truncates a segment if the mark sees every row of it; never waits. */
static bool
truncate_sent(MtSegment *segment, int32 migration, const MtMark *mark, const char *stored)
{
	Relation	relation;
	bool		truncate;
	MtSpiScope	scope;

	/* The floor below is not waited for, either: whoever writes to the queue would wait with us. */
	if (!OidIsValid(segment->relid) || segment->settled.low < segment->settled.frozen ||
		!ConditionalLockRelationOid(segment->relid, AccessExclusiveLock))
		return false;
	relation = table_open(segment->relid, NoLock);
	truncate = RelationGetNumberOfBlocks(relation) > 0 && wholly_sent(segment, relation, mark);
	table_close(relation, NoLock);
	if (!truncate)
	{
		UnlockRelationOid(segment->relid, AccessExclusiveLock);
		return false;
	}
	/* Whoever writes the queue would wait with us for a standby. */
	(void) set_config_option("synchronous_commit", "local", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	mt_spi_begin(&scope);
	truncate = mt_spi_exec(SPI_OK_UPDATE,
						   "UPDATE migrate_tiers.migration SET floor = coalesce($2::pg_snapshot, floor)"
						   " WHERE id = " MT_MIGRATION_IF_FREE,
						   MT_ARGS(MT_INT4(migration), MT_TEXT(stored))) > 0;
	if (truncate)
		mt_spi_exec(SPI_OK_UTILITY,
					psprintf("TRUNCATE migrate_tiers.%s", quote_identifier(get_rel_name(segment->relid))), MT_NO_ARGS);
	mt_spi_end(&scope);
	if (!truncate)
		UnlockRelationOid(segment->relid, AccessExclusiveLock);
	return truncate;
}

/* wholly_sent says whether the mark sees every row; the segment is locked against all. */
static bool
wholly_sent(MtSegment *segment, Relation relation, const MtMark *mark)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(relation);
	BlockNumber from = mt_queue_still_settled(&segment->settled, relation) ? segment->settled.low : 0;

	for (BlockNumber block = from; block < blocks; block++)
		if (!page_sent(relation, block, mark))
			return false;
	return true;
}

static bool
page_sent(Relation relation, BlockNumber block, const MtMark *mark)
{
	Buffer		buffer = ReadBuffer(relation, block);
	Page		page;
	bool		sent = true;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	for (OffsetNumber offset = FirstOffsetNumber;
		 sent && !PageIsNew(page) && offset <= PageGetMaxOffsetNumber(page); offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleHeader header;

		if (!ItemIdIsNormal(item))
			continue;
		header = (HeapTupleHeader) PageGetItem(page, item);
		sent = mt_mark_sees(mark, *(uint64 *) ((char *) header + header->t_hoff));
	}
	UnlockReleaseBuffer(buffer);
	return sent;
}
