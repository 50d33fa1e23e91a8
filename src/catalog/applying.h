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

#endif							/* MT_APPLYING_H */
