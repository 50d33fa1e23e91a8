/*
 * statements_keys.c
 *	  What is done on the source with the keys of a tick, which stand in relation mt_keys.
 */
#include "endpoint/statements.h"

#include "lib/stringinfo.h"

#include "base/name.h"

static char *match_keys(const MtRelation *relation);

/*
 * mt_sql_read_present reads the rows whose keys are in mt_keys, each once.
 *
 * Where no two of the keys can be equal, a join does, and finds rows in the order in which they were
 * noted, which is about that of the table.
 */
char *
mt_sql_read_present(const MtRelation *relation, const MtColumns *columns, bool distinct)
{
	return psprintf(distinct ? "SELECT %s FROM %s AS t, mt_keys AS k WHERE %s" :
		"SELECT %s FROM %s AS t WHERE EXISTS (SELECT FROM mt_keys AS k WHERE %s)",
					mt_columns_list(columns, "t."), mt_relation_source_name(relation), match_keys(relation));
}

/* mt_sql_read_absent reads the keys of mt_keys that have no row. */
char *
mt_sql_read_absent(const MtRelation *relation)
{
	return psprintf("SELECT k.* FROM mt_keys AS k WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)",
					mt_relation_source_name(relation), match_keys(relation));
}

/* mt_sql_lock_present locks the rows whose keys are in mt_keys, as an UPDATE does. */
char *
mt_sql_lock_present(const MtRelation *relation)
{
	return psprintf("SELECT count(*) FROM (SELECT FROM %s AS t, mt_keys AS k WHERE %s FOR NO KEY UPDATE OF t) AS l",
					mt_relation_source_name(relation), match_keys(relation));
}

static char *
match_keys(const MtRelation *relation)
{
	StringInfoData match;

	initStringInfo(&match);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&match, "%st.%s %s k.k%d", i ? " AND " : "",
						 mt_name_quote(relation->key_columns[i]), relation->key_operators[i], i + 1);
	return match.data;
}
