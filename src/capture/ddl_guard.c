/*
 * ddl_guard.c
 *	  Event triggers that keep DDL from breaking a migration unnoticed.
 *
 * They judge by state, not by statement: after a command the structure of the
 * captured tables that it may have touched is compared with what was recorded
 * (ddl_fingerprint.c), so that no way to change a table has to be known by
 * name.  Only what commits half-way before the event, the CONCURRENTLY forms,
 * is judged beforehand.
 *
 * They run in every session's DDL, as the extension's owner inside.  Whether any table is tagged is known in memory.
 */
#include "capture/ddl_guard.h"

#include "catalog/namespace.h"
#include "commands/event_trigger.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"

#include "base/errors.h"
#include "base/spi.h"
#include "capture/ddl_fingerprint.h"
#include "capture/ddl_own.h"

/* The captured tables that table $1 belongs to, and those that inherit from it. */
#define FAMILY \
	"SELECT r.id FROM migrate_tiers.relation r WHERE r.captured AND (r.relation IN" \
	" (SELECT oid FROM family) OR r.partitions && ARRAY(SELECT oid FROM family)" \
	" OR r.relation IN (SELECT a.relid FROM family, pg_partition_ancestors(oid) a)) ORDER BY r.id"

/* What the command at hand has touched, and what is below it. */
static const char touched_query[] =
	"WITH RECURSIVE family(oid) AS (SELECT COALESCE(g.tgrelid, d.objid) FROM pg_event_trigger_ddl_commands() d"
	"  LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid"
	"  WHERE d.classid IN ('pg_class'::regclass, 'pg_trigger'::regclass)"
	" UNION SELECT i.inhrelid FROM family f JOIN pg_inherits i ON i.inhparent = f.oid) " FAMILY;

/* Tables whose structure holds a type, a schema or operators that the command at hand may have changed. */
static const char holding_query[] =
	"WITH c AS (SELECT classid, objid FROM pg_event_trigger_ddl_commands()),"
	" changed(oid) AS (SELECT objid FROM c WHERE classid = 'pg_type'::regclass"
	"  UNION SELECT t.oid FROM c JOIN pg_type t ON t.typrelid = c.objid WHERE c.classid = 'pg_class'::regclass)"
	" SELECT r.id FROM migrate_tiers.relation r JOIN pg_class p ON p.oid = r.relation WHERE r.captured"
	" AND (EXISTS (SELECT FROM changed WHERE oid = p.reloftype OR strpos(r.fingerprint, format('\"type %s\"', oid)) > 0)"
	" OR EXISTS (SELECT FROM c WHERE c.classid IN ('pg_namespace'::regclass, 'pg_extension'::regclass, 'pg_operator'::regclass)"
	"  AND (c.objid = p.relnamespace OR strpos(r.fingerprint, '\"type ') > 0 OR EXISTS (SELECT FROM unnest(r.key_operators) o WHERE NOT starts_with(o, 'OPERATOR(pg_catalog.'))))) ORDER BY r.id";

/*
 * What a command that drops means to us: the way to a target, a captured table, or a part of one.  Of an index that
 * is gone only the name is known: it was in its table's schema, and if it was the key's, the table has another key now.
 */
