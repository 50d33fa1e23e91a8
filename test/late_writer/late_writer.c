/*
 * late_writer.c
 *	  Runs the SQL of a setting when a transaction is about to commit or to be prepared, in a callback, as libraries
 *	  may do: what it writes comes after the deferred triggers.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

static char *statement = NULL;

static void
on_transaction(XactEvent event, void *arg)
{
	if ((event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE) || statement[0] == '\0')
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute(statement, false, 0) < 0)
		elog(ERROR, "the statement could not be run");
	SPI_finish();
	PopActiveSnapshot();
}

void
_PG_init(void)
{
	DefineCustomStringVariable("late_writer.statement", "What is run at the end of a transaction.", NULL, &statement, "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(on_transaction, NULL);
}
