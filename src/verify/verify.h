/*
 * verify.h
 *	  Compares the tables of a migration on both sides, while both are in use.
 *
 * A run compares some tables at common points (catalog/shared.h).  One process,
 * the keeper, asks the sync worker for a point and keeps the two snapshots alive,
 * for verify_snapshot_limit at most; then it asks for another.  Others, the readers, take
 * ranges of keys: each range is read in a transaction of its own that imports the
 * keeper's snapshot, and its outcome is stored in the next one.  So locks on
 * users' tables are held for about half a second, and whoever is killed loses no
 * more than a range.
 */
#ifndef MT_VERIFY_H
#define MT_VERIFY_H

#include "catalog/shared.h"
#include "catalog/worker.h"
#include "endpoint/endpoint.h"

/* Compares one table, or all realtime ones (relation 0); run names it in migrate_tiers.verification. */
extern void mt_verify_run(int32 migration_id, const MtVerifyOrder *order);

/* Takes ranges of a run until none is left, or the point is too old. */
extern void mt_verify_read(int32 migration_id, const MtVerifyOrder *order);

/* A common point as its keeper holds it: in the current transaction, and in that of a session on the target. */
typedef struct MtHeldPoint
{
	MtRemote   *remote;
	TimestampTz time;
	bool		back;			/* it is the end of a tick from the target */
	char		source[MT_SNAPSHOT_NAME];
	char		target[MT_SNAPSHOT_NAME];
} MtHeldPoint;

/*
 * Takes a point over from the sync worker and begins the transaction that holds
 * it.  Returns NULL, or why there is none (and no transaction is open then).  "back" asks for
 * the end of a tick from the target, if there is one soon.
 */
extern char *mt_point_take(int32 migration_id, bool back, MtHeldPoint *point);
extern void mt_point_release(MtHeldPoint *point);

/* Begins a transaction that sees what an exported snapshot sees. */
extern void mt_point_begin(const char *snapshot);

#endif							/* MT_VERIFY_H */
