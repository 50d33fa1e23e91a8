/*
 * result.c
 *	  Reads arguments and returns rows, the same way in every entrance.
 */
#include "api/result.h"

#include "utils/lsyscache.h"

/* mt_arg_required refuses SQL NULL. */
void
mt_arg_required(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name),
				 errhint("\\df migrate_tiers.%s shows the arguments.",
						 get_func_name(fcinfo->flinfo->fn_oid))));
}

/* mt_arg_name reads an argument of type name. */
char *
mt_arg_name(FunctionCallInfo fcinfo, int number, const char *name)
{
	mt_arg_required(fcinfo, number, name);
	return pstrdup(NameStr(*PG_GETARG_NAME(number)));
}

/* mt_arg_text reads an argument of type text. */
char *
mt_arg_text(FunctionCallInfo fcinfo, int number, const char *name)
{
	mt_arg_required(fcinfo, number, name);
	return text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/* mt_arg_name_or_null reads the argument migration, which may be left out. */
char *
mt_arg_name_or_null(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(number)));
}

/* mt_result_row adds a row to what the function returns. */
void
mt_result_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* mt_text_or_null returns a text datum; the caller says in nulls when there is none. */
Datum
mt_text_or_null(const char *text)
{
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}
