/*
 * replace.c
 *	  A push in mode replace: all rows go, all rows come, in one transaction of
 *	  the receiver.
 *
 * DELETE and not TRUNCATE: readers with an older snapshot go on to see what was
 * there, and nobody waits for a lock.  Other versions of the table's file (a swap of
 * two tables) would show an empty table to those readers, and leave views behind.
 */
#include "batch/push.h"

#include "lib/stringinfo.h"

/* mt_push_replace sends the whole table. */
void
mt_push_replace(MtPush *push)
{
	MtBatch    *batch = push->batch;
	MtRows	   *filled;

	mt_side_begin(push->receiver);
	filled = mt_side_query(push->receiver, psprintf("SELECT EXISTS (SELECT FROM %s)", push->to));
	if (filled->values[0][0][0] == 't')
		batch->deleted = mt_side_execute(push->receiver, psprintf("DELETE FROM %s", push->to));
	batch->inserted = mt_side_transfer(push->sender,
									   psprintf("SELECT %s FROM %s AS t", mt_push_columns(push, "t."), push->from),
									   push->receiver, push->into, push->columns, &push->pace);
	batch->sender_rows = batch->receiver_rows = batch->inserted;
	mt_side_commit(push->receiver);
}
