/*
 * target_reverse.h
 *	  Capture on the target, for the way back: plain SQL objects, made before
 *	  the target may be written and taken away after it may no more.
 *
 * Each function is idempotent, and raises ERRCODE_LOCK_NOT_AVAILABLE where a
 * lock on a user's table was not to be had within lock_timeout: call it again.
 */
#ifndef MT_TARGET_REVERSE_H
#define MT_TARGET_REVERSE_H

#include "catalog/relation.h"
#include "endpoint/endpoint.h"

/* Timeline of the target's log, as pg_walfile_name has it. */
#define MT_TARGET_TIMELINE \
	"pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)"
extern uint32 mt_target_parse_timeline(const char *text);

/* What is certainly here of the target, or NULL: the reverse mark, or less where it is of another timeline. */
extern char *mt_target_reverse_mark(MtRemote *remote, const MtMigration *migration, uint32 *timeline);

/* Makes what all tables of the migration share: the table of writing transactions. */
extern void mt_target_reverse_install(MtRemote *remote, const MtMigration *migration);

/* Whether that is there. */
extern bool mt_target_capturing(MtRemote *remote, const MtMigration *migration);

/*
 * Makes a table's queue and triggers.  Called again while the target is written, it finds partitions
 * that came or went since, and notes what no trigger saw of that.  With nothing to do it is a query.
 */
extern void mt_target_reverse_attach(MtRemote *remote, const MtMigration *migration,
									 const MtRelation *relation);

/*
 * Notes what came and went with partitions of a table, and gives those that came the TRUNCATE trigger;
 * false when one could not get it yet, since it is written: that is no error for who is patient.
 */
extern bool mt_target_cover_partitions(MtRemote *remote, const MtMigration *migration,
									   const MtRelation *relation, bool patient);

/*
 * Whether somebody has touched the triggers of a captured table, so that changes may not be noted: the query of
 * the ids of such tables ("3 7", or null).  mt_target_reverse_attach makes the triggers good, and the table stays among
 * them until the source has noted it; who closes the fence is refused as long.
 */
extern char *mt_target_disturbed_query(const MtMigration *migration);
extern void mt_target_disturbed_noted(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);
extern void mt_target_require_undisturbed(MtRemote *remote, const MtMigration *migration, const List *relations);

/*
 * Forgets that a table was emptied while this server did not know that the target is written; whether it was.  Keys may
 * be sent late: it is the row of that moment that is.  To empty a table late would take rows that forward sync has
 * brought there since.
 */
extern bool mt_target_forget_truncates(MtRemote *remote, const MtMigration *migration, const MtRelation *relation);

/* Removes a table's triggers, then its queue; what was not sent is forgotten. */
extern void mt_target_reverse_detach(MtRemote *remote, const MtMigration *migration,
									 const MtRelation *relation);

/* Removes all of that, of every table. */
extern void mt_target_reverse_uninstall(MtRemote *remote, const MtMigration *migration);

/* Statements of a PL/pgSQL block (with a variable "statement") that do the same by hand. */
extern char *mt_target_reverse_drop_sql(const MtMigration *migration);

#endif							/* MT_TARGET_REVERSE_H */
