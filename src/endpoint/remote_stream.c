/*
 * remote_stream.c
 *	  A statement on the remote endpoint whose rows are taken as they come, in
 *	  binary form: see mt_remote_stream in endpoint.h.
 */
#include "endpoint/remote.h"

#include "miscadmin.h"

static void send_statement(MtRemote *remote, const char *sql, int nparams, const MtField *params);
static bool read_on(MtRemote *remote, bool pipeline);

/* mt_remote_stream runs a statement and gives its rows one by one. */
int64
mt_remote_stream(MtRemote *remote, const char *sql, int nparams, const MtField *params,
				 MtRowFn row_function, void *arg)
{
	int64		rows = 0;
	PGresult   *result;
	PGresult   *rest;

	send_statement(remote, sql, nparams, params);
	while ((result = mt_remote_result(remote)) != NULL)
	{
		switch (PQresultStatus(result))
		{
			case PGRES_SINGLE_TUPLE:
				rows++;
				if (row_function != NULL)
					mt_remote_give_row(result, 0, row_function, arg);
				break;
			case PGRES_TUPLES_OK:
				break;
			case PGRES_COMMAND_OK:
				rows = strtoll(PQcmdTuples(result), NULL, 10);
				break;
			default:
				/* The server has said all that it will: the connection is at rest again. */
				while ((rest = mt_remote_result(remote)) != NULL)
					PQclear(rest);
				mt_remote_raise(remote, result, sql);
		}
		PQclear(result);
	}
	remote->busy = false;
	return rows;
}

static void
send_statement(MtRemote *remote, const char *sql, int nparams, const MtField *params)
{
	const char **values = palloc(sizeof(char *) * (nparams + 1));
	int		   *lengths = palloc(sizeof(int) * (nparams + 1));
	int		   *formats = palloc(sizeof(int) * (nparams + 1));
	int			sent;

	for (int i = 0; i < nparams; i++)
	{
		values[i] = params[i].data;
		lengths[i] = params[i].length;
		formats[i] = params[i].binary ? 1 : 0;
	}
	mt_remote_start(remote);
	sent = PQsendQueryParams(remote->conn, sql, nparams, NULL, values, lengths, formats, 1);
	pfree(values);
	pfree(lengths);
	pfree(formats);
	if (!sent || !PQsetSingleRowMode(remote->conn))
		mt_remote_raise(remote, NULL, sql);
	mt_remote_flush(remote);
}

/*
 * mt_remote_settle brings a connection to rest whose rows somebody has failed to take.
 *
 * All of them are read: to cancel the statement would end the transaction.  Never while an error is
 * being handled: it may wait, and locks of all kinds are held then.
 */
bool
mt_remote_settle(MtRemote *remote)
{
	bool		pipeline;

	if (remote->conn == NULL || !remote->busy || PQstatus(remote->conn) != CONNECTION_OK)
		return mt_remote_usable(remote);
	pipeline = PQpipelineStatus(remote->conn) != PQ_PIPELINE_OFF;
	if (pipeline)
	{
		/* It may have failed before its end was sent; a second one is only one more answer. */
		if (!PQpipelineSync(remote->conn))
			return false;
		mt_remote_flush(remote);
	}
	if (remote->first_error != NULL || !read_on(remote, pipeline))
		return false;
	if (pipeline)
		PQsetnonblocking(remote->conn, 0);
	remote->busy = false;
	return true;
}

/* read_on reads what is still to come; false where the remote has failed, too. */
static bool
read_on(MtRemote *remote, bool pipeline)
{
	for (;;)
	{
		PGresult   *result = mt_remote_result(remote);
		ExecStatusType status = PQresultStatus(result);
		bool		none = result == NULL;

		PQclear(result);
		CHECK_FOR_INTERRUPTS();
		if (none && !pipeline)
			return true;
		if (status == PGRES_PIPELINE_SYNC && PQexitPipelineMode(remote->conn))
			return true;
		if (!none && status != PGRES_SINGLE_TUPLE && status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK &&
			status != PGRES_PIPELINE_SYNC)
			return false;
	}
}

/* mt_remote_give_row gives one row of a result; that is freed also when the function fails. */
void
mt_remote_give_row(PGresult *result, int row, MtRowFn row_function, void *arg)
{
	int			count = PQnfields(result);
	MtField    *fields = palloc(sizeof(MtField) * Max(count, 1));

	PG_TRY();
	{
		for (int i = 0; i < count; i++)
		{
			fields[i].data = PQgetisnull(result, row, i) ? NULL : PQgetvalue(result, row, i);
			fields[i].length = PQgetlength(result, row, i);
			fields[i].binary = true;
		}
		row_function(arg, fields, count);
	}
	PG_CATCH();
	{
		PQclear(result);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pfree(fields);
}
