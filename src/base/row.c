/*
 * row.c
 *	  Rows on their way to the other side: see row.h.
 *
 * The binary forms of PostgreSQL's own types are the same in all versions that
 * we support.  Arrays and composites carry the OIDs of their element and column
 * types, which is why those over types of users travel as text.
 */
#include "base/row.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/name.h"

static void describe_column(MtColumn *column, Form_pg_attribute attribute);
static bool has_portable_binary(Oid type);
static bool has_plain_equality(Oid type);

/* mt_columns_describe describes the columns of a table that travel. */
MtColumns *
mt_columns_describe(TupleDesc tupdesc)
{
	MtColumns  *columns = palloc0(sizeof(MtColumns));

	columns->columns = palloc0(sizeof(MtColumn) * Max(tupdesc->natts, 1));
	columns->all_binary = true;
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);

		if (attribute->attisdropped || attribute->attgenerated != '\0')
			continue;
		describe_column(&columns->columns[columns->count], attribute);
		columns->all_binary = columns->all_binary && columns->columns[columns->count].binary;
		columns->count++;
	}
	return columns;
}

/* mt_columns_of_result describes a query's result that has some of the columns. */
MtColumns *
mt_columns_of_result(const MtColumns *columns, int count, char **names)
{
	MtColumns  *result = palloc0(sizeof(MtColumns));

	result->count = names ? count : columns->count;
	result->columns = palloc0(sizeof(MtColumn) * Max(result->count, 1));
	result->all_binary = true;
	for (int i = 0; i < result->count; i++)
	{
		int			from = names ? 0 : i;

		while (from < columns->count && names && strcmp(columns->columns[from].name, names[i]) != 0)
			from++;
		if (from >= columns->count)
			elog(ERROR, "column \"%s\" does not travel", names ? names[i] : "");
		result->columns[i] = columns->columns[from];
		result->columns[i].attnum = i + 1;
		result->all_binary = result->all_binary && result->columns[i].binary;
	}
	return result;
}

/* mt_column_bytes returns the bytes of a value in the column's form. */
bytea *
mt_column_bytes(MtColumn *column, Datum value)
{
	char	   *text;
	Size		length;
	bytea	   *bytes;

	if (column->binary)
		return SendFunctionCall(&column->send, value);
	text = OutputFunctionCall(&column->output, value);
	length = strlen(text);
	bytes = palloc_extended(length + VARHDRSZ + 1, MCXT_ALLOC_HUGE);
	SET_VARSIZE(bytes, length + VARHDRSZ);
	memcpy(VARDATA(bytes), text, length + 1);
	pfree(text);
	return bytes;
}

/* mt_column_value returns the value that bytes in the column's form stand for. */
Datum
mt_column_value(MtColumn *column, const char *data, int length)
{
	StringInfoData buffer;
	char	   *text;
	Datum		value;

	if (column->binary)
	{
		initStringInfo(&buffer);
		appendBinaryStringInfo(&buffer, data, length);
		value = ReceiveFunctionCall(&column->receive, &buffer, column->io_param, -1);
		if (buffer.cursor != buffer.len)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
					 errmsg("incorrect binary data format in column \"%s\"", column->name)));
		return value;
	}
	text = pnstrdup(data, length);
	return InputFunctionCall(&column->input, text, column->io_param, -1);
}

/* mt_columns_list lists the columns by name, each quoted and behind a prefix. */
char *
mt_columns_list(const MtColumns *columns, const char *prefix)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < columns->count; i++)
		appendStringInfo(&list, "%s%s%s", i ? ", " : "", prefix, mt_name_quote(columns->columns[i].name));
	return list.data;
}

static void
describe_column(MtColumn *column, Form_pg_attribute attribute)
{
	Oid			function;
	bool		varlena;

	column->name = pstrdup(NameStr(attribute->attname));
	column->attnum = attribute->attnum;
	column->type = attribute->atttypid;
	column->identity_always = attribute->attidentity == ATTRIBUTE_IDENTITY_ALWAYS;
	column->binary = has_portable_binary(column->type);
	column->plain = has_plain_equality(column->type);
	getTypeOutputInfo(column->type, &function, &varlena);
	fmgr_info(function, &column->output);
	getTypeInputInfo(column->type, &function, &column->io_param);
	fmgr_info(function, &column->input);
	if (column->binary)
	{
		getTypeBinaryOutputInfo(column->type, &function, &varlena);
		fmgr_info(function, &column->send);
		getTypeBinaryInputInfo(column->type, &function, &column->io_param);
		fmgr_info(function, &column->receive);
	}
}

/* has_portable_binary says whether a type's binary form means the same in another database. */
static bool
has_portable_binary(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type form;
	bool		portable;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	if (!OidIsValid(form->typsend) || !OidIsValid(form->typreceive))
		portable = false;
	else if (form->typtype == TYPTYPE_DOMAIN)
		portable = has_portable_binary(form->typbasetype);
	else if (form->typtype == TYPTYPE_RANGE)
		portable = has_portable_binary(get_range_subtype(type));
	else if (form->typtype == TYPTYPE_MULTIRANGE)
		portable = has_portable_binary(get_range_subtype(get_multirange_range(type)));
	else if (form->typtype == TYPTYPE_COMPOSITE)
		portable = false;
	else if (OidIsValid(form->typelem) && form->typlen == -1)
		portable = form->typelem < FirstNormalObjectId && has_portable_binary(form->typelem);
	else if (type == TSQUERYOID)
		/* An empty one is refused in binary by some minor versions (17.11, 18.6). */
		portable = false;
	else
		/* The reg types are OIDs of this database; their text is what the other side can look up. */
		portable = !(type < FirstNormalObjectId && strncmp(NameStr(form->typname), "reg", 3) == 0);
	ReleaseSysCache(tuple);
	return portable;
}

/*
 * has_plain_equality says whether the type's equality is that of the bytes.
 *
 * Only types are named of which it is certain: numeric, floats, character(n), json and
 * whatever holds such do not have it.
 */
static bool
has_plain_equality(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case UUIDOID:
		case BYTEAOID:
		case TEXTOID:
		case VARCHAROID:
			return true;
		default:
			return false;
	}
}
