/*
 * structure.c
 *	  What a push has to know of the tables on both sides: that the columns are
 *	  alike, and what identifies a row.
 */
#include "batch/push.h"

#include "access/transam.h"
#include "catalog/pg_type_d.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/name.h"
#include "batch/policy.h"
#include "endpoint/statements.h"

/* Columns that can be sent, as both sides say of themselves. */
#define COLUMNS_OF \
	"SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '' FROM pg_attribute AS a" \
	" WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped"

/*
 * Unique keys over plain columns, the primary key first.  A materialized view has no columns that
 * are NOT NULL: that its keys hold no null is looked at when it is pushed.  From PostgreSQL 18 on old
 * rows may hold nulls where NOT NULL is NOT VALID.
 */
#define KEYS_OF \
	"SELECT i.indexrelid, a.attname, format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)" \
	" FROM (SELECT x.* FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid JOIN pg_class AS t ON t.oid = x.indrelid" \
	"  WHERE x.indrelid = %s::regclass AND x.indisunique AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL" \
	"  AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')" \
	"  AND NOT EXISTS (SELECT FROM pg_attribute AS b WHERE b.attrelid = x.indrelid" \
	"   AND b.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])" \
	"   AND (b.attgenerated <> '' OR NOT b.attnotnull AND t.relkind <> 'm'))" \
	"  AND NOT EXISTS (SELECT FROM pg_constraint AS v WHERE v.conrelid = x.indrelid AND v.contype = 'n'" \
	"   AND NOT v.convalidated AND v.conkey[1] = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]))) AS i" \
	" CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k(attnum, opclass, position)" \
	" JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum" \
	" JOIN pg_opclass AS c ON c.oid = k.opclass" \
	" JOIN pg_amop AS s ON s.amopfamily = c.opcfamily AND s.amopstrategy = 3" \
	"  AND s.amoplefttype = c.opcintype AND s.amoprighttype = c.opcintype" \
	" JOIN pg_operator AS o ON o.oid = s.amopopr JOIN pg_namespace AS n ON n.oid = o.oprnamespace" \
	" WHERE k.position <= i.indnkeyatts" \
	" ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid, k.position"

/*
 * What the order of a column's values depends on, for each name in the first array; NULL: that is not known.  Where
 * the second says so it is the database's collation (100), whatever the column's.  Catalogs of 15 to 18 name things in
 * different ways.
 */
#define ORDERS_OF \
	"SELECT CASE WHEN c.oid IS NULL OR l.provider = 'b' OR l.provider = 'c' AND upper(l.name) IN ('C', 'POSIX') THEN 'C'" \
	" WHEN l.provider = 'c' AND l.name ILIKE 'C.%%' THEN lower(replace(l.name, '-', ''))" \
	" WHEN l.provider = 'c' THEN concat_ws(' ', 'libc', lower(replace(l.name, '-', '')), c.collisdeterministic) || ' ' || l.version" \
	" ELSE concat_ws(' ', l.provider, l.locale, quote_nullable(l.rules), c.collisdeterministic) || ' ' || l.version END" \
	" FROM unnest(ARRAY[%s]::name[], ARRAY[%s]::bool[]) WITH ORDINALITY AS k(name, by_default, n)" \
	" JOIN pg_attribute AS a ON a.attname = k.name AND a.attrelid = %s::regclass" \
	" CROSS JOIN (SELECT d.oid, to_jsonb(d) FROM pg_database AS d WHERE d.datname = current_database()) AS d(oid, own)" \
	" LEFT JOIN pg_collation AS c ON c.oid = CASE WHEN k.by_default THEN 100 ELSE a.attcollation END" \
	" CROSS JOIN LATERAL (SELECT to_jsonb(c)) AS o(own)" \
	" CROSS JOIN LATERAL (SELECT d.own->>'datlocprovider', d.own->>'datcollate', coalesce(d.own->>'datlocale', d.own->>'daticulocale')," \
	"   d.own->>'daticurules', pg_database_collation_actual_version(d.oid) WHERE c.collprovider = 'd'" \
	"  UNION ALL SELECT c.collprovider::text, o.own->>'collcollate', coalesce(o.own->>'colllocale', o.own->>'colliculocale')," \
	"   o.own->>'collicurules', pg_collation_actual_version(c.oid) WHERE c.collprovider IS DISTINCT FROM 'd')" \
	"  AS l(provider, name, locale, rules, version) ORDER BY k.n"

