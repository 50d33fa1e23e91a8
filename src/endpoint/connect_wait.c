/*
 * connect_wait.c
 *	  Waits until a connection is made, for no longer than connect_timeout.
 *
 * PQconnectPoll does not heed that option, and the server's own helper waits for ever: a target that takes
 * connections and says nothing would never be told of.  As in PQconnectdb the time is that of each address: it begins
 * anew when libpq goes on to the next host, or to the next address of one.
 *
 * Where an address does not even take the connection, its socket is shut down, upon which libpq goes on to the next.
 * One that takes it and then is silent ends the attempt: from there libpq does not go on by itself.
 */
#include "endpoint/remote.h"

#include <sys/socket.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "base/clock.h"

static char *current_address(const PGconn *conn);
static bool wait_for_socket(PGconn *conn, PostgresPollingStatusType status, long timeout);

/* mt_remote_wait_connected returns NULL when the connection is made, else what went wrong. */
char *
mt_remote_wait_connected(MtRemote *remote, int seconds)
{
	PGconn	   *conn = remote->conn;
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;
	TimestampTz deadline = 0;
	char	   *address = NULL;
	bool		shut_down = false;
	bool		expired = false;

	if (PQstatus(conn) == CONNECTION_BAD)
		return pchomp(PQerrorMessage(conn));
	while (status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
	{
		char	   *now = current_address(conn);

		if (address == NULL || strcmp(address, now) != 0)
		{
			address = now;
			deadline = mt_clock_now() + seconds * USECS_PER_SEC;
			shut_down = false;
		}
		if (wait_for_socket(conn, status,
							seconds > 0 ? TimestampDifferenceMilliseconds(mt_clock_now(), deadline) : -1))
			status = PQconnectPoll(conn);
		else if (seconds > 0 && mt_clock_now() >= deadline)
		{
			expired = true;
			if (PQstatus(conn) != CONNECTION_STARTED || shut_down || shutdown(PQsocket(conn), SHUT_RDWR) != 0)
				break;
			shut_down = true;
			deadline += USECS_PER_SEC;
		}
	}
	if (status == PGRES_POLLING_OK)
		return NULL;
	if (!expired)
		return pchomp(PQerrorMessage(conn));
	/* It ends with the address that is tried. */
	return psprintf("%sno answer within %d s", PQerrorMessage(conn), seconds);
}

/* current_address says where libpq is connecting to. */
static char *
current_address(const PGconn *conn)
{
	return psprintf("%s %s %s", PQhost(conn), PQhostaddr(conn), PQport(conn));
}

/* wait_for_socket waits for what libpq waits for, and obeys interrupts meanwhile; false when it did not come. */
static bool
wait_for_socket(PGconn *conn, PostgresPollingStatusType status, long timeout)
{
	int			ready = status == PGRES_POLLING_READING ? WL_SOCKET_READABLE :
		PQstatus(conn) == CONNECTION_STARTED	? WL_SOCKET_CONNECTED :
		WL_SOCKET_WRITEABLE;
	int			event = WaitLatchOrSocket(MyLatch,
										  WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | ready | (timeout >= 0 ? WL_TIMEOUT : 0),
										  PQsocket(conn), timeout, PG_WAIT_EXTENSION);

	if (event & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return (event & ready) != 0;
}
