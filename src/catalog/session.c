/*
 * session.c
 *	  Sessions in which this server has sent: see session.h.
 */
#include "catalog/session.h"

#include "access/xact.h"

#include "base/spi.h"

/* Sessions that are kept: a target that fails over, or is restored, shows an older one. */
#define SESSIONS_KEPT 1000

/* mt_session_add adds a session, and deletes old ones. */
char *
mt_session_add(int32 migration)
{
	MtSpiScope	scope;
	char	   *token;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT_RETURNING,
				"INSERT INTO migrate_tiers.session (migration, number, token)"
				" VALUES ($1, coalesce((SELECT max(number) FROM migrate_tiers.session WHERE migration = $1), 0) + 1,"
				" gen_random_uuid()) RETURNING token",
				MT_ARGS(MT_INT4(migration)));
	token = mt_spi_text(&scope, 0, 1);
	mt_spi_exec(SPI_OK_DELETE,
				"DELETE FROM migrate_tiers.session WHERE migration = $1 AND number <="
				" (SELECT max(number) FROM migrate_tiers.session WHERE migration = $1) - $2",
				MT_ARGS(MT_INT4(migration), MT_INT4(SESSIONS_KEPT)));
	mt_spi_end(&scope);
	/* The target is not to know one that a crash has taken from here. */
	ForceSyncCommit();
	return token;
}

/* mt_session_known says whether a token is one of those that are kept. */
bool
mt_session_known(int32 migration, const char *token)
{
	MtSpiScope	scope;
	bool		known;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT,
					   "SELECT EXISTS (SELECT FROM migrate_tiers.session WHERE migration = $1 AND token = $2::pg_catalog.uuid)",
					   MT_ARGS(MT_INT4(migration), MT_TEXT(token)));
	known = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return known;
}
