/*
 * imprint.c
 *	  What both sides looked like when they were last equal: see imprint.h.
 *
 * One scan of each side, both at the same time, finds the rows that are new and their
 * ranges.  An UPDATE leaves a new row in the range of the old one, so it is found
 * by that, too.  What was only deleted leaves a count that is too low: when the ranges
 * with new rows do not explain all that is missing, the others are counted one by one.
 */
#include "batch/imprint.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

/* Of the 2^31 transactions that a xid can be told from; beyond, all is compared. */
#define MAX_XID_AGE "1000000000"

/* Ranges that are counted at once. */
#define COUNTED_AT_ONCE 64

/*
 * The files and columns of a table and its partitions, in this database of this cluster; NULL where some
 * are not stored as heap.  A column that is added or dropped, a partition that is attached, and a label of an enum that
 * is renamed change rows without a trace on them.
 */
#define SHAPE_OF \
	"SELECT CASE WHEN bool_and(coalesce(a.amname = 'heap', false)) THEN md5(concat_ws(' '," \
	" (SELECT s.system_identifier FROM pg_control_system() AS s)," \
	" (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())," \
	" (SELECT string_agg(concat_ws(' ', e.oid, quote_ident(e.enumlabel)), ',' ORDER BY e.oid) FROM pg_enum AS e)," \
	" string_agg(concat_ws(' ', c.oid, pg_relation_filenode(c.oid), b.columns), ',' ORDER BY c.oid), %s)) END" \
	" FROM (SELECT %s::regclass::oid UNION SELECT relid FROM pg_partition_tree(%s::regclass)) AS t(oid)" \
	" JOIN pg_class AS c ON c.oid = t.oid AND c.relkind <> 'p' LEFT JOIN pg_am AS a ON a.oid = c.relam" \
	" CROSS JOIN LATERAL (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod), ',' ORDER BY a.attnum)" \
	"  AS columns FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS b"

static void stand(MtPush *push, MtSide *side, const char *table, MtTrace *trace);
static char *shape_of(MtPush *push, MtSide *side, const char *table);
static void recall(MtPush *push, MtImprint *imprint);
static MtRows *find_kept(MtPush *push, MtSide *side, const MtTrace *trace);
static void read_ranges(MtPush *push, MtImprint *imprint);
static char *known_rows(char **kept);
static bool is_same_shape(MtPush *push, MtImprint *imprint);
static char *look_sql(MtPush *push, MtSide *side, const MtTrace *trace, const MtRows *bounds);
static char *bucket(MtPush *push, MtSide *side, const MtRows *bounds);
static MtRows *key_collations(MtPush *push, MtSide *side);
static void mark_touched(MtRows *answer, MtTrace *trace, int64 rows, MtRanges *ranges);
static bool is_explained(const MtRanges *ranges, const MtImprint *imprint);
static char *keep_sql(MtPush *push, MtSide *side, const MtTrace *trace, const MtImprint *imprint,
					  const MtRanges *ranges, const MtRows *bounds);
static char *where_ours(const MtPush *push);

/* mt_imprint_open notes where both sides stand before any of their rows is read, and recalls the push before. */
MtImprint *
mt_imprint_open(MtPush *push)
{
	MtImprint  *imprint = palloc0(sizeof(MtImprint));

	/* What travels as text holds names of other objects, which change without a trace on the row. */
	if (!push->columns->all_binary)
		return NULL;
	stand(push, push->sender, push->sender_name, &imprint->sender);
	stand(push, push->receiver, push->into, &imprint->receiver);
	if (imprint->sender.shape == NULL || imprint->receiver.shape == NULL)
		return NULL;
	imprint->token = mt_side_query(&push->here, "SELECT gen_random_uuid()")->values[0][0];
	recall(push, imprint);
	return imprint;
}

static void
stand(MtPush *push, MtSide *side, const char *table, MtTrace *trace)
{
	trace->shape = shape_of(push, side, table);
	trace->horizon = mt_side_query(side, "SELECT pg_snapshot_xmin(pg_current_snapshot())")->values[0][0];
}

