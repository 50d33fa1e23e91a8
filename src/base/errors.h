/*
 * errors.h
 *	  SQLSTATEs of our own, and the shape of an error that was caught.
 *
 * Conditions that a person can cause carry an errcode of the class that fits;
 * where none of the standard ones does, one of these.  They are part of the
 * public interface and are listed in the README.
 */
#ifndef MT_ERRORS_H
#define MT_ERRORS_H

#include "base/compat.h"

#include "utils/elog.h"

#define MT_ERRCODE_GATE_FAILED	MAKE_SQLSTATE('M', 'T', '0', '0', '1')
#define MT_ERRCODE_WRONG_PHASE	MAKE_SQLSTATE('M', 'T', '0', '0', '3')
#define MT_ERRCODE_DDL_REFUSED	MAKE_SQLSTATE('M', 'T', '0', '0', '4')
#define MT_ERRCODE_FENCED		MAKE_SQLSTATE('M', 'T', '0', '0', '5')
#define MT_ERRCODE_SYNC_TIMEOUT MAKE_SQLSTATE('M', 'T', '0', '0', '6')
#define MT_ERRCODE_CONFLICT		MAKE_SQLSTATE('M', 'T', '0', '0', '7')
#define MT_ERRCODE_OTHER_SOURCE MAKE_SQLSTATE('M', 'T', '0', '0', '8')

/* Says in one line what an error was: SQLSTATE, message, detail and context. */
extern char *mt_error_text(const ErrorData *edata);

/* Says whether a lock was not to be had, in time or, in a deadlock, at all: to be tried again. */
extern bool mt_error_is_lock(const ErrorData *edata);

#endif							/* MT_ERRORS_H */
