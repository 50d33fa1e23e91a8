/*
 * judge.c
 *	  Judges rows that look different: see compare.h.
 *
 * A key is looked for on both sides with the equality of the key's index, and
 * the two rows that are found, or not, are what differs.
 *
 * Where applications write the target, too, its snapshot shows what they have written since the last
 * tick from there.  So a row that differs counts only where the target's queue, as the same snapshot
 * shows it, does not hold its key unsent; else it is set aside as a suspect, to be looked at
 * again at another point.  At the end of a tick from the target it is our queue that may hold it: there
 * rows can be found equal, and no row different.
 */
#include "verify/compare.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "catalog/suspect.h"

/* Keys that are looked for in one go; both images of each are in memory then. */
#define JUDGE_ROWS 100

/* The same without images. */
#define LOOK_ROWS 1000

/* What one side says of the keys in question; NULL where it has no row. */
typedef struct MtFound
{
	char	  **side[2];
} MtFound;

static List *set_aside(MtSuspects *suspects, List *keys);
static bool *find_unsent(MtSuspects *suspects, List *keys);
static char *sql_unsent(const MtVerifyTable *table);
static void add_suspect(MtSuspects *suspects, char *const *key);
static void judge(MtSuspects *suspects, List *keys);
static void judge_some(MtSuspects *suspects, List *keys, int first, int count);
static MtFound *look_up(MtSuspects *suspects, List *keys, int first, int count, bool with_row);
static bool is_same(const MtFound *found);
static const char **key_arrays(const MtVerifyTable *table, List *keys, int first, int count);
static void judge_pair(MtSuspects *suspects, const MtFound *found);
static bool is_judged(MtSuspects *suspects, char *const *key);
static void keep(MtSuspects *suspects, const MtFound *found);
static char *changed_columns(const MtVerifyTable *table, const char *left, const char *right);
static void append_element(StringInfo array, const char *text);

/* Columns of mt_verify_sql_images. */
#define IMAGE_POSITION 0
#define IMAGE_HASH	   1
#define IMAGE_COLUMNS  3
#define IMAGE_ROW	   4
#define IMAGE_KEY	   5

/* mt_judge_keys judges rows whose keys have no equal partner. */
void
mt_judge_keys(MtSuspects *suspects, List *keys)
{
	if (suspects->table->queue != NULL && keys != NIL)
		keys = set_aside(suspects, keys);
	judge(suspects, keys);
}

/* mt_judge_again judges keys that were set aside at another point: first of all, which rows differ still. */
void
mt_judge_again(MtSuspects *suspects, List *keys)
{
	List	   *different = NIL;

	for (int first = 0; first < list_length(keys); first += LOOK_ROWS)
	{
		int			count = Min(LOOK_ROWS, list_length(keys) - first);
		MtFound    *found = look_up(suspects, keys, first, count, false);

		for (int i = 0; i < count; i++)
			if (!is_same(&found[i]))
				different = lappend(different, list_nth(keys, first + i));
	}
	mt_judge_keys(suspects, different);
}

/* set_aside takes the keys away of which nothing can be said at this point. */
static List *
set_aside(MtSuspects *suspects, List *keys)
{
	bool	   *unsent = suspects->table->back ? NULL : find_unsent(suspects, keys);
	List	   *rest = NIL;
	ListCell   *cell;

	foreach(cell, keys)
	{
		if (unsent == NULL || unsent[foreach_current_index(cell)])
			add_suspect(suspects, (char *const *) lfirst(cell));
		else
			rest = lappend(rest, lfirst(cell));
	}
	return rest;
}

/* find_unsent says of which keys a change on the target is not here yet. */
static bool *
find_unsent(MtSuspects *suspects, List *keys)
{
	const MtVerifyTable *table = suspects->table;
	const char **params = key_arrays(table, keys, 0, list_length(keys));
	bool	   *unsent = palloc0(sizeof(bool) * list_length(keys));
	MtRows	   *rows;

	params[table->nkeys] = table->reverse_mark;
	rows = mt_remote_query(suspects->remote, sql_unsent(table), table->nkeys + 1, params);
	for (int row = 0; row < rows->count; row++)
		unsent[strtoll(rows->values[row][0], NULL, 10) - 1] = true;
	return unsent;
}

