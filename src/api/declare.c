/*
 * declare.c
 *	  Where SQL enters to declare a migration: create_migration,
 *	  drop_migration, tag, tag_schema, untag, set_option, and the definitions
 *	  behind the view options.
 */
#include "base/compat.h"

#include "api/result.h"
#include "catalog/option.h"
#include "phase/declare.h"
#include "phase/drop.h"
#include "phase/tag.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(mt_create_migration);
PG_FUNCTION_INFO_V1(mt_drop_migration);
PG_FUNCTION_INFO_V1(mt_tag);
PG_FUNCTION_INFO_V1(mt_tag_all);
PG_FUNCTION_INFO_V1(mt_untag);
PG_FUNCTION_INFO_V1(mt_set_option);
PG_FUNCTION_INFO_V1(mt_option_definitions);

PGDLLEXPORT Datum mt_create_migration(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_drop_migration(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_tag(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_tag_all(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_untag(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_set_option(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_option_definitions(PG_FUNCTION_ARGS);

static const char *const option_types[] = {
	[MT_OPTION_BOOL] = "boolean",
	[MT_OPTION_INTEGER] = "integer",
	[MT_OPTION_INTERVAL] = "interval",
	[MT_OPTION_UUID] = "uuid",
	[MT_OPTION_ENUM] = "enum",
	[MT_OPTION_ROLE] = "role",
};

/* mt_create_migration is migrate_tiers.create_migration(migration, server). */
Datum
mt_create_migration(PG_FUNCTION_ARGS)
{
	mt_declare_create(mt_arg_name(fcinfo, 0, "migration"), mt_arg_name(fcinfo, 1, "server"));
	PG_RETURN_VOID();
}

/* mt_drop_migration is migrate_tiers.drop_migration(migration). */
Datum
mt_drop_migration(PG_FUNCTION_ARGS)
{
	mt_drop_run(mt_declare_open(mt_arg_name_or_null(fcinfo, 0)));
	PG_RETURN_VOID();
}

/* mt_tag is migrate_tiers.tag(relation, tier, target, migration). */
Datum
mt_tag(PG_FUNCTION_ARGS)
{
	char	   *tier;
	char	   *target;

	mt_arg_required(fcinfo, 0, "relation");
	tier = mt_arg_text(fcinfo, 1, "tier");
	target = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	mt_tag_table(mt_declare_open_settled(mt_arg_name_or_null(fcinfo, 3)), PG_GETARG_OID(0), tier, target);
	PG_RETURN_VOID();
}

/* mt_tag_all is migrate_tiers.tag_schema(schema, tier, migration). */
Datum
mt_tag_all(PG_FUNCTION_ARGS)
{
	char	   *schema = mt_arg_name(fcinfo, 0, "schema");
	char	   *tier = mt_arg_text(fcinfo, 1, "tier");
	MtMigration *migration = mt_declare_open_settled(mt_arg_name_or_null(fcinfo, 2));
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, mt_tag_schema(migration, schema, tier))
	{
		MtTagged   *tagged = lfirst(cell);
		Datum		values[3] = {
			ObjectIdGetDatum(tagged->relid), mt_text_or_null(tagged->tier), mt_text_or_null(tagged->note)};
		bool		nulls[3] = {false, tagged->tier == NULL, tagged->note == NULL};

		mt_result_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}

/* mt_untag is migrate_tiers.untag(relation, migration). */
Datum
mt_untag(PG_FUNCTION_ARGS)
{
	mt_arg_required(fcinfo, 0, "relation");
	mt_untag_table(mt_declare_open_settled(mt_arg_name_or_null(fcinfo, 1)), PG_GETARG_OID(0));
	PG_RETURN_VOID();
}

/* mt_set_option is migrate_tiers.set_option(name, value, migration). */
Datum
mt_set_option(PG_FUNCTION_ARGS)
{
	char	   *name = mt_arg_text(fcinfo, 0, "name");
	char	   *value = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	MtMigration *migration = mt_declare_open(mt_arg_name_or_null(fcinfo, 2));

	if (strcmp(name, MT_OPTION_OWNER) == 0)
		mt_declare_set_owner(migration, value);
	else
		mt_option_set(migration->id, name, value);
	PG_RETURN_VOID();
}

/* mt_option_definitions lists what options there are, for the view options. */
Datum
mt_option_definitions(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < mt_option_count; i++)
	{
		const MtOptionDef *option = &mt_option_defs[i];
		Datum		values[5] = {
			CStringGetTextDatum(option->name), CStringGetTextDatum(option_types[option->type]),
			mt_text_or_null(option->fallback), CStringGetTextDatum(option->unit),
			CStringGetTextDatum(option->meaning)};
		bool		nulls[5] = {false, false, option->fallback == NULL, false, false};

		mt_result_row(fcinfo, values, nulls);
	}
	return (Datum) 0;
}
