/*
 * side.c
 *	  Statements on either side: see side.h.
 */
#include "endpoint/side.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_inherits.h"
#include "utils/snapmgr.h"

#include "base/lock.h"
#include "base/spi.h"
#include "base/xact.h"

static MtRows *execute_here(const MtSide *side, const char *sql);
static MtRows *copy_result(MemoryContext context);

/* mt_side_begin begins a transaction for writing. */
void
mt_side_begin(MtSide *side)
{
	if (side->remote != NULL)
		mt_remote_run(side->remote, "BEGIN");
	else
		mt_xact_begin();
}

/* mt_side_begin_reading begins a transaction that reads one snapshot of a table. */
void
mt_side_begin_reading(MtSide *side, Oid relid, const char *table)
{
	MemoryContext context = CurrentMemoryContext;

	if (side->remote != NULL)
	{
		MtRows	   *kind = mt_side_query(side, psprintf("SELECT relkind FROM pg_class WHERE oid = %s::regclass", quote_literal_cstr(table)));

		mt_remote_run(side->remote, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
		/* A materialized view cannot be locked; its refresh is seen whole by every snapshot. */
		if (kind->values[0][0][0] != 'm')
			mt_remote_run(side->remote, psprintf("LOCK TABLE %s IN ACCESS SHARE MODE", table));
		return;
	}
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	XactIsoLevel = XACT_REPEATABLE_READ;
	mt_lock_tables(list_make1_oid(relid), AccessShareLock);
	mt_lock_tables(find_all_inheritors(relid, NoLock, NULL), AccessShareLock);
	PushActiveSnapshot(GetTransactionSnapshot());
	/* The other side is to be told nothing that a crash could take from here. */
	mt_xact_flush(GetXLogInsertRecPtr());
}

/* mt_side_commit commits the transaction of either kind. */
void
mt_side_commit(MtSide *side)
{
	if (side->remote != NULL)
		mt_remote_run(side->remote, "COMMIT");
	else
		mt_xact_commit();
}

/* mt_side_query runs one statement and returns its rows. */
MtRows *
mt_side_query(MtSide *side, const char *sql)
{
	if (side->remote != NULL)
		return mt_remote_query(side->remote, sql, MT_NO_PARAMS);
	return execute_here(side, sql);
}

/* mt_side_execute runs one statement and returns the rows affected. */
int64
mt_side_execute(MtSide *side, const char *sql)
{
	return mt_side_query(side, sql)->affected;
}

/* mt_side_manage runs statements about what is ours; here it belongs to the extension's owner. */
void
mt_side_manage(MtSide *side, const char *sql)
{
	if (side->remote != NULL)
		mt_remote_run(side->remote, sql);
	else
		(void) execute_here(NULL, sql);
}

/* mt_side_query_ours reads what is ours on a side. */
MtRows *
mt_side_query_ours(MtSide *side, const char *sql)
{
	if (side->remote != NULL)
		return mt_remote_query(side->remote, sql, MT_NO_PARAMS);
	return execute_here(NULL, sql);
}

/* mt_side_query_both lets the target work while this database does. */
void
mt_side_query_both(MtSide *one, const char *one_sql, MtRows **one_rows,
				   MtSide *other, const char *other_sql, MtRows **other_rows)
{
	if (one->remote == NULL)
	{
		mt_side_query_both(other, other_sql, other_rows, one, one_sql, one_rows);
		return;
	}
	mt_remote_ask(one->remote, one_sql, MT_NO_PARAMS);
	*other_rows = execute_here(other, other_sql);
	*one_rows = mt_remote_answer(one->remote);
}

/*
 * execute_here runs statements about a side's table, or about what is ours; in a transaction of their own
 * where none is open.
 */
static MtRows *
execute_here(const MtSide *side, const char *sql)
{
	MtSpiScope	scope;
	MtRows	   *rows;
	int			outcome;
	bool		alone = !IsTransactionState();

	if (alone)
		mt_xact_begin();
	if (side == NULL)
		mt_spi_begin(&scope);
	else if (OidIsValid(side->relid))
		mt_spi_begin_table(&scope, side->owner, side->relid, side->writes);
	else
		mt_spi_begin_as(&scope, side->owner);
	outcome = SPI_execute(sql, false, 0);
	if (outcome < 0)
		elog(ERROR, "unexpected outcome %s of query: %s", SPI_result_code_string(outcome), sql);
	rows = copy_result(scope.caller);
	mt_spi_end(&scope);
	if (alone)
		mt_xact_commit();
	return rows;
}

/* copy_result copies the last result out of SPI. */
static MtRows *
copy_result(MemoryContext context)
{
	MemoryContext previous = MemoryContextSwitchTo(context);
	MtRows	   *rows = palloc0(sizeof(MtRows));

	rows->affected = (int64) SPI_processed;
	if (SPI_tuptable != NULL)
	{
		TupleDesc	desc = SPI_tuptable->tupdesc;

		rows->count = (int) SPI_processed;
		rows->columns = desc->natts;
		rows->values = MemoryContextAllocHuge(context, sizeof(char **) * (rows->count + 1));
		for (int row = 0; row < rows->count; row++)
		{
			rows->values[row] = palloc(sizeof(char *) * rows->columns);
			/* What SPI_getvalue allocates is in the current context, which is the caller's. */
			for (int i = 0; i < desc->natts; i++)
				rows->values[row][i] = SPI_getvalue(SPI_tuptable->vals[row], desc, i + 1);
		}
	}
	MemoryContextSwitchTo(previous);
	return rows;
}
