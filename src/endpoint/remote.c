/*
 * remote.c
 *	  Statements on the remote endpoint: one at a time, and COPY into it.
 *
 * Every wait is on the latch as well as the socket, so that cancel, terminate
 * and postmaster death are obeyed at once, also in a network that swallows
 * everything.  An exchange that is left in the middle marks the endpoint busy:
 * its owner then closes it, since nobody knows what the other end still sends.
 */
#include "endpoint/remote.h"
#include "endpoint/remote_copy.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"

/* How many bytes of a statement an error shows, at most. */
#define STATEMENT_SHOWN 400

static void check_result(MtRemote *remote, PGresult *result, const char *sql);
static MtRows *copy_rows(PGresult *result);

/* mt_remote_query runs one statement with text parameters and returns its rows. */
MtRows *
mt_remote_query(MtRemote *remote, const char *sql, int nparams, const char *const *params)
{
	mt_remote_ask(remote, sql, nparams, params);
	return mt_remote_answer(remote);
}

/* mt_remote_ask sends one statement with text parameters. */
void
mt_remote_ask(MtRemote *remote, const char *sql, int nparams, const char *const *params)
{
	mt_remote_start(remote);
	remote->sent_sql = sql;
	if (!PQsendQueryParams(remote->conn, sql, nparams, NULL, params, NULL, NULL, 0))
		mt_remote_raise(remote, NULL, sql);
}

/* mt_remote_answer waits for the rows of what was asked. */
MtRows *
mt_remote_answer(MtRemote *remote)
{
	PGresult   *result = mt_remote_last_result(remote);
	MtRows	   *volatile rows = NULL;

	check_result(remote, result, remote->sent_sql);
	PG_TRY();
	{
		rows = copy_rows(result);
	}
	PG_FINALLY();
	{
		PQclear(result);
	}
	PG_END_TRY();
	return rows;
}

/* mt_remote_run runs statements that have no parameters and whose results nobody wants. */
void
mt_remote_run(MtRemote *remote, const char *sql)
{
	PGresult   *result;

	mt_remote_start(remote);
	if (!PQsendQuery(remote->conn, sql))
		mt_remote_raise(remote, NULL, sql);
	result = mt_remote_last_result(remote);
	check_result(remote, result, sql);
	PQclear(result);
}

/* mt_remote_send sends a statement and does not wait for its outcome. */
void
mt_remote_send(MtRemote *remote, const char *sql)
{
	mt_remote_start(remote);
	remote->sent_sql = sql;
	if (!PQsendQuery(remote->conn, sql))
		mt_remote_raise(remote, NULL, sql);
}

/* mt_remote_answered says whether the outcome of what was sent can be had without waiting. */
bool
mt_remote_answered(MtRemote *remote)
{
	if (!PQconsumeInput(remote->conn))
		mt_remote_raise(remote, NULL, remote->sent_sql);
	return !PQisBusy(remote->conn);
}

/* mt_remote_collect waits for the outcome of what was sent and returns the rows affected. */
int64
mt_remote_collect(MtRemote *remote)
{
	PGresult   *result = mt_remote_last_result(remote);
	int64		affected;

	check_result(remote, result, remote->sent_sql);
	affected = strtoll(PQcmdTuples(result), NULL, 10);
	PQclear(result);
	return affected;
}

