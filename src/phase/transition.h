/*
 * transition.h
 *	  Goes from one phase to the next, or back.
 */
#ifndef MT_TRANSITION_H
#define MT_TRANSITION_H

#include "phase/step.h"

/*
 * Goes to a phase that is next to the current one: forward for advance, else
 * back.  Commits after each step; the caller's SPI connection is non-atomic.  Those of a rehearsal leave
 * to it the batch tables that they barred; NULL: in earnest.
 */
extern void mt_transition_run(const char *migration_name, MtPhase to, bool advance, MtRehearsal *rehearsal);

/* What a person meant with a phase's name: it has to be next to the current one. */
extern const MtMove *mt_transition_check(const MtMigration *migration, MtPhase to, bool advance);

/* Refuses, since somebody else has the migration's lock. */
pg_noreturn extern void mt_transition_refuse_busy(const MtMigration *migration);

/* Which way it is to a phase: forward, or back; also where a transition was cut off. */
extern bool mt_transition_is_forward(const MtMigration *migration, MtPhase to);

#endif							/* MT_TRANSITION_H */
