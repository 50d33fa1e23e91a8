/*
 * claim.h
 *	  Taking the target for a session of sync: nobody else ticks on it from then on.
 */
#ifndef MT_CLAIM_H
#define MT_CLAIM_H

#include "sync/tick.h"

/* Makes the session the only one that ticks, and reads the mark; refuses a target that another server writes. */
extern void mt_claim_target(MtSync *sync);

/* Leaves this session's token there, in a transaction of its own: commits the caller's, and begins another. */
extern void mt_claim_sign(MtSync *sync);

#endif							/* MT_CLAIM_H */