static char *
shape_of(MtPush *push, MtSide *side, const char *table)
{
	const char *name = quote_literal_cstr(table);

	return mt_side_query(side, psprintf(SHAPE_OF, quote_literal_cstr(push->digest), name, name))->values[0][0];
}

/* recall reads what a push before has kept on both sides, if it is of one push and holds. */
static void
recall(MtPush *push, MtImprint *imprint)
{
	MtRows	   *sender = find_kept(push, push->sender, &imprint->sender);
	MtRows	   *receiver = find_kept(push, push->receiver, &imprint->receiver);
	MtRows	   *age;

	if (sender->count == 0 || receiver->count == 0 || strcmp(sender->values[0][0], receiver->values[0][0]) != 0)
		return;
	age = mt_side_query_ours(&push->here,
							 psprintf("SELECT compared < now() - interval '1 day' FROM migrate_tiers.imprint WHERE %s",
									  where_ours(push)));
	imprint->expired = age->values[0][0][0] == 't';
	if (imprint->expired)
		return;
	imprint->sender.known = known_rows(sender->values[0]);
	imprint->receiver.known = known_rows(receiver->values[0]);
	read_ranges(push, imprint);
	imprint->valid = true;
}

/* find_kept reads what one side has kept, where that side is still the same. */
static MtRows *
find_kept(MtPush *push, MtSide *side, const MtTrace *trace)
{
	return mt_side_query_ours(side,
							  psprintf("SELECT token, (horizon & 4294967295)::text, (own & 4294967295)::text"
									   " FROM migrate_tiers.imprint WHERE %s AND shape = %s"
									   " AND horizon <= %s AND %s - horizon < " MAX_XID_AGE,
									   where_ours(push), quote_literal_cstr(trace->shape), trace->horizon,
									   trace->horizon));
}

static void
read_ranges(MtPush *push, MtImprint *imprint)
{
	imprint->bounds = mt_ranges_read_bounds(push, &push->here,
											psprintf("(SELECT ranges FROM migrate_tiers.imprint WHERE %s)", where_ours(push)));
	imprint->rows = mt_side_query_ours(&push->here,
									   psprintf("SELECT r.value FROM migrate_tiers.imprint,"
												" jsonb_array_elements_text(ranges->'rows') WITH ORDINALITY AS r(value, n) WHERE %s ORDER BY n",
												where_ours(push)));
}

/* known_rows writes the condition that a row's version was there; only versions of 2^31 transactions can be told. */
static char *
known_rows(char **kept)
{
	return psprintf("(age(t.xmin) > (SELECT age('%s'::xid)) OR t.xmin = '%s'::xid)", kept[1], kept[2]);
}

/* mt_imprint_look looks at both sides. */
void
mt_imprint_look(MtPush *push, MtImprint *imprint, MtRanges *ranges)
{
	MtRows	   *sender;
	MtRows	   *receiver;
	int64		rows = 0;

	for (int i = 0; i < ranges->count; i++)
	{
		MtRange    *range = &ranges->ranges[i];

		range->known_rows = range->sender_rows = range->receiver_rows = strtoll(imprint->rows->values[i][0], NULL, 10);
		range->unknown = false;
		rows += range->known_rows;
	}
	mt_side_query_both(push->sender, look_sql(push, push->sender, &imprint->sender, imprint->bounds), &sender,
					   push->receiver, look_sql(push, push->receiver, &imprint->receiver, imprint->bounds), &receiver);
	mark_touched(sender, &imprint->sender, rows, ranges);
	mark_touched(receiver, &imprint->receiver, rows, ranges);
	if (is_same_shape(push, imprint))
		return;
	/* A partition came or went while we looked. */
	for (int i = 0; i < ranges->count; i++)
		ranges->ranges[i].unknown = true;
	imprint->valid = false;
}

static bool
is_same_shape(MtPush *push, MtImprint *imprint)
{
	char	   *sender = shape_of(push, push->sender, push->sender_name);
	char	   *receiver = shape_of(push, push->receiver, push->into);

	return sender != NULL && receiver != NULL && strcmp(sender, imprint->sender.shape) == 0 &&
		strcmp(receiver, imprint->receiver.shape) == 0;
}

