/*
 * trial.h
 *	  Finds rows of the tick that cannot stand beside what the receiver has unsent.
 */
#ifndef MT_TRIAL_H
#define MT_TRIAL_H

#include "sync/link.h"

/* Links such rows of one table; whether any were not linked before. */
extern bool mt_trial_run(MtMerge *merge, MtTable *table);

#endif							/* MT_TRIAL_H */
