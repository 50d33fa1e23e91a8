/*
 * rehearse.h
 *	  A transition and its way back, gone for practice.
 */
#ifndef MT_REHEARSE_H
#define MT_REHEARSE_H

#include "phase/transition.h"

/*
 * Goes to the next phase, looks whether sync works there, and comes back; each transition is in the journal
 * like any other.  Commits after each step, as mt_transition_run.
 */
extern void mt_rehearse_run(const char *migration_name, MtPhase to);

#endif							/* MT_REHEARSE_H */
