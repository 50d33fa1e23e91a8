/*
 * keys.c
 *	  Distinct keys of a table: see keys.h.
 *
 * Keys stand behind each other, each behind its length (varint), in arenas that
 * are never moved; a slot of the hash table holds arena and offset in 64 bits
 * with some bits of the hash, so that most misses need no look at the key.
 */
#include "sync/keys.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "base/varint.h"

#define ARENA_BYTES (512 * 1024)
#define FIRST_SLOTS 64
#define ARENA_BITS	20			/* of the offset in an arena; longer keys have one of their own */
#define HASH_MASK	UINT64CONST(0xffff)
#define HASH_SHIFT	48

typedef struct MtArena
{
	char	   *data;
	uint32		used;
	uint32		size;
} MtArena;

struct MtKeySet
{
	MemoryContext context;
	MtArena    *arenas;
	uint32		narenas;
	uint32		room;
	uint64	   *slots;			/* 0 is free; else hash bits, arena + 1, offset */
	uint64		nslots;
	uint64		count;
};

static void grow(MtKeySet *keys);
static uint64 find_slot(const MtKeySet *keys, uint64 hash, const char *bytes, int length, bool *found);
static uint64 store(MtKeySet *keys, uint64 hash, const char *bytes, int length);
static void read_slot(const MtKeySet *keys, uint64 slot, const char **bytes, int *length);

/* mt_keys_create makes an empty set. */
MtKeySet *
mt_keys_create(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "migrate_tiers keys", ALLOCSET_DEFAULT_SIZES);
	MtKeySet   *keys = MemoryContextAllocZero(context, sizeof(MtKeySet));

	keys->context = context;
	keys->nslots = FIRST_SLOTS;
	keys->slots = MemoryContextAllocZero(context, sizeof(uint64) * keys->nslots);
	return keys;
}

/* mt_keys_count counts the keys. */
uint64
mt_keys_count(const MtKeySet *keys)
{
	return keys->count;
}

/* mt_keys_add adds a key unless it is there. */
bool
mt_keys_add(MtKeySet *keys, const char *bytes, int length)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) bytes, length, 0);
	bool		found;
	uint64		at;

	if (keys->count * 4 >= keys->nslots * 3)
		grow(keys);
	at = find_slot(keys, hash, bytes, length, &found);
	if (found)
		return false;
	keys->slots[at] = store(keys, hash, bytes, length);
	keys->count++;
	return true;
}

/* mt_keys_has says whether a key is there. */
bool
mt_keys_has(const MtKeySet *keys, const char *bytes, int length)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) bytes, length, 0);
	bool		found;

	(void) find_slot(keys, hash, bytes, length, &found);
	return found;
}

/* mt_keys_next gives the key at the cursor and moves it on. */
bool
mt_keys_next(const MtKeySet *keys, MtKeyCursor *cursor, const char **bytes, int *length)
{
	const char *at;
	MtArena    *arena;

	while (cursor->arena < keys->narenas && cursor->position >= keys->arenas[cursor->arena].used)
	{
		cursor->arena++;
		cursor->position = 0;
	}
	if (cursor->arena >= keys->narenas)
		return false;
	arena = &keys->arenas[cursor->arena];
	at = arena->data + cursor->position;
	*length = (int) mt_varint_read(&at, arena->data + arena->used);
	*bytes = at;
	cursor->position = at + *length - arena->data;
	return true;
}

static void
grow(MtKeySet *keys)
{
	uint64	   *old = keys->slots;
	uint64		nold = keys->nslots;

	keys->nslots = nold * 2;
	keys->slots = MemoryContextAllocExtended(keys->context, sizeof(uint64) * keys->nslots,
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (uint64 i = 0; i < nold; i++)
	{
		const char *bytes;
		int			length;
		bool		found;
		uint64		hash;

		if (old[i] == 0)
			continue;
		read_slot(keys, old[i], &bytes, &length);
		hash = hash_bytes_extended((const unsigned char *) bytes, length, 0);
		keys->slots[find_slot(keys, hash, NULL, 0, &found)] = old[i];
	}
	pfree(old);
}

/* find_slot finds the slot of a key, or a free one; with no bytes, always a free one. */
static uint64
find_slot(const MtKeySet *keys, uint64 hash, const char *bytes, int length, bool *found)
{
	uint64		at = hash & (keys->nslots - 1);

	for (*found = false; keys->slots[at] != 0; at = (at + 1) & (keys->nslots - 1))
	{
		const char *other;
		int			other_length;

		if (bytes == NULL || (keys->slots[at] >> HASH_SHIFT) != (hash >> HASH_SHIFT))
			continue;
		read_slot(keys, keys->slots[at], &other, &other_length);
		if (other_length == length && memcmp(other, bytes, length) == 0)
		{
			*found = true;
			break;
		}
	}
	return at;
}

static uint64
store(MtKeySet *keys, uint64 hash, const char *bytes, int length)
{
	MtArena    *arena = keys->narenas ? &keys->arenas[keys->narenas - 1] : NULL;
	uint32		offset;

	if (arena == NULL || arena->size - arena->used < (uint32) length + MT_VARINT_MAX)
	{
		if (keys->narenas == keys->room)
		{
			keys->room = Max(16, keys->room * 2);
			keys->arenas = keys->arenas ? repalloc(keys->arenas, sizeof(MtArena) * keys->room) :
				MemoryContextAlloc(keys->context, sizeof(MtArena) * keys->room);
		}
		arena = &keys->arenas[keys->narenas++];
		arena->used = 0;
		/* The first arena is small: most ticks have few keys. */
		arena->size = Max(keys->narenas == 1 ? 4096 : ARENA_BYTES, length + MT_VARINT_MAX);
		arena->data = MemoryContextAllocHuge(keys->context, arena->size);
	}
	offset = arena->used;
	arena->used += mt_varint_write(arena->data + arena->used, length);
	memcpy(arena->data + arena->used, bytes, length);
	arena->used += length;
	return (hash & (HASH_MASK << HASH_SHIFT)) | ((uint64) keys->narenas << ARENA_BITS) | offset;
}

static void
read_slot(const MtKeySet *keys, uint64 slot, const char **bytes, int *length)
{
	uint32		number = (slot & ~(HASH_MASK << HASH_SHIFT)) >> ARENA_BITS;
	const MtArena *arena = &keys->arenas[number - 1];

	*bytes = arena->data + (slot & ((1 << ARENA_BITS) - 1));
	*length = (int) mt_varint_read(bytes, arena->data + arena->used);
}
