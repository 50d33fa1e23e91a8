/*
 * wait.h
 *	  Waiting until the other side has what was committed here.
 */
#ifndef MT_WAIT_H
#define MT_WAIT_H

#include "base/mark.h"
#include "catalog/migration.h"

#include "datatype/timestamp.h"

/* Everything that is committed now, whatever the transaction's snapshot. */
extern MtMark *mt_wait_token(void);

/* Waits until the target has all that the token sees, with the copy of every table; false at the deadline. */
extern bool mt_wait_forward(const MtMigration *migration, const MtMark *token, TimestampTz deadline);

#endif							/* MT_WAIT_H */
