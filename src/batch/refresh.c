/*
 * refresh.c
 *	  A push to a materialized view: the receiver computes its rows itself, of
 *	  tables that follow the sender's.
 *
 * Nobody can write a materialized view's rows but its own refresh.  It is done
 * CONCURRENTLY, so that readers wait for nobody and see the old rows or the new
 * ones; one that was never filled cannot be read, so there a plain one will do.
 */
#include "batch/push.h"

#include "utils/builtins.h"

#include "base/pin.h"

/* Whether it is filled, and whether some unique index allows to refresh it while it is read. */
#define VIEW_STATE \
	"SELECT c.relispopulated, EXISTS (SELECT FROM pg_index AS x WHERE x.indrelid = c.oid AND x.indisunique" \
	" AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL) FROM pg_class AS c WHERE c.oid = %s::regclass"

static void refresh_by_default(MtSide *refresher, const char *refresh);
static int64 count_rows(MtSide *side, const char *table);

/* mt_push_refresh has the receiver compute the view. */
void
mt_push_refresh(MtPush *push)
{
	MtBatch    *batch = push->batch;
	MtRows	   *state = mt_side_query(push->receiver, psprintf(VIEW_STATE, quote_literal_cstr(push->into)));
	bool		filled = state->values[0][0][0] == 't';
	MtSide		refresher = *push->receiver;

	if (filled && state->values[0][1][0] != 't')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("materialized view %s of the receiver has no unique index", push->into),
				 errdetail("Without one it cannot be refreshed while it is read."),
				 errhint("Run CREATE UNIQUE INDEX ON %s (...) there, over plain columns.", push->into)));
	/*
	 * The server itself runs the view's code with no rights but its owner's;
	 * for that it has to make a temporary table.
	 */
	refresher.relid = InvalidOid;
	mt_side_begin(push->receiver);
	refresh_by_default(&refresher,
					   psprintf("REFRESH MATERIALIZED VIEW %s%s", filled ? "CONCURRENTLY " : "", push->into_sql));
	batch->receiver_rows = count_rows(push->receiver, push->to);
	batch->sender_rows = count_rows(push->sender, push->from);
	mt_push_commit(push);
}

/* refresh_by_default runs the view's query as a session of the receiver would: a day begins where its TimeZone says. */
static void
refresh_by_default(MtSide *refresher, const char *refresh)
{
	if (refresher->remote == NULL)
	{
		/* The settings last as long as the call. */
		(void) mt_side_execute(refresher, psprintf("%s%s", mt_pin_local(false), refresh));
		return;
	}
	mt_side_manage(refresher, mt_pin_local(false));
	(void) mt_side_execute(refresher, refresh);
	mt_side_manage(refresher, mt_pin_local(true));
}

static int64
count_rows(MtSide *side, const char *table)
{
	return strtoll(mt_side_query(side, psprintf("SELECT count(*) FROM %s", table))->values[0][0], NULL, 10);
}
