/*
 * errors.c
 *	  What an error that was caught says, in one line that fits a status
 *	  column.  Nothing of a connection string may enter here: remote errors
 *	  are built by endpoint/remote.c, which never has the secrets in its text.
 */
#include "base/errors.h"

#include "lib/stringinfo.h"

/* mt_error_text returns the error as "SQLSTATE: message; detail; context". */
char *
mt_error_text(const ErrorData *edata)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%s: %s", unpack_sql_state(edata->sqlerrcode),
					 edata->message ? edata->message : "missing error text");
	if (edata->detail)
		appendStringInfo(&text, "; %s", edata->detail);
	if (edata->hint)
		appendStringInfo(&text, "; hint: %s", edata->hint);
	if (edata->context)
		appendStringInfo(&text, "; %s", edata->context);
	return text.data;
}

/* mt_error_is_lock tells what others' locks caused, on either side, from what is wrong. */
bool
mt_error_is_lock(const ErrorData *edata)
{
	return edata->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || edata->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}