static char **find_row(MtRows *rows, const char *name);
static int	next_key(MtRows *keys, int first);
static int	find_key_on(MtRows *keys, MtRows *wanted, int first, int count);
static MtPushKey *make_key(MtPush *push, MtRows *keys, int first, int count, MtRows *here, int first_here);
static char *find_operator(MtRows *keys, int first, const char *column);
static bool in_same_order(MtPush *push, const MtPushKey *key, const Oid *types);
static void refuse_key(const MtPush *push, bool sender);

/* mt_push_check_columns refuses tables whose columns are not alike. */
void
mt_push_check_columns(MtPush *push)
{
	bool		reverse = push->batch->reverse;
	const char *source_name = quote_literal_cstr(reverse ? push->into : push->sender_name);
	const char *target_name = quote_literal_cstr(reverse ? push->sender_name : push->into);
	MtRows	   *source = mt_side_query(&push->here, psprintf(COLUMNS_OF, source_name));
	MtRows	   *target = mt_side_query(&push->there, psprintf(COLUMNS_OF, target_name));

	for (int i = 0; i < push->columns->count; i++)
	{
		const char *name = push->columns->columns[i].name;
		char	  **here = find_row(source, name);
		char	  **there = find_row(target, name);

		if (there == NULL || there[2][0] == 't' || strcmp(here[1], there[1]) != 0)
			ereport(ERROR,
					(errcode(there == NULL ? ERRCODE_UNDEFINED_COLUMN : ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of table %s is not the same on both sides", name, push->into),
					 there == NULL ? errdetail("The target has no such column.") :
					 errdetail("It is %s on the source, %s%s on the target.", here[1],
							   there[2][0] == 't' ? "generated as " : "", there[1]),
					 errhint("SELECT * FROM migrate_tiers.preflight() shows all differences.")));
	}
}

static char **
find_row(MtRows *rows, const char *name)
{
	for (int i = 0; i < rows->count; i++)
		if (strcmp(rows->values[i][0], name) == 0)
			return rows->values[i];
	return NULL;
}

/* mt_push_find_key finds the first key of the sender's table that the receiver's has, too. */
MtPushKey *
mt_push_find_key(MtPush *push, bool required)
{
	MtRows	   *sender = mt_side_query(push->sender, psprintf(KEYS_OF, quote_literal_cstr(push->sender_name)));
	MtRows	   *receiver = mt_side_query(push->receiver, psprintf(KEYS_OF, quote_literal_cstr(push->into)));

	for (int first = 0, next; first < sender->count; first = next)
	{
		int			found;

		next = next_key(sender, first);
		found = find_key_on(receiver, sender, first, next - first);
		/* What becomes part of statements here is not the target's to say. */
		if (found >= 0)
			return make_key(push, sender, first, next - first, push->batch->reverse ? receiver : sender,
							push->batch->reverse ? found : first);
	}
	if (required)
		refuse_key(push, sender->count == 0);
	return NULL;
}

/* next_key returns the first row of the next index. */
static int
next_key(MtRows *keys, int first)
{
	int			next = first + 1;

	while (next < keys->count && strcmp(keys->values[next][0], keys->values[first][0]) == 0)
		next++;
	return next;
}

/* find_key_on returns the first row of an index over just the same columns, in whatever order, or -1. */
static int
find_key_on(MtRows *keys, MtRows *wanted, int wanted_first, int count)
{
	for (int first = 0, next; first < keys->count; first = next)
	{
		int			found = 0;

		next = next_key(keys, first);
		if (next - first != count)
			continue;
		for (int i = first; i < next; i++)
			for (int k = wanted_first; k < wanted_first + count; k++)
				found += strcmp(keys->values[i][1], wanted->values[k][1]) == 0;
		if (found == count)
			return first;
	}
	return -1;
}

/* make_key takes the columns in the sender's order, and their operators from the index here. */
static MtPushKey *
make_key(MtPush *push, MtRows *keys, int first, int count, MtRows *here, int first_here)
{
	MtPushKey  *key = palloc0(sizeof(MtPushKey));
	Oid		   *types = palloc0(sizeof(Oid) * count);

	key->count = count;
	key->names = palloc0(sizeof(char *) * count);
	key->columns = palloc0(sizeof(char *) * count);
	key->operators = palloc0(sizeof(char *) * count);
	key->types = palloc0(sizeof(char *) * count);
	key->ordered = true;
	key->as_record = count > 1;
	for (int i = 0; i < count; i++)
	{
		for (int c = 0; c < push->columns->count; c++)
			if (strcmp(push->columns->columns[c].name, keys->values[first + i][1]) == 0)
				types[i] = getBaseType(push->columns->columns[c].type);
		key->names[i] = pstrdup(keys->values[first + i][1]);
		key->columns[i] = mt_name_quote(key->names[i]);
		key->operators[i] = find_operator(here, first_here, keys->values[first + i][1]);
		key->types[i] = mt_sql_type(types[i]);
		/* Comparisons of other types are not found with our search_path, those of enums depend on OIDs. */
		key->ordered = key->ordered && types[i] < FirstNormalObjectId;
		key->as_record = key->as_record || OidIsValid(get_element_type(types[i]));
	}
	key->ordered = key->ordered && in_same_order(push, key, types);
	return key;
}

static char *
find_operator(MtRows *keys, int first, const char *column)
{
	while (strcmp(keys->values[first][1], column) != 0)
		first++;
	return keys->values[first][2];
}

/*
 * in_same_order says whether both sides sort the key's values alike: by the same collations of the same version.
 *
 * A key that is above a bound on one side and below it on the other would be of two ranges.
 */
static bool
in_same_order(MtPush *push, const MtPushKey *key, const Oid *types)
{
	StringInfoData names;
	StringInfoData by_default;
	bool		collatable = false;
	MtRows	   *sender;
	MtRows	   *receiver;

	initStringInfo(&names);
	initStringInfo(&by_default);
	for (int i = 0; i < key->count; i++)
	{
		/* Strings in jsonb are compared as the database has it. */
		bool		jsonb = types[i] == JSONBOID;

		collatable = collatable || jsonb || type_is_collatable(types[i]);
		appendStringInfo(&names, "%s%s", i ? ", " : "", quote_literal_cstr(key->names[i]));
		appendStringInfo(&by_default, "%s%s", i ? ", " : "", jsonb ? "true" : "false");
	}
	if (!collatable)
		return true;
	sender = mt_side_query(push->sender,
						   psprintf(ORDERS_OF, names.data, by_default.data, quote_literal_cstr(push->sender_name)));
	receiver = mt_side_query(push->receiver,
							 psprintf(ORDERS_OF, names.data, by_default.data, quote_literal_cstr(push->into)));
	/* A column may have gone since the keys were read. */
	if (sender->count != key->count || receiver->count != key->count)
		return false;
	for (int i = 0; i < key->count; i++)
		if (sender->values[i][0] == NULL || receiver->values[i][0] == NULL ||
			strcmp(sender->values[i][0], receiver->values[i][0]) != 0)
			return false;
	return true;
}

/* mt_push_has_null_keys looks for a row of the sender's view that its key does not identify. */
bool
mt_push_has_null_keys(MtPush *push)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT 1 FROM %s AS t WHERE false", push->from);
	for (int i = 0; i < push->key->count; i++)
		appendStringInfo(&sql, " OR t.%s IS NOT DISTINCT FROM NULL", push->key->columns[i]);
	appendStringInfoString(&sql, " LIMIT 1");
	return mt_side_query(push->sender, sql.data)->count > 0;
}

void
mt_push_refuse_nulls(MtPush *push)
{
	char	   *call = mt_policy_call(push->relation, NULL, "replace");

	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("the key of materialized view %s holds nulls", push->sender_name),
			 errdetail("Mode diff finds rows by their key."),
			 errhint("Leave them out of the view, or push whole snapshots: %s.", call)));
}

static void
refuse_key(const MtPush *push, bool sender)
{
	char	   *call = mt_policy_call(push->relation, NULL, "replace");

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 sender ? errmsg("table %s has no key, which mode diff needs", push->sender_name) :
			 errmsg("table %s has no key in common with the %s, which mode diff needs", push->into,
					push->batch->reverse ? "target" : "source"),
			 errdetail("A key is a valid unique index over plain columns that are NOT NULL, or any of a materialized view."),
			 errhint("Add one on both sides, or push whole snapshots: %s.", call)));
}
