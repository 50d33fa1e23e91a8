/*
 * reverse_flush.c
 *	  Sees to it that what a reverse tick takes over survives a crash of the target.
 */
#include "sync/apply.h"

#include "utils/builtins.h"

#include "endpoint/pipeline.h"

static void take_flushed(void *arg, const MtField *fields, int count);

/*
 * mt_reverse_flush sees to it that what the tick has read survives a crash of the target: see
 * mt_apply_flush.  Where it is not seen to be on disk, a commit there brings the log to it; what the
 * tick had to read is read, and its snapshot is given up.
 */
void
mt_reverse_flush(MtSync *sync)
{
	if (sync->target_flushed)
		return;
	mt_reverse_prepare_flushed(sync);
	mt_pipeline_begin(sync->remote);
	mt_reverse_ask_flushed(sync);
	(void) mt_pipeline_finish(sync->remote);
	if (sync->target_flushed)
		return;
	mt_remote_run(sync->remote,
				  psprintf("COMMIT; BEGIN; SET LOCAL synchronous_commit = local;"
						   " UPDATE migrate_tiers.migration SET reverse_mark_time = reverse_mark_time WHERE ident = %s; COMMIT; BEGIN",
						   quote_literal_cstr(sync->migration->ident)));
}

/* mt_reverse_prepare_flushed prepares the question. */
void
mt_reverse_prepare_flushed(MtSync *sync)
{
	if (!mt_remote_prepared(sync->remote, "mt_flushed"))
		mt_remote_prepare(sync->remote, "mt_flushed",
						  "SELECT WHERE pg_catalog.pg_current_wal_flush_lsn() OPERATOR(pg_catalog.>=) $1::pg_catalog.pg_lsn");
}

/* mt_reverse_ask_flushed asks in a pipeline whether all that the tick's snapshot sees is on the target's disk. */
void
mt_reverse_ask_flushed(MtSync *sync)
{
	MtField		lsn = {.data = sync->target_lsn, .length = strlen(sync->target_lsn), .binary = false};

	mt_pipeline_rows(sync->remote, "mt_flushed", 1, &lsn, take_flushed, &sync->target_flushed);
}

static void
take_flushed(void *arg, const MtField *fields, int count)
{
	*(bool *) arg = true;
}
