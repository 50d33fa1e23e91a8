/*
 * spi.h
 *	  One wrapper over SPI for every query of ours.
 *
 * A scope runs queries as the owner of the extension, with search_path pinned
 * to pg_catalog and pg_temp last and standard strings, whatever the caller has
 * set.  Permission of the caller is checked before a scope is opened
 * (mt_migration_check_owner), never inside it.  A scope is closed on every
 * normal exit; an error closes it with the (sub)transaction.
 */
#ifndef MT_SPI_H
#define MT_SPI_H

#include "base/compat.h"

#include "executor/spi.h"
#include "utils/builtins.h"

#include "catalog/pg_type_d.h"

typedef struct MtSpiScope
{
	Oid			saved_user;
	int			saved_context;
	int			guc_level;
	bool		foreign_code;	/* what somebody else's code has set is undone */
	MemoryContext caller;		/* where results that outlive the scope go */
} MtSpiScope;

typedef struct MtArg
{
	Oid			type;
	Datum		value;
	bool		isnull;
} MtArg;

#define MT_ARGS(...) lengthof(((MtArg[]) {__VA_ARGS__})), ((MtArg[]) {__VA_ARGS__})
#define MT_NO_ARGS	 0, NULL

/* clang-format off */
#define MT_INT4(v) {INT4OID, Int32GetDatum(v), false}
#define MT_INT8(v) {INT8OID, Int64GetDatum(v), false}
#define MT_BOOL(v) {BOOLOID, BoolGetDatum(v), false}
#define MT_OID(v)  {OIDOID, ObjectIdGetDatum(v), false}
#define MT_TEXT(v) {TEXTOID, (v) ? CStringGetTextDatum(v) : (Datum) 0, (v) == NULL}
/* clang-format on */

/* Opens a scope as the extension's owner; the second form as another role. */
extern void mt_spi_begin(MtSpiScope *scope);
extern void mt_spi_begin_as(MtSpiScope *scope, Oid role);

/* Opens a scope for a table's rows, as its owner: triggers, checks and casts of his must have no other rights. */
extern void mt_spi_begin_table(MtSpiScope *scope, Oid owner, Oid relid, bool writes);

/* The role of such a scope; and the security context that goes with a role, for code that has no scope. */
extern Oid	mt_spi_table_role(Oid owner, Oid relid, bool writes);
extern void mt_spi_require_role(Oid owner);	/* that the migration's owner was not dropped */
extern int	mt_spi_table_context(Oid role, Oid owner);

extern void mt_spi_end(MtSpiScope *scope);

/* Executes one statement and checks that it ended as expected; returns rows. */
extern uint64 mt_spi_exec(int expected, const char *sql, int nargs, const MtArg *args);

/*
 * The same, and sees what is committed now, whatever the transaction's
 * snapshot; the second form keeps the plan in a static variable of the caller.
 */
extern uint64 mt_spi_exec_latest(int expected, const char *sql, int nargs, const MtArg *args);
extern uint64 mt_spi_exec_kept(SPIPlanPtr *plan, int expected, const char *sql, int nargs, const MtArg *args);

/* The value of a column of the last result; NULL when it is SQL NULL.  Text
 * is allocated in the scope's caller context. */
extern char *mt_spi_text(MtSpiScope *scope, uint64 row, int column);
extern Datum mt_spi_datum(uint64 row, int column, bool *isnull);
extern int64 mt_spi_int8(uint64 row, int column);
extern bool mt_spi_bool(uint64 row, int column);

/* A text[] without NULLs, NULL-terminated (NULL for SQL NULL); and back, as an argument. */
extern char **mt_spi_texts(MtSpiScope *scope, uint64 row, int column, int *count);
extern MtArg mt_spi_texts_arg(int count, char *const *texts);

/* The role that owns the extension, and the OID of a table of our schema. */
extern Oid	mt_extension_owner(void);
extern Oid	mt_extension_schema(void);
extern Oid	mt_extension_table(const char *name);

#endif							/* MT_SPI_H */
