/*
 * compare.h
 *	  Compares a range of keys of a table: digests first, and where they differ
 *	  rows.  Both sides stand in a transaction at the same common point.
 */
#ifndef MT_COMPARE_H
#define MT_COMPARE_H

#include "base/compat.h"

#include "utils/hsearch.h"

#include "catalog/discrepancy.h"
#include "verify/table.h"

/* Fills the counts and the list of discrepancies, in the current memory context. */
extern void mt_compare_range(const MtVerifyTable *table, MtRemote *remote, const MtKeyRange *range,
							 int64 expected_rows, MtOutcome *outcome);

/* Rows of which both sides have to say what they are; in compare_rows.c. */
typedef struct MtSuspects
{
	const MtVerifyTable *table;
	MtRemote   *remote;
	MtOutcome  *outcome;
	MemoryContext context;		/* of the outcome */
	HTAB	   *judged;			/* keys, so that each is judged once */
	int64		missing;
	int64		extra;
	int64		kept_bytes;
} MtSuspects;

/* Compares the rows of a range that are in some of its parts (a bit each), and judges those that differ. */
extern void mt_compare_rows(MtSuspects *suspects, const MtKeyRange *range, int parts, const char *wanted);

/* A key as one text: columns behind their lengths. */
extern char *mt_key_text(char *const *values, int nkeys);

/* Raises an error: a row without a key. */
pg_noreturn extern void mt_compare_refuse_null(void);

/* Judge the rows of some keys (char **); the second, of keys that were set aside at another point.  In judge.c. */
extern void mt_judge_keys(MtSuspects *suspects, List *keys);
extern void mt_judge_again(MtSuspects *suspects, List *keys);

#endif							/* MT_COMPARE_H */
