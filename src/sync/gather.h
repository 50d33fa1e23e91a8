/*
 * gather.h
 *	  Rows of the target as a reverse tick brings them here: those of its keys
 *	  that are there, and the keys of those that are not.
 *
 * They are gathered up to some megabytes, then written; so memory is bounded
 * whatever comes.
 */
#ifndef MT_GATHER_H
#define MT_GATHER_H

#include "sync/tick.h"

/* Rows that were gathered and are not written yet, in the order in which they are to be. */
typedef struct MtGathering
{
	List	   *parts;			/* MtGathered */
	int64		bytes;
	bool		early;			/* nothing can be written yet */
	bool		spoiled;		/* and it was too much to keep */
} MtGathering;

/* In a pipeline, for which the table was prepared before: rows come when it is finished. */
extern void mt_gather_prepare(MtSync *sync, MtTable *table);
extern void mt_gather_ask(MtGathering *all, MtSync *sync, MtTable *table, bool by_insert);

/* At once, and all written. */
extern void mt_gather_stream(MtSync *sync, MtTable *table, bool by_insert);

/* Whether rows are inserted, their keys having been deleted, and not set. */
extern bool mt_gather_by_insert(const MtTable *table, bool replace);

/* Rows that were asked for early, as a tick's first attempt wants them; NULL where it has to ask. */
extern MtGathering *mt_gather_early(MtSync *sync);

/* Writes what is gathered. */
extern void mt_gather_write(MtGathering *all, MtSync *sync);

#endif							/* MT_GATHER_H */
