/*
 * suspect.h
 *	  Rows that differ while a change of theirs is on its way from the target:
 *	  rows of migrate_tiers.suspect.
 *
 * Such a row is no damage, and not equal yet.  Its range is 'doubtful' until it was
 * looked at again at later common points (verification.h), and its verification
 * has no verdict before.
 */
#ifndef MT_SUSPECT_H
#define MT_SUSPECT_H

#include "catalog/verification.h"

/* More of them make a range one that is read again as a whole. */
#define MT_MOST_SUSPECTS 10000

/* The keys (char **) of a range's suspects. */
extern List *mt_suspect_list(const MtRange *range);

/* Replaces the suspects of a range by those of an outcome. */
extern void mt_suspect_store(const MtRange *range, const MtOutcome *outcome);

/* Adds what another look at the suspects of a range has settled to its outcome. */
extern void mt_suspect_settle(const MtRange *range, const MtOutcome *outcome);

/* How many a run has; whether they are all that is left of it, and stuck since sync from the target is stopped. */
extern int64 mt_suspect_count(int64 run, bool *only, bool *stuck);

/* Notes for each table of a run that has some which rows they are, unless something else is noted. */
extern void mt_suspect_note(int64 run);

#endif							/* MT_SUSPECT_H */
