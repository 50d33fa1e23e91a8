/*
 * instance.c
 *	  Where SQL enters about application servers: expect_instance,
 *	  forget_instance, report_instance.
 */
#include "base/compat.h"

#include "api/result.h"
#include "catalog/instance.h"

PG_FUNCTION_INFO_V1(mt_expect_instance);
PG_FUNCTION_INFO_V1(mt_forget_instance);
PG_FUNCTION_INFO_V1(mt_report_instance);

PGDLLEXPORT Datum mt_expect_instance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_forget_instance(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_report_instance(PG_FUNCTION_ARGS);

static void refuse_unknown(const MtMigration *migration, const char *name);

/* mt_expect_instance is migrate_tiers.expect_instance(name, migration). */
Datum
mt_expect_instance(PG_FUNCTION_ARGS)
{
	char	   *name = mt_arg_text(fcinfo, 0, "name");
	MtMigration *migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 1));

	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a name of an application server", name),
				 errdetail("It has 1 to %d bytes, as application_name.", NAMEDATALEN - 1),
				 errhint("Give each server's connections an application_name, and that name here.")));
	mt_instance_expect(migration->id, name);
	PG_RETURN_VOID();
}

/* mt_forget_instance is migrate_tiers.forget_instance(name, migration). */
Datum
mt_forget_instance(PG_FUNCTION_ARGS)
{
	char	   *name = mt_arg_text(fcinfo, 0, "name");
	MtMigration *migration = mt_migration_get_owned(mt_arg_name_or_null(fcinfo, 1));

	if (!mt_instance_forget(migration->id, name))
		refuse_unknown(migration, name);
	PG_RETURN_VOID();
}

/* mt_report_instance is migrate_tiers.report_instance(name, phase, migration); anyone may call it. */
Datum
mt_report_instance(PG_FUNCTION_ARGS)
{
	char	   *name = mt_arg_text(fcinfo, 0, "name");
	MtPhase		phase = mt_phase_parse(mt_arg_text(fcinfo, 1, "phase"));
	MtMigration *migration = mt_migration_get(mt_arg_name_or_null(fcinfo, 2));

	if (!mt_instance_report(migration->id, name, phase))
		refuse_unknown(migration, name);
	PG_RETURN_VOID();
}

static void
refuse_unknown(const MtMigration *migration, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("migration \"%s\" expects no instance \"%s\"", migration->name, name),
			 errhint("SELECT migrate_tiers.expect_instance(%s) puts it on the roster.", quote_literal_cstr(name))));
}
