/*
 * buffer.c
 *	  What a transaction has noted: see buffer.h.
 *
 * At pre-commit and pre-prepare what is left becomes one row of the queue, with the time of that moment: so a
 * transaction's last row carries its commit time.  A level whose notes outgrow a row is written at once.  After
 * commit the worker is woken; if there is none although one is wanted, it is started.
 *
 * A loop with a subtransaction each turn notes nothing at its own level: its notes
 * come from subtransactions that commit.  So one that would make its parent's outgrow
 * a row writes what the parent has, in its own name, just before it commits: from then on
 * it is the parent's, too.  Should it fail after all, its row goes with it, and the
 * parent's notes are still here: they are taken out when it has committed.
 *
 * Other libraries may write as late as their own callbacks at pre-commit, which run after ours where they were
 * registered before.  The buffer is closed by then: what is noted in it is written at once.
 *
 * Invariants: levels[0] is the transaction itself and starts at 0; the notes of
 * levels[i] are data[levels[i].start .. levels[i + 1].start), and never much more than
 * a row takes.
 */
#include "capture/buffer.h"

#include "access/xact.h"
#include "replication/logicalworker.h"
#include "tcop/pquery.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/spi.h"
#include "capture/fold.h"
#include "capture/limit.h"
#include "catalog/worker.h"

/* A buffer that had to be larger is made this small again after the transaction. */
#define KEPT_BYTES (4 * MT_QUEUE_ROW_BYTES)

typedef struct MtLevel
{
	int			nest;
	int			start;
	bool		written;		/* notes went out, or were dropped */
	bool		inserted;		/* rows of the queue went out */
	bool		handed;			/* among them the parent's notes */
} MtLevel;

typedef struct MtBuffer
{
	int32		migration;
	StringInfoData data;
	MtLevel    *levels;
	int			nlevels;
	int			room;
	MtFold		fold;
	bool		used;			/* by this transaction */
	MtQueue		queue;
	MtLimit		limit;
	TimestampTz launched;
	struct MtBuffer *next;
} MtBuffer;

static MtBuffer *buffers = NULL;
static bool any_used = false;
static bool closed = false;		/* nobody will write what is left in a buffer */
static Oid	migration_table = InvalidOid;	/* whose invalidation makes the caches stale */
static uint64 invalidations = 0;

static MtBuffer *get_buffer(int32 migration);
static void refresh_queue(MtBuffer *buffer);
static MtLevel *current_level(MtBuffer *buffer);
static void write_from(MtBuffer *buffer, int start);
static void write_entries(MtBuffer *buffer, char *from, int length);
static void insert(MtBuffer *buffer, const char *entries, int length);
static void reset_buffer(MtBuffer *buffer);
static void on_transaction(XactEvent event, void *arg);
static void on_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg);
static void hand_over(MtBuffer *buffer, int nest);
static void drop_level(MtBuffer *buffer);
static void join_level(MtBuffer *buffer, int nest);
static void on_invalidation(Datum arg, Oid relid);

/* mt_buffer_init registers the callbacks that end a transaction's notes. */
void
mt_buffer_init(void)
{
	/*
	 * Where the first captured write of a session comes this late, nobody will call us before the commit.  No portal
	 * is active then, or the one of a procedure that commits: by then it has lost its resource owner.  A worker of
	 * logical replication never has one: it begins with the rows that it was sent.
	 */
	closed = IsTransactionState() && !IsLogicalWorker() && (ActivePortal == NULL || ActivePortal->resowner == NULL);
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
	if (kind == MT_ENTRY_KEY && mt_fold(&buffer->fold, &buffer->data, before))
		buffer->data.len = before;
	if (closed)
		write_from(buffer, level->start);
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
	/* After a restart of the server its number may be that of another process, which would be woken instead. */
	queue.worker_pid = mt_worker_lives(buffer->migration) ? queue.worker_pid : 0;
	buffer->queue = queue;
	buffer->queue.valid = false;
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
	*level = (MtLevel) {.nest = nest, .start = buffer->data.len};
	return level;
}

/* write_from writes the entries from a position on, which are the current level's, and takes them out. */
static void
write_from(MtBuffer *buffer, int start)
{
	write_entries(buffer, buffer->data.data + start, buffer->data.len - start);
	buffer->data.len = start;
	mt_fold_clear(&buffer->fold, start);
}

