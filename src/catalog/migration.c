/*
 * migration.c
 *	  Reads migrate_tiers.migration, decides who may drive a migration, and
 *	  holds the lock under which its declaration and its phase change.
 *
 * A row is read afresh each time, whatever the snapshot of the transaction: what a
 * caller decides upon must be read after mt_migration_lock.
 */
#include "catalog/migration.h"

#include "base/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/inval.h"

/* objsubid of the lock tag; the worker's own lock has another. */
#define DECLARATION_LOCK 1

static Oid	locked_class = InvalidOid;

#define COLUMNS \
	"SELECT id, name, ident, token, owner, server, phase, syncing, paused," \
	" coalesce(queue[1], 0), coalesce(queue[2], 0), coalesce(queue[3], 0)," \
	" (extract(epoch FROM queue_retention) * 1000000)::pg_catalog.int8," \
	" worker_pid, worker_shared, mark, transition, reversing," \
	" (SELECT r.mark FROM migrate_tiers.reverse_mark AS r WHERE r.migration = migration.id ORDER BY r.tick DESC LIMIT 1)," \
	" (SELECT r.timeline FROM migrate_tiers.reverse_mark AS r WHERE r.migration = migration.id ORDER BY r.tick DESC LIMIT 1)," \
	" floor," \
	" encode(sha256(convert_to(token::text, 'SQL_ASCII')), 'hex')" \
	" FROM migrate_tiers.migration "

static const char *const phase_names[] = {
	[MT_PLANNED] = "planned",
	[MT_SYNCING] = "syncing",
	[MT_DUAL_WRITE] = "dual_write",
	[MT_READ_TARGET] = "read_target",
	[MT_TARGET_ONLY] = "target_only",
	[MT_FINISHED] = "finished",
};

static void set_declaration_tag(LOCKTAG *tag, int32 id);
static List *list_migrations(void);
static MtMigration *get_by_name(const char *name);
static MtMigration *read_row(MtSpiScope *scope, uint64 row);
static void report_none(void);
static void report_several(void);

/* mt_phase_name returns the name of a phase as SQL shows it. */
const char *
mt_phase_name(MtPhase phase)
{
	return phase_names[phase];
}

/* mt_phase_parse finds the phase of that name. */
MtPhase
mt_phase_parse(const char *name)
{
	for (int i = 0; i < lengthof(phase_names); i++)
		if (strcmp(name, phase_names[i]) == 0)
			return (MtPhase) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown phase \"%s\"", name),
			 errhint("Phases are planned, syncing, dual_write, read_target, target_only and finished.")));
}

/* mt_phase_way_back writes the calls that lead back to a phase; of the phase itself, that which undoes what was cut. */
char *
mt_phase_way_back(MtPhase from, MtPhase to)
{
	StringInfoData calls;

	initStringInfo(&calls);
	do
	{
		if (from > to)
			from--;
		appendStringInfo(&calls, "%sCALL migrate_tiers.revert('%s')", calls.len ? ", then " : "", mt_phase_name(from));
	} while (from > to);
	return calls.data;
}

/* mt_migration_get finds a migration by name, or the only one. */
MtMigration *
mt_migration_get(const char *name)
{
	List	   *migrations;

	if (name != NULL)
		return get_by_name(name);
	migrations = list_migrations();
	if (migrations == NIL)
		report_none();
	if (list_length(migrations) > 1)
		report_several();
	return linitial(migrations);
}

/* mt_migration_get_owned does the same among what the caller may drive. */
MtMigration *
mt_migration_get_owned(const char *name)
{
	MtMigration *found = NULL;
	List	   *migrations;
	ListCell   *cell;

	if (name != NULL)
	{
		found = get_by_name(name);
		mt_migration_check_owner(found);
		return found;
	}
	migrations = list_migrations();
	if (migrations == NIL)
		report_none();
	foreach(cell, migrations)
	{
		MtMigration *migration = lfirst(cell);

		if (!mt_migration_is_owned(migration))
			continue;
		if (found != NULL)
			report_several();
		found = migration;
	}
	if (found == NULL)
		mt_migration_check_owner(linitial(migrations));
	return found;
}

/* mt_migration_by_id finds a migration by its number. */
MtMigration *
mt_migration_by_id(int32 id, bool missing_ok)
{
	static SPIPlanPtr plan = NULL;
	MtMigration *migration = NULL;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	if (mt_spi_exec_kept(&plan, SPI_OK_SELECT, COLUMNS "WHERE id = $1", MT_ARGS(MT_INT4(id))) > 0)
		migration = read_row(&scope, 0);
	mt_spi_end(&scope);
	if (migration == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("migration %d does not exist any more", id)));
	return migration;
}

/* mt_migration_is_owned says whether the caller may drive the migration, and so see its rows. */
bool
mt_migration_is_owned(const MtMigration *migration)
{
	return is_member_of_role(GetUserId(), migration->owner);
}

/* mt_migration_check_owner refuses a caller who may not drive the migration. */
void
mt_migration_check_owner(const MtMigration *migration)
{
	char	   *owner = GetUserNameFromId(migration->owner, true);

	if (!mt_migration_is_owned(migration))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for migration \"%s\"", migration->name),
				 owner ? errhint("It is driven by members of role \"%s\" and by superusers.", owner) :
				 errhint("It is driven by superusers only, since its owner was dropped, until one of them gives it another:"
						 " SELECT migrate_tiers.set_option('owner', '...').")));
}

