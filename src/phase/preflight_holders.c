/*
 * preflight_holders.c
 *	  Finds columns that hold numbers of large objects.
 *
 * The rest of preflight asks the catalogs; this looks at rows of users' tables, and
 * does so as their owners: a table may have become a view whose code is not to be
 * run with our rights.
 */
#include "phase/preflight.h"

#include "base/spi.h"
#include "catalog/relation.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"

/*
 * Columns of realtime tables that may hold numbers of large objects, and whether their type says so.  Of the others
 * those are left out that the owner of the migration, or of the table, may not read: another check tells of them.
 */
static const char holders_query[] =
	"SELECT r.relation, a.attname, v.certain FROM migrate_tiers.relation r JOIN migrate_tiers.migration g ON g.id = r.migration"
	" JOIN pg_class c ON c.oid = r.relation"
	" JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped"
	" JOIN pg_type t ON t.oid = a.atttypid"
	" CROSS JOIN LATERAL (SELECT t.typname = 'lo' AND t.typnamespace <> 'pg_catalog'::regnamespace AS certain) v"
	" WHERE r.migration = $1 AND r.tier = 'realtime' AND 'oid'::regtype IN (t.oid, t.typbasetype)"
	" AND EXISTS (SELECT FROM pg_largeobject_metadata) AND (v.certain OR pg_has_role(g.owner, c.relowner, 'USAGE')"
	"  AND has_table_privilege(c.relowner, c.oid, 'SELECT') AND has_schema_privilege(c.relowner, c.relnamespace, 'USAGE'))"
	" ORDER BY c.oid::regclass::text, a.attnum";

typedef struct MtHolder
{
	Oid			relid;
	char	   *column;
	bool		certain;
} MtHolder;

static List *read_holders(const MtMigration *migration);
static bool holds_large_objects(const MtMigration *migration, const MtHolder *holder);

/* mt_preflight_holders returns, as a JSON array, which columns hold numbers of large objects. */
char *
mt_preflight_holders(const MtMigration *migration)
{
	StringInfoData json;
	ListCell   *cell;

	initStringInfo(&json);
	foreach(cell, read_holders(migration))
	{
		const MtHolder *holder = lfirst(cell);

		if (!holder->certain && !holds_large_objects(migration, holder))
			continue;
		appendStringInfo(&json, "%s{\"relation\": %u, \"column\": ", json.len > 0 ? ", " : "", holder->relid);
		escape_json(&json, holder->column);
		appendStringInfoChar(&json, '}');
	}
	return psprintf("[%s]", json.data);
}

static List *
read_holders(const MtMigration *migration)
{
	List	   *holders = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT, holders_query, MT_ARGS(MT_INT4(migration->id)));
	for (uint64 row = 0; row < count; row++)
	{
		MtHolder   *holder = MemoryContextAlloc(scope.caller, sizeof(MtHolder));
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		holder->relid = (Oid) mt_spi_int8(row, 1);
		holder->column = mt_spi_text(&scope, row, 2);
		holder->certain = mt_spi_bool(row, 3);
		holders = lappend(holders, holder);
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return holders;
}

/* holds_large_objects looks at some rows. */
static bool
holds_large_objects(const MtMigration *migration, const MtHolder *holder)
{
	char	   *table = mt_table_lock_reading(holder->relid);
	MtSpiScope	scope;
	bool		holds;

	if (table == NULL)
		return false;
	mt_spi_begin_table(&scope, migration->owner, holder->relid, false);
	mt_spi_exec(SPI_OK_SELECT,
				psprintf("SELECT EXISTS (SELECT FROM (SELECT %s AS loid FROM %s LIMIT 1000) s"
						 " JOIN pg_catalog.pg_largeobject_metadata l ON l.oid = s.loid)",
						 quote_identifier(holder->column), table),
				MT_NO_ARGS);
	holds = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return holds;
}
