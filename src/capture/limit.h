/*
 * limit.h
 *	  What keeps the queue below queue_limit: notes that are not written.
 */
#ifndef MT_LIMIT_H
#define MT_LIMIT_H

#include "catalog/queue.h"

#include "nodes/pg_list.h"

/* What a backend knows of a queue that has a limit. */
typedef struct MtLimit
{
	bool		full;			/* as this backend found it when it looked last */
	List	   *disarmed;		/* ids of tables, committed */
	List	   *added;			/* tables that this transaction has disarmed: MtAdded */
} MtLimit;

/* Reads again which tables are disarmed; together with the queue's own row. */
extern void mt_limit_refresh(MtLimit *limit, const MtQueue *queue);

/* Looks whether the queue is full; called with the row that made it grow by a page. */
extern void mt_limit_grown(MtLimit *limit, const MtQueue *queue, const char *entries, int length);

/* Takes out the entries that need not, or must not, be written; returns the bytes that are left. */
extern int	mt_limit_drop(MtLimit *limit, const MtQueue *queue, char *entries, int length);

/* What a subtransaction that commits has disarmed is its parent's. */
extern void mt_limit_join(MtLimit *limit, SubTransactionId id, SubTransactionId parent);

/* Forgets what belongs to a transaction. */
extern void mt_limit_reset(MtLimit *limit);

#endif							/* MT_LIMIT_H */
