/*
 * preflight.c
 *	  Where SQL enters to look before the leap: preflight and suggest_tiers.
 */
#include "base/compat.h"

#include "api/result.h"
#include "base/spi.h"
#include "miscadmin.h"
#include "phase/preflight.h"

PG_FUNCTION_INFO_V1(mt_preflight);

PGDLLEXPORT Datum mt_preflight(PG_FUNCTION_ARGS);

/* mt_preflight is migrate_tiers.preflight(migration). */
Datum
mt_preflight(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 0));
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, mt_preflight_run(migration))
	{
		MtPreflightRow *row = lfirst(cell);
		Datum		values[5] = {
			CStringGetTextDatum(row->check_name), mt_text_or_null(row->object),
			CStringGetTextDatum(row->status), mt_text_or_null(row->detail), mt_text_or_null(row->hint)
		};
		bool		nulls[5] = {false, row->object == NULL, false, row->detail == NULL, row->hint == NULL};

		mt_result_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}
