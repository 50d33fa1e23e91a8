/*
 * key.c
 *	  The bytes of a key: see key.h for the form.
 */
#include "catalog/key.h"

#include "access/tupmacs.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

#include "base/varint.h"

static inline void append_value(const MtKeyColumn *column, Datum value, StringInfo to);
static void append_variable(StringInfo to, const char *bytes, int length);

/* mt_key_describe finds the key's columns by name in a relation's descriptor. */
void
mt_key_describe(MtKeyDesc *desc, TupleDesc tupdesc, int count, char **names)
{
	desc->count = count;
	for (int i = 0; i < count; i++)
	{
		MtKeyColumn *column = &desc->columns[i];

		column->attnum = InvalidAttrNumber;
		for (int a = 0; a < tupdesc->natts; a++)
		{
			Form_pg_attribute attribute = TupleDescAttr(tupdesc, a);

			if (attribute->attisdropped || strcmp(NameStr(attribute->attname), names[i]) != 0)
				continue;
			column->attnum = attribute->attnum;
			column->type = attribute->atttypid;
			column->length = attribute->attlen;
			column->by_value = attribute->attbyval;
			column->align = attribute->attalign;
			column->collation = attribute->attcollation;
		}
		if (column->attnum == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" of a migrated table does not exist any more", names[i]),
					 errhint("Take the table out of its migration with migrate_tiers.untag() and tag it again.")));
	}
}

/* mt_key_encode appends the key of a row. */
void
mt_key_encode(const MtKeyDesc *desc, TupleTableSlot *slot, StringInfo to)
{
	for (int i = 0; i < desc->count; i++)
	{
		const MtKeyColumn *column = &desc->columns[i];
		bool		isnull;
		Datum		value = slot_getattr(slot, column->attnum, &isnull);

		if (isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("a key column of a migrated table is null")));
		append_value(column, value, to);
	}
}

/* mt_key_is_same says whether two rows have a key of the same bytes. */
bool
mt_key_is_same(const MtKeyDesc *desc, TupleTableSlot *one, TupleTableSlot *other)
{
	for (int i = 0; i < desc->count; i++)
	{
		const MtKeyColumn *column = &desc->columns[i];
		bool		isnull[2];
		Datum		value = slot_getattr(one, column->attnum, &isnull[0]);
		Datum		another = slot_getattr(other, column->attnum, &isnull[1]);

		if (isnull[0] || isnull[1] || !datum_image_eq(value, another, column->by_value, column->length))
			return false;
	}
	return true;
}

/* mt_key_encode_values appends a key that is given by its values. */
void
mt_key_encode_values(const MtKeyDesc *desc, const Datum *values, StringInfo to)
{
	for (int i = 0; i < desc->count; i++)
		append_value(&desc->columns[i], values[i], to);
}

static inline void
append_value(const MtKeyColumn *column, Datum value, StringInfo to)
{
	if (column->by_value)
	{
		enlargeStringInfo(to, sizeof(Datum));
		store_att_byval(to->data + to->len, value, column->length);
		to->len += column->length;
	}
	else if (column->length > 0)
		appendBinaryStringInfo(to, DatumGetPointer(value), column->length);
	else if (column->length == -1)
	{
		struct varlena *plain = PG_DETOAST_DATUM_PACKED(value);

		append_variable(to, VARDATA_ANY(plain), VARSIZE_ANY_EXHDR(plain));
		if ((Pointer) plain != DatumGetPointer(value))
			pfree(plain);
	}
	else
		append_variable(to, DatumGetCString(value), strlen(DatumGetCString(value)));
}

/* mt_key_decode turns the bytes of a key into values. */
void
mt_key_decode(const MtKeyDesc *desc, const char *bytes, int length, Datum *values)
{
	const char *at = bytes;
	const char *end = bytes + length;

	for (int i = 0; i < desc->count; i++)
	{
		const MtKeyColumn *column = &desc->columns[i];
		int			size = column->length > 0 ? column->length : (int) mt_varint_read(&at, end);

		if (size > end - at)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("a row of the queue cannot be decoded")));
		if (column->by_value)
		{
			char		aligned[sizeof(Datum)] pg_attribute_aligned(8);

			memcpy(aligned, at, size);
			values[i] = fetch_att(aligned, true, size);
		}
		else if (column->length == -1)
		{
			struct varlena *value = palloc(size + VARHDRSZ);

			SET_VARSIZE(value, size + VARHDRSZ);
			memcpy(VARDATA(value), at, size);
			values[i] = PointerGetDatum(value);
		}
		else
		{
			char	   *value = palloc(size + 1);

			memcpy(value, at, size);
			value[size] = '\0';
			values[i] = PointerGetDatum(value);
		}
		at += size;
	}
}

static void
append_variable(StringInfo to, const char *bytes, int length)
{
	char		header[MT_VARINT_MAX];

	appendBinaryStringInfo(to, header, mt_varint_write(header, length));
	appendBinaryStringInfo(to, bytes, length);
}
