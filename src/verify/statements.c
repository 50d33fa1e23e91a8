/*
 * statements.c
 *	  The SQL of a comparison: see table.h.
 *
 * Two sums of 64-bit hashes with different seeds stand for the rows of a part:
 * sums do not depend on order, and a pair of rows that exchange values changes them.
 * The hash is hashtextextended: fast, and the same in all versions that we
 * support; but not on machines of another byte order, which is found out before
 * it is used (mt_verify_sql_hashes).  Where it differs, SHA-256 serves.
 *
 * A long value is hashed by itself before it enters the text of its row, which
 * must stay below 1 GB.  search_path is pinned on both sides.
 */
#include "verify/table.h"

#include "catalog/pg_type_d.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/name.h"
#include "endpoint/statements.h"

/* ROW() takes 1664 at most; and one that is nested is quoted again. */
#define ROW_FIELDS 1600

static void make_texts(MtVerifyTable *table);
static char *table_name(const MtVerifyTable *table, bool target);
static char *hash(const MtVerifyTable *table, const char *text, int seed);
static List *row_fields(const MtVerifyTable *table);
static char *row_of(const List *fields);
static char *part_of(const MtVerifyTable *table, int parts);
static char *condition(const MtVerifyTable *table, const MtKeyRange *range);
static void append_bound(StringInfo sql, const MtVerifyTable *table, bool upper, int first);
static void append_rows(StringInfo sql, const MtVerifyTable *table, bool upper, int first);
static void append_steps(StringInfo sql, const MtVerifyTable *table, bool upper, int first);
static int	count_bounds(const MtVerifyTable *table, const MtKeyRange *range);
static char *key_list(const MtVerifyTable *table, const char *prefix);
static char *key_as(const MtVerifyTable *table);
static char *key_names(const MtVerifyTable *table, const char *prefix);
static char *image(const MtVerifyTable *table);
static bool image_as_text(Oid type);

/* mt_verify_shape tells what is compared. */
char *
mt_verify_shape(const MtVerifyTable *table)
{
	make_texts((MtVerifyTable *) table);
	return psprintf("%s: %s", key_list(table, ""), table->row_text);
}

/* mt_verify_sql_digest sums up the rows of a range, part by part. */
char *
mt_verify_sql_digest(const MtVerifyTable *table, bool target, const MtKeyRange *range, int parts)
{
	make_texts((MtVerifyTable *) table);
	return psprintf("SELECT s.part, count(*), sum(%s), sum(%s)"
					" FROM (SELECT %s AS part, %s AS r FROM %s AS t WHERE %s OFFSET 0) AS s GROUP BY s.part",
					hash(table, "s.r", 0), hash(table, "s.r", 1), part_of(table, parts), table->row_text,
					table_name(table, target), condition(table, range));
}

/* mt_verify_sql_rows reads the keys and hashes of the rows in some parts of a range. */
char *
mt_verify_sql_rows(const MtVerifyTable *table, bool target, const MtKeyRange *range, int parts)
{
	make_texts((MtVerifyTable *) table);
	/* A list of the parts would be searched, if not read anew, for each row. */
	return psprintf("SELECT %s, %s, %s FROM (SELECT %s, %s AS r FROM %s AS t"
					" WHERE %s AND get_bit($%d::varbit, %s::integer) = 1 OFFSET 0) AS s",
					key_names(table, "s."), hash(table, "s.r", 0), hash(table, "s.r", 1), key_as(table),
					table->row_text, table_name(table, target), condition(table, range),
					count_bounds(table, range) + 1, part_of(table, parts));
}

/* mt_verify_sql_cut finds the key that stands so many rows after the begin of a range. */
char *
mt_verify_sql_cut(const MtVerifyTable *table, bool target, const MtKeyRange *range)
{
	StringInfoData order;

	initStringInfo(&order);
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&order, "%st.%s USING %s", i ? ", " : "",
						 mt_name_quote(table->relation->key_columns[i]), table->less[i]);
	return psprintf("SELECT %s FROM %s AS t WHERE %s ORDER BY %s OFFSET $%d::bigint LIMIT 1",
					key_list(table, "t."), table_name(table, target), condition(table, range), order.data,
					count_bounds(table, range) + 1);
}

