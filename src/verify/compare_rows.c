/*
 * compare_rows.c
 *	  Compares rows one by one: see compare.h.
 *
 * Rows are matched by the bytes of their keys.  What has no equal partner is
 * judged (judge.c).
 */
#include "verify/compare.h"

typedef struct MtRowRef
{
	char	   *text;			/* the key's columns, each behind its length */
	char	  **values;			/* key columns, then two hashes */
} MtRowRef;

static MtRowRef *sort_rows(const MtVerifyTable *table, const MtRows *rows);
static int	compare_refs(const void *left, const void *right);
static List *match(const MtVerifyTable *table, const MtRowRef *source, int nsource, const MtRowRef *target,
				   int ntarget);

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

	mt_judge_keys(suspects, match(table, source, both.source->count, target, both.target->count));
}

/* sort_rows sorts rows by the bytes of their keys. */
static MtRowRef *
sort_rows(const MtVerifyTable *table, const MtRows *rows)
{
	MtRowRef   *refs = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(MtRowRef) * (rows->count + 1));

	for (int i = 0; i < rows->count; i++)
	{
		refs[i].values = rows->values[i];
		refs[i].text = mt_key_text(rows->values[i], table->nkeys);
	}
	qsort(refs, rows->count, sizeof(MtRowRef), compare_refs);
	return refs;
}

static int
compare_refs(const void *left, const void *right)
{
	return strcmp(((const MtRowRef *) left)->text, ((const MtRowRef *) right)->text);
}

/* mt_compare_refuse_null says of rows that no key leads to that they cannot be compared. */
void
mt_compare_refuse_null(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("a row has NULL in its key"),
			 errhint("Delete it, and set NOT NULL on that side.")));
}

/* mt_key_text makes one text of a key. */
char *
mt_key_text(char *const *values, int nkeys)
{
	StringInfoData text;

	for (int i = 0; i < nkeys; i++)
		if (values[i] == NULL)
			mt_compare_refuse_null();
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
