/*
 * wait.h
 *	  Waiting until the other side has what was committed here.
 */
#ifndef MT_WAIT_H
#define MT_WAIT_H

#include "base/mark.h"
#include "catalog/migration.h"
#include "endpoint/endpoint.h"

#include "datatype/timestamp.h"

/* Everything that is committed now, whatever the transaction's snapshot. */
extern MtMark *mt_wait_token(void);

/* Waits until the target has all that the token sees, with the copy of every table; false at the deadline. */
extern bool mt_wait_forward(const MtMigration *migration, const MtMark *token, TimestampTz deadline);

/*
 * Wait, while one side is not written, until the other has all of it; or until conflicts that were
 * found on the target are noted here.  Raise MT_ERRCODE_SYNC_TIMEOUT when that takes too long, and soon
 * where a direction is stopped: applications are refused meanwhile.
 */
extern void mt_wait_drained_forward(const MtMigration *migration);
extern void mt_wait_drained_reverse(const MtMigration *migration, MtRemote *remote);
extern void mt_wait_conflicts_carried(const MtMigration *migration, MtRemote *remote);

#endif							/* MT_WAIT_H */
