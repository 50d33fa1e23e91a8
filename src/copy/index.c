/*
 * index.c
 *	  Builds an index of the target again: a task of a copy that may take hours.
 *
 * Meanwhile no transaction of the source is open: its snapshot would keep VACUUM from
 * every table there.  So it is not the row that is locked, but the number of the
 * task, for the session: a worker that dies gives that back, too.
 */
#include "copy/index.h"

#include "miscadmin.h"
#include "storage/lock.h"

#include "base/spi.h"
#include "base/xact.h"
#include "endpoint/target.h"

static bool lock(LOCKTAG *tag, const MtCopyTask *task);
static void set_tag(LOCKTAG *tag, int32 relation, int32 task);

/* mt_copy_run_index does the task of an index, unless somebody does it or it is not to be done any more. */
void
mt_copy_run_index(const MtMigration *migration, MtRemote *remote, MtCopyTask *task)
{
	MtRelation *relation = NULL;
	LOCKTAG		tag;
	bool		locked;

	mt_xact_begin();
	locked = lock(&tag, task);
	mt_xact_commit();
	if (!locked)
		return;
	/* In a transaction that sees what was done before the lock was given. */
	mt_xact_begin();
	if (mt_copy_claim(task))
		relation = mt_relation_by_id(task->relation, false);
	mt_xact_commit();
	if (relation != NULL)
	{
		mt_target_build_index(remote, migration, relation, task->object);
		mt_xact_begin();
		mt_copy_finish(task, 0, 0);
		mt_xact_commit();
	}
	(void) LockRelease(&tag, ExclusiveLock, true);
}

static bool
lock(LOCKTAG *tag, const MtCopyTask *task)
{
	set_tag(tag, task->relation, task->task);
	return LockAcquire(tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* mt_copy_bar_indexes takes the lock of each index of a table for the transaction, those not yet begun as well. */
void
mt_copy_bar_indexes(const MtRelation *relation)
{
	MtSpiScope	scope;
	uint64		count;
	int32	   *tasks;
	LOCKTAG		tag;

	mt_spi_begin(&scope);
	count = mt_spi_exec_latest(SPI_OK_SELECT,
							   "SELECT task FROM migrate_tiers.copy_task WHERE relation = $1 AND kind = 'index'"
							   " AND state <> 'done' ORDER BY task",
							   MT_ARGS(MT_INT4(relation->id)));
	tasks = MemoryContextAlloc(scope.caller, sizeof(int32) * (count + 1));
	for (uint64 row = 0; row < count; row++)
		tasks[row] = (int32) mt_spi_int8(row, 1);
	mt_spi_end(&scope);
	for (uint64 i = 0; i < count; i++)
	{
		set_tag(&tag, relation->id, tasks[i]);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	}
	pfree(tasks);
}

/* set_tag makes a lock that lasts over transactions; the last bits of the numbers tell a table's indexes apart. */
static void
set_tag(LOCKTAG *tag, int32 relation, int32 task)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, mt_extension_table("copy_task"), (uint32) relation,
					   task & MT_COPY_LOCK_MASK);
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}