/* mt_verify_sql_images reads the rows of some keys. */
char *
mt_verify_sql_images(const MtVerifyTable *table, bool target, bool with_row)
{
	StringInfoData arrays;
	StringInfoData names;
	StringInfoData match;
	StringInfoData columns;

	make_texts((MtVerifyTable *) table);
	initStringInfo(&arrays);
	initStringInfo(&names);
	initStringInfo(&match);
	initStringInfo(&columns);
	for (int i = 0; i < table->nkeys; i++)
	{
		appendStringInfo(&arrays, "%s$%d::text[]", i ? ", " : "", i + 1);
		appendStringInfo(&names, "k%d, ", i + 1);
		appendStringInfo(&match, "%st.%s %s k.k%d::%s", i ? " AND " : "",
						 mt_name_quote(table->relation->key_columns[i]), table->relation->key_operators[i],
						 i + 1, table->key_types[i]);
	}
	for (int i = 0; i < table->columns->count; i++)
		appendStringInfo(&columns, "%s%s", i ? ", " : "",
						 hash(table, psprintf("ROW(t.%s)::text COLLATE \"C\"", mt_name_quote(table->columns->columns[i].name)), 0));
	return psprintf("SELECT s.n, %s, %s, s.c, s.image, %s FROM (SELECT k.n, %s AS r, ARRAY[%s]::bigint[] AS c,"
					" %s AS image, %s FROM unnest(%s) WITH ORDINALITY AS k(%sn) JOIN %s AS t ON %s OFFSET 0) AS s",
					hash(table, "s.r", 0), hash(table, "s.r", 1), key_names(table, "s."), table->row_text,
					columns.data, with_row ? image(table) : "NULL::jsonb", key_as(table), arrays.data,
					names.data, table_name(table, target), match.data);
}

/*
 * mt_verify_sql_intact asks whether the table's files are those of the snapshot.
 *
 * TRUNCATE, and an ALTER TABLE that rewrites, show an empty or a new table to every snapshot.  System
 * tables that are read by a query are as the snapshot has them; pg_relation_filenode knows what is now.
 */
char *
mt_verify_sql_intact(const MtVerifyTable *table, bool target)
{
	char	   *oid = target ? psprintf("%s::regclass::oid", quote_literal_cstr(mt_relation_target_name(table->relation))) :
		psprintf("%u::oid", table->relation->relid);

	return psprintf("WITH RECURSIVE tree(oid) AS (SELECT c.oid, c.relkind FROM pg_class AS c WHERE c.oid = %s"
					" UNION ALL SELECT i.inhrelid, c.relkind FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid"
					" JOIN pg_class AS c ON c.oid = i.inhrelid WHERE tree.relkind = 'p')"
					" SELECT (SELECT count(*) FROM tree) > 0 AND (SELECT bool_and(c.relfilenode = coalesce(pg_relation_filenode(c.oid), 0))"
					"  FROM tree JOIN pg_class AS c USING (oid))"
					" AND NOT EXISTS (SELECT FROM pg_partition_tree(%s) AS p WHERE p.relid NOT IN (SELECT oid FROM tree))"
					" AND NOT EXISTS (SELECT FROM tree WHERE oid <> %s AND oid NOT IN (SELECT relid FROM pg_partition_tree(%s)))",
					oid, oid, oid, oid);
}

/* mt_verify_sql_hashes hashes texts of all the lengths at which the function takes another way. */
char *
mt_verify_sql_hashes(void)
{
	return pstrdup("SELECT string_agg(hashtextextended(left(repeat('migrate_tiers \xc3\xa9', 5), n) COLLATE \"C\", n % 3)::text,"
				   " ' ' ORDER BY n) FROM generate_series(0, 60) AS n");
}

/* make_texts builds the expressions that stand for a key and for a row. */
static void
make_texts(MtVerifyTable *table)
{
	if (table->row_text)
		return;
	if (table->nkeys == 1)
		table->key_text = psprintf("t.%s::text COLLATE \"C\"", mt_name_quote(table->relation->key_columns[0]));
	else
		table->key_text = psprintf("ROW(%s)::text COLLATE \"C\"", key_list(table, "t."));
	table->row_text = psprintf("%s::text COLLATE \"C\"", row_of(row_fields(table)));
}

static char *
table_name(const MtVerifyTable *table, bool target)
{
	return target ? mt_sql_receiver_rows(table->relation) : mt_relation_source_name(table->relation);
}

static char *
hash(const MtVerifyTable *table, const char *text, int seed)
{
	if (table->same_hash)
		return psprintf("hashtextextended(%s, %d)", text, seed);
	return psprintf("('x' || substr(encode(sha256(textsend(%s)), 'hex'), %d, 16))::bit(64)::bigint", text, 1 + 16 * seed);
}

/* row_fields lists what stands for each column: its value, or hashes of one that may be long. */
static List *
row_fields(const MtVerifyTable *table)
{
	List	   *fields = NIL;

	for (int i = 0; i < table->columns->count; i++)
	{
		const MtColumn *column = &table->columns->columns[i];
		char	   *value = psprintf("t.%s", mt_name_quote(column->name));
		char	   *text = psprintf("%s::text COLLATE \"C\"", value);

		switch (getBaseType(column->type))
		{
			case TEXTOID:
			case VARCHAROID:
			case JSONOID:
			case JSONBOID:
				fields = lappend(fields, hash(table, text, 0));
				fields = lappend(fields, hash(table, text, 1));
				break;
			case BYTEAOID:
				fields = lappend(fields, psprintf("sha256(%s::bytea)", value));
				break;
			default:
				fields = lappend(fields, value);
		}
	}
	return fields;
}

