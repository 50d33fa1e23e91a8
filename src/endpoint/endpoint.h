/*
 * endpoint.h
 *	  A side of a migration: it can begin, run SQL, take a COPY stream, and commit.
 *	  The remote endpoint is a libpq connection; every wait obeys cancel and terminate.
 *
 * A statement that fails raises an ERROR that carries the remote's SQLSTATE,
 * message, detail, hint and the statement.  One whose connection broke is closed
 * by its owner and opened again; nothing of a session is assumed to survive.
 */
#ifndef MT_ENDPOINT_H
#define MT_ENDPOINT_H

#include "base/compat.h"

#include "catalog/migration.h"

typedef struct MtRemote MtRemote;

/* Rows of a query, as text.  Lives in the memory context of the call. */
typedef struct MtRows
{
	int			count;
	int			columns;
	char	 ***values;			/* [row][column], NULL for SQL NULL */
	int64		affected;		/* rows of the command tag */
} MtRows;

/*
 * Connects to the migration's target as its owner's user mapping says.  The
 * session is pinned: search_path, formats, time zone, no timeouts but
 * lock_timeout, row_security off; the fence's token is set.  Registered for
 * cleanup: it is closed when the backend exits, and by mt_remote_close.
 */
extern MtRemote *mt_remote_open(const MtMigration *migration);
extern void mt_remote_close(MtRemote *remote);

/* Checks server, mapping and the rights of the role without connecting. */
extern void mt_remote_check_options(Oid server, Oid role);

/* Whether a statement can be sent: false after an exchange was left in the middle. */
extern bool mt_remote_usable(const MtRemote *remote);

extern bool mt_remote_is_current(const MtRemote *remote, const MtMigration *migration);	/* server leads there yet */
extern int	mt_remote_version(const MtRemote *remote);	/* server_version_num */
extern int	mt_remote_socket(const MtRemote *remote);	/* for a wait that watches it */

/* One statement with text parameters (NULL element: SQL NULL). */
extern MtRows *mt_remote_query(MtRemote *remote, const char *sql, int nparams, const char *const *params);
/* In two halves: this side can work meanwhile. */
extern void mt_remote_ask(MtRemote *remote, const char *sql, int nparams, const char *const *params);
extern MtRows *mt_remote_answer(MtRemote *remote);
/* One or more statements without parameters and results. */
extern void mt_remote_run(MtRemote *remote, const char *sql);

/* One statement now, its outcome later: is it there, wait for it.  The text has to live until then. */
extern void mt_remote_send(MtRemote *remote, const char *sql);
extern bool mt_remote_answered(MtRemote *remote);
extern int64 mt_remote_collect(MtRemote *remote);	/* rows affected */

/*
 * One statement with parameters in their own form, whose rows come in binary form and are
 * given one by one, while they come: memory is bounded.  What is given is valid during the call only.
 * Without a function rows are thrown away.  Returns the rows affected, or given.
 */
typedef struct MtField
{
	const char *data;			/* NULL: SQL NULL */
	int			length;
	bool		binary;
} MtField;

typedef void (*MtRowFn)(void *arg, const MtField *fields, int count);

extern int64 mt_remote_stream(MtRemote *remote, const char *sql, int nparams, const MtField *params,
							  MtRowFn row_function, void *arg);

/* Reads on to the end where a function has failed, so that the remote transaction can go on; false where it cannot. */
extern bool mt_remote_settle(MtRemote *remote);

#define MT_PARAMS(...) lengthof(((const char *const[]) {__VA_ARGS__})), ((const char *const[]) {__VA_ARGS__})
#define MT_NO_PARAMS   0, NULL

/* Prepares a statement once a session; the name is what mt_pipeline_execute takes. */
extern void mt_remote_prepare(MtRemote *remote, const char *statement, const char *sql);
extern bool mt_remote_prepared(const MtRemote *remote, const char *statement);
extern void mt_remote_unprepare(MtRemote *remote);	/* forgets all: what they were made for has changed */

#endif							/* MT_ENDPOINT_H */
