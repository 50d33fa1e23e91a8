/*
 * target.h
 *	  What we keep on the target: plain SQL objects in its schema
 *	  migrate_tiers, shared by all migrations that lead there, and the fence.
 *
 * Tables there: migration (ident, name, token, mark, ...), chunk (pieces of the
 * copy that are in), joined (tables that have had their first tick), set_aside (indexes, keys and foreign keys to be
 * built again).  Each function is idempotent, so that a step that was cut off can be run again.
 */
#ifndef MT_TARGET_H
#define MT_TARGET_H

#include "catalog/relation.h"
#include "endpoint/endpoint.h"

/* Creates the schema and its tables where they are missing, and this migration's row. */
extern void mt_target_install(MtRemote *remote, const MtMigration *migration);

/* Tells whether the schema and its tables are there. */
extern bool mt_target_installed(MtRemote *remote);

/* Removes all of this migration, and the schema with the last one. */
extern void mt_target_uninstall(MtRemote *remote, const MtMigration *migration);

/* What does the same, for a person to run; sequences: blocks that restore those which take turns. */
extern char *mt_target_uninstall_sql(const MtMigration *migration, const char *sequences);

/* Puts the fence on a table (and its partitions, also ones that came later), or takes it off. */
extern void mt_target_fence(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);
extern void mt_target_unfence(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);
extern bool mt_target_has_fence(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);

/*
 * The fence's flag: closed from the start.  Opening and closing it locks no table; closing
 * waits until the transactions that were let through have ended, while new ones are refused.  Raises
 * ERRCODE_LOCK_NOT_AVAILABLE when they do not end in attach_timeout: the fence is closed then, and may be opened.
 */
extern bool mt_target_fence_is_open(MtRemote *remote, const MtMigration *migration);
extern void mt_target_fence_open(MtRemote *remote, const MtMigration *migration);
extern void mt_target_fence_close(MtRemote *remote, const MtMigration *migration);

/* Tells applications on the target the phase: for routing() and for the text of errors. */
extern void mt_target_publish_phase(MtRemote *remote, const MtMigration *migration, MtPhase phase);

/* Returns when no transaction is writing a table; waits no longer than lock_timeout. */
extern void mt_target_await_writers(MtRemote *remote, const MtRelation *relation);

/* Empties tables that we filled: TRUNCATE of all together, or DELETE where something else refers to them. */
extern void mt_target_empty(MtRemote *remote, const List *relations);

/*
 * Sets aside the indexes, unique and key constraints of an empty table, and the
 * foreign keys that rest on them.  What cannot be dropped (a view depends on it, the table is
 * partitioned) stays.  Returns the names (char *) of the indexes to build again.
 */
extern List *mt_target_set_aside(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);

/* What is still set aside of any table, for people; NULL for nothing. */
extern char *mt_target_still_aside(MtRemote *remote, const MtMigration *migration);

/* The indexes of a table that still wait to be built again (char *). */
extern List *mt_target_aside(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);

/* Builds one of them; the caller chooses how many run side by side.  And restores what rests on them, and all else. */
extern void mt_target_build_index(MtRemote *remote, const MtMigration *migration, const MtRelation *relation,
								  const char *name);
extern void mt_target_restore_constraints(MtRemote *remote, const MtMigration *migration,
										  const MtRelation *relation);
/* On a way back: all of it; without a table, foreign keys.  What rows or tables do not allow is left to uninstall. */
extern void mt_target_bring_back(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);
/* All of a table that has left, which may be gone here; what cannot be restored is told in a WARNING, and forgotten. */
extern void mt_target_restore_left(MtRemote *remote, const MtMigration *migration, int32 relation);

/* When every table is in sync: adds them, and returns (MtForeignCheck) how each is checked. */
typedef struct MtForeignCheck
{
	int32		relation;		/* whose copy has set it aside */
	char	   *name;			/* for people */
	char	   *sql;			/* one statement, for a session that does nothing else */
	bool		keeps_writers_out;	/* of both tables, for as long as it takes */
} MtForeignCheck;
extern List *mt_target_add_foreign_keys(MtRemote *remote, const MtMigration *migration);
extern void mt_target_check_alone(MtRemote *remote);	/* prepares that session */

/* What the target knows of application servers, as a JSON array: see target_instances.c. */
extern char *mt_target_instances(MtRemote *remote, const MtMigration *migration, const char *since);

#endif							/* MT_TARGET_H */
