/*
 * option.c
 *	  The options of a migration: one table says what there is, what each
 *	  means and what it is when nobody has set it.
 *
 * A value is checked when it is set and kept as it was given, so that the view
 * options shows what a person wrote; a reader parses it.
 */
#include "catalog/option.h"

#include "base/spi.h"
#include "base/update.h"
#include "catalog/migration.h"
#include "common/int.h"
#include "datatype/timestamp.h"
#include "utils/timestamp.h"

static const char *const conflict_policies[] = {"reading_side", "last_write", "source", "target", "stop", NULL};

const MtOptionDef mt_option_defs[] = {
	{"max_lag", MT_OPTION_INTERVAL, "5s", "interval",
	 "lag above which a gate to the next phase does not pass", 0, PG_INT64_MAX},
	{"max_age", MT_OPTION_INTERVAL, "24h", "interval",
	 "age above which a verification is no evidence any more", 0, PG_INT64_MAX},
	{"quiet_period", MT_OPTION_INTERVAL, "10 min", "interval",
	 "how long no application must have written a side before it is left", 0, PG_INT64_MAX},
	{"copy_workers", MT_OPTION_INTEGER, "2", "workers",
	 "chunks of the initial copy that are read side by side", 1, 64},
	{"copy_rate", MT_OPTION_INTEGER, "0", "bytes/s",
	 "limit of the initial copy, all its workers together, and of each push; 0 is no limit", 0, PG_INT64_MAX},
	{"chunk_size", MT_OPTION_INTEGER, "32MB", "bytes",
	 "size of a chunk of the initial copy, as stored on the source", 8192, INT64CONST(1) << 40},
	{"defer_indexes", MT_OPTION_BOOL, "on", "",
	 "build the indexes and keys of an empty target table after its copy", 0, 0},
	{"overwrite", MT_OPTION_BOOL, "off", "",
	 "empty target tables that have rows before they are filled", 0, 0},
	{"queue_limit", MT_OPTION_INTEGER, "0", "bytes",
	 "size of the queue past which, in phase syncing, tables that change are not captured but copied again; 0 is no limit", 0, PG_INT64_MAX},
	{"queue_retention", MT_OPTION_INTERVAL, "5 min", "interval",
	 "how long a segment of the queue is kept after it was sent", USECS_PER_SEC, PG_INT64_MAX},
	{"conflict_policy", MT_OPTION_ENUM, "reading_side", "",
	 "which row wins when both sides changed it", 0, 0, conflict_policies},
	{"attach_timeout", MT_OPTION_INTERVAL, "10 min", "interval",
	 "how long a table that is busy is tried again before the transition fails", 0, PG_INT64_MAX},
	{"forget_target", MT_OPTION_BOOL, "off", "",
	 "let drop_migration go on when the target cannot be reached or may be written: it is left as it is, and what is left there is said", 0, 0},
	{"take_target", MT_OPTION_UUID, "", "",
	 "the session on the target, as an error names it, of a copy of this server that is no more: steps and pushes of this one do not heed it", 0, 0},
	{"verify_every", MT_OPTION_INTERVAL, "0", "interval",
	 "verify all realtime tables by themselves so often, and all batch tables with them; 0 is never", 0, PG_INT64_MAX},
	{"verify_workers", MT_OPTION_INTEGER, "1", "workers",
	 "ranges that a verification reads side by side, not more than copy_workers", 1, 64},
	{"verify_rate", MT_OPTION_INTEGER, "0", "rows/s",
	 "limit of a verification of realtime tables, all its workers together; 0 is no limit", 0, PG_INT64_MAX},
	{"ignore_target_columns", MT_OPTION_BOOL, "off", "",
	 "let a verification say equal although the target's table has columns of its own", 0, 0},
	{"batch_digest", MT_OPTION_BOOL, "off", "",
	 "keep a digest of each pushed snapshot for verify, which reads the sender's table once more", 0, 0},
	{"verify_snapshot_limit", MT_OPTION_INTERVAL, "10 min", "interval",
	 "longest time for which a verification holds one snapshot", USECS_PER_SEC, PG_INT64_MAX},
	{MT_OPTION_OWNER, MT_OPTION_ROLE, NULL, "",
	 "role whose members drive the migration, and as which it connects to the target", 0, 0},
};

const int	mt_option_count = lengthof(mt_option_defs);

static const MtOptionDef *find_option(const char *name);
static void name_option(void *option);
static void check_value(const MtOptionDef *option, const char *value);
static void check_range(const MtOptionDef *option, const char *value, int64 number);
static void report_enum(const MtOptionDef *option, const char *value);
static int64 parse_integer(const MtOptionDef *option, const char *value);
static int64 parse_microseconds(const char *value);

/* mt_option_text returns an option as it was given, or its default. */
const char *
mt_option_text(int32 migration, const char *name)
{
	const MtOptionDef *option = find_option(name);
	const char *value = NULL;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT,
					"SELECT value FROM migrate_tiers.option_value WHERE migration = $1 AND name = $2",
					MT_ARGS(MT_INT4(migration), MT_TEXT(name))) > 0)
		value = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return value ? value : option->fallback;
}

/* mt_option_bool reads an option that is on or off. */
bool
mt_option_bool(int32 migration, const char *name)
{
	bool		result;

	if (!parse_bool(mt_option_text(migration, name), &result))
		elog(ERROR, "option %s is not a boolean", name);
	return result;
}

/* mt_option_integer reads an option that is a number or a size in bytes. */
int64
mt_option_integer(int32 migration, const char *name)
{
	return parse_integer(find_option(name), mt_option_text(migration, name));
}

