/*
 * sequence_source.h
 *	  Sequences of the source: see endpoint/sequence.h for what is done to them.
 */
#ifndef MT_SEQUENCE_SOURCE_H
#define MT_SEQUENCE_SOURCE_H

#include "catalog/relation.h"
#include "endpoint/target_sequence.h"

/* A sequence behind a column, with the settings that it has of its own. */
typedef struct MtSourceSequence
{
	MtSequenceUse use;
	bool		owned;			/* by the migration's owner */
	bool		descending;
	bool		cycle;
	char	   *increment;
	char	   *step;			/* of its turn, and of the target's */
	char	   *begin;			/* of its class */
	char	   *target_begin;
	char	   *lowest;			/* of the column's type */
	char	   *highest;
} MtSourceSequence;

extern List *mt_source_sequences(const MtMigration *migration, const MtRelation *relation);

/* Has the sequences of a table take turns; raises ERRCODE_LOCK_NOT_AVAILABLE for a retry, as the next does. */
extern void mt_source_sequences_interleave(const MtMigration *migration, const MtRelation *relation);

/*
 * Gives them their settings again, in two parts: first the target is asked what it
 * gave out (remote NULL: that does not count; in_turn: its sequences are not restored yet), then the locks are
 * taken.  Forgets what they were.
 */
typedef struct MtSourceRestore
{
	List	   *present;		/* OIDs of those that exist */
	List	   *blocks;			/* char * */
} MtSourceRestore;

extern MtSourceRestore *mt_source_sequences_prepare(MtSourceRestore *so_far, const MtMigration *migration,
													const MtRelation *relation, MtRemote *remote, bool in_turn);
extern void mt_source_sequences_restore(const MtSourceRestore *restore);

/* The sequences of a migration that take turns (OIDs). */
extern List *mt_source_turns(int32 migration);

/* The value that a target's sequence has to begin after, and why: values given out, rows that are there. */
extern char *mt_source_sequence_beyond(const MtMigration *migration, const MtRelation *relation,
									   const MtSourceSequence *sequence);

/* The furthest value that a sequence gave out, in its turn or before it, or NULL. */
extern char *mt_source_sequence_given(Oid sequence, char **lapped);

#endif							/* MT_SEQUENCE_SOURCE_H */
