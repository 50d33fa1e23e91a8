/*
 * policy.c
 *	  Checks and stores how a batch table is pushed: see policy.h.
 *
 * What the push would refuse for sure is refused here, where a person sees it.
 */
#include "batch/policy.h"

#include "utils/lsyscache.h"

#include "base/spi.h"

static void check_mode(const char *mode);
static void check_positive(Interval *span, const char *name);
static void check_watermark(const MtRelation *relation, const char *mode, const char *watermark);
static void check_key(const MtRelation *relation);
static char *table_name(const MtRelation *relation);

/* mt_policy_set checks a policy and stores it. */
void
mt_policy_set(const MtRelation *relation, Interval *every, const char *mode, Interval *max_age, const char *watermark)
{
	MtSpiScope	scope;

	check_mode(mode);
	check_positive(every, "every");
	check_positive(max_age, "max_age");
	check_watermark(relation, mode, watermark);
	if (strcmp(mode, "diff") == 0)
		check_key(relation);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.policy (relation, every, mode, max_age, watermark) VALUES ($1, $2, $3, $4, $5::name)"
				" ON CONFLICT (relation) DO UPDATE SET every = excluded.every, mode = excluded.mode,"
				"  max_age = excluded.max_age, watermark = excluded.watermark",
				MT_ARGS(MT_INT4(relation->id),
						{INTERVALOID, IntervalPGetDatum(every), every == NULL}, MT_TEXT(mode),
						{INTERVALOID, IntervalPGetDatum(max_age), max_age == NULL}, MT_TEXT(watermark)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

/* mt_policy_call writes the other arguments that are not their defaults, since batch_policy sets them all. */
char *
mt_policy_call(const MtRelation *relation, const char *every, const char *mode)
{
	MtSpiScope	scope;
	char	   *call;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT concat_ws(', ', format('SELECT migrate_tiers.batch_policy(%L', $2), 'every => ' || coalesce($3, quote_literal(p.every)),"
				" 'mode => ' || quote_literal(nullif(coalesce($4, p.mode), 'diff')), 'max_age => ' || quote_literal(p.max_age),"
				" 'watermark => ' || CASE WHEN $4 IS NULL THEN quote_literal(p.watermark) END) || ')'"
				" FROM (VALUES ($1)) AS r(id) LEFT JOIN migrate_tiers.policy AS p ON p.relation = r.id",
				MT_ARGS(MT_INT4(relation->id), MT_TEXT(table_name(relation)), MT_TEXT(every), MT_TEXT(mode)));
	call = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return call;
}

static void
check_mode(const char *mode)
{
	if (strcmp(mode, "diff") != 0 && strcmp(mode, "replace") != 0 && strcmp(mode, "append") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown mode \"%s\"", mode),
				 errhint("Modes are diff, replace and append.")));
}

static void
check_positive(Interval *span, const char *name)
{
	Interval	zero = {0};

	if (span != NULL &&
		DatumGetInt32(DirectFunctionCall2(interval_cmp, IntervalPGetDatum(span), IntervalPGetDatum(&zero))) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be longer than nothing", name),
				 errhint("Write it as an interval, as in '15 min'.")));
}

static void
check_watermark(const MtRelation *relation, const char *mode, const char *watermark)
{
	bool		append = strcmp(mode, "append") == 0;

	if (append && watermark == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mode append needs a watermark"),
				 errdetail("Rows above the highest value of that column on the receiver are sent."),
				 errhint("Name a column that only grows: SELECT migrate_tiers.batch_policy(%s, mode => 'append', watermark => '...').",
						 quote_literal_cstr(table_name(relation)))));
	if (!append && watermark != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mode %s has no watermark", mode),
				 errhint("Leave it out, or choose mode => 'append'.")));
	if (append && get_attnum(relation->relid, watermark) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table %s does not exist", watermark, table_name(relation)),
				 errhint("Name a column that only grows, such as an identity or the time of insertion.")));
}

/*
 * check_key refuses mode diff where nothing identifies a row.  Whether a materialized
 * view's key holds nulls is known only when it is pushed.
 */
static void
check_key(const MtRelation *relation)
{
	MtSpiScope	scope;
	bool		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_SELECT,
						"SELECT FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid JOIN pg_class AS t ON t.oid = x.indrelid"
						" WHERE x.indrelid = $1 AND x.indisunique AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL"
						" AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')"
						" AND NOT EXISTS (SELECT FROM pg_attribute AS b WHERE b.attrelid = x.indrelid"
						"  AND b.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])"
						"  AND (b.attgenerated <> '' OR NOT b.attnotnull AND t.relkind <> 'm'))"
						" AND NOT EXISTS (SELECT FROM pg_constraint AS v WHERE v.conrelid = x.indrelid AND v.contype = 'n'"
						"  AND NOT v.convalidated AND v.conkey[1] = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]))",
						MT_ARGS(MT_OID(relation->relid))) > 0;
	mt_spi_end(&scope);
	if (!found)
	{
		char	   *call = mt_policy_call(relation, NULL, "replace");

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s has no key, which mode diff needs", table_name(relation)),
				 errdetail("A key is a valid unique index over plain columns that are NOT NULL, or any of a materialized view."),
				 errhint("Add one on both sides, or push whole snapshots: %s.", call)));
	}
}

static char *
table_name(const MtRelation *relation)
{
	return quote_qualified_identifier(relation->schema, relation->name);
}
