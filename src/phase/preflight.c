/*
 * preflight.c
 *	  Asks both sides what they are, and compares.
 *
 * The judgement is in SQL (src/sql/22_preflight.sql): a function a check, which
 * sees the two structures as JSON.  Here they are fetched: a few statements on
 * the target however many tables there are.  A target that cannot be reached
 * is a finding like others, so that the source's own are seen at once.
 */
#include "phase/preflight.h"

#include "access/xact.h"
#include "base/spi.h"
#include "catalog/relation.h"
#include "endpoint/structure.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#define OLDEST_TARGET 150000

typedef struct MtCheck
{
	const char *name;			/* migrate_tiers.preflight_<name> */
	bool		target;			/* needs to know the target */
	const char *passed;			/* what is said when it finds nothing */
} MtCheck;

static const MtCheck checks[] = {
	{"tables_tagged", false, "every table of the schemas has a tier"},
	{"source_storage", false, "realtime tables are logged and stored as heap"},
	{"source_key", false, "realtime tables have the keys they were tagged with"},
	{"source_privileges", false, "the owner of the migration owns its tables"},
	{"source_triggers", false, "no trigger of a realtime table has the name of one of ours"},
	{"foreign_keys", false, "realtime tables refer to realtime tables only"},
	{"large_objects", false, "realtime tables hold no large objects"},
	{"publications", false, "no publication sends tables of the extension"},
	{"source_subscriptions", false, "no subscription writes a realtime table of the source"},
	{"worker_slots", false, "enough worker processes are free"},
	{"lock_table", false, "the locks of realtime tables fit into one transaction"},
	{"target_server", true, "the target is another database and takes writes"},
	{"encoding", true, "encodings and default collations are equal"},
	{"clock", true, "the clocks agree within a second"},
	{"target_privileges", true, "the role on the target has the privileges it needs"},
	{"target_tables", true, "every table has its counterpart"},
	{"columns", true, "columns match by name"},
	{"types", true, "types are equal"},
	{"collations", true, "collations of columns are equal"},
	{"not_null", true, "columns agree on NOT NULL"},
	{"target_key", true, "realtime tables have their keys on the target"},
	{"constraints", true, "unique, exclusion and check constraints are equal"},
	{"deferrable", true, "no constraint of a realtime table is deferrable"},
	{"source_rules", false, "no rule of a realtime table here is in the way back"},
	{"sequences", true, "sequences of both sides can take turns"},
	{"row_security", true, "row security hides nothing on either side"},
	{"target_triggers", true, "no trigger or rule of the target acts on replicated rows"},
	{"target_foreign_keys", true, "foreign keys of the target stay within the realtime tables"},
	{"target_empty", true, "tables of the target are empty"},
};

static char *reach_target(const MtMigration *migration, const List *relations, List **rows);
static char *ask_target(const MtMigration *migration, const List *relations, List **rows);
static double measure_clock(MtRemote *remote);
static char *list_filled(MtRemote *remote, const char *structure);
static List *run_check(const MtCheck *check, const MtMigration *migration, Datum source, Datum target,
					   bool has_target);
static List *add_row(List *rows, const char *check_name, char *object, char *status, char *detail, char *hint);

/* mt_preflight_run runs every check that can be run, or the one of that name. */
List *
mt_preflight_run(const MtMigration *migration, const char *only)
{
	List	   *relations = mt_relation_list(migration->id, NULL);
	List	   *rows = NIL;
	int			guc_level = NewGUCNestLevel();
	char	   *text;
	Datum		source;
	Datum		target = (Datum) 0;

	/* To compile these queries takes longer than to run them. */
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	text = mt_structure_local(migration, relations);
	if (only == NULL || strcmp(only, "large_objects") == 0)
		text = psprintf("%.*s, \"holders\": %s}", (int) strlen(text) - 1, text, mt_preflight_holders(migration));
	source = DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	text = reach_target(migration, relations, &rows);
	if (text != NULL)
		target = DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	for (int i = 0; i < lengthof(checks); i++)
		if ((text != NULL || !checks[i].target) && (only == NULL || strcmp(checks[i].name, only) == 0))
			rows = list_concat(rows, run_check(&checks[i], migration, source, target, text != NULL));
	AtEOXact_GUC(true, guc_level);
	return rows;
}

/* mt_preflight_failures returns what forbids to go on. */
List *
mt_preflight_failures(const MtMigration *migration, const char *only)
{
	List	   *failures = NIL;
	ListCell   *cell;

	foreach(cell, mt_preflight_run(migration, only))
	{
		MtPreflightRow *row = lfirst(cell);

		if (strcmp(row->status, "failure") == 0)
			failures = lappend(failures, row);
	}
	return failures;
}

/*
 * reach_target returns what the target says of itself, or NULL with a row that
 * says why it could not be asked.  The subtransaction takes away what a
 * connection that failed may have left in this session.
 */
static char *
reach_target(const MtMigration *migration, const List *relations, List **rows)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile text = NULL;
	List	   *volatile found = *rows;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		List	   *so_far = found;

		text = ask_target(migration, relations, &so_far);
		found = so_far;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			category;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category != ERRCODE_CONNECTION_EXCEPTION &&
			category != ERRCODE_TO_CATEGORY(ERRCODE_LOCK_NOT_AVAILABLE) &&
			error->sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE &&
			error->sqlerrcode != ERRCODE_FEATURE_NOT_SUPPORTED &&
			error->sqlerrcode != ERRCODE_UNDEFINED_OBJECT &&
			error->sqlerrcode != ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED)
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		found = add_row(found, "target_reachable", NULL, "failure",
						error->detail ? psprintf("%s: %s", error->message, error->detail) : error->message,
						error->hint);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	*rows = found;
	return text;
}

