/*
 * fence.c
 *	  The source's fence: see fence.h.
 *
 * A statement trigger asks the flag before each statement that writes; and
 * holds a shared lock until its transaction ends, so that the one who closed
 * the fence can wait for it.  Invariant: who has got the lock reads the flag
 * after that.  So either it got the lock before the closer asked for it, and the
 * closer waits; or it reads what the closer committed before asking, and is refused.
 *
 *   writer            closer
 *   lock shared
 *   flag: open        flag := closed, commit
 *   writes            lock exclusive: waits
 *   commit            has it: nobody writes any more
 *
 * A transaction that holds the lock may go on writing.  The lock is never waited
 * for, on neither side: a writer that does not get it meets a closer, and the closer
 * asks again.  The flag is read past the snapshot of the transaction.
 */
#include "capture/fence.h"

#include "commands/defrem.h"
#include "commands/trigger.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/spi.h"
#include "catalog/applying.h"
#include "catalog/queue.h"

/* How long the closer asks before it tells who is in the way, and how often it asks. */
#define WAIT_LIMIT_MS 2000
#define ASK_FIRST_MS  2
#define ASK_LAST_MS	  20

PG_FUNCTION_INFO_V1(mt_fence);
PGDLLEXPORT Datum mt_fence(PG_FUNCTION_ARGS);

static void pass_or_refuse(int32 migration, Relation relation);
static bool is_closed(int32 migration);
static void refuse(int32 migration, Relation relation);
static char *describe_server(const MtMigration *migration);
static void set_tag(LOCKTAG *tag, int32 migration);
static char *list_holders(const LOCKTAG *tag);

/* mt_fence lets a statement write, or refuses it. */
Datum
mt_fence(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || data->tg_trigger->tgnargs != 2 ||
		!TRIGGER_FIRED_BEFORE(data->tg_event) || !TRIGGER_FIRED_FOR_STATEMENT(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("migrate_tiers.fence() is a trigger function"),
				 errhint("Its triggers are made by migrate_tiers.advance(), never by hand.")));
	if (!mt_capture_applying && !mt_fence_pass)
		pass_or_refuse(atoi(data->tg_trigger->tgargs[0]), data->tg_relation);
	return PointerGetDatum(NULL);
}

/* mt_fence_check does the same for a row. */
void
mt_fence_check(int32 migration, Relation relation)
{
	if (!mt_fence_pass)
		pass_or_refuse(migration, relation);
}

static void
pass_or_refuse(int32 migration, Relation relation)
{
	LOCKTAG		tag;
	bool		held;

	set_tag(&tag, migration);
	if (mt_lock_held_by_me(&tag, ShareLock))
		return;
	for (;;)
	{
		held = LockAcquire(&tag, ShareLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
		if (is_closed(migration))
			refuse(migration, relation);
		if (held)
			return;
		/* A closer has it for a moment, although the fence was opened again. */
		pg_usleep(1000);
		CHECK_FOR_INTERRUPTS();
	}
}

/* is_closed reads the flag as it is now; a trigger that is left of no migration stands in nobody's way. */
static bool
is_closed(int32 migration)
{
	MtQueue		queue;

	return mt_queue_load(migration, &queue) && queue.fenced;
}

static void
refuse(int32 migration_id, Relation relation)
{
	MtMigration *migration = mt_migration_by_id(migration_id, false);

	ereport(ERROR,
			(errcode(MT_ERRCODE_FENCED),
			 errmsg("writes of table %s go to the target database while migration \"%s\" is in phase %s",
					quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
											   RelationGetRelationName(relation)),
					migration->name, mt_phase_name(MT_TARGET_ONLY)),
			 errdetail("The target is %s.", describe_server(migration)),
			 errhint("Connect to the target database and write there; migrate_tiers.routing says on both sides where to go."
					 " CALL migrate_tiers.revert('%s') lets this side be written again.",
					 mt_phase_name(MT_READ_TARGET))));
}

/* describe_server says where the target is; what a server's options hold is no secret. */
static char *
describe_server(const MtMigration *migration)
{
	ForeignServer *server = GetForeignServer(migration->server);
	StringInfoData text;
	ListCell   *cell;

	initStringInfo(&text);
	appendStringInfo(&text, "server \"%s\"", server->servername);
	foreach(cell, server->options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);

		if (strcmp(option->defname, "host") == 0 || strcmp(option->defname, "port") == 0 ||
			strcmp(option->defname, "dbname") == 0)
			appendStringInfo(&text, ", %s %s", option->defname, defGetString(option));
	}
	return text.data;
}

/* mt_fence_set closes the fence, or opens it, when the transaction commits. */
void
mt_fence_set(int32 migration, bool closed)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.migration SET fenced = $2 WHERE id = $1",
				MT_ARGS(MT_INT4(migration), MT_BOOL(closed)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

/* mt_fence_wait waits until nobody writes any more. */
void
mt_fence_wait(const MtMigration *migration)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WAIT_LIMIT_MS);
	LOCKTAG		tag;
	long		wait = ASK_FIRST_MS;

	set_tag(&tag, migration->id);
	while (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		if (GetCurrentTimestamp() >= deadline)
		{
			char	   *holders = list_holders(&tag);

			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("transactions that write the source have not ended"),
					 holders ? errdetail("They are: %s.", holders) : 0,
					 errhint("End them, and give the call again.")));
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		wait = Min(wait * 2, ASK_LAST_MS);
	}
	LockRelease(&tag, ExclusiveLock, false);
}

/*
 * set_tag makes the lock that writers share: of the kind of advisory locks, and of another table's than
 * those of workers, who are told by them.
 */
static void
set_tag(LOCKTAG *tag, int32 migration)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, mt_extension_table("relation"), (uint32) migration, 0);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/* list_holders says who still holds the writers' lock, or NULL. */
static char *
list_holders(const LOCKTAG *tag)
{
	MtSpiScope	scope;
	char	   *holders;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT string_agg(CASE WHEN l.pid IS NULL THEN 'a prepared transaction'"
				" ELSE format('pid %s (%s, %s since %s)', l.pid, coalesce(nullif(a.application_name, ''), a.backend_type),"
				" a.state, date_trunc('second', coalesce(a.xact_start, a.state_change))) END, '; ' ORDER BY a.xact_start)"
				" FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)"
				" WHERE l.locktype = 'object' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()"
				" AND l.database = $1 AND l.classid = $2 AND l.objid = $3 AND l.objsubid = 0 AND l.mode = 'ShareLock'",
				MT_ARGS(MT_OID(tag->locktag_field1), MT_OID(tag->locktag_field2), MT_OID(tag->locktag_field3)));
	holders = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return holders;
}
