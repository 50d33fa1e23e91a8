/*
 * worker.h
 *	  The background workers of a migration.
 *
 * The sync worker drives a migration: it prepares the copy of tables, sees to it that copy workers run, lets
 * tables join, and sends ticks.  Copy workers do tasks of the copy until none is left.  Both act as the
 * migration's owner where they touch users' tables, and end at once when they are asked to.  Where the library is
 * preloaded, a launcher starts sync workers when the server starts.
 */
#ifndef MT_WORKERS_H
#define MT_WORKERS_H

#include "base/compat.h"

#include "postmaster/bgworker.h"

#include "catalog/queue_rotate.h"
#include "catalog/shared.h"
#include "catalog/worker.h"
#include "sync/tick.h"

typedef struct MtWorker
{
	int32		migration_id;
	MtMigration *migration;		/* in a context of its own, read again when it changes */
	MemoryContext migration_context;
	MemoryContext context;		/* as long as the worker */
	MemoryContext round_context;	/* of one round */
	MtSync	   *sync;			/* NULL: no connection */
	MtShared   *shared;
	MtInstances *instances;		/* who wrote the source, until it is saved */
	int			failures;		/* in a row, of ticks */
	bool		succeeded;		/* a round went well in this process */
	TimestampTz retry;			/* after a failure, not before this moment, whoever wakes us */
	struct MtTelling *telling;	/* what status is to say; in failure.c */
	int			reverse_failures;	/* in a row, of reverse ticks */
	bool		reverse_succeeded;
	TimestampTz reverse_retry;	/* not before this moment */
	TimestampTz reverse_active;	/* when something last came from the target */
	TimestampTz swept;			/* when the target's queues were last swept */
	char	   *sweep_below;	/* and what they may be swept below next: a mark */
	int			contention;		/* forward ticks in a row that met a locked row */
	HTAB	   *copy_retries;	/* tables for which preparing a copy failed */
	bool		copy_failed;	/* there are such tables */
	bool		unjoined;		/* some captured table has not joined yet */
	bool		foreign_keys_due;	/* maybe: asked of the target when all have joined */
	struct MtChecker *checker;	/* NULL: no foreign key is being checked */
	uint64		tick_keys;
	TimestampTz tick_started;
	TimestampTz tick_ended;		/* 0: the last one sent nothing */
	TimestampTz persisted, rotated, roster_saved;
	MtQueueSent queue_sent;		/* segments that are kept for queue_retention */
	char	   *persisted_mark;
	int			copier_failures;	/* launches since copy workers began to fail */
	bool		copiers_refused;	/* none could be launched; status says so */
	BackgroundWorkerHandle *copiers[MT_MAX_COPY_WORKERS];
	TimestampTz copier_started[MT_MAX_COPY_WORKERS];
	TimestampTz pushes_looked;	/* when it was last looked what is due */
} MtWorker;

extern PGDLLEXPORT void mt_sync_worker_main(Datum arg);
extern PGDLLEXPORT void mt_copy_worker_main(Datum arg);
extern PGDLLEXPORT void mt_verify_worker_main(Datum arg);
extern PGDLLEXPORT void mt_reader_worker_main(Datum arg);
extern PGDLLEXPORT void mt_batch_worker_main(Datum arg);
extern PGDLLEXPORT void mt_launcher_main(Datum arg);
extern PGDLLEXPORT void mt_autostart_main(Datum arg);
extern void mt_launcher_register(void);	/* where the library is preloaded */

/* Common start of a worker process: signals, database, pinned settings.  And what follows where the server's change. */
extern void mt_worker_begin(Oid database);
extern void mt_worker_reload(void);

/* Connects to the target; one round: copies, a tick, housekeeping.  Returns the ms to wait, unless woken. */
extern void mt_worker_open_sync(MtWorker *worker);
extern long mt_worker_step(MtWorker *worker);

/* Sees to a queue that has reached its limit, and to what it does not need any more; in limit.c. */
extern void mt_worker_recopy_disarmed(MtWorker *worker);
extern bool mt_worker_has_room(MtWorker *worker);
extern void mt_worker_rotate(MtWorker *worker);

/* Start verifications and pushes that are due. */
extern void mt_worker_verify_when_due(MtWorker *worker);
extern void mt_worker_start_pushes(MtWorker *worker);

#endif							/* MT_WORKERS_H */
