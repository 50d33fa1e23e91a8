/*
 * name.h
 *	  Names in SQL that the other side reads, or may read.
 *
 * quote_identifier quotes what is a keyword of this server.  Another major version has others: "system_user" is a
 * column here, and a function there when it is not quoted.  So each name in such SQL is quoted; in messages none is
 * but those that need it.
 */
#ifndef MT_NAME_H
#define MT_NAME_H

#include "base/compat.h"

extern char *mt_name_quote(const char *name);
extern char *mt_name_qualify(const char *schema, const char *name);
extern char *mt_name_type(Oid type);	/* of users, or an array of such */

#endif							/* MT_NAME_H */
