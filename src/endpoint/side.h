/*
 * side.h
 *	  The two sides of a push as one kind of thing: this database, through SPI, or
 *	  the target, through libpq.  What works from one side to the other, works back.
 *
 * One of the two sides is this database, the other is the target.  Statements have no
 * parameters: their texts are built of quoted literals.  On this database they run as
 * the migration's owner, in the transaction of this backend.
 */
#ifndef MT_SIDE_H
#define MT_SIDE_H

#include "base/row.h"
#include "endpoint/endpoint.h"

#include "datatype/timestamp.h"

typedef struct MtSide
{
	MtRemote   *remote;			/* NULL: this database */
	Oid			owner;			/* of the migration */
	Oid			relid;			/* table here whose rows statements are about; without it they run as the owner */
	bool		writes;			/* they write it */
} MtSide;

/* A transaction for writing. */
extern void mt_side_begin(MtSide *side);

/*
 * A transaction whose statements share one snapshot, which is taken once the table is locked against
 * changes that a snapshot does not see (TRUNCATE).  No lock is waited for longer than lock_timeout.
 */
extern void mt_side_begin_reading(MtSide *side, Oid relid, const char *table);

extern void mt_side_commit(MtSide *side);

extern MtRows *mt_side_query(MtSide *side, const char *sql);
extern int64 mt_side_execute(MtSide *side, const char *sql);	/* rows affected */

/* Statements about what is ours on that side. */
extern void mt_side_manage(MtSide *side, const char *sql);
extern MtRows *mt_side_query_ours(MtSide *side, const char *sql);

/* Asks both sides at the same time; the answers are in the memory context of the call. */
extern void mt_side_query_both(MtSide *one, const char *one_sql, MtRows **one_rows,
							   MtSide *other, const char *other_sql, MtRows **other_rows);

/* Bytes that may be sent in a second, 0: no limit; and what was sent. */
typedef struct MtPace
{
	int64		rate;
	int64		bytes;
	TimestampTz started;
} MtPace;

/*
 * Streams the rows of a query on one side into a table of the other; returns how many.
 * The columns are those of the query and the table, in that order.  Raises an error where the
 * receiver takes another number of rows.
 */
extern int64 mt_side_transfer(MtSide *from, const char *query, MtSide *to, const char *table,
							  MtColumns *columns, MtPace *pace);

#endif							/* MT_SIDE_H */
