/*
 * imprint.h
 *	  What both sides looked like when a push left them equal: so the next push
 *	  need not compare again what nobody has touched since.
 *
 * Of each side its imprint keeps a horizon: the oldest transaction that ran when the
 * push began to look at that side's rows.  A row version that is there now, and whose xmin
 * is older than the horizon or is the push itself, was there then: it was committed before
 * the push looked, and has not been deleted since.  So where a range of keys has only such
 * versions, and as many as it had then, it has the very rows that it had then, equal to
 * those of the other side.  This takes a count, not a digest.
 *
 * It holds only as long as the side is what it was: the same table, file and columns, in
 * the same database, whose xids have not gone round.  That is its shape.  Each side keeps
 * its own imprint, so that one that was set back in time (a restore, a standby that
 * lacked the last transactions) has an imprint of that time, and tokens that differ.  Once
 * a day everything is compared in full all the same.
 */
#ifndef MT_IMPRINT_H
#define MT_IMPRINT_H

#include "batch/range.h"

/* How a side can tell rows that were there from others. */
typedef struct MtTrace
{
	char	   *shape;			/* as it is now */
	char	   *horizon;		/* of this push, for the next */
	char	   *known;			/* a condition on a row of "t": it was there; NULL: nothing is known */
	int64		lost;			/* rows that were there and are not any more */
} MtTrace;

typedef struct MtImprint
{
	char	   *token;			/* of this push */
	MtTrace		sender;
	MtTrace		receiver;
	bool		valid;			/* there is one of a push before, and it holds */
	bool		expired;		/* the same, but everything is to be compared again */
	MtRows	   *bounds;			/* of its ranges, NULL: one range */
	MtRows	   *rows;			/* a row for each range: how many it had */
} MtImprint;

/* Notes where both sides stand, and looks for the imprint of a push before; NULL where rows cannot be told apart. */
extern MtImprint *mt_imprint_open(MtPush *push);

/* Finds the ranges that have rows which were not there; the others are known, unless rows are lost. */
extern void mt_imprint_look(MtPush *push, MtImprint *imprint, MtRanges *ranges);

/* Finds the ranges that have lost rows, among those that are still taken for known. */
extern void mt_imprint_find_lost(MtPush *push, MtImprint *imprint, MtRanges *ranges);

/* Keeps an imprint of this push: the receiver's in the transaction that is open there, the sender's after its own. */
extern void mt_imprint_keep(MtPush *push, MtImprint *imprint, const MtRanges *ranges, const MtRows *bounds);

/* The same where nothing was written: what was compared in full and found equal need not be for another day. */
extern void mt_imprint_renew(MtPush *push, const MtImprint *imprint);

#endif							/* MT_IMPRINT_H */
