/*
 * keys.h
 *	  The distinct keys of one table that a tick has to deal with.
 *
 * Bounded by about 32 bytes a key beyond the key's own length: an arena of
 * keys, and a table of positions in it.
 */
#ifndef MT_KEYS_H
#define MT_KEYS_H

#include "base/compat.h"

#include "nodes/pg_list.h"

typedef struct MtKeySet MtKeySet;

typedef struct MtKeyCursor
{
	uint32		arena;
	uint32		position;
} MtKeyCursor;

extern MtKeySet *mt_keys_create(MemoryContext parent);

/* Adds a key; false when it is there already. */
extern bool mt_keys_add(MtKeySet *keys, const char *bytes, int length);
extern bool mt_keys_has(const MtKeySet *keys, const char *bytes, int length);
extern uint64 mt_keys_count(const MtKeySet *keys);

/* Goes through all keys; a cursor starts at {0, 0}. */
extern bool mt_keys_next(const MtKeySet *keys, MtKeyCursor *cursor, const char **bytes, int *length);

#endif							/* MT_KEYS_H */
