/*
 * relation.c
 *	  Reads migrate_tiers.relation together with what the system catalogs say
 *	  of each table now.
 *
 * A table that was dropped behind our back still has its row, since the target
 * has to be cleaned; its source name is then empty and nothing can be read by it.
 */
#include "catalog/relation.h"

#include "access/genam.h"
#include "access/table.h"
#include "base/lock.h"
#include "base/name.h"
#include "base/spi.h"
#include "catalog/partition.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_inherits.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#define COLUMNS \
	"SELECT r.id, r.migration, r.relation, coalesce(n.nspname::text, ''), coalesce(c.relname::text, '')," \
	" r.target_schema, r.target_name, r.tier, r.state, r.key_columns::text[], r.key_operators," \
	" r.captured, r.captured_from, coalesce(c.relkind = 'p', false), r.fenced, r.incarnation" \
	" FROM migrate_tiers.relation r" \
	" LEFT JOIN pg_class c ON c.oid = r.relation" \
	" LEFT JOIN pg_namespace n ON n.oid = c.relnamespace "

static void read_key(Relation relation, Oid relid, MtRelationKey *found);
static Datum get_value(Relation relation, HeapTuple tuple, const char *column);
static void get_names(Datum array, int *count, char ***names);
static MtRelation *get_one(const char *sql, int nargs, const MtArg *args);
static MtRelation *read_row(MtSpiScope *scope, uint64 row);

/* mt_relation_list lists the tables of a migration, of one tier or of all. */
List *
mt_relation_list(int32 migration, const char *tier)
{
	List	   *relations = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT,
						COLUMNS "WHERE r.migration = $1 AND ($2 IS NULL OR r.tier = $2) ORDER BY r.id",
						MT_ARGS(MT_INT4(migration), MT_TEXT(tier)));
	for (uint64 row = 0; row < count; row++)
	{
		MtRelation *relation = read_row(&scope, row);
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		relations = lappend(relations, relation);
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return relations;
}

/* mt_relation_by_id finds a table by our number. */
MtRelation *
mt_relation_by_id(int32 id, bool missing_ok)
{
	MtRelation *relation = get_one(COLUMNS "WHERE r.id = $1", MT_ARGS(MT_INT4(id)));

	if (relation == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tagged table %d does not exist any more", id)));
	return relation;
}

/* mt_relation_by_relid finds a table by its OID, NULL when it is not tagged. */
MtRelation *
mt_relation_by_relid(Oid relid)
{
	return get_one(COLUMNS "WHERE r.relation = $1", MT_ARGS(MT_OID(relid)));
}

/*
 * mt_relation_find_key reads the catalog without a query, since it is asked in the transactions of applications.  A
 * captured table may itself have become a partition of another, so the nearest one above counts.
 */
bool
mt_relation_find_key(Oid relid, MtRelationKey *found)
{
	Relation	relation = table_open(mt_extension_table("relation"), AccessShareLock);

	memset(found, 0, sizeof(*found));
	for (Oid table = relid; OidIsValid(table) && found->nkeys == 0; table = mt_relation_parent(table))
		read_key(relation, table, found);
	table_close(relation, AccessShareLock);
	return found->nkeys > 0;
}

/* mt_relation_parent returns the table that a partition belongs to, also while its detaching is under way. */
Oid
mt_relation_parent(Oid relid)
{
	return get_rel_relispartition(relid) ? get_partition_parent(relid, true) : InvalidOid;
}

/* read_key reads what the trigger has to know of a table, if it is captured. */
static void
read_key(Relation relation, Oid relid, MtRelationKey *found)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, get_attnum(RelationGetRelid(relation), "relation"), BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(relation, mt_extension_table("relation_relation_key"), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) && DatumGetBool(get_value(relation, tuple, "captured")))
	{
		found->id = DatumGetInt32(get_value(relation, tuple, "id"));
		found->migration = DatumGetInt32(get_value(relation, tuple, "migration"));
		found->relid = relid;
		get_names(get_value(relation, tuple, "key_columns"), &found->nkeys, &found->key_columns);
	}
	systable_endscan(scan);
}

static Datum
get_value(Relation relation, HeapTuple tuple, const char *column)
{
	bool		isnull;

	return heap_getattr(tuple, get_attnum(RelationGetRelid(relation), column), RelationGetDescr(relation),
						&isnull);
}

/* get_names copies the items of a name[]. */
static void
get_names(Datum array, int *count, char ***names)
{
	Datum	   *items;

	deconstruct_array(DatumGetArrayTypePCopy(array), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &items, NULL, count);
	*names = palloc(sizeof(char *) * *count);
	for (int i = 0; i < *count; i++)
		(*names)[i] = NameStr(*DatumGetName(items[i]));
}

/* mt_relation_set_state notes how far a table has come. */
void
mt_relation_set_state(int32 id, const char *state)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.relation SET state = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(id), MT_TEXT(state)));
	mt_spi_end(&scope);
}

