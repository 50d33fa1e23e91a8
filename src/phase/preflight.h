/*
 * preflight.h
 *	  What stands between a declared migration and its first captured row.
 */
#ifndef MT_PREFLIGHT_H
#define MT_PREFLIGHT_H

#include "catalog/migration.h"

typedef struct MtPreflightRow
{
	const char *check_name;
	char	   *object;			/* NULL: the migration as a whole */
	char	   *status;			/* ok, warning or failure */
	char	   *detail;
	char	   *hint;			/* NULL when there is nothing to do */
} MtPreflightRow;

/* Runs all checks, or the one of that name; the rows come in the order of the checks.  Changes nothing. */
extern List *mt_preflight_run(const MtMigration *migration, const char *only);

/* The same, but only the rows that forbid to go on: none means passed. */
extern List *mt_preflight_failures(const MtMigration *migration, const char *only);

/* Columns of realtime tables that hold numbers of large objects, as a JSON array. */
extern char *mt_preflight_holders(const MtMigration *migration);

#endif							/* MT_PREFLIGHT_H */