/* write_entries writes entries as rows of the queue, in the name of the current level; it may change them. */
static void
write_entries(MtBuffer *buffer, char *from, int length)
{
	const char *first = from;
	const char *end = from + mt_limit_drop(&buffer->limit, &buffer->queue, from, length);
	const char *at = first;
	const char *last = first;
	MtLevel    *level = &buffer->levels[buffer->nlevels - 1];
	MtEntry		entry;

	while (end - first > MT_QUEUE_ROW_BYTES && mt_entry_next(&at, end, &entry))
	{
		if (at - first > MT_QUEUE_ROW_BYTES && last > first)
		{
			insert(buffer, first, last - first);
			first = last;
		}
		last = at;
	}
	/* An empty row, too: it carries the commit time of a transaction that was written early. */
	if (end > first || level->inserted)
		insert(buffer, first, end - first);
	level->written = true;
}

static void
insert(MtBuffer *buffer, const char *entries, int length)
{
	if (mt_queue_insert(&buffer->queue, entries, length))
		mt_limit_grown(&buffer->limit, &buffer->queue, entries, length);
	buffer->levels[buffer->nlevels - 1].inserted = true;
}

static void
reset_buffer(MtBuffer *buffer)
{
	resetStringInfo(&buffer->data);
	if (buffer->data.maxlen > KEPT_BYTES)
	{
		buffer->data.data = repalloc(buffer->data.data, KEPT_BYTES);
		buffer->data.maxlen = KEPT_BYTES;
	}
	mt_fold_clear(&buffer->fold, 0);
	buffer->nlevels = 1;
	buffer->levels[0] = (MtLevel) {.nest = 1};
	buffer->used = false;
	mt_limit_reset(&buffer->limit);
}

static void
on_transaction(XactEvent event, void *arg)
{
	bool		ends = event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE;

	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		closed = true;
	else if (ends)
		closed = false;
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
				if (buffer->data.len > 0 || buffer->levels[0].written)
				{
					if (!buffer->queue.valid)
						refresh_queue(buffer);
					write_from(buffer, 0);
				}
				break;
			case XACT_EVENT_COMMIT:
				if (buffer->levels[0].written && buffer->queue.worker_wanted)
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
	if (ends)
		any_used = false;
}

static void
on_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int			nest = GetCurrentTransactionNestLevel();

	if (!any_used || event == SUBXACT_EVENT_START_SUB)
		return;
	for (MtBuffer *buffer = buffers; buffer != NULL; buffer = buffer->next)
	{
		if (event == SUBXACT_EVENT_PRE_COMMIT_SUB)
			hand_over(buffer, nest);
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
		{
			join_level(buffer, nest);
			mt_limit_join(&buffer->limit, id, parent);
		}
		else
			while (buffer->nlevels > 1 && buffer->levels[buffer->nlevels - 1].nest >= nest)
				drop_level(buffer);
	}
}

/* hand_over writes the parent's notes where those of a subtransaction about to commit have no room beside them. */
static void
hand_over(MtBuffer *buffer, int nest)
{
	MtLevel    *level = &buffer->levels[buffer->nlevels - 1];
	MtLevel    *parent = level - 1;
	char	   *copy;
	int			length;

	if (buffer->nlevels == 1 || level->nest != nest || parent->nest != nest - 1)
		return;
	length = level->start - parent->start;
	if (length == 0 || buffer->data.len - parent->start <= MT_QUEUE_ROW_BYTES)
		return;
	if (!buffer->queue.valid)
		refresh_queue(buffer);
	copy = memcpy(palloc(length), buffer->data.data + parent->start, length);
	write_entries(buffer, copy, length);
	pfree(copy);
	level->handed = true;
}

/* drop_level forgets what an aborted subtransaction has noted. */
static void
drop_level(MtBuffer *buffer)
{
	buffer->data.len = buffer->levels[--buffer->nlevels].start;
	mt_fold_clear(&buffer->fold, buffer->data.len);
}

/* join_level makes what a committed subtransaction has noted its parent's. */
static void
join_level(MtBuffer *buffer, int nest)
{
	MtLevel    *level = &buffer->levels[buffer->nlevels - 1];
	MtLevel    *parent = level - 1;

	if (buffer->nlevels == 1 || level->nest < nest)
		return;
	if (level->handed)
	{
		memmove(buffer->data.data + parent->start, buffer->data.data + level->start, buffer->data.len - level->start);
		buffer->data.len -= level->start - parent->start;
		level->start = parent->start;
		level->handed = false;
		mt_fold_clear(&buffer->fold, buffer->data.len);
	}
	level->nest = nest - 1;
	if (parent->nest < level->nest)
		return;
	parent->written |= level->written;
	parent->inserted |= level->inserted;
	buffer->nlevels--;
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