/* look_sql asks how many rows of a side were there, and in which ranges others are. */
static char *
look_sql(MtPush *push, MtSide *side, const MtTrace *trace, const MtRows *bounds)
{
	const char *table = side == push->sender ? push->from : push->to;
	StringInfoData sql;

	initStringInfo(&sql);
	/* Once for each row it is looked whether it is known, and only where not, in which range it is. */
	appendStringInfo(&sql, "SELECT count(*) - count(b), array_agg(DISTINCT b) FILTER (WHERE b IS NOT NULL)"
						   " FROM (SELECT CASE WHEN NOT %s THEN ",
					 trace->known);
	if (bounds != NULL)
		appendStringInfo(&sql, "width_bucket(%s)", bucket(push, side, bounds));
	else
		appendStringInfoChar(&sql, '0');
	appendStringInfo(&sql, " END AS b FROM %s AS t OFFSET 0) AS t", table);
	return sql.data;
}

/*
 * bucket writes a key and all bounds, as values of one type: records where the key has several columns, or is an
 * array, of which an array would be one of more dimensions.
 */
static char *
bucket(MtPush *push, MtSide *side, const MtRows *bounds)
{
	const MtPushKey *key = push->key;
	const char *row = key->as_record ? "ROW(" : "";
	const char *end = key->as_record ? ")" : "";
	MtRows	   *collations = key_collations(push, side);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, row);
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&sql, "%st.%s::%s", i ? ", " : "", key->columns[i], key->types[i]);
	appendStringInfo(&sql, "%s, (SELECT ARRAY[", end);
	for (int at = 0; at < bounds->count; at++)
	{
		appendStringInfo(&sql, "%s%s", at ? ", " : "", row);
		for (int i = 0; i < key->count; i++)
			appendStringInfo(&sql, "%s%s::%s%s", i ? ", " : "", quote_literal_cstr(bounds->values[at][i]), key->types[i],
							 collations->values[i][0]);
		appendStringInfoString(&sql, end);
	}
	appendStringInfoString(&sql, "])");
	return sql.data;
}

/* key_collations reads the collation of each column of the key on a side, as a clause. */
static MtRows *
key_collations(MtPush *push, MtSide *side)
{
	StringInfoData sql;
	MtRows	   *rows;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT coalesce(' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(c.collname), '')"
								 " FROM unnest(ARRAY[");
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&sql, "%s%s", i ? ", " : "", quote_literal_cstr(push->key->names[i]));
	appendStringInfo(&sql, "]::name[]) WITH ORDINALITY AS k(name, n)"
						   " JOIN pg_attribute AS a ON a.attname = k.name AND a.attrelid = %s::regclass"
						   " LEFT JOIN pg_collation AS c ON c.oid = a.attcollation LEFT JOIN pg_namespace AS n ON n.oid = c.collnamespace"
						   " ORDER BY k.n",
					 quote_literal_cstr(side == push->sender ? push->sender_name : push->into));
	rows = mt_side_query(side, sql.data);
	/* A column may have gone since the key was found. */
	if (rows->count != push->key->count)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("a column of the key of table %s is not there any more", push->into)));
	return rows;
}

/* mark_touched marks the ranges of rows that were not there, and notes how many of the others are missing. */
static void
mark_touched(MtRows *answer, MtTrace *trace, int64 rows, MtRanges *ranges)
{
	char	   *number = answer->values[0][1];

	trace->lost = rows - strtoll(answer->values[0][0], NULL, 10);
	/* An array of integers, as text. */
	while (number != NULL && *number != '\0' && *number != '}')
	{
		long		range = strtol(number + 1, &number, 10);

		if (range < 0 || range >= ranges->count)
			ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("an answer names a range that does not exist")));
		ranges->ranges[range].unknown = true;
	}
}

