/*
 * result.h
 *	  What the entrances share: reading arguments and returning rows.
 */
#ifndef MT_RESULT_H
#define MT_RESULT_H

#include "base/compat.h"

#include "funcapi.h"
#include "utils/builtins.h"

/* Refuse SQL NULL by the argument's name; an argument that may be NULL has a default of it. */
extern void mt_arg_required(FunctionCallInfo fcinfo, int number, const char *name);
extern char *mt_arg_name(FunctionCallInfo fcinfo, int number, const char *name);
extern char *mt_arg_text(FunctionCallInfo fcinfo, int number, const char *name);
extern char *mt_arg_name_or_null(FunctionCallInfo fcinfo, int number);

/* A row of a function that called InitMaterializedSRF. */
extern void mt_result_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls);
extern Datum mt_text_or_null(const char *text);

#endif							/* MT_RESULT_H */
