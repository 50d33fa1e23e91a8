/*
 * table.c
 *	  A realtime table between ticks: see table.h.
 */
#include "sync/table.h"

#include "access/nbtree.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/spi.h"
#include "catalog/identity.h"
#include "endpoint/statements.h"

/* How many bytes of a value of a key an error shows. */
#define KEY_VALUE_SHOWN 200

static void note_fixed(MtTable *table);
static bool has_distinct_keys(Oid index);
static bool is_set_in_two(const MtTable *table, Relation opened);
static bool has_other_unique(Relation table, Oid key_index);
static void prepare_read(MtTable *table);

/* mt_table_open describes a table. */
void
mt_table_open(MtTable *table, MtRelation *relation)
{
	Relation	opened = table_open(relation->relid, AccessShareLock);
	MtIdentity *key = mt_identity_find(relation->relid);
	Oid			key_index = key ? key->index : InvalidOid;

	table->relation = relation;
	table->columns = mt_columns_describe(RelationGetDescr(opened));
	mt_key_describe(&table->key, RelationGetDescr(opened), relation->nkeys, relation->key_columns);
	table->captured_from = relation->captured_from ? mt_mark_parse(relation->captured_from) : NULL;
	table->can_update = mt_sql_can_update(relation, table->columns);
	table->distinct_keys = has_distinct_keys(key_index);
	note_fixed(table);
	table->other_unique = has_other_unique(opened, key_index);
	table->in_two = is_set_in_two(table, opened);
	table->update = psprintf("mt_update_%d", relation->id);
	for (int batch = 0; batch < 2; batch++)
	{
		table->upsert[batch] = psprintf("mt_upsert_%d_%d", relation->id, batch);
		table->insert[batch] = psprintf("mt_insert_%d_%d", relation->id, batch);
	}
	table->delete = psprintf("mt_delete_%d", relation->id);
	table->mirror = mt_relation_mirror(relation);
	table_close(opened, AccessShareLock);
}

/* mt_table_close frees the plans of a table. */
void
mt_table_close(MtTable *table)
{
	if (table->read_row)
		SPI_freeplan(table->read_row);
	table->read_row = NULL;
	for (int i = 0; i < MT_HERE_PLANS; i++)
	{
		if (table->here[i])
			SPI_freeplan(table->here[i]);
		table->here[i] = NULL;
	}
}

/* mt_table_note takes an entry of the queue into the tick under way. */
MtTruncation *
mt_table_note(MtTable *table, const MtEntry *entry, MemoryContext context)
{
	switch (entry->kind)
	{
		case MT_ENTRY_KEY:
			if (table->keys == NULL)
				table->keys = mt_keys_create(context);
			(void) mt_keys_add(table->keys, entry->bytes, entry->length);
			break;
		case MT_ENTRY_TRUNCATE:
			return mt_truncation_note(table, NULL, context);
		case MT_ENTRY_TRUNCATE_WHERE:
			return mt_truncation_note(table, pnstrdup(entry->bytes, entry->length), context);
		case MT_ENTRY_TRUNCATE_PART:
			break;				/* for the copy (copy/emptied.c) */
	}
	return NULL;
}

/* mt_table_reset forgets the tick under way; its memory is the caller's to free. */
void
mt_table_reset(MtTable *table)
{
	table->keys = NULL;
	table->truncations = NIL;
	memset(&table->both, 0, sizeof(table->both));
}

/* mt_table_touched says whether the tick under way has anything for a table. */
bool
mt_table_touched(const MtTable *table)
{
	return table->keys != NULL || table->truncations != NIL;
}

/* mt_table_read_row reads the row of a key under the active snapshot. */
bool
mt_table_read_row(MtTable *table, const Datum *key, MtField *fields, int64 *bytes)
{
	MemoryContext caller = CurrentMemoryContext;
	HeapTuple	tuple;
	TupleDesc	tupdesc;
	int			outcome;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (table->read_row == NULL)
		prepare_read(table);
	outcome = SPI_execute_plan(table->read_row, (Datum *) key, NULL, true, 1);
	if (outcome != SPI_OK_SELECT)
		elog(ERROR, "unexpected outcome %s of reading a row", SPI_result_code_string(outcome));
	if (SPI_processed == 0)
	{
		SPI_finish();
		return false;
	}
	tuple = SPI_tuptable->vals[0];
	tupdesc = SPI_tuptable->tupdesc;
	for (int i = 0; i < table->columns->count; i++)
	{
		MtColumn   *column = &table->columns->columns[i];
		bool		isnull;
		Datum		value = SPI_getbinval(tuple, tupdesc, i + 1, &isnull);

		memset(&fields[i], 0, sizeof(MtField));
		fields[i].binary = column->binary;
		if (!isnull)
		{
			MemoryContext inner = MemoryContextSwitchTo(caller);
			bytea	   *form = mt_column_bytes(column, value);

			MemoryContextSwitchTo(inner);
			fields[i].data = VARDATA(form);
			fields[i].length = VARSIZE(form) - VARHDRSZ;
			*bytes += fields[i].length;
		}
	}
	SPI_finish();
	return true;
}

/* mt_table_key_fields gives a key as parameters. */
void
mt_table_key_fields(MtTable *table, const Datum *key, MtField *fields)
{
	for (int i = 0; i < table->key.count; i++)
	{
		MtColumn   *column = mt_table_key_column(table, i);
		bytea	   *form = mt_column_bytes(column, key[i]);

		fields[i].data = VARDATA(form);
		fields[i].length = VARSIZE(form) - VARHDRSZ;
		fields[i].binary = column->binary;
	}
}

