/*
 * session.h
 *	  Sessions in which this server has sent to the target.
 *
 * Each has a token, which is kept here before the target gets it.  So a token that is
 * found there and not here is that of another server, which was copied from this one; or,
 * where this one was a standby that lacked the last of the log, of the server before it.
 */
#ifndef MT_SESSION_H
#define MT_SESSION_H

#include "base/compat.h"

/* Adds a session and returns its token; what the caller's transaction does is on disk when it has committed. */
extern char *mt_session_add(int32 migration);

/* Whether a token is that of a session of this server, or of what it was restored or promoted from. */
extern bool mt_session_known(int32 migration, const char *token);

#endif							/* MT_SESSION_H */
