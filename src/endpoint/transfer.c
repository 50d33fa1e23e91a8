/*
 * transfer.c
 *	  Streams rows from one side to the other: see side.h.
 *
 * From here to the target rows are pushed: the executor gives them to us, we
 * give their bytes to libpq.  From the target to here they are pulled: COPY asks
 * us for bytes, we ask libpq.  Either way a piece is all that is in memory.
 */
#include "endpoint/side.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/copy.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/dest.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/regproc.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "base/spi.h"
#include "endpoint/remote_copy.h"

/* A receiver of rows that puts them into a COPY stream. */
typedef struct MtStreamDest
{
	DestReceiver pub;
	MtCopyStream *stream;
} MtStreamDest;

typedef struct MtOutflow
{
	MtRemote   *remote;
	MtPace	   *pace;
} MtOutflow;

/* A COPY stream that the target sends; COPY's callback has no argument. */
typedef struct MtInflow
{
	MtRemote   *remote;
	MtPace	   *pace;
	const char *piece;
	int			length;
	int			at;
	int64		rows;			/* as the target says at the end */
	bool		ended;
} MtInflow;

static MtInflow *inflow;

static int64 pull_rows(MtSide *from, const char *query, MtSide *to, const char *table, MtColumns *columns,
					   MtPace *pace);
static Relation open_named(const char *name);
static int	give_bytes(void *to, int least, int most);
static void next_piece(MtInflow *flow);
static int64 push_rows(MtSide *from, const char *query, MtSide *to, const char *into, MtColumns *columns,
					   MtPace *pace);
static void send_piece(void *arg, const char *data, int length);
static void keep_pace(MtPace *pace);
static void start_rows(DestReceiver *self, int operation, TupleDesc typeinfo);
static bool take_row(TupleTableSlot *slot, DestReceiver *self);
static void end_rows(DestReceiver *self);
static void check_count(int64 sent, int64 taken, const char *table);

/* mt_side_transfer streams the rows of a query on one side into a table of the other. */
int64
mt_side_transfer(MtSide *from, const char *query, MtSide *to, const char *table, MtColumns *columns,
				 MtPace *pace)
{
	const char *options = columns->all_binary ? " (FORMAT binary)" : "";

	if (pace->started == 0)
		pace->started = GetCurrentTimestamp();
	if (to->remote == NULL)
		return pull_rows(from, psprintf("COPY (%s) TO STDOUT%s", query, options), to, table, columns, pace);
	return push_rows(from, query, to,
					 psprintf("COPY %s (%s) FROM STDIN%s", table, mt_columns_list(columns, ""), options),
					 columns, pace);
}

static int64
push_rows(MtSide *from, const char *query, MtSide *to, const char *into, MtColumns *columns, MtPace *pace)
{
	MtCopyStream stream;
	MtStreamDest dest = {{take_row, start_rows, end_rows, end_rows, DestCopyOut}, &stream};
	MtOutflow	flow = {to->remote, pace};
	SPIExecuteOptions options = {.read_only = true, .dest = &dest.pub};
	MtSpiScope	scope;

	mt_remote_copy_begin(to->remote, into);
	mt_copy_stream_begin(&stream, mt_columns_of_result(columns, 0, NULL), send_piece, &flow);
	mt_spi_begin_table(&scope, from->owner, from->relid, from->writes);
	if (SPI_execute_extended(query, &options) != SPI_OK_SELECT)
		elog(ERROR, "unexpected outcome of query: %s", query);
	mt_spi_end(&scope);
	mt_copy_stream_end(&stream);
	check_count(stream.rows, mt_remote_copy_end(to->remote), into);
	return stream.rows;
}

static void
start_rows(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static bool
take_row(TupleTableSlot *slot, DestReceiver *self)
{
	slot_getallattrs(slot);
	mt_copy_stream_put(((MtStreamDest *) self)->stream, slot->tts_values, slot->tts_isnull);
	return true;
}

static void
end_rows(DestReceiver *self)
{
}

static void
send_piece(void *arg, const char *data, int length)
{
	MtOutflow  *flow = (MtOutflow *) arg;

	mt_remote_copy_send(flow->remote, data, length);
	flow->pace->bytes += length;
	keep_pace(flow->pace);
}

/* pull_rows has COPY read what the target sends, and put it into a table here. */
static int64
pull_rows(MtSide *from, const char *query, MtSide *to, const char *table, MtColumns *columns, MtPace *pace)
{
	MtInflow	flow = {.remote = from->remote, .pace = pace};
	Relation	relation = open_named(table);
	ParseState *pstate = make_parsestate(NULL);
	List	   *names = NIL;
	List	   *options = NIL;
	CopyFromState copy;
	Oid			role;
	Oid			saved_user;
	int			saved_context;
	int			guc_level;
	int64		taken;

	for (int i = 0; i < columns->count; i++)
		names = lappend(names, makeString(columns->columns[i].name));
	if (columns->all_binary)
		options = list_make1(makeDefElem("format", (Node *) makeString("binary"), -1));
	mt_remote_copy_out_begin(from->remote, query);
	GetUserIdAndSecContext(&saved_user, &saved_context);
	role = mt_spi_table_role(to->owner, to->relid, true);
	SetUserIdAndSecContext(role, saved_context | mt_spi_table_context(role, to->owner));
	guc_level = NewGUCNestLevel();
	(void) addRangeTableEntryForRelation(pstate, relation, RowExclusiveLock, NULL, false, false);
	inflow = &flow;
	copy = BeginCopyFrom(pstate, relation, NULL, NULL, false, give_bytes, names, options);
	taken = (int64) CopyFrom(copy);
	EndCopyFrom(copy);
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(saved_user, saved_context);
	/* COPY stops reading at the end of the rows; what is left is the end of the stream. */
	while (!flow.ended)
		next_piece(&flow);
	check_count(flow.rows, taken, table);
	free_parsestate(pstate);
	table_close(relation, NoLock);
	CommandCounterIncrement();
	return taken;
}

/* open_named opens a table by its quoted name. */
static Relation
open_named(const char *name)
{
	return table_openrv(makeRangeVarFromNameList(mt_qualified_name_list(name)), RowExclusiveLock);
}

/* give_bytes gives COPY bytes, at least as many as it needs unless there are no more. */
static int
give_bytes(void *to, int least, int most)
{
	int			given = 0;

	while (given < least)
	{
		int			share = Min(inflow->length - inflow->at, most - given);

		if (share > 0)
		{
			memcpy((char *) to + given, inflow->piece + inflow->at, share);
			inflow->at += share;
			given += share;
		}
		else if (inflow->ended)
			break;
		else
			next_piece(inflow);
	}
	return given;
}

static void
next_piece(MtInflow *flow)
{
	flow->length = mt_remote_copy_out_next(flow->remote, &flow->piece, &flow->rows);
	flow->at = 0;
	flow->ended = flow->length == 0;
	flow->pace->bytes += flow->length;
	keep_pace(flow->pace);
}

/* keep_pace waits until the bytes sent so far are what the rate allows. */
static void
keep_pace(MtPace *pace)
{
	while (pace->rate > 0)
	{
		TimestampTz until = pace->started + (int64) ((double) pace->bytes / pace->rate * USECS_PER_SEC);
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
check_count(int64 sent, int64 taken, const char *table)
{
	if (sent != taken)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the receiver took " INT64_FORMAT " rows of " INT64_FORMAT " that were sent", taken, sent),
				 errdetail_internal("%s", table),
				 errhint("Look for a BEFORE trigger or a rule that is enabled ALWAYS on the receiving table.")));
}
