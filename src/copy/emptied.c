/*
 * emptied.c
 *	  Tells a table that was truncated during its copy from one that was rewritten.
 *
 * Both have another file than the one that was cut into chunks.  After a rewrite
 * rows that S0 sees stand elsewhere, and the copy has to begin anew.  After a
 * TRUNCATE there is no such row any more: every row was written after it, so its
 * key is in the queue, whatever else has happened to the file; and what was
 * copied before goes when sync replays the TRUNCATE.  So a table that is
 * truncated all the time is copied in no time.
 *
 * The queue itself is the evidence, since it is what sync will replay: entries
 * that S0 does not see are kept for as long as a table is copied.
 */
#include "copy/copy.h"

#include "utils/snapmgr.h"

#include "base/mark.h"
#include "catalog/queue_read.h"

typedef struct MtEvidence
{
	const MtRelation *relation;
	Oid			table;
	bool		found;
} MtEvidence;

static void look_for_truncate(void *arg, const MtQueueRow *row);

/* mt_copy_is_emptied says whether the queue has a TRUNCATE since S0; the caller holds a lock on the table. */
bool
mt_copy_is_emptied(const MtMigration *migration, const MtRelation *relation, Oid table)
{
	MtEvidence	evidence = {.relation = relation, .table = table};
	/* Taken under the lock, so it sees whoever gave the table its file. */
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	if (relation->captured_from != NULL)
		mt_queue_read(mt_queue_reader_create(migration), snapshot, mt_mark_parse(relation->captured_from), false,
					  look_for_truncate, &evidence);
	UnregisterSnapshot(snapshot);
	return evidence.found;
}

static void
look_for_truncate(void *arg, const MtQueueRow *row)
{
	MtEvidence *evidence = (MtEvidence *) arg;
	const char *at = row->entries;
	MtEntry		entry;

	while (!evidence->found && mt_entry_next(&at, row->entries + row->length, &entry))
	{
		if (entry.relation != evidence->relation->id)
			continue;
		evidence->found = entry.kind == MT_ENTRY_TRUNCATE ||
			(entry.kind == MT_ENTRY_TRUNCATE_PART && entry.length == sizeof(Oid) &&
			 memcmp(entry.bytes, &evidence->table, sizeof(Oid)) == 0);
	}
}
