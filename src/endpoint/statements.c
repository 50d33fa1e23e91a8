/*
 * statements.c
 *	  The SQL of sync and copy: see statements.h.
 *
 * Rows are compared by their image, which takes no two different contents for
 * equal: column by column where the equality of the type is that of the bytes,
 * the other columns as a row (*<>), which costs more: it is formed anew, with all
 * that is stored out of line.  The casts to record are needed: without them the
 * parser compares two ROW()s column by column.  Keys are compared by the equality
 * of the key's own index, and are set, too, where a value can change its form and
 * stay equal (citext, numeric).  Other keys are not named: ON CONFLICT and BEFORE
 * triggers lock a row by the columns that are named, and for one of a unique index
 * as if it were deleted, which the checks of foreign keys wait for.
 */
#include "endpoint/statements.h"

#include "access/transam.h"
#include "catalog/pg_type_d.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/name.h"

static bool is_key(const MtRelation *relation, const char *column);
static const MtColumn *find_column(const MtColumns *columns, const char *name);
static char *key_match(const MtRelation *relation, const char *left, const char *right);
static char *key_list(const MtRelation *relation, const char *prefix);
static char *insert_rows(const MtRelation *relation, const MtColumns *columns, int rows);
static char *param_list(const MtColumns *columns, int rows, bool typed);
static char *param_row(const MtColumns *columns);
static const char *copy_options(const MtColumns *columns);

/* mt_sql_can_update says whether no column that could differ refuses an UPDATE. */
bool
mt_sql_can_update(const MtRelation *relation, const MtColumns *columns)
{
	for (int i = 0; i < columns->count; i++)
		if (columns->columns[i].identity_always && !is_key(relation, columns->columns[i].name))
			return false;
	return true;
}

/* mt_sql_read_row reads a row by its key. */
char *
mt_sql_read_row(const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("SELECT %s FROM %s AS t WHERE %s", mt_columns_list(columns, "t."),
					mt_relation_source_name(relation), mt_sql_key_match(relation, NULL, "t.", 1));
}

/* mt_sql_upsert inserts rows, or makes the row of the key equal to each. */
char *
mt_sql_upsert(const MtRelation *relation, const MtColumns *columns, int rows)
{
	char	   *set = mt_sql_set_list(columns, "excluded.");

	if (set[0] == '\0')
		return mt_sql_insert(relation, columns, rows);
	return psprintf("%s ON CONFLICT (%s) DO UPDATE SET %s WHERE %s", insert_rows(relation, columns, rows),
					key_list(relation, ""), set, mt_sql_differs(relation, columns, "t.", "excluded."));
}

/* mt_sql_update makes the row that is there equal to that given. */
char *
mt_sql_update(const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("UPDATE %s AS t SET %s FROM %s WHERE %s AND (%s)", mt_sql_receiver_rows(relation),
					mt_sql_set_list(columns, "s."), param_row(columns), key_match(relation, "t.", "s."),
					mt_sql_differs(relation, columns, "t.", "s."));
}

/* mt_sql_insert_missing inserts the row where it is not there; one that comes meanwhile is refused, not passed over. */
char *
mt_sql_insert_missing(const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s"
					" WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)",
					mt_relation_target_sql(relation),
					mt_columns_list(columns, ""), mt_columns_list(columns, "s."), param_row(columns),
					mt_sql_receiver_rows(relation), key_match(relation, "t.", "s."));
}

/*
 * mt_sql_insert inserts rows whose keys were deleted before; once, where two keys
 * that look different are equal and lead to the same row.
 */
char *
mt_sql_insert(const MtRelation *relation, const MtColumns *columns, int rows)
{
	return psprintf("%s ON CONFLICT (%s) DO NOTHING", insert_rows(relation, columns, rows), key_list(relation, ""));
}

/* mt_sql_delete deletes the row of a key. */
char *
mt_sql_delete(const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("DELETE FROM %s AS t WHERE %s", mt_sql_receiver_rows(relation),
					mt_sql_key_match(relation, columns, "t.", 1));
}

/* mt_sql_copy copies into the table itself. */
char *
mt_sql_copy(const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("COPY %s (%s) FROM STDIN%s",
					mt_relation_target_sql(relation),
					mt_columns_list(columns, ""), copy_options(columns));
}

