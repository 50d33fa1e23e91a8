/*
 * range.c
 *	  Ranges of keys: see range.h.
 */
#include "batch/range.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"

/* Pages that are looked at for each range. */
#define SAMPLE_PAGES 8

static void measure(MtPush *push, double *rows, double *pages);
static char *of_each(const MtPush *push, const MtRanges *ranges, const int *numbers, int count, const char *table,
					 const char *aggregates);
static char *key_list(const MtPush *push, const char *prefix);
static char *key_as(const MtPush *push);
static char *key_names(const MtPush *push, const char *prefix, const char *suffix);
static void append_bound(StringInfo text, const MtPush *push, char **values);

/* mt_ranges_make cuts all keys at the bounds. */
MtRanges *
mt_ranges_make(const MtRows *bounds)
{
	MtRanges   *ranges = palloc0(sizeof(MtRanges));
	int			cuts = bounds ? bounds->count : 0;

	ranges->count = cuts + 1;
	ranges->ranges = MemoryContextAllocExtended(CurrentMemoryContext, sizeof(MtRange) * ranges->count,
												MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i <= cuts; i++)
		ranges->ranges[i].unknown = true;
	for (int i = 0; i < cuts; i++)
		ranges->ranges[i].high = ranges->ranges[i + 1].low = bounds->values[i];
	return ranges;
}

/* mt_ranges_sample takes every nth key of some pages of the sender's table. */
MtRows *
mt_ranges_sample(MtPush *push)
{
	MtRows	   *sample;
	double		rows;
	double		pages;
	int			count;

	if (!push->key->ordered)
		return NULL;
	measure(push, &rows, &pages);
	count = (int) Min(rows / MT_RANGE_ROWS, 1e6);
	if (count < 2)
		return NULL;
	sample = mt_side_query(push->sender,
						   psprintf("SELECT %s FROM (SELECT %s, row_number() OVER (ORDER BY %s) AS n, count(*) OVER () AS total"
									" FROM %s AS t TABLESAMPLE SYSTEM (%f)) AS k"
									" WHERE n %% greatest(total / %d, 1) = 0 ORDER BY n",
									key_names(push, "k.", "::text"), key_as(push), key_list(push, "t."),
									push->from, Min(100.0 * count * SAMPLE_PAGES / pages, 100.0), count));
	/* A sample of few pages may be none. */
	return sample->count > 0 ? sample : NULL;
}

/* mt_ranges_sample_share takes pages enough for their rows to be of many places. */
double
mt_ranges_sample_share(MtPush *push, int sample)
{
	double		rows;
	double		pages;

	measure(push, &rows, &pages);
	return Min(100.0 * Max(sample * Max(pages, 1) / Max(rows, 1), SAMPLE_PAGES * 8) / Max(pages, 1), 100.0);
}

/* mt_ranges_estimate says how many rows the statistics promise. */
double
mt_ranges_estimate(MtPush *push)
{
	double		rows;
	double		pages;

	measure(push, &rows, &pages);
	return rows;
}

/* measure estimates the sender's table; one that was never analyzed has 100 rows a page, or so. */
static void
measure(MtPush *push, double *rows, double *pages)
{
	const char *name = quote_literal_cstr(push->sender_name);
	MtRows	   *size;

	size = mt_side_query(push->sender,
						 psprintf("SELECT sum(CASE WHEN c.reltuples > 0 THEN c.reltuples ELSE s.pages * 100 END), sum(s.pages)"
								  " FROM (SELECT %s::regclass UNION SELECT relid FROM pg_partition_tree(%s::regclass)) AS t(oid)"
								  " JOIN pg_class AS c ON c.oid = t.oid AND c.relkind IN ('r', 'm') CROSS JOIN LATERAL"
								  " (SELECT pg_relation_size(c.oid) / current_setting('block_size')::bigint AS pages) AS s",
								  name, name));
	*rows = size->values[0][0] ? strtod(size->values[0][0], NULL) : 0;
	*pages = size->values[0][1] ? strtod(size->values[0][1], NULL) : 0;
}

