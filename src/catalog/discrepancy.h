/*
 * discrepancy.h
 *	  Rows that a verification found different: rows of migrate_tiers.discrepancy.
 *
 * Each is kept with both images.  So that a table of which every row differs is not
 * kept twice over, with each verification, there is a bound, and what was not
 * repaired goes when a newer verification has looked at the whole table.
 */
#ifndef MT_DISCREPANCY_H
#define MT_DISCREPANCY_H

#include "catalog/verification.h"

/* So many are kept of a verification, and so many bytes. */
#define MT_KEPT_ROWS  10000
#define MT_KEPT_BYTES (64 * 1024 * 1024)

extern void mt_discrepancy_store(const MtRange *range, const MtOutcome *outcome);
extern void mt_discrepancy_forget_older(int64 run);

#endif							/* MT_DISCREPANCY_H */
