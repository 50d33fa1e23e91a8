/*
 * fold.c
 *	  Which keys the buffer holds already: see fold.h.
 *
 * Few entries are looked at one by one, more are found by their hash.  What is left
 * in the buffer when others have left it is looked at again only where it is short:
 * otherwise a transaction whose subtransactions are rolled back would read all that it
 * has noted again after each of them.
 *
 * Invariant: a position in the slots is the start of an entry that is still in the buffer.
 */
#include "capture/fold.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "catalog/queue.h"

/* Up to this many entries are folded by looking at each, which is cheaper than hashing. */
#define FOLD_BY_SCAN  8
#define FOLD_SLOTS	  4096
#define FOLD_SLOT_MAX (FOLD_SLOTS * 3 / 4)

/* What is left in the buffer is folded against up to this many bytes. */
#define FOLD_AGAIN_BYTES 512

static bool fold_by_scan(MtFold *fold, const char *base, int position, int length);
static void fold_by_hash(MtFold *fold, const char *base, int position);

/* mt_fold says whether an entry just appended stands in the buffer already, and remembers it if not. */
bool
mt_fold(MtFold *fold, const StringInfoData *data, int position)
{
	const char *entry = data->data + position;
	int			length = data->len - position;
	uint32		slot;

	if (!fold->hashed)
	{
		if (fold->count < FOLD_BY_SCAN)
		{
			if (fold_by_scan(fold, data->data, position, length))
				return true;
			fold->count++;
			return false;
		}
		fold_by_hash(fold, data->data, position);
	}
	slot = hash_bytes((const unsigned char *) entry, length) % FOLD_SLOTS;
	for (; fold->slots[slot] != 0; slot = (slot + 1) % FOLD_SLOTS)
	{
		int			other = fold->slots[slot] - 1;

		if (position - other >= length && memcmp(data->data + other, entry, length) == 0)
			return true;
	}
	if (fold->count < FOLD_SLOT_MAX)
	{
		fold->slots[slot] = position + 1;
		fold->count++;
	}
	return false;
}

static bool
fold_by_scan(MtFold *fold, const char *base, int position, int length)
{
	const char *at = base + fold->from;
	const char *entry = base + position;
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

/* fold_by_hash puts the entries before "position" into the slots. */
static void
fold_by_hash(MtFold *fold, const char *base, int position)
{
	const char *at = base + fold->from;
	MtEntry		entry;

	if (fold->slots == NULL)
		fold->slots = MemoryContextAllocZero(TopMemoryContext, sizeof(uint32) * FOLD_SLOTS);
	fold->hashed = true;
	fold->count = 0;
	while (at < base + position)
	{
		const char *start = at;
		uint32		slot;

		if (!mt_entry_next(&at, base + position, &entry))
			break;
		slot = hash_bytes((const unsigned char *) start, at - start) % FOLD_SLOTS;
		while (fold->slots[slot] != 0)
			slot = (slot + 1) % FOLD_SLOTS;
		if (fold->count++ < FOLD_SLOT_MAX)
			fold->slots[slot] = (start - base) + 1;
	}
}

/* mt_fold_clear forgets all positions: entries have left the buffer. */
void
mt_fold_clear(MtFold *fold, int left)
{
	if (fold->hashed)
		memset(fold->slots, 0, sizeof(uint32) * FOLD_SLOTS);
	fold->hashed = false;
	fold->count = 0;
	fold->from = left <= FOLD_AGAIN_BYTES ? 0 : left;
}