static const char dropped_query[] =
	"WITH d AS (SELECT * FROM pg_event_trigger_dropped_objects())"
	" SELECT 1, m.id::oid, m.name::text, d.object_identity FROM migrate_tiers.migration m JOIN d ON d.objid = m.server"
	"  WHERE d.classid = 'pg_foreign_server'::regclass"
	" UNION ALL SELECT 4, m.id::oid, m.name::text, d.object_identity FROM migrate_tiers.migration m"
	"  JOIN pg_roles o ON o.oid = m.owner JOIN pg_foreign_server s ON s.oid = m.server JOIN d ON d.object_type = 'user mapping' AND d.address_names[1] = o.rolname AND d.address_args[1] = s.srvname"
	"  WHERE m.phase NOT IN ('planned', 'finished')"
	" UNION ALL SELECT 2, r.relation, NULL, d.object_identity FROM migrate_tiers.relation r JOIN d ON d.objid = r.relation"
	"  WHERE r.captured AND d.classid = 'pg_class'::regclass AND d.objsubid = 0"
	" UNION ALL SELECT 3, r.id::oid, NULL, NULL FROM migrate_tiers.relation r WHERE r.captured AND EXISTS (SELECT FROM d"
	"  WHERE d.classid = 'pg_class'::regclass AND (d.objid = r.relation OR d.objid = ANY (r.partitions))"
	"  OR d.object_type = 'index' AND d.schema_name = (SELECT n.nspname FROM pg_class c"
	"   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = r.relation)"
	"   AND r.fingerprint::jsonb ->> 'key' IS DISTINCT FROM " MT_DDL_KEY "  OR d.object_type = 'trigger' AND d.address_names[array_upper(d.address_names, 1)] ~ '^migrate_tiers_(capture|fence)')"
	" ORDER BY 1, 2";

typedef enum MtDroppedKind
{
	MT_DROPPED_SERVER = 1,
	MT_DROPPED_TABLE = 2,
	MT_DROPPED_PART = 3,		/* of a table, or all of it */
	MT_DROPPED_MAPPING = 4		/* of a migration's owner: without it he would be easily dropped himself */
} MtDroppedKind;

typedef struct MtDropped
{
	MtDroppedKind kind;
	Oid			id;				/* of a table its OID, of a part the table's number */
	char	   *migration;
	char	   *identity;		/* as the server names it */
} MtDropped;

PG_FUNCTION_INFO_V1(mt_ddl_command_start);
PG_FUNCTION_INFO_V1(mt_ddl_command_end);
PG_FUNCTION_INFO_V1(mt_sql_drop);
PG_FUNCTION_INFO_V1(mt_table_rewrite);
PGDLLEXPORT Datum mt_ddl_command_start(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_ddl_command_end(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_sql_drop(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum mt_table_rewrite(PG_FUNCTION_ARGS);

static void run_guarded(FunctionCallInfo fcinfo, void (*judge)(EventTriggerData *));
static void judge_start(EventTriggerData *event);
static void judge_end(EventTriggerData *event);
static void judge_drop(EventTriggerData *event);
static void judge_rewrite(EventTriggerData *event);
static void judge_concurrent(Oid relid, const char *what);
static bool is_harmless(Node *command);
static List *query_ids(SPIPlanPtr *plan, const char *query, int nargs, const MtArg *args);
static List *read_dropped(void);
static bool has_tagged_tables(void);
static void on_invalidation(Datum arg, Oid relid);

/* Whether there are tagged tables: known only while tagged_known. */
static bool tagged_known = false;
static bool tagged = false;
static Oid	migration_table = InvalidOid;

/* mt_ddl_init prepares the flag and the hook; called once, when the library is loaded. */
void
mt_ddl_init(void)
{
	CacheRegisterRelcacheCallback(on_invalidation, (Datum) 0);
	mt_ddl_keep_init();
}

/* mt_ddl_command_start judges what is too late to judge afterwards. */
Datum
mt_ddl_command_start(PG_FUNCTION_ARGS)
{
	run_guarded(fcinfo, judge_start);
	PG_RETURN_NULL();
}

/* mt_ddl_command_end judges what a command has made of captured tables. */
Datum
mt_ddl_command_end(PG_FUNCTION_ARGS)
{
	run_guarded(fcinfo, judge_end);
	PG_RETURN_NULL();
}

/* mt_sql_drop judges what was dropped, by whatever command. */
Datum
mt_sql_drop(PG_FUNCTION_ARGS)
{
	run_guarded(fcinfo, judge_drop);
	PG_RETURN_NULL();
}

/* mt_table_rewrite judges a table whose rows are about to be written anew. */
Datum
mt_table_rewrite(PG_FUNCTION_ARGS)
{
	run_guarded(fcinfo, judge_rewrite);
	PG_RETURN_NULL();
}

static void
run_guarded(FunctionCallInfo fcinfo, void (*judge)(EventTriggerData *))
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("the guard of migrated tables is a set of event triggers"),
				 errhint("It is not called by hand.")));
	if (mt_ddl_own || !has_tagged_tables())
		return;
	/* What is done while a command is judged, is ours. */
	mt_ddl_own = true;
	PG_TRY();
	{
		judge((EventTriggerData *) fcinfo->context);
	}
	PG_FINALLY();
	{
		mt_ddl_own = false;
	}
	PG_END_TRY();
}