/* row_of makes a row of fields, and rows of rows where one cannot have as many. */
static char *
row_of(const List *fields)
{
	StringInfoData text;
	bool		nested = list_length(fields) > ROW_FIELDS;
	ListCell   *cell;

	initStringInfo(&text);
	appendStringInfoString(&text, nested ? "ROW(ROW(" : "ROW(");
	foreach(cell, fields)
	{
		int			i = foreach_current_index(cell);

		if (i > 0)
			appendStringInfoString(&text, i % ROW_FIELDS == 0 ? "), ROW(" : ", ");
		appendStringInfoString(&text, (char *) lfirst(cell));
	}
	appendStringInfoString(&text, nested ? "))" : ")");
	return text.data;
}

/* part_of says to which part of a range a row belongs; parts are a power of two. */
static char *
part_of(const MtVerifyTable *table, int parts)
{
	return psprintf("(%s & %d)", hash(table, table->key_text, 0), parts - 1);
}

/* condition says that a key is in a range: parameters are the lower bound, then the upper. */
static char *
condition(const MtVerifyTable *table, const MtKeyRange *range)
{
	StringInfoData sql;

	initStringInfo(&sql);
	if (range->low)
		append_bound(&sql, table, false, 1);
	if (range->low && range->high)
		appendStringInfoString(&sql, " AND ");
	if (range->high)
		append_bound(&sql, table, true, range->low ? table->nkeys + 1 : 1);
	return sql.len ? sql.data : "true";
}

static void
append_bound(StringInfo sql, const MtVerifyTable *table, bool upper, int first)
{
	if (table->plain_order)
		append_rows(sql, table, upper, first);
	else
		append_steps(sql, table, upper, first);
}

/* append_rows compares key and bound as rows, which an index over all of them can do at once. */
static void
append_rows(StringInfo sql, const MtVerifyTable *table, bool upper, int first)
{
	appendStringInfo(sql, "(%s) %s (", key_list(table, "t."), upper ? table->less[0] : table->at_least[0]);
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(sql, "%s$%d::%s", i ? ", " : "", first + i, table->key_types[i]);
	appendStringInfoChar(sql, ')');
}

/* append_steps compares column by column: a > x OR a = x AND (b > y OR ...); a >= x is for an index. */
static void
append_steps(StringInfo sql, const MtVerifyTable *table, bool upper, int first)
{
	if (!upper)
		appendStringInfo(sql, "t.%s %s $%d::%s AND ", mt_name_quote(table->relation->key_columns[0]),
						 table->at_least[0], first, table->key_types[0]);
	for (int i = 0; i < table->nkeys; i++)
	{
		const char *column = mt_name_quote(table->relation->key_columns[i]);
		bool		last = i == table->nkeys - 1;
		char	   *strict = upper ? table->less[i] : table->greater[i];

		appendStringInfo(sql, "(t.%s %s $%d::%s", column, last && !upper ? table->at_least[i] : strict, first + i,
						 table->key_types[i]);
		if (!last)
			appendStringInfo(sql, " OR t.%s %s $%d::%s AND ", column, table->relation->key_operators[i], first + i,
							 table->key_types[i]);
	}
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfoChar(sql, ')');
}

static int
count_bounds(const MtVerifyTable *table, const MtKeyRange *range)
{
	return ((range->low != NULL) + (range->high != NULL)) * table->nkeys;
}

static char *
key_list(const MtVerifyTable *table, const char *prefix)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&list, "%s%s%s", i ? ", " : "", prefix, mt_name_quote(table->relation->key_columns[i]));
	return list.data;
}

/* key_as names the key's columns k1, k2, ..., since a name of a user's might be one of ours. */
static char *
key_as(const MtVerifyTable *table)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&list, "%st.%s AS k%d", i ? ", " : "", mt_name_quote(table->relation->key_columns[i]), i + 1);
	return list.data;
}

static char *
key_names(const MtVerifyTable *table, const char *prefix)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&list, "%s%sk%d", i ? ", " : "", prefix, i + 1);
	return list.data;
}

/* image makes jsonb of a row; what jsonb would change (white space of json, -0) is its text instead. */
static char *
image(const MtVerifyTable *table)
{
	StringInfoData list;

	initStringInfo(&list);
	appendStringInfoString(&list, "(SELECT to_jsonb(i.*) FROM (SELECT ");
	for (int i = 0; i < table->columns->count; i++)
	{
		const MtColumn *column = &table->columns->columns[i];

		appendStringInfo(&list, "%st.%s%s", i ? ", " : "", mt_name_quote(column->name),
						 image_as_text(column->type) ? "::text" : "");
		appendStringInfo(&list, " AS %s", mt_name_quote(column->name));
	}
	appendStringInfoString(&list, ") AS i)");
	return list.data;
}

/* image_as_text says of which types jsonb would not keep every content apart. */
static bool
image_as_text(Oid type)
{
	switch (getBaseType(type))
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case JSONBOID:
		case UUIDOID:
		case BYTEAOID:
		case INT2ARRAYOID:
		case INT4ARRAYOID:
		case INT8ARRAYOID:
		case TEXTARRAYOID:
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return false;
		default:
			return true;
	}
}
