/*
 * compare_rows.c
 *	  Compares rows one by one, and judges those that look different: see
 *	  compare.h.
 *
 * Rows are matched by the bytes of their keys.  What has no equal partner is a
 * suspect: its key is looked for on both sides with the equality of the key's
 * index, and the two rows that are found, or not, are what differs.
 */
#include "verify/compare.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* Keys that are looked for in one go; both images of each are in memory then. */
#define JUDGE_ROWS 100

typedef struct MtRowRef
{
	char	   *text;			/* the key's columns, each behind its length */
	char	  **values;			/* key columns, then two hashes */
} MtRowRef;

/* What one side says of the keys in question; NULL where it has no row. */
typedef struct MtFound
{
	char	  **side[2];
} MtFound;

static MtRowRef *sort_rows(const MtVerifyTable *table, const MtRows *rows);
static int	compare_refs(const void *left, const void *right);
static char *key_text(char *const *values, int nkeys);
static List *match(const MtVerifyTable *table, const MtRowRef *source, int nsource, const MtRowRef *target,
				   int ntarget);
static void judge(MtSuspects *suspects, List *keys);
static void judge_some(MtSuspects *suspects, List *keys, int first, int count);
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

/* mt_compare_rows compares the rows of some parts of a range. */
void
mt_compare_rows(MtSuspects *suspects, const MtKeyRange *range, int parts, const char *wanted)
{
	const MtVerifyTable *table = suspects->table;
	const char **params;
	int			nparams = mt_verify_params(table, range, wanted, &params);
	MtBothRows	both = mt_verify_both(table, suspects->remote, mt_verify_sql_rows(table, false, range, parts),
									  mt_verify_sql_rows(table, true, range, parts), nparams, params);
	MtRowRef   *source = sort_rows(table, both.source);
	MtRowRef   *target = sort_rows(table, both.target);

	judge(suspects, match(table, source, both.source->count, target, both.target->count));
}

/* sort_rows sorts rows by the bytes of their keys. */
static MtRowRef *
sort_rows(const MtVerifyTable *table, const MtRows *rows)
{
	MtRowRef   *refs = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(MtRowRef) * (rows->count + 1));

	for (int i = 0; i < rows->count; i++)
	{
		refs[i].values = rows->values[i];
		refs[i].text = key_text(rows->values[i], table->nkeys);
	}
	qsort(refs, rows->count, sizeof(MtRowRef), compare_refs);
	return refs;
}

static int
compare_refs(const void *left, const void *right)
{
	return strcmp(((const MtRowRef *) left)->text, ((const MtRowRef *) right)->text);
}

static char *
key_text(char *const *values, int nkeys)
{
	StringInfoData text;

	if (nkeys == 1)
		return values[0];
	initStringInfo(&text);
	for (int i = 0; i < nkeys; i++)
		appendStringInfo(&text, "%zu:%s", strlen(values[i]), values[i]);
	return text.data;
}

/* match returns the keys (char **) of all rows that have no equal partner. */
static List *
match(const MtVerifyTable *table, const MtRowRef *source, int nsource, const MtRowRef *target,
	  int ntarget)
{
	List	   *keys = NIL;
	int			s = 0;
	int			t = 0;

	while (s < nsource || t < ntarget)
	{
		int			order = s == nsource ? 1 : t == ntarget ? -1 :
			compare_refs(&source[s], &target[t]);
		char	  **values = order <= 0 ? source[s].values : target[t].values;

		if (order != 0 || strcmp(values[table->nkeys], target[t].values[table->nkeys]) != 0 ||
			strcmp(values[table->nkeys + 1], target[t].values[table->nkeys + 1]) != 0)
			keys = lappend(keys, values);
		s += order <= 0;
		t += order >= 0;
	}
	return keys;
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
	const MtVerifyTable *table = suspects->table;
	bool		with_row = list_length(suspects->outcome->discrepancies) < MT_KEPT_ROWS &&
		suspects->kept_bytes < MT_KEPT_BYTES;
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
	for (int i = 0; i < count; i++)
		judge_pair(suspects, &found[i]);
}

/* key_arrays writes keys as one array a column. */
static const char **
key_arrays(const MtVerifyTable *table, List *keys, int first, int count)
{
	const char **arrays = palloc(sizeof(char *) * table->nkeys);

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

/* judge_pair decides about the two rows of a key. */
static void
judge_pair(MtSuspects *suspects, const MtFound *found)
{
	char	  **source = found->side[0];
	char	  **target = found->side[1];

	/* Neither: the other side's order had put it into another range. */
	if (source == NULL && target == NULL)
		return;
	if (source && target && strcmp(source[IMAGE_HASH], target[IMAGE_HASH]) == 0 &&
		strcmp(source[IMAGE_HASH + 1], target[IMAGE_HASH + 1]) == 0)
		return;
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
	const unsigned char *text = (const unsigned char *) key_text(key, suspects->table->nkeys);
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
