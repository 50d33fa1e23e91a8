/*
 * spi.c
 *	  One wrapper over SPI: see spi.h for what a scope promises.
 */
#include "base/spi.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

static uint64 execute(Snapshot snapshot, int expected, const char *sql, int nargs, const MtArg *args);

/* mt_extension_owner looks up the role that owns the extension. */
Oid
mt_extension_owner(void)
{
	Relation	extensions = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("migrate_tiers"));
	scan = systable_beginscan(extensions, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(extensions, AccessShareLock);
	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"migrate_tiers\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION migrate_tiers.")));
	return owner;
}

/* mt_extension_schema returns the OID of our schema, or InvalidOid. */
Oid
mt_extension_schema(void)
{
	return get_namespace_oid("migrate_tiers", true);
}

/* mt_extension_table returns the OID of a table of our schema, or InvalidOid. */
Oid
mt_extension_table(const char *name)
{
	Oid			schema = mt_extension_schema();

	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

/* mt_spi_begin opens a scope as the owner of the extension. */
void
mt_spi_begin(MtSpiScope *scope)
{
	mt_spi_begin_as(scope, mt_extension_owner());
}

/* mt_spi_begin_as opens a scope as the given role. */
void
mt_spi_begin_as(MtSpiScope *scope, Oid role)
{
	scope->caller = CurrentMemoryContext;
	GetUserIdAndSecContext(&scope->saved_user, &scope->saved_context);
	SetUserIdAndSecContext(role, scope->saved_context | SECURITY_LOCAL_USERID_CHANGE);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

/* mt_spi_end closes a scope; results of its queries are gone after it. */
void
mt_spi_end(MtSpiScope *scope)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	AtEOXact_GUC(true, scope->guc_level);
	SetUserIdAndSecContext(scope->saved_user, scope->saved_context);
	MemoryContextSwitchTo(scope->caller);
}

/* mt_spi_exec executes one statement, checks its outcome and counts its rows. */
uint64
mt_spi_exec(int expected, const char *sql, int nargs, const MtArg *args)
{
	return execute(InvalidSnapshot, expected, sql, nargs, args);
}

/* mt_spi_exec_latest executes one statement with a snapshot of this moment. */
uint64
mt_spi_exec_latest(int expected, const char *sql, int nargs, const MtArg *args)
{
	return execute(GetLatestSnapshot(), expected, sql, nargs, args);
}

static uint64
execute(Snapshot snapshot, int expected, const char *sql, int nargs, const MtArg *args)
{
	Oid		   *types = palloc(sizeof(Oid) * (nargs + 1));
	Datum	   *values = palloc(sizeof(Datum) * (nargs + 1));
	char	   *nulls = palloc(nargs + 1);
	SPIPlanPtr	plan;
	int			outcome;

	for (int i = 0; i < nargs; i++)
	{
		types[i] = args[i].type;
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}
	if (snapshot == InvalidSnapshot)
		outcome = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	else
	{
		plan = SPI_prepare(sql, nargs, types);
		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		outcome = SPI_execute_snapshot(plan, values, nulls, snapshot, InvalidSnapshot, false, true, 0);
	}
	if (outcome != expected)
		elog(ERROR, "unexpected outcome %s of query: %s", SPI_result_code_string(outcome), sql);
	return SPI_processed;
}

/* mt_spi_datum returns a value of the last result as it is. */
Datum
mt_spi_datum(uint64 row, int column, bool *isnull)
{
	Assert(row < SPI_processed);
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* mt_spi_text returns a value of the last result as text that outlives the scope. */
char *
mt_spi_text(MtSpiScope *scope, uint64 row, int column)
{
	char	   *text;

	Assert(row < SPI_processed);
	text = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
	return text ? MemoryContextStrdup(scope->caller, text) : NULL;
}

/* mt_spi_int8 returns an integer (int4, int8 or oid) of the last result, 0 for NULL. */
int64
mt_spi_int8(uint64 row, int column)
{
	bool		isnull;
	Datum		value = mt_spi_datum(row, column, &isnull);

	if (isnull)
		return 0;
	switch (SPI_gettypeid(SPI_tuptable->tupdesc, column))
	{
		case INT8OID:
			return DatumGetInt64(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			return (int64) DatumGetObjectId(value);
	}
}

/* mt_spi_bool returns a boolean of the last result, false for NULL. */
bool
mt_spi_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = mt_spi_datum(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}
