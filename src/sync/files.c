/*
 * files.c
 *	  Tells whether a tick has read a table that was given another file meanwhile: see files.h.
 *
 * pg_class read under the snapshot says which file a table had then, and pg_relation_filenode() which one it has now.
 * What the tick has read it has locked, so the answer holds until its end.
 */
#include "sync/files.h"

#include "catalog/pg_inherits.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "base/spi.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements.h"

/* The parameter is an array of OIDs, or of names: regclass. */
#define IS_CHANGED(type) \
	"SELECT 1 WHERE EXISTS (SELECT FROM pg_catalog.unnest($1::pg_catalog.text[]::pg_catalog." type "[]) AS r" \
	" CROSS JOIN LATERAL (SELECT r::pg_catalog.oid UNION ALL" \
	" SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(r::pg_catalog.regclass)) AS t (oid)" \
	" JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.oid" \
	" WHERE c.relfilenode OPERATOR(pg_catalog.<>) pg_catalog.pg_relation_filenode(c.oid))"

typedef struct MtFiles
{
	uint64		invalidations;	/* when the tick began */
	List	   *again;			/* OIDs: to be locked before the next snapshot */
	bool		target_asked;	/* since rows of the target were read last */
	bool		target_changed;
	char	   *target_again;	/* names, of the target's tables to be locked before its next snapshot, or NULL */
} MtFiles;

static uint64 invalidations = 0;

static void on_invalidation(Datum arg, Oid relid);
static MtFiles *files_of(MtSync *sync);
static List *read_tables(MtSync *sync);
static void lock_next_time(MtSync *sync, MtFiles *files);
static char *names_of(List *tables, bool there);
static void take_changed(void *arg, const MtField *fields, int count);

/* mt_files_watch begins to watch. */
void
mt_files_watch(MtSync *sync)
{
	MtFiles    *files = files_of(sync);
	ListCell   *cell;

	foreach(cell, files->again)
	{
		LockRelationOid(lfirst_oid(cell), AccessShareLock);
		(void) find_all_inheritors(lfirst_oid(cell), AccessShareLock, NULL);
	}
	list_free(files->again);
	files->again = NIL;
	files->invalidations = invalidations;
}

/*
 * mt_files_changed says whether the tick is to be taken again.
 *
 * Whoever gives a table another file tells everybody before he lets go of its lock, so mostly there is nothing to ask.
 */
bool
mt_files_changed(MtSync *sync)
{
	MtFiles    *files = files_of(sync);
	List	   *tables;
	MtSpiScope	scope;
	ListCell   *cell;
	bool		changed;

	if (files->invalidations == invalidations)
		return false;
	tables = read_tables(sync);
	mt_spi_begin(&scope);
	changed = mt_spi_exec(SPI_OK_SELECT, IS_CHANGED("oid"), MT_ARGS(MT_TEXT(names_of(tables, false)))) > 0;
	mt_spi_end(&scope);
	if (!changed)
		return false;
	MemoryContextSwitchTo(sync->context);
	foreach(cell, tables)
		files->again = lappend_oid(files->again, ((MtTable *) lfirst(cell))->relation->relid);
	MemoryContextSwitchTo(sync->tick_context);
	return true;
}

/* mt_files_target_changed asks, unless that was done. */
bool
mt_files_target_changed(MtSync *sync)
{
	MtFiles    *files = files_of(sync);

	if (!files->target_asked)
	{
		mt_files_prepare(sync);
		mt_pipeline_begin(sync->remote);
		mt_files_ask(sync, read_tables(sync));
		(void) mt_pipeline_finish(sync->remote);
	}
	if (files->target_changed)
		lock_next_time(sync, files);
	return files->target_changed;
}

static void
lock_next_time(MtSync *sync, MtFiles *files)
{
	StringInfoData names;
	ListCell   *cell;

	initStringInfo(&names);
	foreach(cell, read_tables(sync))
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
						 mt_sql_receiver_rows(((MtTable *) lfirst(cell))->relation));
	files->target_again = MemoryContextStrdup(sync->context, names.data);
}

/* mt_files_ask_lock locks, in a pipeline that begins a transaction, what the last tick has found changed there. */
void
mt_files_ask_lock(MtSync *sync)
{
	MtFiles    *files = files_of(sync);

	if (files->target_again == NULL)
		return;
	mt_pipeline_query(sync->remote, psprintf("LOCK TABLE %s IN ACCESS SHARE MODE", files->target_again), 0, NULL);
	/* Once: it may fail, where a table is not there any more. */
	pfree(files->target_again);
	files->target_again = NULL;
}

/* mt_files_read_again makes an answer of before void. */
void
mt_files_read_again(MtSync *sync)
{
	files_of(sync)->target_asked = false;
}

/* mt_files_prepare prepares the question. */
void
mt_files_prepare(MtSync *sync)
{
	if (!mt_remote_prepared(sync->remote, "mt_files"))
		mt_remote_prepare(sync->remote, "mt_files", IS_CHANGED("regclass"));
}

/* mt_files_ask asks in a pipeline, behind whatever reads rows of these tables. */
void
mt_files_ask(MtSync *sync, List *tables)
{
	MtFiles    *files = files_of(sync);
	char	   *names = names_of(tables, true);
	MtField		field = {.data = names, .length = strlen(names), .binary = false};

	files->target_asked = true;
	files->target_changed = false;
	mt_pipeline_rows(sync->remote, "mt_files", 1, &field, take_changed, files);
}

static void
take_changed(void *arg, const MtField *fields, int count)
{
	((MtFiles *) arg)->target_changed = true;
}

/* on_invalidation only counts; it may come at any time. */
static void
on_invalidation(Datum arg, Oid relid)
{
	invalidations++;
}

static MtFiles *
files_of(MtSync *sync)
{
	static bool counting = false;

	if (!counting)
		CacheRegisterRelcacheCallback(on_invalidation, (Datum) 0);
	counting = true;
	if (sync->files == NULL)
		sync->files = MemoryContextAllocZero(sync->context, sizeof(MtFiles));
	return sync->files;
}

/* read_tables lists the tables whose rows the tick reads. */
static List *
read_tables(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	List	   *tables = NIL;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->keys != NULL)
			tables = lappend(tables, table);
	return tables;
}

/* names_of gives tables as the text of an array: here their OIDs, there their names. */
static char *
names_of(List *tables, bool there)
{
	Datum	   *names = palloc(sizeof(Datum) * Max(list_length(tables), 1));
	ArrayType  *array;
	ListCell   *cell;

	foreach(cell, tables)
	{
		MtRelation *relation = ((MtTable *) lfirst(cell))->relation;

		names[foreach_current_index(cell)] = CStringGetTextDatum(
			there ? quote_qualified_identifier(relation->target_schema, relation->target_name) :
				psprintf("%u", relation->relid));
	}
	array = construct_array(names, list_length(tables), TEXTOID, -1, false, TYPALIGN_INT);
	return OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(array));
}
