/*
 * update.h
 *	  An update of a row of ours that a worker may change in the same moment.
 *
 * Where the caller's transaction keeps its snapshot (REPEATABLE READ and above), who has waited for another's update
 * gets an error, whatever snapshot the statement had.  What does not depend on the row is updated with the next one.
 */
#ifndef MT_UPDATE_H
#define MT_UPDATE_H

#include "base/spi.h"

/* Within a scope of spi.h; tried several times, then the error is raised. */
extern void mt_update_latest(const char *sql, int nargs, const MtArg *args);

#endif							/* MT_UPDATE_H */