/* mt_sql_stage_create creates tables like the receiver's, for one transaction. */
char *
mt_sql_stage_create(const MtRelation *relation, const MtColumns *columns)
{
	char	   *target = mt_sql_receiver_rows(relation);

	return psprintf("CREATE TEMP TABLE " MT_STAGE_ROWS " ON COMMIT DROP AS SELECT %s FROM %s WITH NO DATA;"
					" CREATE TEMP TABLE " MT_STAGE_KEYS " ON COMMIT DROP AS SELECT %s FROM %s WITH NO DATA",
					mt_columns_list(columns, ""), target, key_list(relation, ""), target);
}

/* mt_sql_stage_copy_rows copies into the stage of rows, in place of what it held before. */
char *
mt_sql_stage_copy_rows(const MtColumns *columns)
{
	return psprintf("TRUNCATE pg_temp." MT_STAGE_ROWS "; COPY pg_temp." MT_STAGE_ROWS " FROM STDIN%s",
					copy_options(columns));
}

/* mt_sql_stage_copy_keys copies into the stage of keys. */
char *
mt_sql_stage_copy_keys(const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("COPY pg_temp." MT_STAGE_KEYS " FROM STDIN%s", copy_options(columns));
}

/* mt_sql_stage_lock locks the rows that the stage of keys names, as an UPDATE does. */
char *
mt_sql_stage_lock(const MtRelation *relation)
{
	return psprintf("SELECT pg_catalog.count(*) FROM (SELECT FROM %s AS t, pg_temp." MT_STAGE_KEYS " AS s WHERE %s"
					" FOR NO KEY UPDATE OF t) AS l",
					mt_sql_receiver_rows(relation), key_match(relation, "t.", "s."));
}

/* mt_sql_stage_delete_absent deletes what the stage of keys names. */
char *
mt_sql_stage_delete_absent(const MtRelation *relation)
{
	return psprintf("DELETE FROM %s AS t USING pg_temp." MT_STAGE_KEYS " AS s WHERE %s",
					mt_sql_receiver_rows(relation), key_match(relation, "t.", "s."));
}

/* mt_sql_stage_delete_present deletes what the stage of rows is about to bring. */
char *
mt_sql_stage_delete_present(const MtRelation *relation)
{
	return psprintf("DELETE FROM %s AS t USING pg_temp." MT_STAGE_ROWS " AS s WHERE %s",
					mt_sql_receiver_rows(relation), key_match(relation, "t.", "s."));
}

/* mt_sql_stage_update makes rows equal to those of the stage; NULL where there is nothing to set. */
char *
mt_sql_stage_update(const MtRelation *relation, const MtColumns *columns)
{
	char	   *set = mt_sql_set_list(columns, "s.");

	if (set[0] == '\0')
		return NULL;
	return psprintf("UPDATE %s AS t SET %s FROM pg_temp." MT_STAGE_ROWS " AS s WHERE %s AND (%s)",
					mt_sql_receiver_rows(relation), set, key_match(relation, "t.", "s."),
					mt_sql_differs(relation, columns, "t.", "s."));
}

/* mt_sql_stage_insert inserts the rows of the stage, all or those that are missing. */
char *
mt_sql_stage_insert(const MtRelation *relation, const MtColumns *columns, bool missing_only)
{
	char	   *insert = psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_temp." MT_STAGE_ROWS " AS s",
								  mt_relation_target_sql(relation),
								  mt_columns_list(columns, ""), mt_columns_list(columns, "s."));

	if (!missing_only)
		return insert;
	return psprintf("%s WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)", insert,
					mt_sql_receiver_rows(relation), key_match(relation, "t.", "s."));
}

/* mt_sql_stage_drop drops the stage, so that the next table of the tick has its own. */
char *
mt_sql_stage_drop(void)
{
	return pstrdup("DROP TABLE pg_temp." MT_STAGE_ROWS ", pg_temp." MT_STAGE_KEYS);
}

static bool
is_key(const MtRelation *relation, const char *column)
{
	for (int i = 0; i < relation->nkeys; i++)
		if (strcmp(relation->key_columns[i], column) == 0)
			return true;
	return false;
}

static const MtColumn *
find_column(const MtColumns *columns, const char *name)
{
	for (int i = 0; i < columns->count; i++)
		if (strcmp(columns->columns[i].name, name) == 0)
			return &columns->columns[i];
	elog(ERROR, "key column \"%s\" is not among the columns", name);
	return NULL;
}

static char *
key_match(const MtRelation *relation, const char *left, const char *right)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
	{
		const char *column = mt_name_quote(relation->key_columns[i]);

		appendStringInfo(&text, "%s%s%s %s %s%s", i ? " AND " : "", left, column,
						 relation->key_operators[i], right, column);
	}
	return text.data;
}

