/*
 * digest.c
 *	  A digest of rows in SQL: see digest.h.
 */
#include "endpoint/digest.h"

#include "catalog/pg_type_d.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/name.h"

static char *column_hash(const MtColumn *column, const char *prefix, int seed);

/* mt_sql_row_digest writes the digest of a row as an expression. */
char *
mt_sql_row_digest(const MtColumns *columns, const char *prefix)
{
	StringInfoData text;

	initStringInfo(&text);
	/* As the seed all 64 bits count; as the value they would be folded into 32. */
	appendStringInfoString(&text, "pg_catalog.hashint4extended(0, 0");
	for (int i = 0; i < columns->count; i++)
		appendStringInfo(&text, " # coalesce(%s, 0)", column_hash(&columns->columns[i], prefix, i + 1));
	appendStringInfoChar(&text, ')');
	return text.data;
}

/* mt_sql_table_digest asks for the digest of all rows of a table. */
char *
mt_sql_table_digest(const char *row_digest, const char *table)
{
	return psprintf("SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(%s), 0)::text FROM %s AS t", row_digest, table);
}

/*
 * column_hash writes the hash of one column; it is NULL where the column is.
 *
 * The outermost function must mix all that is known of the value.  What is added to a hash by an exclusive-or is
 * undone by the same of another column; so it is hashed with the hash as its seed.
 */
static char *
column_hash(const MtColumn *column, const char *prefix, int seed)
{
	char	   *name = psprintf("%s%s", prefix, mt_name_quote(column->name));

	switch (getBaseType(column->type))
	{
		case INT2OID:
			return psprintf("pg_catalog.hashint2extended(%s, %d)", name, seed);
		case INT4OID:
			return psprintf("pg_catalog.hashint4extended(%s, %d)", name, seed);
		case INT8OID:
			/* Its hash folds the upper half into the lower: 1 and 4294967296 have the same. */
			return psprintf("pg_catalog.hashint4extended((%s >> 32)::pg_catalog.int4, pg_catalog.hashint8extended(%s, %d))",
							name, name, seed);
		case OIDOID:
			return psprintf("pg_catalog.hashoidextended(%s, %d)", name, seed);
		case BOOLOID:
			return psprintf("pg_catalog.hashint4extended(%s::pg_catalog.int4, %d)", name, seed);
		case UUIDOID:
			return psprintf("pg_catalog.uuid_hash_extended(%s, %d)", name, seed);
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			/* Their hash folds as that of a bigint; as seconds they are exact for centuries around now. */
			return psprintf("pg_catalog.hash_record_extended(ROW(%s), pg_catalog.hashfloat8extended(pg_catalog.date_part('epoch', %s), %d))",
							name, name, seed);
		case DATEOID:
			/* Its hash function is that of another type, which SQL cannot call with it. */
			return psprintf("CASE WHEN %s IS DISTINCT FROM NULL THEN pg_catalog.hash_record_extended(ROW(%s), %d) END",
							name, name, seed);
		case NUMERICOID:
			/*
			 * Its hash leaves out sign and scale, and is one for infinities and NaN, which have no scale.  The power
			 * of 10000 is a mere exclusive-or on it, and zero has the seed itself.
			 */
			return psprintf("coalesce(pg_catalog.hashint4extended(pg_catalog.scale(%s) * 2 + (%s < 0)::pg_catalog.int4,"
							" pg_catalog.hash_numeric_extended(%s, %d)), pg_catalog.hashtextextended(%s::pg_catalog.text, %d))",
							name, name, name, -seed, name, seed);
		case TEXTOID:
		case VARCHAROID:
			return psprintf("pg_catalog.hashtextextended(%s COLLATE \"C\", %d)", name, seed);
		default:
			/* concat(), unlike a cast, keeps blanks at a bpchar's end; a row with a null field is not IS NOT NULL. */
			return psprintf("CASE WHEN %s IS DISTINCT FROM NULL THEN"
							" pg_catalog.hashtextextended(pg_catalog.concat(%s) COLLATE \"C\", %d) END",
							name, name, seed);
	}
}
