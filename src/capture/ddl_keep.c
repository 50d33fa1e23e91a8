/*
 * ddl_keep.c
 *	  Keeps the extension while it has migrations.
 *
 * DROP EXTENSION is told by its statement; but a cascade and DROP OWNED drop
 * the extension as well, and with it our event triggers before they fire.  So it is
 * the dropping of its table that is watched, by a hook, in sessions that have
 * the library: the event triggers see to that.
 */
#include "capture/ddl_guard.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class_d.h"
#include "commands/extension.h"
#include "executor/tuptable.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "base/spi.h"

static void on_object_access(ObjectAccessType access, Oid classid, Oid objid, int subid, void *arg);
static bool is_migration_table(Oid relid);
static bool has_rows(Oid relid);

static object_access_hook_type previous_hook = NULL;

/* mt_ddl_keep_init sets the hook; called once, when the library is loaded. */
void
mt_ddl_keep_init(void)
{
	previous_hook = object_access_hook;
	object_access_hook = on_object_access;
}

/*
 * on_object_access keeps the extension while it has migrations, by whatever
 * command it is dropped: triggers and what is on the target would be left.
 */
static void
on_object_access(ObjectAccessType access, Oid classid, Oid objid, int subid, void *arg)
{
	if (previous_hook)
		previous_hook(access, classid, objid, subid, arg);
	if (access == OAT_DROP && classid == RelationRelationId && subid == 0 &&
		is_migration_table(objid) && has_rows(objid))
		mt_ddl_keep_extension();
}

/* mt_ddl_keep_extension refuses to drop the extension. */
void
mt_ddl_keep_extension(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("cannot drop extension \"migrate_tiers\" while it has migrations"),
			 errhint("SELECT migrate_tiers.drop_migration(name) ends one, or says what its phase asks for first.")));
}

static bool
is_migration_table(Oid relid)
{
	char	   *name = get_rel_name(relid);
	Oid			extension;
	char	   *extension_name;

	if (name == NULL || strcmp(name, "migration") != 0 || get_rel_namespace(relid) != mt_extension_schema())
		return false;
	extension = getExtensionOfObject(RelationRelationId, relid);
	extension_name = OidIsValid(extension) ? get_extension_name(extension) : NULL;
	return extension_name != NULL && strcmp(extension_name, "migrate_tiers") == 0;
}

/* has_rows reads the table itself: its indexes may be gone already. */
static bool
has_rows(Oid relid)
{
	Relation	relation = table_open(relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	bool		found = table_scan_getnextslot(scan, ForwardScanDirection, slot);

	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return found;
}
