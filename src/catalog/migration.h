/*
 * migration.h
 *	  A migration: one source database (this one), one target database, a set
 *	  of tagged tables, one current phase.  A row of migrate_tiers.migration.
 */
#ifndef MT_MIGRATION_H
#define MT_MIGRATION_H

#include "base/compat.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

/* Segments of a queue; a segment is written for one retention period. */
#define MT_QUEUE_SEGMENTS 3

typedef enum MtPhase
{
	MT_PLANNED,
	MT_SYNCING,
	MT_DUAL_WRITE,
	MT_READ_TARGET,
	MT_TARGET_ONLY,
	MT_FINISHED
} MtPhase;

typedef struct MtMigration
{
	int32		id;
	char	   *name;
	char	   *ident;			/* uuid: its name on the target */
	char	   *token;			/* uuid: proves to the target's fence that a session is ours */
	char	   *token_hash;		/* what of it may be read there */
	Oid			owner;
	Oid			server;
	MtPhase		phase;
	bool		syncing;		/* a worker is wanted, unless paused */
	bool		paused;
	bool		reversing;		/* the target's changes are sent here, and conflicts are looked for */
	Oid			queue[MT_QUEUE_SEGMENTS];	/* InvalidOid before capture */
	int64		queue_retention;	/* microseconds */
	int			worker_pid;
	int64		worker_shared;	/* handle of the worker's shared memory */
	char	   *mark;			/* last known mark of the target as text, or NULL */
	char	   *floor;			/* a mark that the target's must not be older than, as text, or NULL */
	char	   *reverse_mark;	/* what is here of the target, as text, or NULL */
	uint32		reverse_timeline;	/* of the target's log, when that was taken */
	char	   *transition;		/* the step under way, or NULL */
} MtMigration;

extern const char *mt_phase_name(MtPhase phase);
extern MtPhase mt_phase_parse(const char *name);	/* ereports on an unknown name */
extern char *mt_phase_way_back(MtPhase from, MtPhase to);	/* for a hint: the calls, without a full stop */

/* Looks up a migration; name NULL means the only one.  Errors name the call to make. */
extern MtMigration *mt_migration_get(const char *name);
extern MtMigration *mt_migration_by_id(int32 id, bool missing_ok);

/* The same, and refuses a caller who may not drive it (member of the owner, or superuser). */
extern MtMigration *mt_migration_get_owned(const char *name);
extern List *mt_migration_list_owned(void);
extern void mt_migration_check_owner(const MtMigration *migration);
extern bool mt_migration_is_owned(const MtMigration *migration);

/*
 * Locks a migration against another change of its declaration or phase until
 * the end of the transaction (or session): tag, untag, set_option, drop, advance, revert.
 */
extern void mt_migration_lock(int32 id);

/*
 * The same lock for the session, across transactions; false when somebody has it.
 * It has to be released, also after an error.
 */
extern bool mt_migration_lock_session(int32 id);
extern void mt_migration_unlock_session(int32 id);

/* Tells every backend's caches that migrations have changed (at commit). */
extern void mt_migration_invalidate(void);

/* The migration $1, unless a transaction that is open has changed its row: a worker's notes do not wait for that. */
#define MT_MIGRATION_IF_FREE \
	"(SELECT f.id FROM migrate_tiers.migration AS f WHERE f.id = $1 FOR NO KEY UPDATE SKIP LOCKED)"

/* Keeps a copy of the target's mark for times when no worker runs; false when it could not now. */
extern bool mt_migration_keep_mark(int32 id, const char *mark, TimestampTz time);

#endif							/* MT_MIGRATION_H */
