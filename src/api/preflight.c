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
PG_FUNCTION_INFO_V1(mt_suggest_tiers);

PGDLLEXPORT Datum mt_preflight(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_suggest_tiers(PG_FUNCTION_ARGS);

/* mt_preflight is migrate_tiers.preflight(migration). */
Datum
mt_preflight(PG_FUNCTION_ARGS)
{
	MtMigration *migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 0));
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, mt_preflight_run(migration, NULL))
	{
		MtPreflightRow *row = lfirst(cell);
		Datum		values[5] = {
			CStringGetTextDatum(row->check_name), mt_text_or_null(row->object),
			CStringGetTextDatum(row->status), mt_text_or_null(row->detail), mt_text_or_null(row->hint)};
		bool		nulls[5] = {false, row->object == NULL, false, row->detail == NULL, row->hint == NULL};

		mt_result_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* mt_suggest_tiers is migrate_tiers.suggest_tiers(migration); it needs none to be declared. */
Datum
mt_suggest_tiers(PG_FUNCTION_ARGS)
{
	char	   *name = mt_arg_name_or_null(fcinfo, 0);
	Oid			caller = GetUserId();
	MtSpiScope	scope;
	uint64		count;

	if (name != NULL)
		(void) mt_migration_get_owned(name);
	InitMaterializedSRF(fcinfo, 0);
	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT, "SELECT relation, tier, reason FROM migrate_tiers.suggest_tiers_to($1)",
						MT_ARGS(MT_OID(caller)));
	for (uint64 row = 0; row < count; row++)
	{
		Datum		values[3];
		bool		nulls[3];

		for (int column = 0; column < 3; column++)
			values[column] = mt_spi_datum(row, column + 1, &nulls[column]);
		mt_result_row(fcinfo, values, nulls);
	}
	mt_spi_end(&scope);
	return (Datum) 0;
}
