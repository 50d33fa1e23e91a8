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
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

typedef struct MtSpiParams
{
	Oid		   *types;
	Datum	   *values;
	char	   *nulls;
} MtSpiParams;

static void begin(MtSpiScope *scope, Oid role, int context);
static MtSpiParams make_params(int nargs, const MtArg *args);
static SPIPlanPtr prepare(const char *sql, int nargs, Oid *types);
static uint64 check_outcome(int outcome, int expected, const char *sql);
static void check_row(uint64 row);

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
	begin(scope, role, SECURITY_LOCAL_USERID_CHANGE);
	scope->foreign_code = false;
}

/* mt_spi_begin_table opens a scope for a table's rows. */
void
mt_spi_begin_table(MtSpiScope *scope, Oid owner, Oid relid, bool writes)
{
	Oid			role = mt_spi_table_role(owner, relid, writes);

	begin(scope, role, mt_spi_table_context(role, owner));
	scope->foreign_code = true;
}

/*
 * mt_spi_table_role returns the table's owner, whose rights the migration's owner has to have.  Who may but read
 * a table, as is enough to push it, reads it as himself.
 */
Oid
mt_spi_table_role(Oid owner, Oid relid, bool writes)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			role;
	char		kind;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE), errmsg("a table of the migration does not exist any more")));
	role = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	kind = ((Form_pg_class) GETSTRUCT(tuple))->relkind;
	ReleaseSysCache(tuple);
	/* Up to PostgreSQL 15 a rule makes a view of an empty table; its code would have the rights of who reads it. */
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("relation \"%s\" is not a table any more", get_rel_name(relid)),
				 errhint("Take it out of the migration with migrate_tiers.untag, or make it a table again.")));
	if (has_privs_of_role(owner, role))
		return role;
	mt_spi_require_role(owner);
	if (writes)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\", the owner of the migration, has not the rights of the owner of table \"%s\"",
						GetUserNameFromId(owner, false), get_rel_name(relid)),
				 errhint("Run GRANT %s TO %s.", quote_identifier(GetUserNameFromId(role, false)),
						 quote_identifier(GetUserNameFromId(owner, false)))));
	return owner;
}

/* mt_spi_require_role refuses a migration's owner that is no role any more, and says how to give it another. */
void
mt_spi_require_role(Oid owner)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the role that owns the migration, with OID %u, does not exist any more", owner),
				 errhint("A superuser can give it to another: SELECT migrate_tiers.set_option('owner', '...').")));
}

/*
 * mt_spi_table_context restricts what code of a role may do.  What it leaves for the commit (a deferred trigger, a
 * cursor WITH HOLD) runs there with the rights of who opens the scope, in a worker those of a superuser: it is
 * refused where the role has not these anyway.
 */
int
mt_spi_table_context(Oid role, Oid owner)
{
	int			context = SECURITY_LOCAL_USERID_CHANGE;

	/* Row security is looked at before: it must not hide rows from the table's owner alone. */
	if (role != owner)
		context |= SECURITY_NOFORCE_RLS;
	if (!has_privs_of_role(role, GetUserId()))
		context |= SECURITY_RESTRICTED_OPERATION;
	return context;
}

