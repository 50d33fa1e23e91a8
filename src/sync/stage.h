/*
 * stage.h
 *	  Rows of a large tick on their way into a table of the target.
 *
 * They stream through binary COPY into a temporary table of the target's session.
 * From there each piece is applied while the next one is read: what is read
 * meanwhile is held in memory, up to a bound.
 */
#ifndef MT_STAGE_H
#define MT_STAGE_H

#include "base/row.h"
#include "sync/tick.h"

typedef struct MtStage
{
	MtRemote   *remote;
	MtColumns  *columns;
	const char *copy;			/* fills the stage with a piece */
	const char *update;			/* applies it: sets rows that are there, or NULL, */
	const char *insert;			/* and adds those that are missing; NULL: all is one piece, applied by the caller */
	MtCopyStream stream;		/* of the piece that is read */
	bool		reading;		/* there is one, */
	bool		copying;		/* and its COPY has begun: nothing is held any more */
	char	   *held;
	int			held_length;
	const char *applying;		/* the statement under way for the piece before, or NULL */
	int64		piece_rows;
	int64		rows;			/* of all pieces */
	int64		bytes;
} MtStage;

/* Takes a row; values are those of a query's result. */
extern void mt_stage_put(MtStage *stage, const Datum *values, const bool *nulls);

/* Waits until all rows are in, and applied where the stage does that. */
extern void mt_stage_end(MtStage *stage);

#endif							/* MT_STAGE_H */
