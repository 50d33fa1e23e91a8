/*
 * update.c
 *	  An update that meets others: see update.h.
 */
#include "base/update.h"

#include "access/xact.h"

#include "base/xact.h"

#define ATTEMPTS 10

typedef struct MtUpdate
{
	const char *sql;
	int			nargs;
	const MtArg *args;
} MtUpdate;

static void update(void *arg);

/* mt_update_latest updates with a snapshot of this moment, and of the next where that came too late. */
void
mt_update_latest(const char *sql, int nargs, const MtArg *args)
{
	MtUpdate	attempt = {sql, nargs, args};

	for (int i = 1; IsolationUsesXactSnapshot() && i < ATTEMPTS; i++)
	{
		ErrorData  *error = mt_xact_try(update, &attempt);

		if (error == NULL)
			return;
		if (error->sqlerrcode != ERRCODE_T_R_SERIALIZATION_FAILURE)
			ThrowErrorData(error);
		FreeErrorData(error);
	}
	update(&attempt);
}

static void
update(void *arg)
{
	const MtUpdate *attempt = (const MtUpdate *) arg;

	mt_spi_exec_latest(SPI_OK_UPDATE, attempt->sql, attempt->nargs, attempt->args);
}
