/*
 * own_trigger.c
 *	  A trigger of ours on a table of the source: see own_trigger.h.
 *
 * The catalog is read by its index, without a query: there may be thousands of
 * partitions, and the transaction's snapshot may be older than the trigger.
 */
#include "capture/own_trigger.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "capture/ddl_own.h"

typedef enum MtFound
{
	FOUND_NONE,
	FOUND_OTHER,				/* not ours: of another function, or of a kind that cannot be replaced */
	FOUND_BROKEN,				/* ours, but not as it has to be */
	FOUND_WHOLE
} MtFound;

static MtFound find_trigger(Oid relid, const MtOwnTrigger *trigger, const List *arguments);
static MtFound judge(Relation catalog, HeapTuple tuple, const MtOwnTrigger *trigger, const List *arguments);
static bool same_arguments(Relation catalog, HeapTuple tuple, const List *arguments);
static char *qualified_name(Oid relid);

/* mt_own_trigger_whole says whether a table has the trigger as it has to be. */
bool
mt_own_trigger_whole(Oid relid, const MtOwnTrigger *trigger, const List *arguments)
{
	MtFound		found = find_trigger(relid, trigger, arguments);

	if (found == FOUND_OTHER)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trigger \"%s\" of table %s is not the one of migrate_tiers", trigger->name, qualified_name(relid)),
				 errdetail("The migration needs a trigger of this name there."),
				 errhint("Drop it or rename it: ALTER TRIGGER %s ON %s RENAME TO ...", trigger->name,
						 qualified_name(relid))));
	return found == FOUND_WHOLE;
}

/* mt_own_trigger_make makes the trigger and lets it fire in every session; a row trigger also on partitions. */
void
mt_own_trigger_make(Oid relid, const MtOwnTrigger *trigger, const List *arguments)
{
	char	   *table = qualified_name(relid);
	bool		row = TRIGGER_FOR_ROW(trigger->type);
	StringInfoData list;
	ListCell   *cell;

	initStringInfo(&list);
	foreach(cell, arguments)
		appendStringInfo(&list, "%s'%d'", list.len > 0 ? ", " : "", lfirst_int(cell));
	mt_ddl_own_exec(psprintf("CREATE OR REPLACE TRIGGER %s %s ON %s FOR EACH %s EXECUTE FUNCTION migrate_tiers.%s(%s)",
							 trigger->name, trigger->events, table, row ? "ROW" : "STATEMENT", trigger->function,
							 list.data));
	mt_ddl_own_exec(psprintf("ALTER TABLE %s%s ENABLE ALWAYS TRIGGER %s", row ? "" : "ONLY ", table, trigger->name));
}

/* mt_own_trigger_exists says whether a table has the trigger, whole or not. */
bool
mt_own_trigger_exists(Oid relid, const MtOwnTrigger *trigger)
{
	return find_trigger(relid, trigger, NIL) >= FOUND_BROKEN;
}

/* mt_own_trigger_drop drops the trigger, which is there. */
void
mt_own_trigger_drop(Oid relid, const MtOwnTrigger *trigger)
{
	mt_ddl_own_exec(psprintf("DROP TRIGGER %s ON %s", trigger->name, qualified_name(relid)));
}

static MtFound
find_trigger(Oid relid, const MtOwnTrigger *trigger, const List *arguments)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	MtFound		found = FOUND_NONE;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(trigger->name));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		found = judge(catalog, tuple, trigger, arguments);
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

static MtFound
judge(Relation catalog, HeapTuple tuple, const MtOwnTrigger *trigger, const List *arguments)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
	List	   *function = list_make2(makeString("migrate_tiers"), makeString(pstrdup(trigger->function)));

	if (form->tgfoid != LookupFuncName(function, 0, NULL, false))
		return FOUND_OTHER;
	/* A constraint trigger cannot be replaced, nor what was cloned from a row trigger by a statement trigger. */
	if (form->tgisinternal || OidIsValid(form->tgconstraint) ||
		TRIGGER_FOR_ROW(form->tgtype) != TRIGGER_FOR_ROW(trigger->type))
		return FOUND_OTHER;
	if (form->tgtype != trigger->type || form->tgenabled != TRIGGER_FIRES_ALWAYS || form->tgattr.dim1 > 0 ||
		!heap_attisnull(tuple, Anum_pg_trigger_tgqual, RelationGetDescr(catalog)) ||
		!same_arguments(catalog, tuple, arguments))
		return FOUND_BROKEN;
	return FOUND_WHOLE;
}

/* same_arguments compares the arguments, each of which ends with a zero byte. */
static bool
same_arguments(Relation catalog, HeapTuple tuple, const List *arguments)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, Anum_pg_trigger_tgargs, RelationGetDescr(catalog), &isnull);
	bytea	   *found = DatumGetByteaPP(value);
	StringInfoData wanted;
	ListCell   *cell;

	initStringInfo(&wanted);
	foreach(cell, arguments)
	{
		appendStringInfo(&wanted, "%d", lfirst_int(cell));
		appendStringInfoChar(&wanted, '\0');
	}
	return VARSIZE_ANY_EXHDR(found) == (Size) wanted.len && memcmp(VARDATA_ANY(found), wanted.data, wanted.len) == 0;
}

static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}
