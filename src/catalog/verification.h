/*
 * verification.h
 *	  Verifications, their ranges of keys, and the rows that differ: rows of
 *	  migrate_tiers.verification, verification_range and discrepancy.
 *
 * A verification is done by readers that know nothing of each other: each takes a
 * range that is left over from before, or has the next one cut off; the lock on
 * the verification's row makes them take turns there.  A range is 'running' from
 * then on until its outcome is stored; those of a reader that died are given out
 * again at the next common point.  So a verification goes on wherever it was cut off.
 */
#ifndef MT_VERIFICATION_H
#define MT_VERIFICATION_H

#include "catalog/relation.h"

#include "datatype/timestamp.h"

/* Time that a range should take on either side. */
#define MT_RANGE_US 500000

typedef struct MtRange
{
	int64		verification;
	int32		relation;
	int32		number;
	int64		rows;			/* to have, about */
	int			nkeys;
	char	  **low;			/* NULL: no bound */
	char	  **high;
	bool		doubtful;		/* only suspects are to be looked at again (suspect.h) */
	List	   *suspects;		/* their keys (char **) */
} MtRange;

typedef struct MtDiscrepancy
{
	const char *kind;			/* missing, extra, changed */
	char	  **key;
	char	   *columns;		/* array of names, or NULL */
	char	   *source_row;		/* jsonb, or NULL */
	char	   *target_row;
} MtDiscrepancy;

typedef struct MtOutcome
{
	int64		source_rows;
	int64		target_rows;
	int64		different_rows;
	List	   *discrepancies;
	int			nkeys;			/* of a comparison in one go: columns of their keys */
	List	   *suspects;		/* keys (char **) of rows that differ, and are not counted yet */
	char	   *mark;			/* of the source's snapshot */
	TimestampTz point;			/* when that was taken */
	int64		microseconds;
} MtOutcome;

/* A number for a call; it is given out at once, whatever becomes of the transaction. */
extern int64 mt_verification_new_run(void);
/* Goes on with a verification that was cut off, if it compares the same and is younger than max_age; else begins. */
extern int64 mt_verification_begin(int32 migration, int32 relation, int64 run, bool scheduled, const char *shape,
								   int64 max_age);

/* Store a verdict of unknown (nothing was compared), one of a comparison in one go, or unknown for the rest. */
extern void mt_verification_refuse(int32 migration, int32 relation, int64 run, bool scheduled, const char *detail);
extern void mt_verification_store(int32 migration, int32 relation, int64 run, bool scheduled, const char *verdict,
								  const MtOutcome *outcome, const char *detail);
extern void mt_verification_cut(int64 run, const char *detail);
extern void mt_verification_fail(int64 id, const char *detail);
/* What went wrong last, kept while it is tried again. */
extern void mt_verification_note(int64 id, const char *detail);
extern char *mt_verification_noted(int64 run);
/* Makes ranges of readers that are gone free again, and counts those done; whether a run is not at its end. */
extern int64 mt_verification_free_ranges(int64 run);
extern bool mt_verification_is_open(int64 run);

/* Takes a range of a run that is free, or doubtful since an earlier point; locks one that has to be cut off first. */
extern bool mt_range_take(int64 run, TimestampTz point, MtRange *range);
extern bool mt_range_next(int64 run, MtRange *range);

/* Gives out the range that was cut off (high is set); stores its outcome. */
extern void mt_range_give(MtRange *range);
extern void mt_range_finish(const MtRange *range, const MtOutcome *outcome);

/* Gives every table of the run that was compared to its end its verdict. */
extern void mt_verification_finish(int64 run);

#endif							/* MT_VERIFICATION_H */
