/*
 * table.c
 *	  Describes a table under comparison, and runs statements on both sides.
 */
#include "verify/table.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_operator.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/name.h"
#include "base/spi.h"
#include "catalog/identity.h"
#include "endpoint/statements.h"

static void describe_key(MtVerifyTable *table, Relation source);
static char *operator_name(Relation index, int column, StrategyNumber strategy);
static MtRows *copy_result(uint64 count, MemoryContext context);

/* mt_verify_describe describes a table as it is now. */
MtVerifyTable *
mt_verify_describe(MtRelation *relation, Oid owner)
{
	MtVerifyTable *table = palloc0(sizeof(MtVerifyTable));
	Relation	source;

	/* Raises an error where it was dropped. */
	(void) mt_relation_source_name(relation);
	source = table_open(relation->relid, AccessShareLock);
	table->relation = relation;
	table->owner = owner;
	table->columns = mt_columns_describe(RelationGetDescr(source));
	describe_key(table, source);
	table_close(source, NoLock);
	return table;
}

/* describe_key reads the order of the key's own index, so that a range of keys is one of the index. */
static void
describe_key(MtVerifyTable *table, Relation source)
{
	MtIdentity *identity = mt_identity_find(RelationGetRelid(source));
	Relation	index;

	if (identity == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key any more", RelationGetRelationName(source)),
				 errhint("Give it a primary key again.")));
	table->nkeys = identity->ncolumns;
	table->key_types = palloc0(sizeof(char *) * table->nkeys);
	table->less = palloc0(sizeof(char *) * table->nkeys);
	table->greater = palloc0(sizeof(char *) * table->nkeys);
	table->at_least = palloc0(sizeof(char *) * table->nkeys);
	table->plain_order = true;
	index = index_open(identity->index, AccessShareLock);
	for (int i = 0; i < table->nkeys; i++)
	{
		Oid			type = get_atttype(RelationGetRelid(source),
									   get_attnum(RelationGetRelid(source), identity->columns[i]));

		table->key_types[i] = mt_sql_type(type);
		table->less[i] = operator_name(index, i, BTLessStrategyNumber);
		table->greater[i] = operator_name(index, i, BTGreaterStrategyNumber);
		table->at_least[i] = operator_name(index, i, BTGreaterEqualStrategyNumber);
		table->plain_order = table->plain_order && strcmp(table->less[i], table->less[0]) == 0 &&
			strcmp(table->at_least[i], table->at_least[0]) == 0;
	}
	index_close(index, NoLock);
}

static char *
operator_name(Relation index, int column, StrategyNumber strategy)
{
	Oid operator= get_opfamily_member(index->rd_opfamily[column], index->rd_opcintype[column],
									  index->rd_opcintype[column], strategy);
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	name = psprintf("OPERATOR(%s.%s)", mt_name_quote(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return name;
}

/* mt_verify_params lines up the bounds of a range, then one more parameter unless it is NULL. */
int
mt_verify_params(const MtVerifyTable *table, const MtKeyRange *range, const char *more, const char ***params)
{
	int			count = 0;

	*params = palloc(sizeof(char *) * (2 * table->nkeys + 1));
	for (int i = 0; range->low && i < table->nkeys; i++)
		(*params)[count++] = range->low[i];
	for (int i = 0; range->high && i < table->nkeys; i++)
		(*params)[count++] = range->high[i];
	if (more)
		(*params)[count++] = more;
	return count;
}

/* mt_verify_local runs a statement on the source, where row security must not hide rows. */
MtRows *
mt_verify_local(const MtVerifyTable *table, const char *sql, int nparams, const char *const *params)
{
	MtArg	   *args = palloc(sizeof(MtArg) * Max(nparams, 1));
	MtSpiScope	scope;
	MtRows	   *rows;

	for (int i = 0; i < nparams; i++)
		args[i] = (MtArg) MT_TEXT(params[i]);
	mt_spi_begin_table(&scope, table->owner, table->relation->relid, false);
	rows = copy_result(mt_spi_exec(SPI_OK_SELECT, sql, nparams, args), scope.caller);
	mt_spi_end(&scope);
	return rows;
}

/* copy_result copies the rows of the last query as text. */
static MtRows *
copy_result(uint64 count, MemoryContext context)
{
	MemoryContext spi = MemoryContextSwitchTo(context);
	TupleDesc	tupdesc = SPI_tuptable->tupdesc;
	MtRows	   *rows = palloc0(sizeof(MtRows));

	rows->count = (int) count;
	rows->columns = tupdesc->natts;
	rows->values = MemoryContextAllocHuge(context, sizeof(char **) * (count + 1));
	for (uint64 row = 0; row < count; row++)
	{
		rows->values[row] = palloc(sizeof(char *) * tupdesc->natts);
		for (int column = 0; column < tupdesc->natts; column++)
			rows->values[row][column] = SPI_getvalue(SPI_tuptable->vals[row], tupdesc, column + 1);
	}
	MemoryContextSwitchTo(spi);
	return rows;
}

/* mt_verify_both lets the target work while the source does. */
MtBothRows
mt_verify_both(const MtVerifyTable *table, MtRemote *remote, const char *source_sql, const char *target_sql,
			   int nparams, const char *const *params)
{
	MtBothRows	both;

	mt_remote_ask(remote, target_sql, nparams, params);
	both.source = mt_verify_local(table, source_sql, nparams, params);
	both.target = mt_remote_answer(remote);
	return both;
}