/* sql_unsent finds the keys whose change on the target is not here yet; a TRUNCATE concerns every key. */
static char *
sql_unsent(const MtVerifyTable *table)
{
	StringInfoData arrays;
	StringInfoData names;
	StringInfoData match;
	char	   *unsent = psprintf("FROM %s AS q WHERE q.xid >= pg_snapshot_xmin($%d::pg_snapshot)"
								  " AND NOT pg_visible_in_snapshot(q.xid, $%d::pg_snapshot)",
								  table->queue, table->nkeys + 1, table->nkeys + 1);

	initStringInfo(&arrays);
	initStringInfo(&names);
	initStringInfo(&match);
	for (int i = 0; i < table->nkeys; i++)
	{
		appendStringInfo(&arrays, "%s$%d::text[]", i ? ", " : "", i + 1);
		appendStringInfo(&names, "k%d, ", i + 1);
		appendStringInfo(&match, " AND q.k%d %s k.k%d::%s", i + 1, table->relation->key_operators[i], i + 1,
						 table->key_types[i]);
	}
	return psprintf("WITH k AS MATERIALIZED (SELECT * FROM unnest(%s) WITH ORDINALITY AS k(%sn))"
					" SELECT k.n FROM k WHERE EXISTS (SELECT %s AND q.kind = 0%s)"
					" UNION SELECT k.n FROM k WHERE EXISTS (SELECT %s AND q.kind IN (1, 2))",
					arrays.data, names.data, unsent, match.data, unsent);
}

static void
add_suspect(MtSuspects *suspects, char *const *key)
{
	MtOutcome  *outcome = suspects->outcome;
	MemoryContext previous;
	char	  **copy;

	if (list_length(outcome->suspects) >= MT_MOST_SUSPECTS)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("more than %d rows of a range differ while changes of the target are on their way", MT_MOST_SUSPECTS)));
	previous = MemoryContextSwitchTo(suspects->context);
	copy = palloc(sizeof(char *) * suspects->table->nkeys);
	for (int i = 0; i < suspects->table->nkeys; i++)
		copy[i] = pstrdup(key[i]);
	outcome->suspects = lappend(outcome->suspects, copy);
	MemoryContextSwitchTo(previous);
}

/* judge looks for the keys on both sides, some at a time. */
static void
judge(MtSuspects *suspects, List *keys)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(context, "migrate_tiers suspects", ALLOCSET_DEFAULT_SIZES);

	for (int first = 0; first < list_length(keys); first += JUDGE_ROWS)
	{
		MemoryContextSwitchTo(scratch);
		judge_some(suspects, keys, first, Min(JUDGE_ROWS, list_length(keys) - first));
		MemoryContextSwitchTo(context);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
}

static void
judge_some(MtSuspects *suspects, List *keys, int first, int count)
{
	bool		with_row = list_length(suspects->outcome->discrepancies) < MT_KEPT_ROWS &&
		suspects->kept_bytes < MT_KEPT_BYTES;
	MtFound    *found = look_up(suspects, keys, first, count, with_row);

	for (int i = 0; i < count; i++)
		if (!is_same(&found[i]))
			judge_pair(suspects, &found[i]);
}

/* look_up reads the rows of some keys on both sides. */
static MtFound *
look_up(MtSuspects *suspects, List *keys, int first, int count, bool with_row)
{
	const MtVerifyTable *table = suspects->table;
	MtFound    *found = palloc0(sizeof(MtFound) * count);
	MtBothRows	both = mt_verify_both(table, suspects->remote, mt_verify_sql_images(table, false, with_row),
									  mt_verify_sql_images(table, true, with_row), table->nkeys,
									  key_arrays(table, keys, first, count));

	for (int side = 0; side < 2; side++)
	{
		MtRows	   *rows = side == 0 ? both.source : both.target;

		for (int row = 0; row < rows->count; row++)
			found[strtoll(rows->values[row][IMAGE_POSITION], NULL, 10) - 1].side[side] = rows->values[row];
	}
	return found;
}

/* is_same says whether both sides have the same; neither, where another order had put the key into another range. */
static bool
is_same(const MtFound *found)
{
	char	  **source = found->side[0];
	char	  **target = found->side[1];

	if (source == NULL || target == NULL)
		return source == target;
	return strcmp(source[IMAGE_HASH], target[IMAGE_HASH]) == 0 &&
		strcmp(source[IMAGE_HASH + 1], target[IMAGE_HASH + 1]) == 0;
}