/* mt_imprint_find_lost counts the ranges that seem known, where some of their rows must be missing. */
void
mt_imprint_find_lost(MtPush *push, MtImprint *imprint, MtRanges *ranges)
{
	int			numbers[COUNTED_AT_ONCE];

	if (is_explained(ranges, imprint))
		return;
	for (int next = 0, count = 0; next <= ranges->count; next++)
	{
		MtRows	   *sender;
		MtRows	   *receiver;

		if (count == COUNTED_AT_ONCE || (next == ranges->count && count > 0))
		{
			mt_side_query_both(push->sender, mt_ranges_count_sql(push, ranges, numbers, count, push->from), &sender,
							   push->receiver, mt_ranges_count_sql(push, ranges, numbers, count, push->to), &receiver);
			for (int i = 0; i < count; i++)
			{
				MtRange    *range = &ranges->ranges[numbers[i]];

				range->unknown = strtoll(sender->values[i][1], NULL, 10) != range->known_rows ||
					strtoll(receiver->values[i][1], NULL, 10) != range->known_rows;
			}
			count = 0;
		}
		if (next < ranges->count && !ranges->ranges[next].compared)
			numbers[count++] = next;
	}
}

/* is_explained says whether all rows that are missing are missing in ranges that were compared. */
static bool
is_explained(const MtRanges *ranges, const MtImprint *imprint)
{
	int64		sender = imprint->sender.lost;
	int64		receiver = imprint->receiver.lost;

	for (int i = 0; i < ranges->count; i++)
	{
		const MtRange *range = &ranges->ranges[i];

		if (!range->compared)
			continue;
		sender -= range->known_rows - range->sender_kept;
		receiver -= range->known_rows - range->receiver_kept;
	}
	return sender == 0 && receiver == 0;
}

/* mt_imprint_keep writes the receiver's imprint, and has the sender's written when its transaction has ended. */
void
mt_imprint_keep(MtPush *push, MtImprint *imprint, const MtRanges *ranges, const MtRows *bounds)
{
	mt_side_manage(push->receiver, keep_sql(push, push->receiver, &imprint->receiver, imprint, ranges, bounds));
	push->afterwards = keep_sql(push, push->sender, &imprint->sender, imprint, ranges, bounds);
	push->noting = push->sender;
}

/* keep_sql writes the imprint of a side; this database's has the ranges, too. */
static char *
keep_sql(MtPush *push, MtSide *side, const MtTrace *trace, const MtImprint *imprint,
		 const MtRanges *ranges, const MtRows *bounds)
{
	bool		here = side->remote == NULL;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO migrate_tiers.imprint AS i (migration, relation, token, shape, horizon, own%s)"
						   " VALUES ('%s', %d, '%s', %s, %s, %s",
					 here ? ", ranges, compared" : "", push->migration->ident, push->relation->id, imprint->token,
					 quote_literal_cstr(trace->shape), trace->horizon,
					 side == push->receiver ? "pg_current_xact_id()::text::bigint" : "0");
	if (here)
	{
		StringInfoData json;

		initStringInfo(&json);
		appendStringInfo(&json, "{\"bounds\": %s, \"rows\": [", mt_ranges_bounds_json(bounds));
		for (int i = 0; i < ranges->count; i++)
			appendStringInfo(&json, "%s" INT64_FORMAT, i ? ", " : "", ranges->ranges[i].sender_rows);
		appendStringInfo(&sql, ", %s, now()", quote_literal_cstr(psprintf("%s]}", json.data)));
	}
	appendStringInfoString(&sql, ") ON CONFLICT (migration, relation) DO UPDATE SET"
								 " token = excluded.token, shape = excluded.shape, horizon = excluded.horizon, own = excluded.own");
	if (here)
		appendStringInfo(&sql, ", ranges = excluded.ranges%s", imprint->valid ? "" : ", compared = excluded.compared");
	return sql.data;
}

/* mt_imprint_renew lets what was kept hold for another day. */
void
mt_imprint_renew(MtPush *push, const MtImprint *imprint)
{
	if (!imprint->expired)
		return;
	push->afterwards = psprintf("UPDATE migrate_tiers.imprint SET compared = now() WHERE %s", where_ours(push));
	push->noting = &push->here;
}

static char *
where_ours(const MtPush *push)
{
	return psprintf("migration = '%s' AND relation = %d", push->migration->ident, push->relation->id);
}