/* mt_remote_prepare prepares a statement, once a session. */
void
mt_remote_prepare(MtRemote *remote, const char *statement, const char *sql)
{
	PGresult   *result;

	if (mt_remote_prepared(remote, statement))
		return;
	mt_remote_start(remote);
	if (!PQsendPrepare(remote->conn, statement, sql, 0, NULL))
		mt_remote_raise(remote, NULL, sql);
	result = mt_remote_last_result(remote);
	check_result(remote, result, sql);
	PQclear(result);
	if (remote->prepared == NULL)
	{
		HASHCTL		control = {.keysize = NAMEDATALEN, .entrysize = NAMEDATALEN, .hcxt = remote->context};

		remote->prepared = hash_create("migrate_tiers statements", 64, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	(void) hash_search(remote->prepared, statement, HASH_ENTER, NULL);
}

/* mt_remote_prepared says whether a statement is prepared, so that its text need not be made. */
bool
mt_remote_prepared(const MtRemote *remote, const char *statement)
{
	return remote->prepared != NULL && hash_search(remote->prepared, statement, HASH_FIND, NULL) != NULL;
}

/* mt_remote_unprepare forgets every prepared statement. */
void
mt_remote_unprepare(MtRemote *remote)
{
	if (remote->prepared == NULL)
		return;
	mt_remote_run(remote, "DEALLOCATE ALL");
	hash_destroy(remote->prepared);
	remote->prepared = NULL;
}

/* mt_remote_copy_begin starts a COPY ... FROM STDIN, which other statements may stand before. */
void
mt_remote_copy_begin(MtRemote *remote, const char *sql)
{
	PGresult   *result;

	mt_remote_start(remote);
	if (!PQsendQuery(remote->conn, sql))
		mt_remote_raise(remote, NULL, sql);
	while (PQresultStatus(result = mt_remote_result(remote)) == PGRES_COMMAND_OK)
		PQclear(result);
	if (PQresultStatus(result) != PGRES_COPY_IN)
		mt_remote_raise(remote, result, sql);
	PQclear(result);
	if (remote->copy_sql)
		pfree(remote->copy_sql);
	remote->copy_sql = MemoryContextStrdup(remote->context, sql);
	PQsetnonblocking(remote->conn, 1);
}

/* mt_remote_copy_send sends bytes of the COPY stream; returns when the kernel has them. */
void
mt_remote_copy_send(MtRemote *remote, const char *data, int length)
{
	if (PQputCopyData(remote->conn, data, length) != 1)
		mt_remote_raise(remote, NULL, remote->copy_sql);
	mt_remote_flush(remote);
}

/* mt_remote_copy_end ends the stream, waits for the outcome and returns the rows taken. */
int64
mt_remote_copy_end(MtRemote *remote)
{
	PGresult   *result;
	int64		rows;

	if (PQputCopyEnd(remote->conn, NULL) != 1)
		mt_remote_raise(remote, NULL, remote->copy_sql);
	mt_remote_flush(remote);
	PQsetnonblocking(remote->conn, 0);
	result = mt_remote_last_result(remote);
	check_result(remote, result, remote->copy_sql);
	rows = strtoll(PQcmdTuples(result), NULL, 10);
	PQclear(result);
	return rows;
}

/* mt_remote_start begins an exchange; only a connection at rest can. */
void
mt_remote_start(MtRemote *remote)
{
	if (remote->conn == NULL || remote->busy)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_DOES_NOT_EXIST),
				 errmsg("the connection to the target is not usable any more")));
	remote->busy = true;
	remote->silent_since = 0;
}

/* mt_remote_flush waits until libpq has handed all that it holds to the kernel. */
void
mt_remote_flush(MtRemote *remote)
{
	int			left;

	while ((left = PQflush(remote->conn)) > 0)
	{
		mt_remote_wait(remote, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE);
		if (!PQconsumeInput(remote->conn))
			mt_remote_raise(remote, NULL, NULL);
	}
	if (left < 0)
		mt_remote_raise(remote, NULL, NULL);
	CHECK_FOR_INTERRUPTS();
}

