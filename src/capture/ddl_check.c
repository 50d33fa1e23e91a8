/*
 * ddl_check.c
 *	  What happens to a captured table whose structure changed: the command is
 *	  refused, or the migration follows it.
 *
 * To follow means that the triggers cover what the table now consists of, that
 * the key is known by its present columns, and that the table is copied again
 * where its rows may have changed without the triggers.
 */
#include "capture/ddl_guard.h"

#include "access/table.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "base/errors.h"
#include "base/lock.h"
#include "base/settings.h"
#include "base/spi.h"
#include "capture/attach.h"
#include "capture/ddl_fingerprint.h"
#include "catalog/identity.h"

/*
 * Triggers of ours on tables that are not, or not any more, part of table $1, among those that were when it was
 * recorded: anybody may have put a trigger that looks like one of ours on a table of his, and hold that locked.
 */
static const char stray_query[] =
	"WITH RECURSIVE r AS (SELECT * FROM migrate_tiers.relation WHERE id = $1), tree(oid) AS (SELECT relation FROM r"
	" UNION ALL SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending),"
	" recorded(oid) AS (SELECT unnest(partitions) FROM r"
	"  UNION SELECT split_part(f, ' ', 2)::oid FROM r, jsonb_object_keys(r.fingerprint::jsonb) f WHERE f LIKE 'capture %')"
	" SELECT g.tgrelid, format('DROP TRIGGER IF EXISTS %I ON %s', g.tgname, g.tgrelid::regclass)"
	" FROM recorded JOIN pg_trigger g ON g.tgrelid = recorded.oid, r"
	" WHERE g.tgparentid = 0 AND (g.tgfoid, g.tgargs) IN"
	" (('migrate_tiers.capture()'::regprocedure, r.id::text::bytea || decode('00', 'hex')),"
	"  ('migrate_tiers.fence()'::regprocedure,"
	"   r.migration::text::bytea || decode('00', 'hex') || r.id::text::bytea || decode('00', 'hex')))"
	" AND g.tgrelid NOT IN (SELECT oid FROM tree)";

static bool is_let_pass(const MtDdlChange *change, bool creating);
static void check_key(const MtRelation *relation, const char *what);
static void warn_row_security(const MtRelation *relation);
static void follow_partitions(const MtRelation *relation);
static void follow_key(const MtRelation *relation, bool capture);
static bool is_same_key(const MtRelation *relation, const MtIdentity *key);
static char *table_name(const MtRelation *relation, const char *name);

/* mt_ddl_check compares a captured table with its record, and refuses or follows what changed. */
void
mt_ddl_check(int32 relation_id, bool creating)
{
	MtRelation *relation = mt_relation_by_id(relation_id, false);
	List	   *changes = mt_ddl_compare(relation_id);
	bool		partitions = false;
	bool		key = false;
	bool		capture = false;
	bool		moved = false;
	ListCell   *cell;
	StringInfoData what;

	if (changes == NIL)
		return;
	initStringInfo(&what);
	foreach(cell, changes)
	{
		MtDdlChange *change = lfirst(cell);

		partitions |= strcmp(change->facet, "attached") == 0 || strcmp(change->facet, "unwatched") == 0 ||
			strcmp(change->facet, "detached") == 0;
		key |= strcmp(change->facet, "column") == 0 || strcmp(change->facet, "key") == 0 ||
			strcmp(change->facet, "equality") == 0;
		capture |= strcmp(change->facet, "capture") == 0;
		if (is_let_pass(change, creating))
			continue;
		moved |= change->moved;
		appendStringInfo(&what, "%s%s", what.len ? ", " : "", change->what);
	}
	if (what.len > 0 && !mt_ddl_allowed(relation, moved))
		mt_ddl_refuse(relation, NULL, what.data, moved);
	check_key(relation, what.data);
	warn_row_security(relation);
	if (partitions)
		follow_partitions(relation);
	if (key || capture)
		follow_key(relation, capture);
	mt_ddl_record(relation_id);
	if (moved)
		mt_ddl_recopy(relation_id, what.data);
	mt_migration_invalidate();
}

/*
 * mt_ddl_allowed says whether somebody has given leave for a change.  None can be given for one after which a table
 * has to be copied again, while the target has changes of its own: its copy would wait for ever.
 */
bool
mt_ddl_allowed(const MtRelation *relation, bool recopy)
{
	return mt_allow_ddl && !(recopy && mt_migration_by_id(relation->migration, false)->reversing);
}

/* is_let_pass says whether a change needs nobody's leave: a new partition is empty. */
static bool
is_let_pass(const MtDdlChange *change, bool creating)
{
	return strcmp(change->facet, "security") == 0 ||
		(creating && strcmp(change->facet, "attached") == 0);
}

/* check_key refuses, whatever is allowed, to leave a captured table without a key. */
static void
check_key(const MtRelation *relation, const char *what)
{
	MtMigration *migration = mt_migration_by_id(relation->migration, false);

	if (mt_identity_find(relation->relid) != NULL)
		return;
	ereport(ERROR,
			(errcode(MT_ERRCODE_DDL_REFUSED),
			 errmsg("table %s cannot be without a key while migration \"%s\" captures it",
					table_name(relation, NULL), migration->name),
			 errdetail("With this command %s.", what),
			 errhint("Drop the old key and add the new one in one ALTER TABLE, or go back first: %s.",
					 mt_phase_way_back(migration->phase, MT_PLANNED))));
}