/* key_arrays writes keys as one array a column, and leaves room for one more parameter. */
static const char **
key_arrays(const MtVerifyTable *table, List *keys, int first, int count)
{
	const char **arrays = palloc(sizeof(char *) * (table->nkeys + 1));

	for (int column = 0; column < table->nkeys; column++)
	{
		StringInfoData array;

		initStringInfo(&array);
		for (int i = first; i < first + count; i++)
			append_element(&array, ((char **) list_nth(keys, i))[column]);
		appendStringInfoChar(&array, '}');
		arrays[column] = array.data;
	}
	return arrays;
}

/* append_element appends to an array literal, which it begins where it is empty. */
static void
append_element(StringInfo array, const char *text)
{
	appendStringInfoString(array, array->len == 0 ? "{\"" : ",\"");
	for (; *text; text++)
	{
		if (*text == '"' || *text == '\\')
			appendStringInfoChar(array, '\\');
		appendStringInfoChar(array, *text);
	}
	appendStringInfoChar(array, '"');
}

/* judge_pair counts the two rows of a key, which differ. */
static void
judge_pair(MtSuspects *suspects, const MtFound *found)
{
	char	  **source = found->side[0];
	char	  **target = found->side[1];

	if (is_judged(suspects, (source ? source : target) + IMAGE_KEY))
		return;
	suspects->outcome->different_rows++;
	suspects->missing += target == NULL;
	suspects->extra += source == NULL;
	if ((source ? source : target)[IMAGE_ROW] != NULL)
		keep(suspects, found);
}

/* is_judged remembers a key, by a hash of 128 bits; a row that both sides spell differently is found twice. */
static bool
is_judged(MtSuspects *suspects, char *const *key)
{
	const unsigned char *text = (const unsigned char *) mt_key_text(key, suspects->table->nkeys);
	int			length = (int) strlen((const char *) text);
	uint64		hash[2] = {hash_bytes_extended(text, length, 0), hash_bytes_extended(text, length, 1)};
	bool		found;

	if (suspects->judged == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(hash), .entrysize = sizeof(hash), .hcxt = suspects->context};

		suspects->judged = hash_create("migrate_tiers judged keys", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(suspects->judged, hash, HASH_ENTER, &found);
	return found;
}

/* keep keeps a row that differs with both images. */
static void
keep(MtSuspects *suspects, const MtFound *found)
{
	MemoryContext previous = MemoryContextSwitchTo(suspects->context);
	char	  **source = found->side[0];
	char	  **target = found->side[1];
	char	  **key = (source ? source : target) + IMAGE_KEY;
	MtDiscrepancy *discrepancy = palloc0(sizeof(MtDiscrepancy));

	discrepancy->kind = source == NULL ? "extra" : target == NULL ? "missing" :
		"changed";
	discrepancy->key = palloc(sizeof(char *) * suspects->table->nkeys);
	for (int i = 0; i < suspects->table->nkeys; i++)
		discrepancy->key[i] = pstrdup(key[i]);
	if (source)
		discrepancy->source_row = pstrdup(source[IMAGE_ROW]);
	if (target)
		discrepancy->target_row = pstrdup(target[IMAGE_ROW]);
	if (source && target)
		discrepancy->columns = changed_columns(suspects->table, source[IMAGE_COLUMNS], target[IMAGE_COLUMNS]);
	suspects->kept_bytes += (source ? strlen(source[IMAGE_ROW]) : 0) + (target ? strlen(target[IMAGE_ROW]) : 0);
	suspects->outcome->discrepancies = lappend(suspects->outcome->discrepancies, discrepancy);
	MemoryContextSwitchTo(previous);
}

/* changed_columns names the columns whose hashes, in two arrays, differ. */
static char *
changed_columns(const MtVerifyTable *table, const char *left, const char *right)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < table->columns->count; i++)
	{
		Size		length = strcspn(left + 1, ",}");

		if (length != strcspn(right + 1, ",}") || strncmp(left + 1, right + 1, length) != 0)
			append_element(&names, table->columns->columns[i].name);
		left += length + 1;
		right += strcspn(right + 1, ",}") + 1;
	}
	appendStringInfoChar(&names, '}');
	return names.len > 1 ? names.data : NULL;
}
