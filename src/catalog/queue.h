/*
 * queue.h
 *	  The queue: tables that hold which keys were changed by whom.
 *
 * A migration has three segments, migrate_tiers.queue_<id>_<n>.  One is written for a retention period, then the next;
 * each period's segment follows from the clock alone, so writers agree without talking, and one that is late or has a
 * stale cache merely writes where it is also read: readers read all segments.
 *
 * A row is (top-level xid, time, application name, entries).  An entry is a varint of relation id and kind, a varint
 * of the length, and that many bytes.
 *
 * A row goes to the last page of its segment or to a new one, never to an earlier page; the lock on the
 * segment is held for the insertion only.  So whoever gets the segment's ShareLock for a moment knows that
 * all pages but the last have their final rows (queue_read.c rests on it).
 */
#ifndef MT_QUEUE_H
#define MT_QUEUE_H

#include "catalog/migration.h"

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

#include "base/varint.h"

/* A row's entries stay below this, so that the row fits a page; one huge key may exceed it. */
#define MT_QUEUE_ROW_BYTES 7900

/* What an entry takes at most beside its bytes. */
#define MT_ENTRY_HEAD_MAX (2 * MT_VARINT_MAX)

typedef enum MtEntryKind
{
	MT_ENTRY_KEY = 0,			/* bytes: the key (key.h) */
	MT_ENTRY_TRUNCATE = 1,		/* no bytes: every row of the table went */
	MT_ENTRY_TRUNCATE_WHERE = 2,	/* bytes: a condition; every row that meets it went */
	MT_ENTRY_TRUNCATE_PART = 3	/* bytes: OID of a leaf partition that was emptied; what went is told by others */
} MtEntryKind;

/* Whether an entry says that rows went without their keys being noted. */
#define MT_ENTRY_IS_TRUNCATE(kind) ((kind) == MT_ENTRY_TRUNCATE || (kind) == MT_ENTRY_TRUNCATE_WHERE)

typedef struct MtEntry
{
	int32		relation;
	MtEntryKind kind;
	const char *bytes;
	int			length;
} MtEntry;

/* What a writer needs to know of a migration; read from the catalog when the cache is stale. */
typedef struct MtQueue
{
	int32		migration;
	bool		valid;
	bool		worker_wanted;
	bool		fenced;			/* the source is not to be written */
	int			worker_pid;
	int64		retention;		/* microseconds */
	int64		limit;			/* bytes, 0: none, as in the phases where nothing may be dropped */
	Oid			segments[MT_QUEUE_SEGMENTS];
} MtQueue;

/* Creates the segments, as members of the extension; drops them. */
extern void mt_queue_create(MtMigration *migration);
extern void mt_queue_drop(MtMigration *migration);

/* Reads a migration's row whatever the transaction's snapshot; false if there is none. */
extern bool mt_queue_load(int32 migration, MtQueue *queue);

/* Whether any migration of this database has segments: only then something is captured. */
extern bool mt_queue_exists(void);

/* Inserts one row of entries in the name of the current (sub)transaction; true when it began a page. */
extern bool mt_queue_insert(const MtQueue *queue, const char *entries, int length);

/* Bytes that the segments take on disk. */
extern int64 mt_queue_bytes(const Oid *segments);

/* Which segment is written at a moment; retention in microseconds. */
extern int	mt_queue_segment_at(int64 retention, TimestampTz now);

extern void mt_entry_append(StringInfo to, int32 relation, MtEntryKind kind, const char *bytes, int length);

/* Reads the entry at *at and moves on; false at the end. */
extern bool mt_entry_next(const char **at, const char *end, MtEntry *entry);

#endif							/* MT_QUEUE_H */