/* mt_table_key_text shows a key as PostgreSQL does in the detail of an error. */
char *
mt_table_key_text(MtTable *table, const Datum *key)
{
	StringInfoData names;
	StringInfoData values;

	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < table->key.count; i++)
	{
		MtColumn   *column = mt_table_key_column(table, i);
		char	   *value = OutputFunctionCall(&column->output, key[i]);
		int			length = strlen(value);
		int			shown = pg_mbcliplen(value, length, KEY_VALUE_SHOWN);

		appendStringInfo(&names, "%s%s", i ? ", " : "", column->name);
		appendStringInfo(&values, "%s%.*s%s", i ? ", " : "", shown, value, shown < length ? "..." : "");
	}
	return psprintf("(%s)=(%s)", names.data, values.data);
}

/* note_fixed marks columns of the key that are equal only where their bytes are: character without a length is not. */
static void
note_fixed(MtTable *table)
{
	for (int i = 0; i < table->key.count; i++)
	{
		MtColumn   *column = mt_table_key_column(table, i);
		Oid			collation = table->key.columns[i].collation;

		column->fixed = (table->distinct_keys && getBaseType(column->type) != BPCHAROID) ||
			(column->plain && (!OidIsValid(collation) || get_collation_isdeterministic(collation)) &&
			 strcmp(table->relation->key_operators[i], "OPERATOR(pg_catalog.=)") == 0);
	}
}

/* has_distinct_keys says whether the index's equality is that of the bytes. */
static bool
has_distinct_keys(Oid index)
{
	Relation	opened = try_relation_open(index, AccessShareLock);
	bool		distinct;

	if (opened == NULL)
		return false;
	distinct = opened->rd_rel->relam == BTREE_AM_OID && _bt_allequalimage(opened, false);
	relation_close(opened, AccessShareLock);
	return distinct;
}

/*
 * is_set_in_two says whether an upsert would lock rows harder than an update does, and others may refer to them.
 *
 * It names columns of a unique index: the lock that it takes is that of a change of the key, which the checks of
 * foreign keys wait for.  An update looks whether the value changes.
 */
static bool
is_set_in_two(const MtTable *table, Relation opened)
{
	TriggerDesc *triggers = opened->trigdesc;
	Bitmapset  *unique = RelationGetIndexAttrBitmap(opened, INDEX_ATTR_BITMAP_KEY);
	bool		referred = false;
	bool		named = false;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		referred = referred || RI_FKey_trigger_type(triggers->triggers[i].tgfoid) == RI_TRIGGER_PK;
	for (int i = 0; i < table->columns->count; i++)
	{
		const MtColumn *column = &table->columns->columns[i];
		int			number = column->attnum - FirstLowInvalidHeapAttributeNumber;

		if (!column->fixed && !column->identity_always)
			named = named || bms_is_member(number, unique);
	}
	bms_free(unique);
	return table->can_update && referred && named;
}

/* has_other_unique says whether the table has an index besides the key's that refuses rows. */
static bool
has_other_unique(Relation table, Oid key_index)
{
	List	   *indexes = RelationGetIndexList(table);
	ListCell   *cell;
	bool		found = false;

	foreach(cell, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index form;

		if (!HeapTupleIsValid(tuple))
			continue;
		form = (Form_pg_index) GETSTRUCT(tuple);
		found = found || (form->indexrelid != key_index && (form->indisunique || form->indisexclusion));
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
	return found;
}

static void
prepare_read(MtTable *table)
{
	Oid			types[INDEX_MAX_KEYS];

	for (int i = 0; i < table->key.count; i++)
		types[i] = table->key.columns[i].type;
	table->read_row = SPI_prepare(mt_sql_read_row(table->relation, table->columns), table->key.count, types);
	if (table->read_row == NULL)
		elog(ERROR, "could not prepare the reading of rows: %s", SPI_result_code_string(SPI_result));
	if (SPI_keepplan(table->read_row) != 0)
		elog(ERROR, "could not keep the plan for the reading of rows");
}

/* mt_table_key_column finds a column of the key among those that travel. */
MtColumn *
mt_table_key_column(MtTable *table, int number)
{
	for (int i = 0; i < table->columns->count; i++)
		if (table->columns->columns[i].attnum == table->key.columns[number].attnum)
			return &table->columns->columns[i];
	elog(ERROR, "a key column does not travel");
	return NULL;
}

/* mt_table_value turns a field into a value. */
Datum
mt_table_value(const MtTable *table, Oid migration_owner, MtColumn *column, const MtField *field)
{
	Oid			role;
	Oid			saved_user;
	int			saved_context;
	int			guc_level;
	Datum		value;

	if (column->type < FirstNormalObjectId)
		return mt_column_value(column, field->data, field->length);
	role = mt_spi_table_role(migration_owner, table->relation->relid, true);
	GetUserIdAndSecContext(&saved_user, &saved_context);
	SetUserIdAndSecContext(role, saved_context | mt_spi_table_context(role, migration_owner));
	guc_level = NewGUCNestLevel();
	value = mt_column_value(column, field->data, field->length);
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(saved_user, saved_context);
	return value;
}
