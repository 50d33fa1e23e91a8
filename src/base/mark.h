/*
 * mark.h
 *	  A set of transactions that have ended: a snapshot with 64-bit ids, in
 *	  the text form of pg_snapshot ("xmin:xmax:xip,...").
 *
 * Whether something is sent, or copied, is always a question of whether its
 * transaction is in such a set; never of an order of ids or of times.
 */
#ifndef MT_MARK_H
#define MT_MARK_H

#include "base/compat.h"

#include "access/transam.h"
#include "utils/snapshot.h"

typedef struct MtMark
{
	uint64		xmin;
	uint64		xmax;
	int			nxip;
	uint64	   *xip;			/* sorted */
} MtMark;

extern MtMark *mt_mark_parse(const char *text);
extern MtMark *mt_mark_parse_input(const char *text);	/* of a person: a malformed one is their error */
extern char *mt_mark_format(const MtMark *mark);

/* The set that a snapshot sees, of top-level transactions. */
extern MtMark *mt_mark_from_snapshot(Snapshot snapshot);

/* The same with every subtransaction that was running, to judge xmin in tuples; earlier: such a mark, or NULL. */
extern MtMark *mt_mark_with_subtransactions(Snapshot snapshot, const MtMark *earlier);

/* Whether a top-level transaction had ended; the second takes the 32 bits of a tuple header. */
extern bool mt_mark_sees(const MtMark *mark, uint64 xid);
extern bool mt_mark_sees_tuple_xid(const MtMark *mark, TransactionId xid);

/* What both sets hold; what a set holds but for one transaction. */
extern MtMark *mt_mark_intersect(const MtMark *one, const MtMark *other);
extern MtMark *mt_mark_without(const MtMark *mark, uint64 xid);

/* Whether everything that "earlier" saw as ended is ended for "later", too. */
extern bool mt_mark_covers(const MtMark *later, const MtMark *earlier);

#endif							/* MT_MARK_H */
