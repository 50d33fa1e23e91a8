/*
 * twin.h
 *	  Keeps a copy of the source from changing the target of the source.
 *
 * Whoever opens a connection to change something there opens it here.  A copy that is fresh
 * has everything by which the source could be told from it; so it is refused only where another
 * server is seen at work, and what gives a target up must leave it alone.
 */
#ifndef MT_TWIN_H
#define MT_TWIN_H

#include "endpoint/endpoint.h"

/* Advisory lock of the session that ticks: a number of ours, and the migration. */
#define MT_SESSION_CLASS "1297370963"
#define MT_SESSION_LOCK	 MT_SESSION_CLASS ", pg_catalog.hashtext($1)"

/* Those of pg_locks AS l that hold it. */
#define MT_SESSION_LOCK_HELD \
	"l.locktype = 'advisory' AND l.granted AND l.objsubid = 2" \
	" AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d" \
	" WHERE d.datname = pg_catalog.current_database())" \
	" AND l.classid::pg_catalog.int8 = " MT_SESSION_CLASS \
	" AND l.objid::pg_catalog.int8 = (pg_catalog.hashtext($1) & 4294967295::pg_catalog.int8)"

/* What the target says of who ticked last. */
typedef struct MtFound
{
	char	   *mark;			/* or NULL */
	uint32		timeline;		/* of the source's log when that was taken, or 0 */
	char	   *session;		/* token of the last session, or NULL */
	uint32		session_timeline;
} MtFound;

/* Connects to change something; refuses (MT_ERRCODE_OTHER_SOURCE) what another server sends to in our name. */
extern MtRemote *mt_twin_open(const MtMigration *migration);

/* Reads who ticked last; false where the target does not know the migration. */
extern bool mt_twin_read(MtRemote *remote, const MtMigration *migration, MtFound *found);

/* Refuses what a tick of this server, on this timeline, must not go on with. */
extern void mt_twin_check(const MtMigration *migration, const MtFound *found, uint32 timeline);

/* The calls by which the source copies anew, for a hint. */
extern char *mt_twin_copy_anew(const MtMigration *migration);

#endif							/* MT_TWIN_H */
