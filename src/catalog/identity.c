/*
 * identity.c
 *	  Finds the key of a table in the system catalogs.
 *
 * Which index it is says migrate_tiers.key_index(), whenever it is asked: REINDEX
 * CONCURRENTLY puts another in its place.
 */
#include "catalog/identity.h"

#include "base/spi.h"

#include "access/stratnum.h"
#include "utils/array.h"

static const char key_query[] =
	"SELECT i.indexrelid, a.attname,"
	" pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)"
	" FROM (SELECT * FROM pg_index WHERE indexrelid = migrate_tiers.key_index($1)) i"
	" CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[])"
	"  WITH ORDINALITY k(attnum, opclass, position)"
	" JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
	" JOIN pg_opclass c ON c.oid = k.opclass"
	" JOIN pg_amop s ON s.amopfamily = c.opcfamily AND s.amopstrategy = $2"
	"  AND s.amoplefttype = c.opcintype AND s.amoprighttype = c.opcintype"
	" JOIN pg_operator o ON o.oid = s.amopopr"
	" JOIN pg_namespace n ON n.oid = o.oprnamespace"
	" WHERE k.position <= i.indnkeyatts"
	" ORDER BY k.position";

/* mt_identity_find reads the columns and operators of a table's key. */
MtIdentity *
mt_identity_find(Oid relid)
{
	MtIdentity *key = NULL;
	MtSpiScope	scope;
	int			count;

	mt_spi_begin(&scope);
	count = (int) mt_spi_exec(SPI_OK_SELECT, key_query,
							  MT_ARGS(MT_OID(relid), MT_INT4(BTEqualStrategyNumber)));
	if (count > 0)
	{
		key = MemoryContextAllocZero(scope.caller, sizeof(MtIdentity));
		key->index = (Oid) mt_spi_int8(0, 1);
		key->ncolumns = count;
		key->columns = MemoryContextAllocZero(scope.caller, sizeof(char *) * (count + 1));
		key->operators = MemoryContextAllocZero(scope.caller, sizeof(char *) * (count + 1));
		for (int i = 0; i < count; i++)
		{
			key->columns[i] = mt_spi_text(&scope, i, 2);
			key->operators[i] = mt_spi_text(&scope, i, 3);
		}
	}
	mt_spi_end(&scope);
	return key;
}

/* mt_identity_generated names a generated column for which a table's key would not do, or returns NULL. */
char *
mt_identity_generated(Oid relid)
{
	MtSpiScope	scope;
	char	   *column = NULL;

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT,
					"SELECT a.attname FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid"
					" JOIN pg_attribute a ON a.attrelid = x.indrelid"
					" AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])"
					" WHERE x.indrelid = $1 AND a.attgenerated <> ''"
					" AND (x.indisprimary OR t.relreplident = 'i' AND x.indisreplident)"
					" ORDER BY x.indisprimary DESC, a.attnum LIMIT 1",
					MT_ARGS(MT_OID(relid))) > 0)
		column = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return column;
}

/* mt_identity_store stores a key as that of a table of ours. */
void
mt_identity_store(int32 relation_id, const MtIdentity *key)
{
	Datum	   *columns = palloc(sizeof(Datum) * key->ncolumns);
	Datum	   *operators = palloc(sizeof(Datum) * key->ncolumns);
	ArrayType  *column_array;
	ArrayType  *operator_array;
	MtSpiScope	scope;

	for (int i = 0; i < key->ncolumns; i++)
	{
		columns[i] = CStringGetTextDatum(key->columns[i]);
		operators[i] = CStringGetTextDatum(key->operators[i]);
	}
	column_array = construct_array(columns, key->ncolumns, TEXTOID, -1, false, TYPALIGN_INT);
	operator_array = construct_array(operators, key->ncolumns, TEXTOID, -1, false, TYPALIGN_INT);
	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_UPDATE,
					   "UPDATE migrate_tiers.relation SET key_columns = $2::name[], key_operators = $3 WHERE id = $1",
					   MT_ARGS(MT_INT4(relation_id), {TEXTARRAYOID, PointerGetDatum(column_array), false},
							   {TEXTARRAYOID, PointerGetDatum(operator_array), false}));
	mt_spi_end(&scope);
}
