/*
 * here.h
 *	  Statements that write a row of the source: with plans that are kept.
 */
#ifndef MT_HERE_H
#define MT_HERE_H

#include "sync/tick.h"

/* Places of the plans of a table (MtTable.here). */
#define MT_HERE_DELETE 0
#define MT_HERE_UPSERT 1
#define MT_HERE_INSERT 3
#define MT_HERE_UPDATE 5

/* The plan of a statement for so many rows, in the caller's SPI connection. */
extern SPIPlanPtr mt_here_plan(MtTable *table, int place, int rows);

/* One row of ours: deletes it by its key, or inserts it from fields in the columns' forms. */
extern void mt_here_delete(MtSync *sync, MtTable *table, const char *bytes, int length);
extern void mt_here_insert(MtSync *sync, MtTable *table, const MtField *row);

#endif							/* MT_HERE_H */
