/*
 * conflict.c
 *	  Where SQL enters to settle a conflict.
 */
#include "base/compat.h"

#include "api/result.h"
#include "phase/declare.h"
#include "sync/resolve.h"

PG_FUNCTION_INFO_V1(mt_resolve_conflict);

PGDLLEXPORT Datum mt_resolve_conflict(PG_FUNCTION_ARGS);

/* mt_resolve_conflict is migrate_tiers.resolve_conflict(id, winner, migration). */
Datum
mt_resolve_conflict(PG_FUNCTION_ARGS)
{
	char	   *winner = mt_arg_text(fcinfo, 1, "winner");
	MtMigration *migration;

	mt_arg_required(fcinfo, 0, "id");
	migration = mt_declare_open(mt_arg_name_or_null(fcinfo, 2));
	mt_resolve_run(migration, PG_GETARG_INT64(0), winner);
	PG_RETURN_VOID();
}
