/*
 * target_sequence.h
 *	  Sequences of the target: see endpoint/sequence.h for what is done to them.
 */
#ifndef MT_TARGET_SEQUENCE_H
#define MT_TARGET_SEQUENCE_H

#include "catalog/relation.h"
#include "endpoint/endpoint.h"
#include "endpoint/sequence.h"

/* A sequence behind a column. */
typedef struct MtSequenceUse
{
	char	   *column;
	Oid			sequence;
	char	   *name;			/* without its schema */
	char	   *full_name;		/* for a person, and for SQL */
} MtSequenceUse;

/* The sequences behind a table's columns (MtSequenceUse). */
extern List *mt_target_sequence_uses(MtRemote *remote, const MtRelation *relation);

/* Has one of them take turns; turn->migration is filled in here. */
extern void mt_target_sequence_interleave(MtRemote *remote, const MtMigration *migration, MtTurn *turn);

/* The sequences of a table that take turns: OIDs of theirs and of the source's, as text. */
extern MtRows *mt_target_sequence_turns(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);

/* Gives one its settings again, and the furthest value with keep, else the value that it had. */
extern void mt_target_sequence_restore(MtRemote *remote, const MtMigration *migration, Oid sequence, bool keep,
									   const char *other, const char *other_lapped);

/* The furthest value that those which took turns with a sequence gave out, or NULL; they are restored already. */
extern char *mt_target_sequence_given(MtRemote *remote, const MtMigration *migration, Oid source, char **lapped);

/* The same of turns that may not have ended. */
extern char *mt_target_sequence_reached(MtRemote *remote, const MtMigration *migration, Oid source, char **lapped);

/* Forgets what the sequences of a migration were, when all are restored. */
extern void mt_target_sequences_forget(MtRemote *remote, const MtMigration *migration);

/* Restores what is left of a migration that ends; each keeps its own last value. */
extern void mt_target_sequences_leave(MtRemote *remote, const MtMigration *migration);
extern char *mt_target_sequences_leave_sql(const MtMigration *migration);	/* a block that does it */

/* The same of those that take turns with one of the source, as mt_target_sequence_restore. */
extern char *mt_target_sequence_leave_sql(const MtMigration *migration, Oid source, bool keep, const char *other,
										  const char *other_lapped);

#endif							/* MT_TARGET_SEQUENCE_H */
