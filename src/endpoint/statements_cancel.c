/*
 * statements_cancel.c
 *	  Takes entries out of the target's queue.
 *
 * One transaction may have left very many, and their only index is over transactions: so those of many keys
 * are found in one pass over them.
 */
#include "endpoint/statements_queue.h"

#include "lib/stringinfo.h"

#include "endpoint/target_capture.h"

static void append_key(StringInfo values, const MtRelation *relation, const MtColumns *columns, int first);

/* mt_sql_queue_cancel deletes entries of keys, of named transactions. */
char *
mt_sql_queue_cancel(const MtMigration *migration, const MtRelation *relation, const MtColumns *columns, int keys)
{
	StringInfoData values;
	StringInfoData match;

	initStringInfo(&values);
	initStringInfo(&match);
	for (int key = 0; key < keys; key++)
	{
		appendStringInfoString(&values, key ? ", " : "");
		append_key(&values, relation, columns, 2 + key * (relation->nkeys + 1));
	}
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&match, " AND q.k%d %s c.k%d", i + 1, relation->key_operators[i], i + 1);
	return psprintf("DELETE FROM %s AS q USING (VALUES %s) AS c (%s, xids)"
					" WHERE q.kind = 0 AND q.xid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.xid8[])%s"
					" AND q.xid OPERATOR(pg_catalog.=) ANY (c.xids)",
					mt_sql_queue_name(migration, relation), values.data, mt_target_queue_columns(relation), match.data);
}

/* append_key writes a key and its transactions as parameters, from a number on. */
static void
append_key(StringInfo values, const MtRelation *relation, const MtColumns *columns, int first)
{
	appendStringInfoChar(values, '(');
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(values, "$%d::%s, ", first + i, mt_sql_key_type(relation, columns, i));
	appendStringInfo(values, "$%d::pg_catalog.xid8[])", first + relation->nkeys);
}