static void
begin(MtSpiScope *scope, Oid role, int context)
{
	scope->caller = CurrentMemoryContext;
	GetUserIdAndSecContext(&scope->saved_user, &scope->saved_context);
	SetUserIdAndSecContext(role, scope->saved_context | context);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	/* So that a backslash in a literal is one. */
	if (!standard_conforming_strings)
		(void) set_config_option("standard_conforming_strings", "on", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	/* So that names that are compared with recorded ones are written alike. */
	if (quote_all_identifiers)
		(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION,
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
	AtEOXact_GUC(!scope->foreign_code, scope->guc_level);
	SetUserIdAndSecContext(scope->saved_user, scope->saved_context);
	MemoryContextSwitchTo(scope->caller);
}

/* mt_spi_exec executes one statement, checks its outcome and counts its rows. */
uint64
mt_spi_exec(int expected, const char *sql, int nargs, const MtArg *args)
{
	MtSpiParams params = make_params(nargs, args);

	return check_outcome(SPI_execute_with_args(sql, nargs, params.types, params.values, params.nulls, false, 0),
						 expected, sql);
}

/* mt_spi_exec_latest executes one statement with a snapshot of this moment. */
uint64
mt_spi_exec_latest(int expected, const char *sql, int nargs, const MtArg *args)
{
	MtSpiParams params = make_params(nargs, args);
	SPIPlanPtr	plan = prepare(sql, nargs, params.types);

	return check_outcome(SPI_execute_snapshot(plan, params.values, params.nulls, GetLatestSnapshot(),
											  InvalidSnapshot, false, true, 0),
						 expected, sql);
}

/* mt_spi_exec_kept does the same with a plan that is made once a session. */
uint64
mt_spi_exec_kept(SPIPlanPtr *plan, int expected, const char *sql, int nargs, const MtArg *args)
{
	MtSpiParams params = make_params(nargs, args);

	if (*plan == NULL)
	{
		SPIPlanPtr	prepared = prepare(sql, nargs, params.types);

		if (SPI_keepplan(prepared) != 0)
			elog(ERROR, "SPI_keepplan failed");
		*plan = prepared;
	}
	return check_outcome(SPI_execute_snapshot(*plan, params.values, params.nulls, GetLatestSnapshot(),
											  InvalidSnapshot, false, true, 0),
						 expected, sql);
}

static MtSpiParams
make_params(int nargs, const MtArg *args)
{
	MtSpiParams params = {
		.types = palloc(sizeof(Oid) * (nargs + 1)),
		.values = palloc(sizeof(Datum) * (nargs + 1)),
		.nulls = palloc(nargs + 1),
	};

	for (int i = 0; i < nargs; i++)
	{
		params.types[i] = args[i].type;
		params.values[i] = args[i].value;
		params.nulls[i] = args[i].isnull ? 'n' : ' ';
	}
	return params;
}

static SPIPlanPtr
prepare(const char *sql, int nargs, Oid *types)
{
	SPIPlanPtr	plan = SPI_prepare(sql, nargs, types);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

static uint64
check_outcome(int outcome, int expected, const char *sql)
{
	if (outcome != expected)
		elog(ERROR, "unexpected outcome %s of query: %s", SPI_result_code_string(outcome), sql);
	return SPI_processed;
}

/* check_row makes an error of a row that the last result does not have: whoever it was of may be gone. */
static void
check_row(uint64 row)
{
	if (row >= SPI_processed)
		elog(ERROR, "the last result has %llu rows, row %llu is asked for",
			 (unsigned long long) SPI_processed, (unsigned long long) row);
}

/* mt_spi_datum returns a value of the last result as it is. */
Datum
mt_spi_datum(uint64 row, int column, bool *isnull)
{
	check_row(row);
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* mt_spi_text returns a value of the last result as text that outlives the scope. */
char *
mt_spi_text(MtSpiScope *scope, uint64 row, int column)
{
	char	   *text;

	check_row(row);
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

/* mt_spi_texts copies a text[] without NULLs into the caller's memory; NULL for SQL NULL. */
char **
mt_spi_texts(MtSpiScope *scope, uint64 row, int column, int *count)
{
	bool		isnull;
	Datum		array = mt_spi_datum(row, column, &isnull);
	Datum	   *items;
	char	  **texts;

	*count = 0;
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, count);
	texts = MemoryContextAlloc(scope->caller, sizeof(char *) * (*count + 1));
	for (int i = 0; i < *count; i++)
		texts[i] = MemoryContextStrdup(scope->caller, TextDatumGetCString(items[i]));
	texts[*count] = NULL;
	return texts;
}

/* mt_spi_texts_arg makes a text[] argument; SQL NULL of NULL. */
MtArg
mt_spi_texts_arg(int count, char *const *texts)
{
	MtArg		arg = {TEXTARRAYOID, (Datum) 0, texts == NULL};
	Datum	   *items = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; texts != NULL && i < count; i++)
		items[i] = CStringGetTextDatum(texts[i]);
	if (texts != NULL)
		arg.value = PointerGetDatum(construct_array(items, count, TEXTOID, -1, false, TYPALIGN_INT));
	return arg;
}
