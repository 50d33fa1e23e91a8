/*
 * applying.h
 *	  Whether this backend writes what came from the target.
 *
 * Set by the sync worker around its own writes on the source: they are not
 * captured, or they would go back to where they came from, and the source's
 * fence lets them pass.  A flag of the backend and not the replica role, which others
 * may use, too.
 */
#ifndef MT_APPLYING_H
#define MT_APPLYING_H

#include "base/compat.h"

extern bool mt_capture_applying;

/* Whether the source's fence lets this backend pass, though what it writes is captured: a conflict is resolved. */
extern bool mt_fence_pass;

#endif							/* MT_APPLYING_H */
