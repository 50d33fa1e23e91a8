/*
 * remote.h
 *	  What the files of the remote endpoint share, and nobody else sees.
 */
#ifndef MT_REMOTE_H
#define MT_REMOTE_H

#include "endpoint/endpoint.h"

#include "libpq-fe.h"
#include "utils/hsearch.h"

struct MtRemote
{
	PGconn	   *conn;
	bool		busy;			/* in the middle of an exchange: not usable after an error */
	HTAB	   *prepared;		/* names of statements of this session, or NULL */
	char	   *copy_sql;		/* of the COPY that is under way */
	char	   *copy_piece;		/* of one that comes, as libpq has it */
	const char *sent_sql;		/* of the statement whose outcome is asked for later */
	uint32		address;		/* what server and mapping said when it was opened, as a hash */
	MemoryContext context;		/* the connection is closed when this goes */
	PGresult   *first_error;	/* of a pipeline */
	int64		answered;		/* statements of a pipeline before that error, or so far */
	int			unread;			/* answers that a pipeline still waits for */
	int			queued;			/* statements of a pipeline */
	List	   *takers;			/* MtTaker: those of them whose rows somebody wants, in order */
	int			taker;			/* the next of these */
	bool		fresh;			/* nothing of the next answer was read */
	int64		unsent;			/* bytes of parameters since it last flushed */
	int64		affected;
	int			patience;		/* how often lock_timeout is doubled until it is looked who waits: give_way.h */
	TimestampTz silent_since;	/* since when waits have ended without the socket; or 0 */
	bool		writes_rows;
	bool		gave_way;
};

/* Waits until a connection that was begun is made; NULL, or what went wrong.  Of seconds 0 is no limit. */
extern char *mt_remote_wait_connected(MtRemote *remote, int seconds);

extern void mt_remote_start(MtRemote *remote);
extern void mt_remote_flush(MtRemote *remote);
extern void mt_remote_wait(MtRemote *remote, uint32 events);
extern PGresult *mt_remote_result(MtRemote *remote);
extern PGresult *mt_remote_last_result(MtRemote *remote);

extern long mt_remote_patience(const MtRemote *remote);
extern void mt_remote_heard_nothing(MtRemote *remote, bool expired);

/* Gives a row of a result, which is freed also when the function fails. */
extern void mt_remote_give_row(PGresult *result, int row, MtRowFn row_function, void *arg);

/* The error code of a result; a connection failure where there is none. */
extern int	mt_remote_sqlstate(const PGresult *result);

/* Raises the error of a result, or of the connection where there is none. */
pg_noreturn extern void mt_remote_raise(MtRemote *remote, PGresult *result, const char *sql);

#endif							/* MT_REMOTE_H */
