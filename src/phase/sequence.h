/*
 * sequence.h
 *	  Sequences behind realtime tables while both sides are written.
 *
 * From dual_write on a sequence of the source and the one behind the column of
 * the same name on the target step by twice the increment, each through values that the
 * other never meets; afterwards both have their own settings again, and the
 * side that goes on begins after the furthest value that either gave out.
 *
 * Each side keeps what a sequence was in a table of its own, written in the
 * transaction that alters the sequence: whatever is killed, what was is known.
 * All of the steps can be run again, and in any state that a cut left.
 */
#ifndef MT_SEQUENCE_H
#define MT_SEQUENCE_H

#include "phase/step.h"

/*
 * Rows of the table of moves.  Between syncing and dual_write: when the target
 * is fenced, so before open_target; back, when nobody writes there any more.
 * Between target_only and finished: when the source is fenced and before the
 * target is uninstalled.
 */
/* clang-format off */
#define MT_STEPS_INTERLEAVE \
	{"forget_sequences", false, "target", NULL, mt_step_forget_sequences, mt_step_describe_forget}, \
	{"interleave_source", true, "source", mt_step_interleave_source, mt_step_restore_source, mt_step_describe_source}, \
	{"interleave_target", true, "target", mt_step_interleave_target, mt_step_reset_target, mt_step_describe_target}

#define MT_STEPS_FINISH_SEQUENCES \
	{"finish_target", true, "target", mt_step_finish_target, NULL, mt_step_describe_finish_target}, \
	{"finish_source", true, "source", mt_step_finish_source, NULL, mt_step_describe_finish_source}
/* clang-format on */

extern void mt_step_interleave_source(MtTransition *transition, MtRelation *relation);
extern void mt_step_interleave_target(MtTransition *transition, MtRelation *relation);
extern void mt_step_reset_target(MtTransition *transition, MtRelation *relation);
extern void mt_step_restore_source(MtTransition *transition, MtRelation *relation);
extern void mt_step_forget_sequences(MtTransition *transition, MtRelation *relation);
extern void mt_step_finish_target(MtTransition *transition, MtRelation *relation);
extern void mt_step_finish_source(MtTransition *transition, MtRelation *relation);
extern char *mt_step_describe_source(const MtMigration *migration, const MtRelation *relation, bool inverse);
extern char *mt_step_describe_target(const MtMigration *migration, const MtRelation *relation, bool inverse);
extern char *mt_step_describe_forget(const MtMigration *migration, const MtRelation *relation, bool inverse);
extern char *mt_step_describe_finish_target(const MtMigration *migration, const MtRelation *relation, bool inverse);
extern char *mt_step_describe_finish_source(const MtMigration *migration, const MtRelation *relation, bool inverse);

/* For who ends a migration in any phase: the target's of a table; goes_on: it is written from here on. */
extern void mt_sequences_restore_target(const MtMigration *migration, MtRemote *remote, const MtRelation *relation,
										bool goes_on);

#endif							/* MT_SEQUENCE_H */