/* mt_remote_wait waits for the socket, and obeys interrupts meanwhile. */
void
mt_remote_wait(MtRemote *remote, uint32 events)
{
	long		patience = mt_remote_patience(remote);
	int			event = WaitLatchOrSocket(MyLatch,
										  WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | events | (patience > 0 ? WL_TIMEOUT : 0),
										  PQsocket(remote->conn), patience, PG_WAIT_EXTENSION);

	if (event & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (event & events)
		remote->silent_since = 0;
	else
		mt_remote_heard_nothing(remote, (event & WL_TIMEOUT) != 0);
}

/* mt_remote_result waits for the next result; NULL when a statement has no more. */
PGresult *
mt_remote_result(MtRemote *remote)
{
	while (PQisBusy(remote->conn))
	{
		mt_remote_wait(remote, WL_SOCKET_READABLE);
		/* What is wrong comes with the result, and the statement with whoever asks for it. */
		if (!PQconsumeInput(remote->conn))
			break;
	}
	return PQgetResult(remote->conn);
}

/* mt_remote_last_result waits for all results and returns the last one, or that which begins a COPY. */
PGresult *
mt_remote_last_result(MtRemote *remote)
{
	PGresult   *volatile last = NULL;

	PG_TRY();
	{
		PGresult   *result;

		while ((result = mt_remote_result(remote)) != NULL)
		{
			ExecStatusType status = PQresultStatus(result);

			PQclear(last);
			last = result;
			if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || PQstatus(remote->conn) == CONNECTION_BAD)
				break;
		}
	}
	PG_CATCH();
	{
		PQclear(last);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return last;
}

static void
check_result(MtRemote *remote, PGresult *result, const char *sql)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		mt_remote_raise(remote, result, sql);
	remote->busy = false;
}

/* mt_remote_sqlstate returns the error code of a result. */
int
mt_remote_sqlstate(const PGresult *result)
{
	char	   *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;

	if (sqlstate == NULL)
		return ERRCODE_CONNECTION_FAILURE;
	return MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4]);
}

/* mt_remote_raise raises a remote error with all that the remote said of it. */
void
mt_remote_raise(MtRemote *remote, PGresult *result, const char *sql)
{
	char	   *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
	int			code = mt_remote_sqlstate(result);
	char	   *message = NULL;
	char	   *detail = NULL;
	char	   *hint = NULL;
	char	   *context = NULL;

	if (sqlstate)
	{
		message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
		detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
		hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
		context = PQresultErrorField(result, PG_DIAG_CONTEXT);
	}
	message = message ? pstrdup(message) : pchomp(PQerrorMessage(remote->conn));
	detail = detail ? pstrdup(detail) : NULL;
	hint = hint ? pstrdup(hint) : NULL;
	context = context ? pstrdup(context) : NULL;
	/* After an error the server itself waits for us again, but never inside a COPY or a pipeline. */
	if (sqlstate && PQpipelineStatus(remote->conn) == PQ_PIPELINE_OFF &&
		PQtransactionStatus(remote->conn) != PQTRANS_ACTIVE &&
		PQtransactionStatus(remote->conn) != PQTRANS_UNKNOWN)
		remote->busy = false;
	PQclear(result);
	ereport(ERROR,
			(errcode(code),
			 errmsg_internal("%s", message[0] ? message : "the connection to the target was lost"),
			 detail ? errdetail_internal("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 context ? errcontext("on the target: %s", context) : 0,
			 sql ? errcontext("statement on the target: %.*s", pg_mbcliplen(sql, strlen(sql), STATEMENT_SHOWN), sql) : 0));
}

static MtRows *
copy_rows(PGresult *result)
{
	MtRows	   *rows = palloc0(sizeof(MtRows));

	rows->count = PQntuples(result);
	rows->columns = PQnfields(result);
	rows->affected = strtoll(PQcmdTuples(result), NULL, 10);
	rows->values = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(char **) * (rows->count + 1));
	for (int row = 0; row < rows->count; row++)
	{
		rows->values[row] = palloc(sizeof(char *) * rows->columns);
		for (int column = 0; column < rows->columns; column++)
		{
			bool		isnull = PQgetisnull(result, row, column);

			rows->values[row][column] = isnull ? NULL : pstrdup(PQgetvalue(result, row, column));
		}
	}
	return rows;
}
