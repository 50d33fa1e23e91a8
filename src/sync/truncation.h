/*
 * truncation.h
 *	  What the sender truncated: the whole table, or partitions of it.
 *
 * A row of the receiver that has won over a truncation stays.  It has not won over the next one, nor over one
 * of another partition, to which it may have moved: so each knows by itself which keys it does not concern.
 */
#ifndef MT_TRUNCATION_H
#define MT_TRUNCATION_H

#include "base/compat.h"

#include "endpoint/endpoint.h"
#include "sync/keys.h"
#include "sync/unsent.h"

typedef struct MtTruncation
{
	char	   *condition;		/* of the partition; NULL: the whole table */
	MtWriters	writers;		/* who did; noted where rows of the receiver may have won over it */
	MtKeySet   *spare;			/* keys that it does not concern */
} MtTruncation;

/* Takes one into the tick under way, each condition once; that of the whole table is the first. */
extern MtTruncation *mt_truncation_note(MtTable *table, const char *condition, MemoryContext context);

/* Whether the whole table was truncated. */
extern bool mt_truncation_of_all(const MtTable *table);

/* Notes that a truncation does not concern a key; all that the target's queue says so of its own. */
extern void mt_truncation_spare(MtTruncation *truncation, const MtUnsentKey *key);
extern void mt_truncation_spare_back(MtTable *table);

/* Those that are to be done, and the keys that one of them leaves alone: how many, and their columns. */
extern List *mt_truncation_list(MtTable *table);
extern int	mt_truncation_spared(MtTable *table, const MtTruncation *truncation, MtField **fields);

#endif							/* MT_TRUNCATION_H */
