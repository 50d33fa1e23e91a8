/*
 * pipeline.c
 *	  Many statements in one round trip.
 *
 * Answers are read whenever the socket has some, while statements still go out:
 * otherwise both ends could come to wait for the other to read.  What fails
 * first is what is raised; the statements behind it were not run.
 */
#include "endpoint/pipeline.h"

#include "miscadmin.h"

#include "endpoint/remote.h"

/* Statements that may be queued in libpq before it has to hand them on. */
#define PIPELINE_BATCH 32
#define PIPELINE_BYTES (256 * 1024)

/* Who wants the rows of a statement. */
typedef struct MtTaker
{
	int			number;			/* of the statement, from 0 */
	MtRowFn		function;
	void	   *arg;
} MtTaker;

static void send_params(MtRemote *remote, const char *text, bool prepared, int nparams,
						const MtField *params, bool binary);
static PGresult *end_pipeline(MtRemote *remote);
static void read_answers(MtRemote *remote, bool wait);
static MtTaker *next_taker(MtRemote *remote);
static void take_rows(MtRemote *remote, PGresult *result);

/* mt_pipeline_begin opens a pipeline. */
void
mt_pipeline_begin(MtRemote *remote)
{
	mt_remote_start(remote);
	PQsetnonblocking(remote->conn, 1);
	if (!PQenterPipelineMode(remote->conn))
		mt_remote_raise(remote, NULL, NULL);
	remote->unread = 0;
	remote->affected = 0;
	remote->answered = 0;
	remote->queued = 0;
	remote->takers = NIL;
	remote->taker = 0;
	remote->fresh = true;
}

/* mt_pipeline_query queues a statement given as text. */
void
mt_pipeline_query(MtRemote *remote, const char *sql, int nparams, const MtField *params)
{
	send_params(remote, sql, false, nparams, params, false);
}

/* mt_pipeline_execute queues a prepared statement. */
void
mt_pipeline_execute(MtRemote *remote, const char *statement, int nparams, const MtField *params)
{
	send_params(remote, statement, true, nparams, params, false);
}

/* mt_pipeline_rows queues a prepared statement whose rows are wanted. */
void
mt_pipeline_rows(MtRemote *remote, const char *statement, int nparams, const MtField *params,
				 MtRowFn row_function, void *arg)
{
	MtTaker    *taker = palloc(sizeof(MtTaker));

	*taker = (MtTaker) {remote->queued, row_function, arg};
	remote->takers = lappend(remote->takers, taker);
	send_params(remote, statement, true, nparams, params, true);
}

/* mt_pipeline_finish waits for all answers, raises the first error and counts rows affected. */
int64
mt_pipeline_finish(MtRemote *remote)
{
	PGresult   *error = end_pipeline(remote);

	if (error)
		mt_remote_raise(remote, error, "pipeline of a tick");
	return remote->affected;
}

/* mt_pipeline_failed waits for all answers and says which statement failed first; -1: none. */
int64
mt_pipeline_failed(MtRemote *remote, int *sqlerrcode)
{
	PGresult   *error = end_pipeline(remote);

	if (error == NULL)
		return -1;
	*sqlerrcode = mt_remote_sqlstate(error);
	PQclear(error);
	return remote->answered;
}

/* end_pipeline waits for all answers and returns the first error, or NULL. */
static PGresult *
end_pipeline(MtRemote *remote)
{
	PGresult   *error;

	if (!PQpipelineSync(remote->conn))
		mt_remote_raise(remote, NULL, NULL);
	remote->unread++;
	mt_remote_flush(remote);
	read_answers(remote, true);
	if (!PQexitPipelineMode(remote->conn))
		mt_remote_raise(remote, NULL, NULL);
	PQsetnonblocking(remote->conn, 0);
	remote->busy = false;
	error = remote->first_error;
	remote->first_error = NULL;
	return error;
}

static void
send_params(MtRemote *remote, const char *text, bool prepared, int nparams, const MtField *params, bool binary)
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
	sent = prepared ?
		PQsendQueryPrepared(remote->conn, text, nparams, values, lengths, formats, binary) :
		PQsendQueryParams(remote->conn, text, nparams, NULL, values, lengths, formats, binary);
	if (!sent)
		mt_remote_raise(remote, NULL, text);
	for (int i = 0; i < nparams; i++)
		remote->unsent += values[i] ? lengths[i] : 0;
	pfree(values);
	pfree(lengths);
	pfree(formats);
	remote->queued++;
	remote->unread++;
	if (remote->unread % PIPELINE_BATCH == 0 || remote->unsent > PIPELINE_BYTES)
	{
		remote->unsent = 0;
		mt_remote_flush(remote);
		read_answers(remote, false);
	}
}

/* read_answers reads what has come, or all that is still to come. */
static void
read_answers(MtRemote *remote, bool wait)
{
	while (remote->unread > 0)
	{
		PGresult   *result;

		/* Where it is too late for that, the rows come all together. */
		if (remote->fresh && next_taker(remote) != NULL)
			(void) PQsetSingleRowMode(remote->conn);
		if (!wait)
		{
			if (!PQconsumeInput(remote->conn))
				mt_remote_raise(remote, NULL, NULL);
			if (PQisBusy(remote->conn))
				return;
		}
		result = mt_remote_result(remote);
		remote->fresh = false;
		switch (PQresultStatus(result))
		{
			case PGRES_PIPELINE_SYNC:
				remote->unread--;
				PQclear(result);
				continue;
			case PGRES_SINGLE_TUPLE:
				/* Also where libpq has not left the mode of a statement before; the rows do not end here. */
				take_rows(remote, result);
				PQclear(result);
				continue;
			case PGRES_COMMAND_OK:
			case PGRES_TUPLES_OK:
				take_rows(remote, result);
				remote->taker += next_taker(remote) != NULL;
				remote->affected += strtoll(PQcmdTuples(result), NULL, 10);
				remote->answered++;
				PQclear(result);
				break;
			case PGRES_PIPELINE_ABORTED:
				PQclear(result);
				break;
			default:
				if (PQstatus(remote->conn) != CONNECTION_OK)
					mt_remote_raise(remote, result, NULL);
				if (remote->first_error)
					PQclear(result);
				else
					remote->first_error = result;
				break;
		}
		/* Each statement's results end with a NULL. */
		result = mt_remote_result(remote);
		Assert(result == NULL);
		PQclear(result);
		remote->unread--;
		remote->fresh = true;
	}
}

/* next_taker returns who wants the rows of the answer that comes next, or NULL. */
static MtTaker *
next_taker(MtRemote *remote)
{
	MtTaker    *taker = remote->taker < list_length(remote->takers) ?
		(MtTaker *) list_nth(remote->takers, remote->taker) :
		NULL;

	return taker != NULL && remote->first_error == NULL && taker->number == remote->answered ? taker : NULL;
}

/* take_rows gives the rows of a result to who wants them. */
static void
take_rows(MtRemote *remote, PGresult *result)
{
	MtTaker    *taker = next_taker(remote);

	for (int row = 0; taker != NULL && row < PQntuples(result); row++)
		mt_remote_give_row(result, row, taker->function, taker->arg);
}
