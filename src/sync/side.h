/*
 * side.h
 *	  One row of one side of a migration, by its key: what the sender has in the
 *	  snapshot of its tick, or what the receiver has now.
 */
#ifndef MT_SIDE_H
#define MT_SIDE_H

#include "sync/tick.h"

typedef enum MtSide
{
	MT_SIDE_SOURCE,				/* here, under the active snapshot */
	MT_SIDE_TARGET				/* there, in the transaction that the connection is in */
} MtSide;

typedef enum MtSideForm
{
	MT_SIDE_ROW,				/* fields in the columns' forms */
	MT_SIDE_IMAGE				/* one field: the row as jsonb text */
} MtSideForm;

/* How many rows are read together, first and at most; so few that they take about so many bytes, if one does not. */
#define MT_TOGETHER_FIRST 8
#define MT_TOGETHER_MOST  64
#define MT_TOGETHER_BYTES (4 * 1024 * 1024)

/* How many are to be read next, by what the last ones took. */
static inline int
mt_side_together(int together, Size bytes)
{
	if (bytes > MT_TOGETHER_BYTES)
		return Max(together / 4, 1);
	return bytes > MT_TOGETHER_BYTES / 4 ? together : Min(together * 2, MT_TOGETHER_MOST);
}

/* Fields in the columns' forms, or NULL where the row is absent; in the current memory context. */
extern MtField *mt_side_row(MtSync *sync, MtTable *table, MtSide side, const char *bytes, int length);

/* The source's row as jsonb text, or NULL where it is absent. */
extern char *mt_side_image(MtSync *sync, MtTable *table, const char *bytes, int length);

/* The same of the target in a pipeline, once it was prepared; the row is set when the answer comes. */
extern void mt_side_prepare(MtSync *sync, MtTable *table, MtSideForm form);
extern void mt_side_ask(MtSync *sync, MtTable *table, MtSideForm form, const char *bytes, int length, MtField **row);

/* Whether the row is there and meets a condition over its columns. */
extern bool mt_side_meets(MtSync *sync, MtTable *table, MtSide side, const char *condition,
						  const char *bytes, int length);

/* Locks the row, if it is there, until the receiver's transaction ends. */
extern void mt_side_lock(MtSync *sync, MtTable *table, MtSide side, const char *bytes, int length);

/* The key as parameters for the target; in the current memory context. */
extern MtField *mt_side_key(MtTable *table, const char *bytes, int length, int room);

/* "(a)=(1)", for an error. */
extern char *mt_side_key_text(MtTable *table, const char *bytes, int length);

#endif							/* MT_SIDE_H */