/* mt_option_microseconds reads an option that is an interval. */
int64
mt_option_microseconds(int32 migration, const char *name)
{
	return parse_microseconds(mt_option_text(migration, name));
}

/* mt_option_set checks a value and stores it; NULL goes back to the default. */
void
mt_option_set(int32 migration, const char *name, const char *value)
{
	const MtOptionDef *option = find_option(name);
	ErrorContextCallback callback = {error_context_stack, name_option, (void *) option};
	MtSpiScope	scope;

	error_context_stack = &callback;
	if (value != NULL)
		check_value(option, value);
	error_context_stack = callback.previous;
	mt_spi_begin(&scope);
	if (value != NULL)
		mt_spi_exec(SPI_OK_INSERT,
					"INSERT INTO migrate_tiers.option_value (migration, name, value) VALUES ($1, $2, $3)"
					" ON CONFLICT (migration, name) DO UPDATE SET value = excluded.value",
					MT_ARGS(MT_INT4(migration), MT_TEXT(name), MT_TEXT(value)));
	else
		mt_spi_exec(SPI_OK_DELETE,
					"DELETE FROM migrate_tiers.option_value WHERE migration = $1 AND name = $2",
					MT_ARGS(MT_INT4(migration), MT_TEXT(name)));
	/* The capture trigger has no time to read options: it finds these with the migration. */
	if (strcmp(name, "queue_retention") == 0)
		mt_update_latest("UPDATE migrate_tiers.migration SET queue_retention = $2::interval WHERE id = $1",
						 MT_ARGS(MT_INT4(migration), MT_TEXT(value ? value : option->fallback)));
	if (strcmp(name, "queue_limit") == 0)
		mt_update_latest("UPDATE migrate_tiers.migration SET queue_limit = $2 WHERE id = $1",
						 MT_ARGS(MT_INT4(migration),
								 MT_INT8(parse_integer(option, value ? value : option->fallback))));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

static const MtOptionDef *
find_option(const char *name)
{
	for (int i = 0; i < mt_option_count; i++)
		if (strcmp(mt_option_defs[i].name, name) == 0)
			return &mt_option_defs[i];
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("option \"%s\" does not exist", name),
			 errhint("The view migrate_tiers.options shows all of them.")));
}

/* name_option says of which option a value could not be parsed. */
static void
name_option(void *option)
{
	const MtOptionDef *definition = option;

	errcontext("value of option \"%s\"", definition->name);
	if (definition->type == MT_OPTION_INTERVAL)
		errhint("Write it as an interval, as in '%s'.", definition->fallback);
	else if (definition->type == MT_OPTION_INTEGER)
		errhint("Write it as a number%s, as in '%s'.",
				strncmp(definition->unit, "bytes", 5) == 0 ? " of bytes, with kB, MB or GB if you like" : "",
				definition->fallback);
}

/* check_value refuses what a reader could not use. */
static void
check_value(const MtOptionDef *option, const char *value)
{
	bool		ignored;

	switch (option->type)
	{
		case MT_OPTION_BOOL:
			if (!parse_bool(value, &ignored))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("invalid value for option \"%s\": \"%s\"", option->name, value),
						 errhint("It is on or off.")));
			break;
		case MT_OPTION_INTEGER:
			check_range(option, value, parse_integer(option, value));
			break;
		case MT_OPTION_INTERVAL:
			check_range(option, value, parse_microseconds(value));
			break;
		case MT_OPTION_UUID:
			if (value[0] != '\0')
				(void) DirectFunctionCall1(uuid_in, CStringGetDatum(value));
			break;
		case MT_OPTION_ENUM:
			for (int i = 0; option->values[i] != NULL; i++)
				if (strcmp(option->values[i], value) == 0)
					return;
			report_enum(option, value);
			break;
		case MT_OPTION_ROLE:
			elog(ERROR, "option %s is not stored here", option->name);
	}
}

static void
check_range(const MtOptionDef *option, const char *value, int64 number)
{
	bool		interval = option->type == MT_OPTION_INTERVAL;

	if (number < option->min || number > option->max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", option->name, value),
				 number < option->min ?
				 errdetail("It must be at least " INT64_FORMAT " %s.",
						   interval ? option->min / USECS_PER_SEC : option->min,
						   interval ? "s" : option->unit) :
				 errdetail("It must be at most " INT64_FORMAT " %s.",
						   interval ? option->max / USECS_PER_SEC : option->max,
						   interval ? "s" : option->unit)));
}

static void
report_enum(const MtOptionDef *option, const char *value)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; option->values[i] != NULL; i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", option->values[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", option->name, value),
			 errhint("It is one of: %s.", names.data)));
}

static int64
parse_integer(const MtOptionDef *option, const char *value)
{
	if (strncmp(option->unit, "bytes", 5) == 0)
		return DatumGetInt64(DirectFunctionCall1(pg_size_bytes, CStringGetTextDatum(value)));
	return DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(value)));
}

/* parse_microseconds counts a month as thirty days, as comparison of intervals does. */
static int64
parse_microseconds(const char *value)
{
	Interval   *span = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(value),
															 ObjectIdGetDatum(InvalidOid),
															 Int32GetDatum(-1)));
	int64		days = (int64) span->month * DAYS_PER_MONTH + span->day;
	int64		microseconds;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &microseconds) ||
		pg_add_s64_overflow(microseconds, span->time, &microseconds))
		ereport(ERROR,
				(errcode(ERRCODE_INTERVAL_FIELD_OVERFLOW),
				 errmsg("interval \"%s\" is too long", value)));
	return microseconds;
}
