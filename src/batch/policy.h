/*
 * policy.h
 *	  How and when a batch table is pushed, as a person says.
 */
#ifndef MT_BATCH_POLICY_H
#define MT_BATCH_POLICY_H

#include "catalog/relation.h"

#include "utils/timestamp.h"

/* every and max_age may be NULL, watermark is NULL for another mode than append. */
extern void mt_policy_set(const MtRelation *relation, Interval *every, const char *mode, Interval *max_age,
						  const char *watermark);

/* A call of batch_policy that changes "every" (an SQL literal) or the mode, where not NULL, and nothing else. */
extern char *mt_policy_call(const MtRelation *relation, const char *every, const char *mode);

#endif							/* MT_BATCH_POLICY_H */
