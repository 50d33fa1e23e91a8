/*
 * ddl_own.c
 *	  DDL of ours on users' tables: see ddl_own.h.
 *
 * What it makes of captured tables is meant.  And a migration must be able to
 * go back in whatever state its tables are: were the dropping of a trigger judged,
 * one table that is not in order would keep all others captured.
 */
#include "capture/ddl_own.h"

#include "base/spi.h"

bool		mt_ddl_own = false;

/* mt_ddl_own_exec executes a command that the guard does not judge. */
void
mt_ddl_own_exec(const char *sql)
{
	bool		outer = mt_ddl_own;

	mt_ddl_own = true;
	PG_TRY();
	{
		mt_spi_exec(SPI_OK_UTILITY, sql, MT_NO_ARGS);
	}
	PG_FINALLY();
	{
		mt_ddl_own = outer;
	}
	PG_END_TRY();
}
