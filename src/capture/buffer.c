/*
 * buffer.c
 *	  What a transaction has noted: see buffer.h.
 *
 * At pre-commit and pre-prepare what is left becomes one row of the queue, with
 * the time of that moment: so a transaction's last row carries its commit time.
 * A level whose notes outgrow a row is written at once.  After commit the worker
 * is woken; if there is none although one is wanted, it is started.
 *
 * Invariants: levels[0] is the transaction itself and starts at 0; the notes of
 * levels[i] are data[levels[i].start .. levels[i + 1].start); a position in the
 * fold table is the start of an entry that is still in the buffer.
 */
#include "capture/buffer.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "capture/limit.h"
#include "catalog/worker.h"

/* Up to this many entries are folded by looking at each, which is cheaper than hashing. */
#define FOLD_BY_SCAN  8
#define FOLD_SLOTS	  4096
#define FOLD_SLOT_MAX (FOLD_SLOTS * 3 / 4)

typedef struct MtLevel
{
	int			nest;
	int			start;
} MtLevel;

typedef struct MtBuffer
{
	int32		migration;
	StringInfoData data;
	MtLevel    *levels;
	int			nlevels;
	int			room;
	uint32	   *fold;			/* position + 1, 0 is free */
	int			folded;			/* entries in the fold table, or in the buffer before there is one */
	bool		hashed;
	bool		used;			/* by this transaction */
	bool		written;		/* notes went out, or were dropped */
	bool		inserted;		/* rows of the queue went out */
	MtQueue		queue;
	MtLimit		limit;
	TimestampTz launched;
	struct MtBuffer *next;
} MtBuffer;

static MtBuffer *buffers = NULL;
static bool any_used = false;
static Oid	migration_table = InvalidOid;	/* whose invalidation makes the caches stale */
static uint64 invalidations = 0;

static MtBuffer *get_buffer(int32 migration);
static void refresh_queue(MtBuffer *buffer);
static MtLevel *current_level(MtBuffer *buffer);
static bool fold(MtBuffer *buffer, const char *entry, int length, int position);
static bool fold_by_scan(MtBuffer *buffer, const char *entry, int length);
static void fold_by_hash(MtBuffer *buffer, int position, int length);
static void clear_fold(MtBuffer *buffer);
static void write_from(MtBuffer *buffer, int start);
static void insert(MtBuffer *buffer, const char *entries, int length);
static void reset_buffer(MtBuffer *buffer);
static void on_transaction(XactEvent event, void *arg);
static void on_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg);
static void on_invalidation(Datum arg, Oid relid);

/* mt_buffer_init registers the callbacks that end a transaction's notes. */
void
mt_buffer_init(void)
{
	RegisterXactCallback(on_transaction, NULL);
	RegisterSubXactCallback(on_subtransaction, NULL);
	CacheRegisterRelcacheCallback(on_invalidation, (Datum) 0);
}

/* mt_buffer_note notes a change of the current (sub)transaction. */
void
mt_buffer_note(int32 migration, int32 relation, MtEntryKind kind, const char *bytes, int length)
{
	MtBuffer   *buffer = get_buffer(migration);
	MtLevel    *level = current_level(buffer);
	int			before = buffer->data.len - level->start;

	if (before > 0 && before + MT_ENTRY_HEAD_MAX + length > MT_QUEUE_ROW_BYTES)
		write_from(buffer, level->start);
	before = buffer->data.len;
	mt_entry_append(&buffer->data, relation, kind, bytes, length);
	if (kind == MT_ENTRY_KEY && fold(buffer, buffer->data.data + before, buffer->data.len - before, before))
		buffer->data.len = before;
}

/* mt_buffer_fenced says what is cached of the fence. */
bool
mt_buffer_fenced(int32 migration)
{
	return get_buffer(migration)->queue.fenced;
}

