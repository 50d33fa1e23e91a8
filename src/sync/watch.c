/*
 * watch.c
 *	  Notices that the declaration of migrations, or a table that is open, was changed: see watch.h.
 */
#include "sync/watch.h"

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/spi.h"
#include "base/xact.h"

/* Which rows of the catalogs describe the table; a table that is gone has none. */
#define DIGESTS \
	"SELECT r.oid, hashtextextended(concat_ws(',', (SELECT c.xmin FROM pg_class c WHERE c.oid = r.oid)," \
	" (SELECT string_agg(concat(a.attnum, ':', a.xmin), ' ' ORDER BY a.attnum) FROM pg_attribute a" \
	"  WHERE a.attrelid = r.oid AND a.attnum > 0)," \
	" (SELECT string_agg(concat(i.indexrelid, ':', i.xmin), ' ' ORDER BY i.indexrelid) FROM pg_index i" \
	"  WHERE i.indrelid = r.oid)), 0) FROM unnest($1) AS r (oid)"

typedef struct MtWatched
{
	Oid			relid;			/* hash key */
	bool		suspect;		/* something about it changed */
	int64		digest;
} MtWatched;

static Oid	migration_table = InvalidOid;
static HTAB *watched = NULL;
static bool changed = false;
static bool suspects = false;
static bool servers_changed = false;

static void on_invalidation(Datum arg, Oid relid);
static void on_server_invalidation(Datum arg, int cache, uint32 hash);
static List *take_suspects(void);
static bool read_digests(List *tables);

/* mt_watch_begin begins to watch for changes. */
void
mt_watch_begin(void)
{
	migration_table = mt_extension_table("migration");
	CacheRegisterRelcacheCallback(on_invalidation, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, on_server_invalidation, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, on_server_invalidation, (Datum) 0);
}

/* mt_watch_tables takes the tables as they are now. */
void
mt_watch_tables(List *tables)
{
	HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(MtWatched), .hcxt = TopMemoryContext};
	HTAB	   *table;
	ListCell   *cell;

	mt_watch_no_tables();
	table = hash_create("migrate_tiers watched tables", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(cell, tables)
	{
		MtWatched  *entry = hash_search(table, &lfirst_oid(cell), HASH_ENTER, NULL);

		entry->suspect = false;
		entry->digest = 0;
	}
	/* What changes from here on is noticed, so it may or may not be in the digest. */
	watched = table;
	(void) read_digests(tables);
}

/* mt_watch_no_tables watches none. */
void
mt_watch_no_tables(void)
{
	HTAB	   *table = watched;

	watched = NULL;
	if (table != NULL)
		hash_destroy(table);
}

/* mt_watch_changed says whether something changed since it was asked last. */
bool
mt_watch_changed(void)
{
	bool		was_changed = changed;

	changed = false;
	if (!was_changed && suspects && watched != NULL)
	{
		MemoryContext context = CurrentMemoryContext;

		mt_xact_begin();
		was_changed = read_digests(take_suspects());
		mt_xact_commit();
		MemoryContextSwitchTo(context);
	}
	return was_changed;
}

/* on_invalidation only marks; it may come at any time. */
static void
on_invalidation(Datum arg, Oid relid)
{
	MtWatched  *entry;

	if (!OidIsValid(relid) || relid == migration_table)
		changed = true;
	else if (watched != NULL && (entry = hash_search(watched, &relid, HASH_FIND, NULL)) != NULL)
		entry->suspect = suspects = true;
}

/* mt_watch_servers_changed says whether a foreign server or a user mapping did, since it was asked last. */
bool
mt_watch_servers_changed(void)
{
	bool		was_changed = servers_changed;

	servers_changed = false;
	return was_changed;
}

/* on_server_invalidation only marks, too; it comes also where nothing of ours was altered. */
static void
on_server_invalidation(Datum arg, int cache, uint32 hash)
{
	servers_changed = true;
}

static List *
take_suspects(void)
{
	HASH_SEQ_STATUS status;
	MtWatched  *entry;
	List	   *tables = NIL;

	suspects = false;
	hash_seq_init(&status, watched);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->suspect)
			tables = lappend_oid(tables, entry->relid);
		entry->suspect = false;
	}
	return tables;
}

/* read_digests keeps the digests of tables as they are now, and says whether one of them is another. */
static bool
read_digests(List *tables)
{
	Datum	   *oids = palloc(sizeof(Datum) * Max(list_length(tables), 1));
	MtArg		arg = {.type = OIDARRAYOID};
	MtSpiScope	scope;
	ListCell   *cell;
	bool		differs = false;

	foreach(cell, tables)
		oids[foreach_current_index(cell)] = ObjectIdGetDatum(lfirst_oid(cell));
	arg.value = PointerGetDatum(construct_array(oids, list_length(tables), OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	mt_spi_begin(&scope);
	for (uint64 row = 0, count = mt_spi_exec(SPI_OK_SELECT, DIGESTS, 1, &arg); row < count; row++)
	{
		bool		isnull;
		Oid			relid = DatumGetObjectId(mt_spi_datum(row, 1, &isnull));
		MtWatched  *entry = hash_search(watched, &relid, HASH_FIND, NULL);
		int64		digest = mt_spi_int8(row, 2);

		differs = differs || entry->digest != digest;
		entry->digest = digest;
	}
	mt_spi_end(&scope);
	return differs;
}
