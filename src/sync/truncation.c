/*
 * truncation.c
 *	  What the sender truncated: see truncation.h.
 */
#include "sync/truncation.h"

#include "utils/builtins.h"

#include "sync/table.h"

static void spare_keys(MtTable *table, MtTruncation *truncation);

/* mt_truncation_note takes one into the tick under way. */
MtTruncation *
mt_truncation_note(MtTable *table, const char *condition, MemoryContext context)
{
	MemoryContext previous;
	MtTruncation *truncation;
	ListCell   *cell;

	foreach(cell, table->truncations)
	{
		truncation = (MtTruncation *) lfirst(cell);
		if (condition == NULL ? truncation->condition == NULL :
			truncation->condition != NULL && strcmp(truncation->condition, condition) == 0)
			return truncation;
	}
	previous = MemoryContextSwitchTo(context);
	truncation = palloc0(sizeof(MtTruncation));
	if (condition == NULL)
		table->truncations = lcons(truncation, table->truncations);
	else
	{
		truncation->condition = pstrdup(condition);
		table->truncations = lappend(table->truncations, truncation);
	}
	MemoryContextSwitchTo(previous);
	return truncation;
}

/* mt_truncation_of_all says whether the whole table was truncated. */
bool
mt_truncation_of_all(const MtTable *table)
{
	return table->truncations != NIL && ((MtTruncation *) linitial(table->truncations))->condition == NULL;
}

/* mt_truncation_spare_back lists what the target's queue says of keys that its truncations do not concern. */
void
mt_truncation_spare_back(MtTable *table)
{
	ListCell   *cell;

	if (table->both.spare_by != NULL)
		foreach(cell, table->truncations)
			spare_keys(table, (MtTruncation *) lfirst(cell));
}

/* spare_keys lists the keys that a truncation does not concern, whoever did it. */
static void
spare_keys(MtTable *table, MtTruncation *truncation)
{
	ListCell   *cell;

	foreach(cell, table->both.spare_by->all)
	{
		MtUnsentKey *key = (MtUnsentKey *) lfirst(cell);
		bool		all = true;

		for (int i = 0; i < truncation->writers.count && all; i++)
			all = mt_writers_has(&key->writers, truncation->writers.xids[i]);
		if (all)
			mt_truncation_spare(truncation, key);
	}
}

/* mt_truncation_spare notes that a truncation does not concern a key. */
void
mt_truncation_spare(MtTruncation *truncation, const MtUnsentKey *key)
{
	if (truncation->spare == NULL)
		truncation->spare = mt_keys_create(CurrentMemoryContext);
	(void) mt_keys_add(truncation->spare, key->bytes, key->length);
}

/* mt_truncation_list lists what is to be sent: of partitions only where the whole table spares what they may not. */
List *
mt_truncation_list(MtTable *table)
{
	if (mt_truncation_of_all(table) && ((MtTruncation *) linitial(table->truncations))->spare == NULL)
		return list_make1(linitial(table->truncations));
	return table->truncations;
}

/* mt_truncation_spared gives the keys that a TRUNCATE of the sender leaves alone. */
int
mt_truncation_spared(MtTable *table, const MtTruncation *truncation, MtField **fields)
{
	MtKeySet   *sets[] = {table->both.skip, truncation->spare};
	uint64		count = 0;
	int			filled = 0;
	const char *bytes;
	int			length;

	for (int i = 0; i < lengthof(sets); i++)
		count += sets[i] ? mt_keys_count(sets[i]) : 0;
	if (count * table->key.count > UINT16_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many rows of table %s were changed while the other side truncated it",
						quote_qualified_identifier(table->relation->schema, table->relation->name)),
				 errhint("Let one side win for a while: migrate_tiers.set_option('conflict_policy', ...).")));
	*fields = palloc0(sizeof(MtField) * Max(count * table->key.count, 1));
	for (int i = 0; i < lengthof(sets); i++)
	{
		MtKeyCursor cursor = {0, 0};

		while (sets[i] && mt_keys_next(sets[i], &cursor, &bytes, &length))
		{
			Datum		key[INDEX_MAX_KEYS];

			mt_key_decode(&table->key, bytes, length, key);
			mt_table_key_fields(table, key, *fields + filled * table->key.count);
			filled++;
		}
	}
	return filled;
}
