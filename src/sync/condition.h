/*
 * condition.h
 *	  The condition of a truncated partition, before it becomes part of a statement.
 *
 * That of the target comes out of a table that its role can write, as text.
 */
#ifndef MT_CONDITION_H
#define MT_CONDITION_H

#include "sync/table.h"

/*
 * Refuses, as corrupted data, what is not one expression over the columns of the table here that only says which rows
 * are meant.  To be called in the scope that runs it: it is read, and folded, with the rights of the table's owner.
 */
extern void mt_condition_check(const MtTable *table, const char *condition);

#endif							/* MT_CONDITION_H */