/* mt_relation_recopy marks a table to be copied again, and says why. */
void
mt_relation_recopy(int32 id, const char *why)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	/* By now it may be a batch table. */
	mt_spi_exec_latest(SPI_OK_UPDATE,
					   "UPDATE migrate_tiers.relation SET state = 'recopy', note = $2 WHERE id = $1 AND tier = 'realtime'",
					   MT_ARGS(MT_INT4(id), MT_TEXT(why)));
	mt_spi_end(&scope);
}

/* mt_relation_uncaptured notes that up to now changes of a table on the target may not have been noted. */
void
mt_relation_uncaptured(int32 id)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.relation SET uncaptured = clock_timestamp() WHERE id = $1",
				MT_ARGS(MT_INT4(id)));
	mt_spi_end(&scope);
}

/* mt_table_name names a table for a message, with its schema. */
char *
mt_table_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	return name ? quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name) :
		psprintf("with OID %u", relid);
}

/* mt_table_lock_reading locks a table and names it as it is called under the lock. */
char *
mt_table_lock_reading(Oid relid)
{
	mt_lock_tables(list_make1_oid(relid), AccessShareLock);
	switch (get_rel_relkind(relid))
	{
		case RELKIND_RELATION:
			return psprintf("ONLY %s", mt_table_name(relid));
		case RELKIND_PARTITIONED_TABLE:
			mt_lock_tables(find_all_inheritors(relid, NoLock, NULL), AccessShareLock);
			return mt_table_name(relid);
		default:
			return NULL;
	}
}

/* mt_relation_source_name names the source's table for FROM. */
char *
mt_relation_source_name(const MtRelation *relation)
{
	if (relation->name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("source of table %s does not exist any more",
						mt_relation_target_name(relation)),
				 errhint("Take it out of the migration with migrate_tiers.revert and migrate_tiers.untag.")));
	return psprintf("%s%s", relation->partitioned ? "" : "ONLY ", mt_name_qualify(relation->schema, relation->name));
}

/* mt_relation_mirror returns the table with its sides exchanged. */
MtRelation *
mt_relation_mirror(const MtRelation *relation)
{
	MtRelation *mirror = palloc(sizeof(MtRelation));

	*mirror = *relation;
	mirror->schema = relation->target_schema;
	mirror->name = relation->target_name;
	mirror->partitioned = relation->target_partitioned;
	mirror->target_schema = relation->schema;
	mirror->target_name = relation->name;
	mirror->target_partitioned = relation->partitioned;
	return mirror;
}

/* mt_relation_target_name names the target's table. */
char *
mt_relation_target_name(const MtRelation *relation)
{
	return quote_qualified_identifier(relation->target_schema, relation->target_name);
}

/* mt_relation_target_sql names it in statements, which the target may parse by other keywords. */
char *
mt_relation_target_sql(const MtRelation *relation)
{
	return mt_name_qualify(relation->target_schema, relation->target_name);
}

/* get_one reads a row as it is now: a transaction may keep a snapshot from before the table was tagged. */
static MtRelation *
get_one(const char *sql, int nargs, const MtArg *args)
{
	MtRelation *relation = NULL;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	if (mt_spi_exec_latest(SPI_OK_SELECT, sql, nargs, args) > 0)
		relation = read_row(&scope, 0);
	mt_spi_end(&scope);
	return relation;
}

/* read_row copies a row of COLUMNS into the caller's memory. */
static MtRelation *
read_row(MtSpiScope *scope, uint64 row)
{
	MtRelation *relation = MemoryContextAllocZero(scope->caller, sizeof(MtRelation));
	int			operators;

	relation->id = (int32) mt_spi_int8(row, 1);
	relation->migration = (int32) mt_spi_int8(row, 2);
	relation->relid = (Oid) mt_spi_int8(row, 3);
	relation->schema = mt_spi_text(scope, row, 4);
	relation->name = mt_spi_text(scope, row, 5);
	relation->target_schema = mt_spi_text(scope, row, 6);
	relation->target_name = mt_spi_text(scope, row, 7);
	relation->tier = mt_spi_text(scope, row, 8);
	relation->state = mt_spi_text(scope, row, 9);
	relation->key_columns = mt_spi_texts(scope, row, 10, &relation->nkeys);
	relation->key_operators = mt_spi_texts(scope, row, 11, &operators);
	if (operators != relation->nkeys)
		elog(ERROR, "table %d has %d key columns but %d operators", relation->id,
			 relation->nkeys, operators);
	relation->captured = mt_spi_bool(row, 12);
	relation->captured_from = mt_spi_text(scope, row, 13);
	relation->partitioned = mt_spi_bool(row, 14);
	relation->fenced = mt_spi_bool(row, 15);
	relation->incarnation = (int32) mt_spi_int8(row, 16);
	return relation;
}
