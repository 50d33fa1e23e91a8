/*
 * copy_out.c
 *	  COPY from the remote endpoint to here, a piece at a time.
 */
#include "endpoint/remote.h"
#include "endpoint/remote_copy.h"

#include "storage/latch.h"
#include "utils/memutils.h"

/* mt_remote_copy_out_begin starts a COPY ... TO STDOUT. */
void
mt_remote_copy_out_begin(MtRemote *remote, const char *sql)
{
	PGresult   *result;

	mt_remote_start(remote);
	if (!PQsendQuery(remote->conn, sql))
		mt_remote_raise(remote, NULL, sql);
	result = mt_remote_result(remote);
	if (PQresultStatus(result) != PGRES_COPY_OUT)
		mt_remote_raise(remote, result, sql);
	PQclear(result);
	if (remote->copy_sql)
		pfree(remote->copy_sql);
	remote->copy_sql = MemoryContextStrdup(remote->context, sql);
}

/* mt_remote_copy_out_next waits for the next piece and returns its length, 0 at the end. */
int
mt_remote_copy_out_next(MtRemote *remote, const char **data, int64 *rows)
{
	PGresult   *result;
	int			length;

	if (remote->copy_piece)
		PQfreemem(remote->copy_piece);
	remote->copy_piece = NULL;
	while ((length = PQgetCopyData(remote->conn, &remote->copy_piece, 1)) == 0)
	{
		mt_remote_wait(remote, WL_SOCKET_READABLE);
		if (!PQconsumeInput(remote->conn))
			mt_remote_raise(remote, NULL, remote->copy_sql);
	}
	*data = remote->copy_piece;
	if (length > 0)
		return length;
	if (length == -2)
		mt_remote_raise(remote, NULL, remote->copy_sql);
	result = mt_remote_last_result(remote);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		mt_remote_raise(remote, result, remote->copy_sql);
	*rows = strtoll(PQcmdTuples(result), NULL, 10);
	PQclear(result);
	remote->busy = false;
	return 0;
}