/* judge_start looks for the two forms that commit before they are complete, and for the end of all. */
static void
judge_start(EventTriggerData *event)
{
	ListCell   *cell;

	if (IsA(event->parsetree, AlterTableStmt))
	{
		AlterTableStmt *alter = (AlterTableStmt *) event->parsetree;

		foreach(cell, alter->cmds)
		{
			AlterTableCmd *command = lfirst_node(AlterTableCmd, cell);

			if (command->subtype == AT_DetachPartition && ((PartitionCmd *) command->def)->concurrent)
				judge_concurrent(RangeVarGetRelid(alter->relation, NoLock, true), "a partition was to be detached");
		}
	}
	else if (IsA(event->parsetree, DropStmt))
	{
		DropStmt   *drop = (DropStmt *) event->parsetree;

		foreach(cell, drop->objects)
		{
			if (drop->removeType == OBJECT_EXTENSION && strcmp(strVal(lfirst(cell)), "migrate_tiers") == 0)
				mt_ddl_keep_extension();
			if (drop->removeType != OBJECT_INDEX || !drop->concurrent)
				continue;
			judge_concurrent(RangeVarGetRelid(makeRangeVarFromNameList(lfirst(cell)), NoLock, true),
							 "the index of its key was to be dropped");
		}
	}
}

/* judge_concurrent refuses a command on a captured table, or on the index of its key. */
static void
judge_concurrent(Oid relid, const char *what)
{
	static SPIPlanPtr plan = NULL;
	List	   *ids;
	MtRelation *relation;

	if (!OidIsValid(relid))
		return;
	ids = query_ids(&plan, "SELECT id FROM migrate_tiers.relation WHERE captured AND"
						   " ($1 IN (relation, migrate_tiers.key_index(relation)) OR relation IN (SELECT relid FROM pg_partition_ancestors($1)))",
					MT_ARGS(MT_OID(relid)));
	if (ids == NIL)
		return;
	relation = mt_relation_by_id(linitial_int(ids), false);
	if (!mt_ddl_allowed(relation, true))
		mt_ddl_refuse(relation, NULL, what, true);
}

static void
judge_end(EventTriggerData *event)
{
	static SPIPlanPtr touched = NULL;
	static SPIPlanPtr holding = NULL;
	bool		creating = strncmp(GetCommandTagName(event->tag), "CREATE", 6) == 0;
	List	   *ids;
	ListCell   *cell;

	if (is_harmless(event->parsetree))
		return;
	mt_ddl_check_sequences(event->parsetree);
	ids = query_ids(&touched, touched_query, MT_NO_ARGS);
	/* Types, schemas and operators are in the structure of tables that the command does not name. */
	if (event->tag == CMDTAG_ALTER_TYPE || event->tag == CMDTAG_ALTER_DOMAIN || event->tag == CMDTAG_ALTER_SCHEMA ||
		event->tag == CMDTAG_ALTER_EXTENSION || event->tag == CMDTAG_ALTER_OPERATOR)
		ids = list_concat_unique_int(ids, query_ids(&holding, holding_query, MT_NO_ARGS));
	foreach(cell, ids)
		mt_ddl_check(lfirst_int(cell), creating);
}

