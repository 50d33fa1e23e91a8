/*
 * retag.h
 *	  A table that changes between batch and realtime while the migration is
 *	  syncing, or joins it then.
 */
#ifndef MT_RETAG_H
#define MT_RETAG_H

#include "catalog/relation.h"

/* Refuses what the phase, or the table's state, does not allow; realtime: what it is to become. */
extern void mt_retag_check(const MtMigration *migration, const MtRelation *tagged, bool realtime);

/*
 * Before the new tag is stored, a realtime table is not captured any more: its rows on the target stay.  It is locked
 * then until the transaction ends, so nothing that takes its time may follow.
 * After it is stored, a batch table is given to the sync worker, which captures and copies it.
 */
extern void mt_retag_leave_realtime(const MtMigration *migration, const MtRelation *tagged);
extern void mt_retag_enter_realtime(const MtRelation *relation, const char *note);

/*
 * Refuses a table that is new to the realtime tier, after it is stored there, where preflight finds something.  The
 * rows that its target's table has are no finding where our own pushes have filled it.
 */
extern void mt_retag_check_new(const MtMigration *migration, const MtRelation *relation, bool filled);

#endif							/* MT_RETAG_H */
