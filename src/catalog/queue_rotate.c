/*
 * queue_rotate.c
 *	  Gives back what the queue does not need any more.
 *
 * A segment is truncated as a whole, under a lock that is not waited for, and
 * after every row in it was looked at under that lock.  Correctness does not rest
 * on it: readers read all segments.  What the target must have, so that what is
 * truncated can never be needed, is kept as the floor of the migration: it is a mark that
 * the target has stored.  What came after that mark and is seen by the one in
 * memory was of no concern to any table.
 *
 * What was sent is kept for queue_retention: should the target fail over to a standby that
 * lacks the last ticks, they are sent again.  So both marks are remembered from when all of a
 * segment was first found sent, and when that is long enough ago, the floor is the mark of then:
 * whatever the target has lost since is above it.  A mark of now would be too high for a standby that lacks one tick.
 */
#include "catalog/queue_rotate.h"

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

static void note_sent(MtQueueSent *all, int number, MtSegment *segment, const MtMark *mark, const char *stored);
static void forget_sent(MtSegmentSent *sent);
static void truncate_sent(MtQueueSent *all, int number, Oid relid, int32 migration);
static bool set_floor(int32 migration, const char *stored);
static void raise_others(MtQueueSent *all, const MtSegmentSent *sent);
static bool wholly_sent(const MtSettled *settled, Relation relation, const MtMark *mark);
static bool page_sent(Relation relation, BlockNumber block, const MtMark *mark);

/* mt_queue_rotate truncates what was wholly sent a retention ago; not the segment that is written now. */
void
mt_queue_rotate(MtQueueReader *reader, MtQueueSent *all, const MtMigration *migration, const MtMark *mark,
				const char *stored)
{
	TimestampTz now = GetCurrentTimestamp();
	int			written = mt_queue_segment_at(migration->queue_retention, now);

	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
	{
		const MtSegmentSent *sent = &all->segments[i];

		if (i == written)
			continue;
		if (sent->mark != NULL && sent->at + migration->queue_retention <= now)
			truncate_sent(all, i, reader->segments[i].relid, migration->id);
		if (sent->mark == NULL)
			note_sent(all, i, &reader->segments[i], mark, stored);
	}
}

/* mt_queue_reclaim truncates whatever segment is wholly sent, however young. */
void
mt_queue_reclaim(MtQueueReader *reader, MtQueueSent *all, const MtMigration *migration, const MtMark *mark,
				 const char *stored)
{
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
	{
		forget_sent(&all->segments[i]);
		note_sent(all, i, &reader->segments[i], mark, stored);
	}
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		if (all->segments[i].mark != NULL)
			truncate_sent(all, i, reader->segments[i].relid, migration->id);
}

/* mt_queue_sent_check forgets what a target that was connected to may have lost. */
void
mt_queue_sent_check(MtQueueSent *all, const MtMark *mark)
{
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		if (all->segments[i].mark != NULL && !mt_mark_covers(mark, mt_mark_parse(all->segments[i].mark)))
			forget_sent(&all->segments[i]);
}

/* note_sent remembers that a segment is wholly sent, if it is; without a lock, since that is looked at again. */
static void
note_sent(MtQueueSent *all, int number, MtSegment *segment, const MtMark *mark, const char *stored)
{
	Relation	relation;

	if (!OidIsValid(segment->relid) || segment->settled.low < segment->settled.frozen)
		return;
	relation = table_open(segment->relid, AccessShareLock);
	if (RelationGetNumberOfBlocks(relation) > 0 && wholly_sent(&segment->settled, relation, mark))
		all->segments[number] = (MtSegmentSent) {
			.mark = MemoryContextStrdup(all->context, mt_mark_format(mark)),
			.stored = stored ? MemoryContextStrdup(all->context, stored) : NULL,
			.at = GetCurrentTimestamp(),
			.settled = segment->settled,
		};
	table_close(relation, AccessShareLock);
}

static void
forget_sent(MtSegmentSent *sent)
{
	if (sent->mark)
		pfree(sent->mark);
	if (sent->stored)
		pfree(sent->stored);
	*sent = (MtSegmentSent) {0};
}

/* truncate_sent truncates a segment if the mark that is remembered sees every row of it; never waits. */
static void
truncate_sent(MtQueueSent *all, int number, Oid relid, int32 migration)
{
	MtSegmentSent *sent = &all->segments[number];
	Relation	relation;
	bool		truncate;
	MtSpiScope	scope;

	/* The floor is not waited for, either: whoever writes to the queue would wait with us. */
	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return;
	relation = table_open(relid, NoLock);
	truncate = wholly_sent(&sent->settled, relation, mt_mark_parse(sent->mark));
	table_close(relation, NoLock);
	if (!truncate)
		forget_sent(sent);
	else if (set_floor(migration, sent->stored))
	{
		mt_spi_begin(&scope);
		mt_spi_exec(SPI_OK_UTILITY,
					psprintf("TRUNCATE migrate_tiers.%s", quote_identifier(get_rel_name(relid))), MT_NO_ARGS);
		mt_spi_end(&scope);
		raise_others(all, sent);
		forget_sent(sent);
		return;
	}
	UnlockRelationOid(relid, AccessExclusiveLock);
}

/* set_floor stores a floor, unless somebody has the migration's row. */
static bool
set_floor(int32 migration, const char *stored)
{
	MtSpiScope	scope;
	bool		set;

	/* Whoever writes the queue would wait with us for a standby. */
	(void) set_config_option("synchronous_commit", "local", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	mt_spi_begin(&scope);
	set = mt_spi_exec(SPI_OK_UPDATE,
					  "UPDATE migrate_tiers.migration SET floor = coalesce($2::pg_snapshot, floor)"
					  " WHERE id = " MT_MIGRATION_IF_FREE,
					  MT_ARGS(MT_INT4(migration), MT_TEXT(stored))) > 0;
	mt_spi_end(&scope);
	return set;
}

/* raise_others keeps the floor from going back with a segment that was found sent before the one that has gone. */
static void
raise_others(MtQueueSent *all, const MtSegmentSent *sent)
{
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
	{
		MtSegmentSent *other = &all->segments[i];

		if (other->mark == NULL || sent->stored == NULL || other->at >= sent->at)
			continue;
		if (other->stored)
			pfree(other->stored);
		other->stored = MemoryContextStrdup(all->context, sent->stored);
	}
}

/* wholly_sent says whether the mark sees every row; on pages that were settled by then it does. */
static bool
wholly_sent(const MtSettled *settled, Relation relation, const MtMark *mark)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(relation);
	BlockNumber from = mt_queue_still_settled(settled, relation) ? settled->low : 0;

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
