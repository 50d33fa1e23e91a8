/*
 * name.c
 *	  Quotes names, whatever they are: see name.h.
 */
#include "base/name.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/* mt_name_quote quotes a name. */
char *
mt_name_quote(const char *name)
{
	char	   *quoted = palloc(2 * strlen(name) + 3);
	char	   *end = quoted;

	*end++ = '"';
	for (; *name != '\0'; name++)
	{
		if (*name == '"')
			*end++ = '"';
		*end++ = *name;
	}
	*end++ = '"';
	*end = '\0';
	return quoted;
}

/* mt_name_qualify quotes a name and its schema. */
char *
mt_name_qualify(const char *schema, const char *name)
{
	return psprintf("%s.%s", mt_name_quote(schema), mt_name_quote(name));
}

/* mt_name_type quotes the name of a type with its schema. */
char *
mt_name_type(Oid type)
{
	Oid			element = get_element_type(type);
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(OidIsValid(element) ? element : type));
	Form_pg_type form;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	name = psprintf("%s%s", mt_name_qualify(get_namespace_name(form->typnamespace), NameStr(form->typname)),
					OidIsValid(element) ? "[]" : "");
	ReleaseSysCache(tuple);
	return name;
}