/* mt_sql_differs compares two rows by their image; of one key, what is equal by its bytes cannot differ. */
char *
mt_sql_differs(const MtRelation *relation, const MtColumns *columns, const char *left, const char *right)
{
	StringInfoData text;
	MtColumns	others = {.columns = palloc(sizeof(MtColumn) * Max(columns->count, 1))};

	initStringInfo(&text);
	for (int i = 0; i < columns->count; i++)
	{
		const MtColumn *column = &columns->columns[i];
		const char *name = mt_name_quote(column->name);
		const char *collate = column->type == TEXTOID || column->type == VARCHAROID ? " COLLATE pg_catalog.\"C\"" : "";

		if (relation != NULL && column->fixed)
			continue;
		if (!column->plain)
			others.columns[others.count++] = *column;
		else
			appendStringInfo(&text, "%s%s%s%s IS DISTINCT FROM %s%s%s", text.len ? " OR " : "",
							 left, name, collate, right, name, collate);
	}
	if (others.count > 0)
		appendStringInfo(&text, "%sROW(%s)::record OPERATOR(pg_catalog.*<>) ROW(%s)::record", text.len ? " OR " : "",
						 mt_columns_list(&others, left), mt_columns_list(&others, right));
	return text.len ? text.data : pstrdup("false");
}

/* mt_sql_key_match compares the key with parameters from number "first" on, typed where columns are given. */
char *
mt_sql_key_match(const MtRelation *relation, const MtColumns *columns, const char *left, int first)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
	{
		appendStringInfo(&text, "%s%s%s %s $%d", i ? " AND " : "", left,
						 mt_name_quote(relation->key_columns[i]), relation->key_operators[i], first + i);
		if (columns != NULL)
			appendStringInfo(&text, "::%s",
							 mt_sql_type(find_column(columns, relation->key_columns[i])->type));
	}
	return text.data;
}

/* mt_sql_type names a type that takes values of any length: "character" would be character(1). */
char *
mt_sql_type(Oid type)
{
	return type < FirstNormalObjectId ?
		format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY) :
		mt_name_type(type);
}

static char *
key_list(const MtRelation *relation, const char *prefix)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&text, "%s%s%s", i ? ", " : "", prefix, mt_name_quote(relation->key_columns[i]));
	return text.data;
}

static char *
insert_rows(const MtRelation *relation, const MtColumns *columns, int rows)
{
	return psprintf("INSERT INTO %s AS t (%s) OVERRIDING SYSTEM VALUE VALUES %s",
					mt_relation_target_sql(relation),
					mt_columns_list(columns, ""), param_list(columns, rows, false));
}

/* mt_sql_set_list assigns every column but those that must not be assigned, or cannot change. */
char *
mt_sql_set_list(const MtColumns *columns, const char *from)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < columns->count; i++)
	{
		const char *column = mt_name_quote(columns->columns[i].name);

		if (!columns->columns[i].identity_always && !columns->columns[i].fixed)
			appendStringInfo(&text, "%s%s = %s%s", text.len ? ", " : "", column, from, column);
	}
	return text.data;
}

/* param_row is a row to join with: of several a planner that knows little of the table may scan it as a whole. */
static char *
param_row(const MtColumns *columns)
{
	return psprintf("(VALUES %s) AS s (%s)", param_list(columns, 1, true), mt_columns_list(columns, ""));
}

static char *
param_list(const MtColumns *columns, int rows, bool typed)
{
	StringInfoData text;
	int			number = 0;

	initStringInfo(&text);
	for (int row = 0; row < rows; row++)
	{
		appendStringInfoString(&text, row ? ", (" : "(");
		for (int i = 0; i < columns->count; i++)
			appendStringInfo(&text, "%s$%d%s%s", i ? ", " : "", ++number, typed ? "::" : "",
							 typed ? mt_sql_type(columns->columns[i].type) : "");
		appendStringInfoChar(&text, ')');
	}
	return text.data;
}

static const char *
copy_options(const MtColumns *columns)
{
	return columns->all_binary ? " (FORMAT binary)" : "";
}

/* mt_sql_receiver_rows names the receiver's table with its partitions, but without children by inheritance. */
char *
mt_sql_receiver_rows(const MtRelation *relation)
{
	return psprintf("%s%s", relation->target_partitioned ? "" : "ONLY ", mt_relation_target_sql(relation));
}