/* warn_row_security tells that the migration's owner would not see all rows. */
static void
warn_row_security(const MtRelation *relation)
{
	Oid			owner = mt_migration_by_id(relation->migration, false)->owner;
	MtSpiScope	scope;
	bool		hidden;

	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT,
					   "SELECT count(*) > 0 FROM pg_class c, pg_roles o WHERE c.oid = $1 AND o.oid = $2"
					   " AND c.relrowsecurity AND NOT o.rolbypassrls AND NOT o.rolsuper"
					   " AND (c.relforcerowsecurity OR NOT pg_has_role(o.oid, c.relowner, 'USAGE'))",
					   MT_ARGS(MT_OID(relation->relid), MT_OID(owner)));
	hidden = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	if (hidden)
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security of table %s applies to role \"%s\", whose migration cannot read it any more",
						table_name(relation, NULL), GetUserNameFromId(owner, false)),
				 errhint("Run ALTER ROLE %s BYPASSRLS.", quote_identifier(GetUserNameFromId(owner, false)))));
}

/* follow_partitions covers what came and uncovers what went. */
static void
follow_partitions(const MtRelation *relation)
{
	MtSpiScope	scope;
	List	   *statements = NIL;
	List	   *tables = NIL;
	ListCell   *cell;
	uint64		count;

	foreach(cell, find_all_inheritors(relation->relid, NoLock, NULL))
		mt_attach_partition(lfirst_oid(cell), relation->id);
	mt_spi_begin(&scope);
	count = mt_spi_exec_latest(SPI_OK_SELECT, stray_query, MT_ARGS(MT_INT4(relation->id)));
	for (uint64 row = 0; row < count; row++)
	{
		tables = lappend_oid(tables, (Oid) mt_spi_int8(row, 1));
		statements = lappend(statements, mt_spi_text(&scope, row, 2));
	}
	mt_lock_tables(tables, AccessExclusiveLock);
	foreach(cell, statements)
		mt_spi_exec(SPI_OK_UTILITY, lfirst(cell), MT_NO_ARGS);
	mt_spi_end(&scope);
}

/* follow_key reads the key anew, and makes the triggers again where they fell or hold other columns. */
static void
follow_key(const MtRelation *relation, bool capture)
{
	MtIdentity *key = mt_identity_find(relation->relid);

	mt_identity_store(relation->id, key);
	if (!capture && is_same_key(relation, key))
		return;
	mt_reattach_table(mt_relation_by_id(relation->id, false));
	if (capture)
		ereport(NOTICE,
				(errmsg("the capture triggers of table %s were made again", table_name(relation, NULL)),
				 errdetail("Changes of the table are captured for as long as migration \"%s\" needs them.",
						   mt_migration_by_id(relation->migration, false)->name)));
}

static bool
is_same_key(const MtRelation *relation, const MtIdentity *key)
{
	if (relation->nkeys != key->ncolumns)
		return false;
	for (int i = 0; i < key->ncolumns; i++)
		if (strcmp(relation->key_columns[i], key->columns[i]) != 0)
			return false;
	return true;
}

/* mt_ddl_refuse raises the error of a command that the guard does not let pass. */
void
mt_ddl_refuse(const MtRelation *relation, const char *name, const char *what, bool recopy)
{
	MtMigration *migration = mt_migration_by_id(relation->migration, false);

	ereport(ERROR,
			(errcode(MT_ERRCODE_DDL_REFUSED),
			 errmsg("cannot change table %s while migration \"%s\" captures it",
					table_name(relation, name), migration->name),
			 errdetail("With this command %s.", what),
			 recopy && migration->reversing ?
			 errhint("The table would have to be copied again, which cannot be while applications write the target."
					 " Go back first: %s.",
					 mt_phase_way_back(migration->phase, MT_SYNCING)) :
			 errhint("Make the change on the target first, and then here after SET migrate_tiers.allow_ddl = on%s."
					 " Or go back first: %s.",
					 recopy ? ", which has the table copied again" : "",
					 mt_phase_way_back(migration->phase, MT_PLANNED))));
}

/* mt_ddl_recopy marks a table to be copied again. */
void
mt_ddl_recopy(int32 relation_id, const char *what)
{
	mt_relation_recopy(relation_id, what);
	mt_migration_invalidate();
	ereport(NOTICE,
			(errmsg("table %s will be copied to the target again",
					table_name(mt_relation_by_id(relation_id, false), NULL)),
			 errdetail("With this command %s.", what)));
}

/* mt_ddl_forget takes a captured table that was dropped out of its migration, or refuses. */
void
mt_ddl_forget(Oid relid, const char *name)
{
	MtRelation *relation = mt_relation_by_relid(relid);
	MtSpiScope	scope;

	/* Untagged a moment ago. */
	if (relation == NULL)
		return;
	if (!mt_ddl_allowed(relation, false))
		mt_ddl_refuse(relation, name, "the table was dropped", false);
	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_DELETE, "DELETE FROM migrate_tiers.relation WHERE id = $1",
					   MT_ARGS(MT_INT4(relation->id)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
	ereport(NOTICE,
			(errmsg("table %s is not part of migration \"%s\" any more", name,
					mt_migration_by_id(relation->migration, false)->name),
			 errdetail("Table %s of the target stays as it is.", mt_relation_target_name(relation))));
}

/* table_name returns the table's name as it is given, or else as it was recorded. */
static char *
table_name(const MtRelation *relation, const char *name)
{
	char	   *recorded;
	MtSpiScope	scope;

	if (name != NULL)
		return pstrdup(name);
	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_SELECT,
					   "SELECT fingerprint::jsonb ->> 'name' FROM migrate_tiers.relation WHERE id = $1",
					   MT_ARGS(MT_INT4(relation->id)));
	recorded = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return recorded ? recorded : quote_qualified_identifier(relation->schema, relation->name);
}
