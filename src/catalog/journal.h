/*
 * journal.h
 *	  What was done: rows of migrate_tiers.transition, step by step.
 */
#ifndef MT_JOURNAL_H
#define MT_JOURNAL_H

#include "catalog/migration.h"

#include "datatype/timestamp.h"

/* Begins a transition, or finds the one that was cut off; returns its id. */
extern int32 mt_journal_begin(const MtMigration *migration, MtPhase to, const char *gates);

/* A transition that was cut off, or could be neither finished nor undone; false when there is none. */
extern bool mt_journal_open(const MtMigration *migration, MtPhase *from, MtPhase *to);

/* Notes a step, and shows it as the one under way. */
extern void mt_journal_step(int32 id, const MtMigration *migration, const char *step, const char *object,
							const char *outcome, TimestampTz started);

/*
 * Ends a transition: done, failed or undone; phase is the one that the migration is in now.  One that was gone
 * for practice is told from those in earnest.
 */
extern void mt_journal_end(int32 id, const MtMigration *migration, const char *outcome, MtPhase phase,
						   const char *error, bool settled, bool rehearsal);

#endif							/* MT_JOURNAL_H */