/* mt_ranges_agree asks the receiver whether each bound is above the one before. */
bool
mt_ranges_agree(MtPush *push, const MtRows *bounds)
{
	StringInfoData sql;
	MtRows	   *answer;

	initStringInfo(&sql);
	/* The table's columns come first, so that their collations count. */
	appendStringInfo(&sql, "SELECT coalesce(bool_and(above), true) FROM (SELECT ROW(%s) > ROW(",
					 key_names(push, "b.", ""));
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&sql, "%slag(b.k%d) OVER w", i ? ", " : "", i);
	appendStringInfo(&sql, ") AS above FROM (SELECT 0 AS n, %s FROM %s AS t WHERE false UNION ALL VALUES ",
					 key_as(push), push->to);
	for (int row = 0; row < bounds->count; row++)
	{
		appendStringInfo(&sql, "%s(%d, ", row ? ", " : "", row + 1);
		append_bound(&sql, push, bounds->values[row]);
		appendStringInfoChar(&sql, ')');
	}
	appendStringInfoString(&sql, ") AS b WINDOW w AS (ORDER BY b.n)) AS c");
	answer = mt_side_query(push->receiver, sql.data);
	return answer->values[0][0][0] == 't';
}

/* mt_range_condition writes what keys of a range have in common. */
char *
mt_range_condition(const MtPush *push, const MtRange *range, const char *prefix)
{
	StringInfoData text;

	initStringInfo(&text);
	if (range->low != NULL)
	{
		appendStringInfo(&text, "(%s) >= (", key_list(push, prefix));
		append_bound(&text, push, range->low);
		appendStringInfoChar(&text, ')');
	}
	if (range->high != NULL)
	{
		appendStringInfo(&text, "%s(%s) < (", text.len ? " AND " : "", key_list(push, prefix));
		append_bound(&text, push, range->high);
		appendStringInfoChar(&text, ')');
	}
	return text.len ? text.data : pstrdup("true");
}

/* mt_ranges_digest_sql asks for the digests of some ranges. */
char *
mt_ranges_digest_sql(const MtPush *push, const MtRanges *ranges, const int *numbers, int count, const char *table,
					 const char *condition)
{
	return of_each(push, ranges, numbers, count, table,
				   psprintf("count(*), coalesce(sum(%s), 0)::text, count(*) FILTER (WHERE %s)", push->digest, condition));
}

/* mt_ranges_count_sql asks for the numbers of rows of some ranges. */
char *
mt_ranges_count_sql(const MtPush *push, const MtRanges *ranges, const int *numbers, int count, const char *table)
{
	return of_each(push, ranges, numbers, count, table, "count(*)");
}

/* of_each asks for aggregates of some ranges, one row each. */
static char *
of_each(const MtPush *push, const MtRanges *ranges, const int *numbers, int count, const char *table,
		const char *aggregates)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < count; i++)
		appendStringInfo(&sql, "%sSELECT %d AS n, %s FROM %s AS t WHERE %s", i ? " UNION ALL " : "", i, aggregates, table,
						 mt_range_condition(push, &ranges->ranges[numbers[i]], "t."));
	appendStringInfoString(&sql, " ORDER BY n");
	return sql.data;
}

/* mt_ranges_bounds_json writes bounds as an array of arrays. */
char *
mt_ranges_bounds_json(const MtRows *bounds)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	for (int row = 0; bounds != NULL && row < bounds->count; row++)
	{
		appendStringInfoString(&json, row ? ", [" : "[");
		for (int i = 0; i < bounds->columns; i++)
		{
			appendStringInfoString(&json, i ? ", " : "");
			escape_json(&json, bounds->values[row][i]);
		}
		appendStringInfoChar(&json, ']');
	}
	appendStringInfoChar(&json, ']');
	return json.data;
}

/* mt_ranges_read_bounds reads a row for each bound, as mt_ranges_sample gives them. */
MtRows *
mt_ranges_read_bounds(MtPush *push, MtSide *side, const char *json)
{
	StringInfoData sql;
	MtRows	   *bounds;

	initStringInfo(&sql);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&sql, "%sb.value->>%d", i ? ", " : "SELECT ", i);
	appendStringInfo(&sql, " FROM jsonb_array_elements(%s->'bounds') WITH ORDINALITY AS b(value, n) ORDER BY n", json);
	bounds = mt_side_query_ours(side, sql.data);
	return bounds->count > 0 ? bounds : NULL;
}

static char *
key_list(const MtPush *push, const char *prefix)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&text, "%s%s%s", i ? ", " : "", prefix, push->key->columns[i]);
	return text.data;
}

/* key_as names the key's columns k0, k1, ..., since a name of a user's might be one of ours. */
static char *
key_as(const MtPush *push)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&text, "%st.%s AS k%d", i ? ", " : "", push->key->columns[i], i);
	return text.data;
}

static char *
key_names(const MtPush *push, const char *prefix, const char *suffix)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&text, "%s%sk%d%s", i ? ", " : "", prefix, i, suffix);
	return text.data;
}

static void
append_bound(StringInfo text, const MtPush *push, char **values)
{
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(text, "%s%s::%s", i ? ", " : "", quote_literal_cstr(values[i]), push->key->types[i]);
}
