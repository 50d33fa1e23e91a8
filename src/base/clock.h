/*
 * clock.h
 *	  A clock for waits: nobody sets it.
 *
 * The server's clock may be stepped back.  A wait that goes by it, or a "not more
 * often than each second", would then last for as long as the step was.
 */
#ifndef MT_CLOCK_H
#define MT_CLOCK_H

#include "base/compat.h"

#include "datatype/timestamp.h"
#include "portability/instr_time.h"

/* A moment long before any that this clock shows is 0, as it is of the server's. */
#define MT_CLOCK_BEGINNING (INT64CONST(10000) * USECS_PER_DAY)

/* mt_clock_now gives microseconds, to be compared with those that it gave before in this process and nothing else. */
static inline TimestampTz
mt_clock_now(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return MT_CLOCK_BEGINNING + (TimestampTz) INSTR_TIME_GET_MICROSEC(now);
}

#endif							/* MT_CLOCK_H */