/* mt_migration_list_owned lists the migrations that the caller may drive. */
List *
mt_migration_list_owned(void)
{
	List	   *owned = NIL;
	ListCell   *cell;

	foreach(cell, list_migrations())
		if (mt_migration_is_owned(lfirst(cell)))
			owned = lappend(owned, lfirst(cell));
	return owned;
}

/* mt_migration_lock waits until nobody else changes the migration. */
void
mt_migration_lock(int32 id)
{
	LOCKTAG		tag;

	locked_class = mt_extension_table("migration");
	set_declaration_tag(&tag, id);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* mt_migration_lock_session takes the lock across transactions, if it is free. */
bool
mt_migration_lock_session(int32 id)
{
	LOCKTAG		tag;

	locked_class = mt_extension_table("migration");
	set_declaration_tag(&tag, id);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* mt_migration_unlock_session gives that lock back; in a failed transaction, too, so it asks no catalog. */
void
mt_migration_unlock_session(int32 id)
{
	LOCKTAG		tag;

	set_declaration_tag(&tag, id);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

/* mt_migration_invalidate makes all backends read their copies again at commit. */
void
mt_migration_invalidate(void)
{
	CacheInvalidateRelcacheByRelid(mt_extension_table("migration"));
}

/*
 * set_declaration_tag makes a lock of the kind of advisory locks: one that is held for a
 * session outlives an aborted transaction, and is given back when the backend ends.
 */
static void
set_declaration_tag(LOCKTAG *tag, int32 id)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, locked_class, id, DECLARATION_LOCK);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

static List *
list_migrations(void)
{
	List	   *migrations = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec_latest(SPI_OK_SELECT, COLUMNS "ORDER BY id", MT_NO_ARGS);
	for (uint64 row = 0; row < count; row++)
	{
		MtMigration *migration = read_row(&scope, row);
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		migrations = lappend(migrations, migration);
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return migrations;
}

static MtMigration *
get_by_name(const char *name)
{
	MtMigration *migration = NULL;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	if (mt_spi_exec_latest(SPI_OK_SELECT, COLUMNS "WHERE name::pg_catalog.text = $1", MT_ARGS(MT_TEXT(name))) > 0)
		migration = read_row(&scope, 0);
	mt_spi_end(&scope);
	if (migration == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("migration \"%s\" does not exist", name),
				 errhint("Declare it with migrate_tiers.create_migration, or see migrate_tiers.status for those that are.")));
	return migration;
}

/* read_row copies a row of COLUMNS into the caller's memory. */
static MtMigration *
read_row(MtSpiScope *scope, uint64 row)
{
	MtMigration *migration = MemoryContextAllocZero(scope->caller, sizeof(MtMigration));

	migration->id = (int32) mt_spi_int8(row, 1);
	migration->name = mt_spi_text(scope, row, 2);
	migration->ident = mt_spi_text(scope, row, 3);
	migration->token = mt_spi_text(scope, row, 4);
	migration->owner = (Oid) mt_spi_int8(row, 5);
	migration->server = (Oid) mt_spi_int8(row, 6);
	migration->phase = mt_phase_parse(mt_spi_text(scope, row, 7));
	migration->syncing = mt_spi_bool(row, 8);
	migration->paused = mt_spi_bool(row, 9);
	for (int i = 0; i < MT_QUEUE_SEGMENTS; i++)
		migration->queue[i] = (Oid) mt_spi_int8(row, 10 + i);
	migration->queue_retention = mt_spi_int8(row, 13);
	migration->worker_pid = (int) mt_spi_int8(row, 14);
	migration->worker_shared = mt_spi_int8(row, 15);
	migration->mark = mt_spi_text(scope, row, 16);
	migration->transition = mt_spi_text(scope, row, 17);
	migration->reversing = mt_spi_bool(row, 18);
	migration->reverse_mark = mt_spi_text(scope, row, 19);
	if (migration->reverse_mark != NULL)
		migration->reverse_timeline = (uint32) mt_spi_int8(row, 20);
	migration->floor = mt_spi_text(scope, row, 21);
	migration->token_hash = mt_spi_text(scope, row, 22);
	return migration;
}

static void
report_none(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("there is no migration in this database"),
			 errhint("Declare one with migrate_tiers.create_migration.")));
}

static void
report_several(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
			 errmsg("there is more than one migration in this database"),
			 errhint("Name the one that is meant in the last argument, migration.")));
}

/* mt_migration_keep_mark keeps a copy of the target's mark for times when no worker runs. */
bool
mt_migration_keep_mark(int32 id, const char *mark, TimestampTz time)
{
	MtSpiScope	scope;
	bool		kept;

	mt_spi_begin(&scope);
	kept = mt_spi_exec_latest(SPI_OK_UPDATE,
							  "UPDATE migrate_tiers.migration SET mark = $2::pg_snapshot, mark_time = $3"
							  " WHERE id = " MT_MIGRATION_IF_FREE,
							  MT_ARGS(MT_INT4(id), MT_TEXT(mark),
									  {TIMESTAMPTZOID, TimestampTzGetDatum(time), false})) > 0;
	mt_spi_end(&scope);
	return kept;
}