/* get_buffer returns a migration's buffer, ready for this transaction. */
static MtBuffer *
get_buffer(int32 migration)
{
	MtBuffer   *buffer = buffers;
	MemoryContext previous;

	while (buffer != NULL && buffer->migration != migration)
		buffer = buffer->next;
	if (buffer == NULL)
	{
		previous = MemoryContextSwitchTo(TopMemoryContext);
		buffer = palloc0(sizeof(MtBuffer));
		buffer->migration = migration;
		buffer->room = 8;
		buffer->levels = palloc0(sizeof(MtLevel) * buffer->room);
		initStringInfo(&buffer->data);
		MemoryContextSwitchTo(previous);
		buffer->next = buffers;
		buffers = buffer;
		reset_buffer(buffer);
	}
	if (!buffer->queue.valid)
		refresh_queue(buffer);
	buffer->used = any_used = true;
	return buffer;
}

/* refresh_queue reads the migration's row again; a trigger without a migration is an error. */
static void
refresh_queue(MtBuffer *buffer)
{
	MtQueue		queue;
	uint64		before = invalidations;

	migration_table = mt_extension_table("migration");
	if (!mt_queue_load(buffer->migration, &queue) || !OidIsValid(queue.segments[0]))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("a capture trigger belongs to a migration that does not exist"),
				 errhint("Drop the triggers whose names begin with migrate_tiers_capture.")));
	buffer->queue = queue;
	mt_limit_refresh(&buffer->limit, &queue);
	/* What came meanwhile may be about what was read first. */
	buffer->queue.valid = before == invalidations;
}

/* current_level returns the level of the current subtransaction, and opens it if need be. */
static MtLevel *
current_level(MtBuffer *buffer)
{
	int			nest = GetCurrentTransactionNestLevel();
	MtLevel    *level = &buffer->levels[buffer->nlevels - 1];

	if (level->nest >= nest)
		return level;
	if (buffer->nlevels == buffer->room)
	{
		buffer->room *= 2;
		buffer->levels = repalloc(buffer->levels, sizeof(MtLevel) * buffer->room);
	}
	level = &buffer->levels[buffer->nlevels++];
	level->nest = nest;
	level->start = buffer->data.len;
	return level;
}

/* fold says whether an entry just appended stands in the buffer already, and remembers it if not. */
static bool
fold(MtBuffer *buffer, const char *entry, int length, int position)
{
	uint32		slot;

	if (!buffer->hashed)
	{
		if (buffer->folded < FOLD_BY_SCAN)
		{
			if (fold_by_scan(buffer, entry, length))
				return true;
			buffer->folded++;
			return false;
		}
		fold_by_hash(buffer, position, length);
	}
	slot = hash_bytes((const unsigned char *) entry, length) % FOLD_SLOTS;
	for (; buffer->fold[slot] != 0; slot = (slot + 1) % FOLD_SLOTS)
	{
		int			other = buffer->fold[slot] - 1;

		if (position - other >= length && memcmp(buffer->data.data + other, entry, length) == 0)
			return true;
	}
	if (buffer->folded < FOLD_SLOT_MAX)
	{
		buffer->fold[slot] = position + 1;
		buffer->folded++;
	}
	return false;
}

static bool
fold_by_scan(MtBuffer *buffer, const char *entry, int length)
{
	const char *at = buffer->data.data;
	MtEntry		other;

	while (at < entry)
	{
		const char *start = at;

		if (!mt_entry_next(&at, entry, &other))
			break;
		if (at - start == length && memcmp(start, entry, length) == 0)
			return true;
	}
	return false;
}

/* fold_by_hash moves the entries before "position" into a fold table. */
static void
fold_by_hash(MtBuffer *buffer, int position, int length)
{
	const char *base = buffer->data.data;
	const char *at = base;
	MtEntry		entry;

	if (buffer->fold == NULL)
		buffer->fold = MemoryContextAllocZero(TopMemoryContext, sizeof(uint32) * FOLD_SLOTS);
	buffer->hashed = true;
	buffer->folded = 0;
	while (at < base + position)
	{
		const char *start = at;
		uint32		slot;

		if (!mt_entry_next(&at, base + position, &entry))
			break;
		slot = hash_bytes((const unsigned char *) start, at - start) % FOLD_SLOTS;
		while (buffer->fold[slot] != 0)
			slot = (slot + 1) % FOLD_SLOTS;
		if (buffer->folded++ < FOLD_SLOT_MAX)
			buffer->fold[slot] = (start - base) + 1;
	}
}

