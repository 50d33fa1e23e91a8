/*
 * unsent.h
 *	  What a side's queue holds that the other side does not have yet: which keys
 *	  of a table, and which transactions left them.
 *
 * While both sides are written, a tick looks into the receiver's queue for the
 * keys that it is about to set.  Keys are compared as the key's own equality has it.
 */
#ifndef MT_UNSENT_H
#define MT_UNSENT_H

#include "base/compat.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"

#include "sync/keys.h"

typedef struct MtTable MtTable;

/*
 * Transactions that left entries of a key, or that truncated.  One hot row may have a hundred thousand: they are
 * only appended, and put in order, each once, when there is no room left or somebody looks.
 */
typedef struct MtWriters
{
	uint64	   *xids;
	int			count;
	int			room;
	bool		tidy;
	TimestampTz newest;			/* commit time of the last, as far as is known */
} MtWriters;

typedef struct MtUnsentKey
{
	const char *bytes;
	int			length;
	MtWriters	writers;
	void	   *data;			/* of whoever keeps the set */
} MtUnsentKey;

typedef struct MtUnsent
{
	MtTable    *table;
	MemoryContext context;
	MemoryContext scratch;		/* while a key is hashed or compared by its type; NULL: by its bytes */
	HTAB	   *keys;
	List	   *all;			/* MtUnsentKey */
	MtWriters	truncates;		/* of the whole table, or of partitions */
	bool		truncated;		/* of the whole table */
	List	   *conditions;		/* char *: of the partitions that were truncated */
} MtUnsent;

/* What a tick keeps of a table while both sides are written: see merge.h. */
typedef struct MtBothSides
{
	MtUnsent   *cancelled;		/* keys that have void entries in our queue; data: List of MtMark */
	MtUnsent   *spare_by;		/* the same of the target's queue, for its truncations */
	MtUnsent   *unsent;			/* what the receiver's queue held when it was looked at */
	MtUnsent   *known;			/* keys that both sides changed; data: MtDecision */
	List	   *to_void;		/* MtDecision: whose entries the target's queue is to lose */
	MtKeySet   *skip;			/* keys that leave the tick: the receiver's row has won */
} MtBothSides;

extern MtUnsent *mt_unsent_create(MtTable *table, MemoryContext context);
extern MtUnsentKey *mt_unsent_enter(MtUnsent *unsent, const char *bytes, int length);
extern void mt_unsent_add_key(MtUnsent *unsent, const char *bytes, int length, uint64 xid, TimestampTz written);
extern void mt_unsent_add_truncate(MtUnsent *unsent, const char *condition, uint64 xid, TimestampTz written);
extern MtUnsentKey *mt_unsent_find(const MtUnsent *unsent, const char *bytes, int length);

extern void mt_writers_add(MtWriters *writers, uint64 xid, TimestampTz written, MemoryContext context);
extern void mt_writers_add_all(MtWriters *writers, const MtWriters *others, MemoryContext context);
extern bool mt_writers_equal(MtWriters *one, MtWriters *other);
extern bool mt_writers_has(MtWriters *writers, uint64 xid);

/* "{1,2}", an array of xid8. */
extern char *mt_writers_text(MtWriters *writers);
extern void mt_writers_parse(MtWriters *writers, const char *text, MemoryContext context);

#endif							/* MT_UNSENT_H */
