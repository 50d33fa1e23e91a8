/*
 * unsent.c
 *	  Unsent keys of a table: see unsent.h.
 *
 * Where keys that look different can be equal (numeric, citext, a collation that
 * is not deterministic), they are hashed and compared by the functions of their
 * type; else by their bytes.
 */
#include "sync/unsent.h"

#include "common/hashfn.h"
#include "lib/qunique.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "sync/table.h"

/* Keys of one hash value. */
typedef struct MtUnsentSlot
{
	uint32		hash;			/* hash key */
	List	   *keys;			/* MtUnsentKey */
} MtUnsentSlot;

static uint32 hash_key(const MtUnsent *unsent, const char *bytes, int length);
static bool equal_keys(const MtUnsent *unsent, const MtUnsentKey *key, const char *bytes, int length);
static uint32 hash_values(const MtTable *table, const char *bytes, int length);
static bool equal_values(const MtTable *table, const MtUnsentKey *key, const char *bytes, int length);
static void make_room(MtWriters *writers, int more, MemoryContext context);
static void tidy(MtWriters *writers);
static int	compare_xids(const void *a, const void *b);

/* mt_unsent_create makes an empty set. */
MtUnsent *
mt_unsent_create(MtTable *table, MemoryContext context)
{
	HASHCTL		control = {.keysize = sizeof(uint32), .entrysize = sizeof(MtUnsentSlot), .hcxt = context};
	MtUnsent   *unsent = MemoryContextAllocZero(context, sizeof(MtUnsent));

	unsent->table = table;
	unsent->context = context;
	if (!table->distinct_keys)
		unsent->scratch = AllocSetContextCreate(context, "migrate_tiers unsent key", ALLOCSET_SMALL_SIZES);
	unsent->keys = hash_create("migrate_tiers unsent keys", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return unsent;
}

/* mt_unsent_enter finds a key, or adds it. */
MtUnsentKey *
mt_unsent_enter(MtUnsent *unsent, const char *bytes, int length)
{
	MtUnsentKey *key = mt_unsent_find(unsent, bytes, length);
	uint32		hash;
	MemoryContext previous;
	MtUnsentSlot *slot;
	bool		found;

	if (key != NULL)
		return key;
	hash = hash_key(unsent, bytes, length);
	previous = MemoryContextSwitchTo(unsent->context);
	key = palloc0(sizeof(MtUnsentKey));
	key->bytes = memcpy(palloc(Max(length, 1)), bytes, length);
	key->length = length;
	slot = hash_search(unsent->keys, &hash, HASH_ENTER, &found);
	slot->keys = lappend(found ? slot->keys : NIL, key);
	unsent->all = lappend(unsent->all, key);
	MemoryContextSwitchTo(previous);
	return key;
}

/* mt_unsent_add_key adds an entry of a key. */
void
mt_unsent_add_key(MtUnsent *unsent, const char *bytes, int length, uint64 xid, TimestampTz written)
{
	mt_writers_add(&mt_unsent_enter(unsent, bytes, length)->writers, xid, written, unsent->context);
}

/* mt_unsent_add_truncate adds a TRUNCATE of the table, or of what meets a condition. */
void
mt_unsent_add_truncate(MtUnsent *unsent, const char *condition, uint64 xid, TimestampTz written)
{
	MemoryContext previous = MemoryContextSwitchTo(unsent->context);

	mt_writers_add(&unsent->truncates, xid, written, unsent->context);
	if (condition == NULL)
		unsent->truncated = true;
	else
		unsent->conditions = lappend(unsent->conditions, pstrdup(condition));
	MemoryContextSwitchTo(previous);
}

/* mt_unsent_find finds a key. */
MtUnsentKey *
mt_unsent_find(const MtUnsent *unsent, const char *bytes, int length)
{
	uint32		hash = hash_key(unsent, bytes, length);
	MtUnsentSlot *slot = hash_search(unsent->keys, &hash, HASH_FIND, NULL);
	ListCell   *cell;

	if (slot != NULL)
		foreach(cell, slot->keys)
			if (equal_keys(unsent, (MtUnsentKey *) lfirst(cell), bytes, length))
				return (MtUnsentKey *) lfirst(cell);
	return NULL;
}

/* mt_writers_add adds a transaction. */
void
mt_writers_add(MtWriters *writers, uint64 xid, TimestampTz written, MemoryContext context)
{
	writers->newest = Max(writers->newest, written);
	if (writers->count > 0 && writers->xids[writers->count - 1] == xid)
		return;
	make_room(writers, 1, context);
	writers->tidy = writers->count == 0 || (writers->tidy && writers->xids[writers->count - 1] < xid);
	writers->xids[writers->count++] = xid;
}

/* mt_writers_add_all adds the transactions of another set. */
void
mt_writers_add_all(MtWriters *writers, const MtWriters *others, MemoryContext context)
{
	writers->newest = Max(writers->newest, others->newest);
	if (others->count == 0)
		return;
	make_room(writers, others->count, context);
	writers->tidy = writers->count == 0 && others->tidy;
	memcpy(writers->xids + writers->count, others->xids, sizeof(uint64) * others->count);
	writers->count += others->count;
}

/* make_room makes room for more; what is there more than once is dropped first. */
static void
make_room(MtWriters *writers, int more, MemoryContext context)
{
	if (writers->count + more <= writers->room)
		return;
	tidy(writers);
	if (writers->count + more <= writers->room / 2)
		return;
	writers->room = Max(4, (writers->count + more) * 2);
	writers->xids = writers->xids ? repalloc_huge(writers->xids, sizeof(uint64) * writers->room) :
		MemoryContextAllocHuge(context, sizeof(uint64) * writers->room);
}

/* tidy sorts them, and keeps each once. */
static void
tidy(MtWriters *writers)
{
	if (!writers->tidy && writers->count > 0)
	{
		qsort(writers->xids, writers->count, sizeof(uint64), compare_xids);
		writers->count = (int) qunique(writers->xids, writers->count, sizeof(uint64), compare_xids);
	}
	writers->tidy = true;
}

/* mt_writers_has says whether a transaction is among them. */
bool
mt_writers_has(MtWriters *writers, uint64 xid)
{
	tidy(writers);
	return writers->count > 0 &&
		bsearch(&xid, writers->xids, writers->count, sizeof(uint64), compare_xids) != NULL;
}

/* mt_writers_equal says whether two sets are the same. */
bool
mt_writers_equal(MtWriters *one, MtWriters *other)
{
	tidy(one);
	tidy(other);
	return one->count == other->count &&
		(one->count == 0 || memcmp(one->xids, other->xids, sizeof(uint64) * one->count) == 0);
}

/* mt_writers_text gives them as an array of xid8. */
char *
mt_writers_text(MtWriters *writers)
{
	StringInfoData text;

	tidy(writers);
	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	for (int i = 0; i < writers->count; i++)
		appendStringInfo(&text, "%s" UINT64_FORMAT, i ? "," : "", writers->xids[i]);
	appendStringInfoChar(&text, '}');
	return text.data;
}

/* mt_writers_parse reads what mt_writers_text gave. */
void
mt_writers_parse(MtWriters *writers, const char *text, MemoryContext context)
{
	char	   *at = (char *) text;

	while (*at == '{' || *at == ',')
	{
		char	   *end;
		uint64		xid = strtou64(at + 1, &end, 10);

		if (end == at + 1)
			break;
		mt_writers_add(writers, xid, 0, context);
		at = end;
	}
}

/* hash_key hashes a key; what its type's functions leave behind goes at once, since a key may be looked for often. */
static uint32
hash_key(const MtUnsent *unsent, const char *bytes, int length)
{
	MemoryContext previous;
	uint32		hash;

	if (unsent->table->distinct_keys)
		return hash_bytes((const unsigned char *) bytes, length);
	previous = MemoryContextSwitchTo(unsent->scratch);
	hash = hash_values(unsent->table, bytes, length);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(unsent->scratch);
	return hash;
}

/* equal_keys compares keys, and leaves as little behind. */
static bool
equal_keys(const MtUnsent *unsent, const MtUnsentKey *key, const char *bytes, int length)
{
	MemoryContext previous;
	bool		equal;

	if (key->length == length && memcmp(key->bytes, bytes, length) == 0)
		return true;
	if (unsent->table->distinct_keys)
		return false;
	previous = MemoryContextSwitchTo(unsent->scratch);
	equal = equal_values(unsent->table, key, bytes, length);
	MemoryContextSwitchTo(previous);
	MemoryContextReset(unsent->scratch);
	return equal;
}

static uint32
hash_values(const MtTable *table, const char *bytes, int length)
{
	Datum		values[INDEX_MAX_KEYS];
	uint32		hash = 0;

	mt_key_decode(&table->key, bytes, length, values);
	for (int i = 0; i < table->key.count; i++)
	{
		TypeCacheEntry *type = lookup_type_cache(table->key.columns[i].type, TYPECACHE_HASH_PROC_FINFO);
		Datum		part;

		/* A type that cannot be hashed only makes the lists longer. */
		if (!OidIsValid(type->hash_proc))
			continue;
		part = FunctionCall1Coll(&type->hash_proc_finfo, table->key.columns[i].collation, values[i]);
		hash = hash_combine(hash, DatumGetUInt32(part));
	}
	return hash;
}

static bool
equal_values(const MtTable *table, const MtUnsentKey *key, const char *bytes, int length)
{
	Datum		one[INDEX_MAX_KEYS];
	Datum		other[INDEX_MAX_KEYS];

	mt_key_decode(&table->key, key->bytes, key->length, one);
	mt_key_decode(&table->key, bytes, length, other);
	for (int i = 0; i < table->key.count; i++)
	{
		TypeCacheEntry *type = lookup_type_cache(table->key.columns[i].type, TYPECACHE_EQ_OPR_FINFO);

		if (!OidIsValid(type->eq_opr) ||
			!DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, table->key.columns[i].collation, one[i], other[i])))
			return false;
	}
	return true;
}

static int
compare_xids(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return (x > y) - (x < y);
}