/* clear_fold forgets all positions: entries have left the buffer. */
static void
clear_fold(MtBuffer *buffer)
{
	if (buffer->hashed)
		memset(buffer->fold, 0, sizeof(uint32) * FOLD_SLOTS);
	buffer->hashed = false;
	/* What is left of outer levels is not folded against any more; it may be noted twice. */
	buffer->folded = 0;
}

/* write_from writes the entries from a position on, as rows of the queue, and takes them out. */
static void
write_from(MtBuffer *buffer, int start)
{
	const char *from = buffer->data.data + start;
	const char *end = buffer->data.data + buffer->data.len;
	const char *at = from;
	const char *last = from;
	MtEntry		entry;

	end = from + mt_limit_drop(&buffer->limit, &buffer->queue, buffer->data.data + start, end - from);
	while (end - from > MT_QUEUE_ROW_BYTES && mt_entry_next(&at, end, &entry))
	{
		if (at - from > MT_QUEUE_ROW_BYTES && last > from)
		{
			insert(buffer, from, last - from);
			from = last;
		}
		last = at;
	}
	/* An empty row, too: it carries the commit time of a transaction that was written early. */
	if (end > from || buffer->inserted)
		insert(buffer, from, end - from);
	buffer->written = true;
	buffer->data.len = start;
	clear_fold(buffer);
}

static void
insert(MtBuffer *buffer, const char *entries, int length)
{
	if (mt_queue_insert(&buffer->queue, entries, length))
		mt_limit_grown(&buffer->limit, &buffer->queue, entries, length);
	buffer->inserted = true;
}

static void
reset_buffer(MtBuffer *buffer)
{
	resetStringInfo(&buffer->data);
	clear_fold(buffer);
	buffer->nlevels = 1;
	buffer->levels[0].nest = 1;
	buffer->levels[0].start = 0;
	buffer->used = buffer->written = buffer->inserted = false;
	mt_limit_reset(&buffer->limit);
}

static void
on_transaction(XactEvent event, void *arg)
{
	if (!any_used)
		return;
	for (MtBuffer *buffer = buffers; buffer != NULL; buffer = buffer->next)
	{
		if (!buffer->used)
			continue;
		switch (event)
		{
			case XACT_EVENT_PRE_COMMIT:
			case XACT_EVENT_PRE_PREPARE:
				if (buffer->data.len > 0 || buffer->written)
				{
					if (!buffer->queue.valid)
						refresh_queue(buffer);
					write_from(buffer, 0);
				}
				break;
			case XACT_EVENT_COMMIT:
				if (buffer->written && buffer->queue.worker_wanted)
					mt_worker_call(buffer->migration, buffer->queue.worker_pid, &buffer->launched);
				reset_buffer(buffer);
				break;
			case XACT_EVENT_ABORT:
			case XACT_EVENT_PREPARE:
				reset_buffer(buffer);
				break;
			default:
				break;
		}
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		any_used = false;
}

static void
on_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int			nest = GetCurrentTransactionNestLevel();

	if (!any_used || (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB))
		return;
	for (MtBuffer *buffer = buffers; buffer != NULL; buffer = buffer->next)
		while (buffer->nlevels > 1 && buffer->levels[buffer->nlevels - 1].nest >= nest)
		{
			MtLevel    *level = &buffer->levels[buffer->nlevels - 1];

			if (event == SUBXACT_EVENT_ABORT_SUB)
			{
				buffer->data.len = level->start;
				clear_fold(buffer);
				buffer->nlevels--;
			}
			else if (buffer->levels[buffer->nlevels - 2].nest == nest - 1)
				buffer->nlevels--;
			else
			{
				level->nest = nest - 1;
				break;
			}
		}
}

/* on_invalidation marks what is cached of migrations as stale; it may come at any time. */
static void
on_invalidation(Datum arg, Oid relid)
{
	if (OidIsValid(relid) && relid != migration_table)
		return;
	invalidations++;
	for (MtBuffer *buffer = buffers; buffer != NULL; buffer = buffer->next)
		buffer->queue.valid = false;
}
