/*
 * remote_stream.c
 *	  A statement on the remote endpoint whose rows are taken as they come, in
 *	  binary form: see mt_remote_stream in endpoint.h.
 */
#include "endpoint/remote.h"

static void send_statement(MtRemote *remote, const char *sql, int nparams, const MtField *params);

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
