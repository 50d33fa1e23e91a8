/*
 * leaves.h
 *	  Leaf partitions of the target, as reverse ticks follow them.
 *
 * What comes and goes with a partition fires no trigger; the target's queue gets it
 * from whoever reads that queue (target_partition.c).  A tick is read only when
 * that is done up to its snapshot.  So of each row that was sent it is known in which leaf
 * it is, and whatever becomes of that leaf is found as a difference; and what was attached or
 * detached in a transaction arrives with all else that it did.  No tick comes
 * between the look at a range and its entry in the queue, since both are this worker's.
 */
#ifndef MT_LEAVES_H
#define MT_LEAVES_H

#include "sync/tick.h"

/* Whether all that led to a state of the leaves (mt_sql_leaves_state) is noted. */
extern bool mt_leaves_known(const MtSync *sync, const char *leaves);

/* Notes what led to a state that was read before. */
extern void mt_leaves_cover(MtSync *sync, const char *leaves);

/*
 * Asks for the state, and notes what led to it where it is another one, or at any rate.  Returns the ids of tables
 * whose triggers somebody has touched ("3 7"), or NULL; of the tick's memory.
 */
extern char *mt_leaves_look(MtSync *sync, bool at_any_rate);

#endif							/* MT_LEAVES_H */
