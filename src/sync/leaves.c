/*
 * leaves.c
 *	  Leaf partitions of the target, as reverse ticks follow them: see leaves.h.
 */
#include "sync/leaves.h"

#include "utils/memutils.h"

#include "endpoint/statements_queue.h"
#include "endpoint/target_reverse.h"

/* mt_leaves_known says whether all that led to a state is noted. */
bool
mt_leaves_known(const MtSync *sync, const char *leaves)
{
	return strcmp(leaves, sync->leaves ? sync->leaves : "") == 0;
}

/* mt_leaves_cover notes what led to a state, or to a later one. */
void
mt_leaves_cover(MtSync *sync, const char *leaves)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (table->relation->target_partitioned)
			(void) mt_target_cover_partitions(sync->remote, sync->migration, table->relation, true);
	if (sync->leaves)
		pfree(sync->leaves);
	sync->leaves = MemoryContextStrdup(sync->tables_context, leaves);
}

/* mt_leaves_look covers partitions that came or went while nothing else was written, and looks after the triggers. */
char *
mt_leaves_look(MtSync *sync, bool at_any_rate)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	bool		partitioned = false;
	MemoryContext previous = MemoryContextSwitchTo(sync->tick_context);
	MtRows	   *rows;

	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		partitioned = partitioned || table->relation->target_partitioned;
	rows = mt_remote_query(sync->remote,
						   psprintf("SELECT (%s), (%s)", mt_target_disturbed_query(sync->migration),
									partitioned ? mt_sql_leaves_state(sync->migration) : "NULL"),
						   MT_NO_PARAMS);
	if (partitioned && (at_any_rate || !mt_leaves_known(sync, rows->values[0][1])))
		mt_leaves_cover(sync, rows->values[0][1]);
	MemoryContextSwitchTo(previous);
	return rows->values[0][0];
}