/* ask_target fetches the target's structure, and adds to it which tables have rows and what time it is. */
static char *
ask_target(const MtMigration *migration, const List *relations, List **rows)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext connection = AllocSetContextCreate(caller, "migrate_tiers preflight", ALLOCSET_DEFAULT_SIZES);
	MtRemote   *remote;
	char	   *text;
	int			version;

	MemoryContextSwitchTo(connection);
	remote = mt_remote_open(migration);
	version = mt_remote_version(remote);
	if (version >= OLDEST_TARGET)
	{
		char	   *structure = mt_structure_remote(remote, relations);
		char	   *filled = list_filled(remote, structure);

		/* The structure is an object: its closing brace makes room for two members more. */
		structure[strlen(structure) - 1] = '\0';
		text = MemoryContextStrdup(caller, psprintf("%s, \"filled\": %s, \"clock_ahead\": %.3f}", structure, filled, measure_clock(remote)));
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(connection);
	if (version >= OLDEST_TARGET)
	{
		*rows = add_row(*rows, "target_reachable", NULL, "ok", psprintf("PostgreSQL %d answers", version / 10000),
						NULL);
		return text;
	}
	*rows = add_row(*rows, "target_reachable", NULL, "failure",
					psprintf("the target is PostgreSQL %d, which is not supported", version / 10000),
					pstrdup("The target must be version 15 or later."));
	return NULL;
}

/* measure_clock returns by how many seconds the target's clock is ahead, from the quickest of three answers. */
static double
measure_clock(MtRemote *remote)
{
	TimestampTz shortest = PG_INT64_MAX;
	double		ahead = 0;

	for (int i = 0; i < 3; i++)
	{
		TimestampTz before = GetCurrentTimestamp();
		MtRows	   *rows = mt_remote_query(remote,
										   "SELECT (extract(epoch FROM clock_timestamp() - '2000-01-01 00:00+00') * 1000000)::bigint",
										   MT_NO_PARAMS);
		TimestampTz after = GetCurrentTimestamp();
		int64		there = strtoll(rows->values[0][0], NULL, 10);

		if (after - before < shortest)
		{
			int64		middle = before + (after - before) / 2;

			shortest = after - before;
			ahead = (double) (there - middle) / USECS_PER_SEC;
		}
	}
	return ahead;
}

/* list_filled returns, as a JSON array, which of the target's tables have a row. */
static char *
list_filled(MtRemote *remote, const char *structure)
{
	StringInfoData filled;
	List	   *queries = NIL;
	ListCell   *cell;
	MtSpiScope	scope;
	uint64		count;

	/* So many tables in one statement as leave room in a lock table of the default size. */
	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT,
						"SELECT string_agg(format('SELECT %s WHERE EXISTS (SELECT FROM %s\"%s\".\"%s\")', q.id,"
						"  CASE q.kind WHEN 'r' THEN 'ONLY ' ELSE '' END,"
						"  replace(q.target_schema, '\"', '\"\"'), replace(q.target_name, '\"', '\"\"')), ' UNION ALL ')"
						" FROM (SELECT r.id, t.kind, r.target_schema, r.target_name, row_number() OVER (ORDER BY r.id) AS n"
						"  FROM jsonb_to_recordset($1::jsonb->'tables') AS t(id integer, kind text, schema_usage boolean, lacks jsonb)"
						"  JOIN migrate_tiers.relation r ON r.id = t.id AND r.tier <> 'ignored' AND t.kind IN ('r', 'p')"
						"  AND t.schema_usage AND NOT coalesce(t.lacks @> '[\"SELECT\"]', false)) q"
						" GROUP BY q.n / 100",
						MT_ARGS(MT_TEXT(structure)));
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		queries = lappend(queries, mt_spi_text(&scope, row, 1));
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);

	initStringInfo(&filled);
	appendStringInfoChar(&filled, '[');
	foreach(cell, queries)
	{
		MtRows	   *rows = mt_remote_query(remote, lfirst(cell), MT_NO_PARAMS);

		for (int i = 0; i < rows->count; i++)
			appendStringInfo(&filled, "%s%s", filled.len > 1 ? ", " : "", rows->values[i][0]);
	}
	appendStringInfoChar(&filled, ']');
	return filled.data;
}

/* run_check returns what a check found, or one row that says it passed. */
static List *
run_check(const MtCheck *check, const MtMigration *migration, Datum source, Datum target, bool has_target)
{
	List	   *rows = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT,
						psprintf("SELECT object, status, detail, hint FROM migrate_tiers.preflight_%s($1, $2, $3)",
								 check->name),
						MT_ARGS(MT_INT4(migration->id), {JSONBOID, source, false}, {JSONBOID, target, !has_target}));
	for (uint64 row = 0; row < count; row++)
	{
		char	   *object = mt_spi_text(&scope, row, 1);
		char	   *status = mt_spi_text(&scope, row, 2);
		char	   *detail = mt_spi_text(&scope, row, 3);
		char	   *hint = mt_spi_text(&scope, row, 4);
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		rows = add_row(rows, check->name, object, status, detail, hint);
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	if (rows == NIL)
		rows = add_row(rows, check->name, NULL, "ok", pstrdup(check->passed), NULL);
	return rows;
}

static List *
add_row(List *rows, const char *check_name, char *object, char *status, char *detail, char *hint)
{
	MtPreflightRow *row = palloc(sizeof(MtPreflightRow));

	row->check_name = check_name;
	row->object = object;
	row->status = status;
	row->detail = detail;
	row->hint = hint;
	return lappend(rows, row);
}