/* is_harmless tells the frequent commands that make tables of their own. */
static bool
is_harmless(Node *command)
{
	switch (nodeTag(command))
	{
		case T_CreateStmt:
		case T_CreateForeignTableStmt:
			return ((CreateStmt *) command)->inhRelations == NIL;
		case T_CreateSchemaStmt:
			return ((CreateSchemaStmt *) command)->schemaElts == NIL;
		default:
			return false;
	}
}

static void
judge_drop(EventTriggerData *event)
{
	ListCell   *cell;

	foreach(cell, read_dropped())
	{
		MtDropped  *dropped = lfirst(cell);

		if (dropped->kind == MT_DROPPED_SERVER)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop server %s because migration \"%s\" leads there",
							dropped->identity, dropped->migration),
					 errhint("End the migration first: SELECT migrate_tiers.drop_migration(%s).",
							 quote_literal_cstr(dropped->migration))));
		else if (dropped->kind == MT_DROPPED_MAPPING)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop user mapping for %s because migration \"%s\" connects with it",
							dropped->identity, dropped->migration),
					 errhint("Use ALTER USER MAPPING, or first SELECT migrate_tiers.set_option('owner', '...').")));
		else if (dropped->kind == MT_DROPPED_TABLE)
			mt_ddl_forget(dropped->id, dropped->identity);
		else if (mt_relation_by_id((int32) dropped->id, true) != NULL)
			mt_ddl_check((int32) dropped->id, false);
	}
}

static List *
read_dropped(void)
{
	static SPIPlanPtr plan = NULL;
	List	   *all = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec_kept(&plan, SPI_OK_SELECT, dropped_query, MT_NO_ARGS);
	for (uint64 row = 0; row < count; row++)
	{
		MtDropped  *dropped = MemoryContextAlloc(scope.caller, sizeof(MtDropped));
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		all = lappend(all, dropped);
		MemoryContextSwitchTo(spi);
		dropped->kind = (MtDroppedKind) mt_spi_int8(row, 1);
		dropped->id = (Oid) mt_spi_int8(row, 2);
		dropped->migration = mt_spi_text(&scope, row, 3);
		dropped->identity = mt_spi_text(&scope, row, 4);
	}
	mt_spi_end(&scope);
	return all;
}

/* judge_rewrite refuses before the work is done; rows written anew are rows that capture did not see. */
static void
judge_rewrite(EventTriggerData *event)
{
	Oid			relid = DatumGetObjectId(OidFunctionCall0(F_PG_EVENT_TRIGGER_TABLE_REWRITE_OID));
	static SPIPlanPtr plan = NULL;
	ListCell   *cell;

	foreach(cell, query_ids(&plan, "WITH family(oid) AS (SELECT $1::oid) " FAMILY, MT_ARGS(MT_OID(relid))))
	{
		MtRelation *relation = mt_relation_by_id(lfirst_int(cell), false);

		if (!mt_ddl_allowed(relation, true))
			mt_ddl_refuse(relation, NULL, "its rows were to be rewritten", true);
		mt_ddl_recopy(lfirst_int(cell), "its rows were rewritten");
	}
}

static List *
query_ids(SPIPlanPtr *plan, const char *query, int nargs, const MtArg *args)
{
	List	   *ids = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec_kept(plan, SPI_OK_SELECT, query, nargs, args);
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		ids = lappend_int(ids, (int) mt_spi_int8(row, 1));
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return ids;
}

/* has_tagged_tables asks the catalog only after something of it has changed. */
static bool
has_tagged_tables(void)
{
	MtSpiScope	scope;

	if (tagged_known)
		return tagged;
	migration_table = mt_extension_table("migration");
	/* First, so that what changes while we ask is asked for again. */
	tagged_known = true;
	tagged = true;
	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT, "SELECT EXISTS (SELECT FROM migrate_tiers.migration)", MT_NO_ARGS);
	tagged = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return tagged;
}

/* on_invalidation forgets the flag; it may come at any time. */
static void
on_invalidation(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == migration_table)
		tagged_known = false;
}
