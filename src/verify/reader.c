/*
 * reader.c
 *	  A reader of a verification: takes ranges until none is left.
 *
 * A range that cannot be compared now (the target is gone, a table is busy or was
 * truncated since the point) ends the reader with an error, which the keeper keeps;
 * it asks for another point then.  A table that cannot be compared at all (a column
 * or a right is missing) gets its verdict, unknown, and the others go on.
 */
#include "verify/verify.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/mark.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/option.h"
#include "catalog/reverse.h"
#include "catalog/suspect.h"
#include "catalog/verification.h"
#include "endpoint/statements_queue.h"
#include "verify/compare.h"

typedef struct MtReader
{
	MtMigration *migration;
	const MtVerifyOrder *order;
	MtRemote   *remote;
	bool		same_hash;
	TimestampTz until;			/* no range is begun after this moment */
	double		rate;			/* rows a second of this reader, 0: no limit */
	MemoryContext context;		/* of one range */
} MtReader;

static void open_reader(MtReader *reader, int32 migration_id);
static bool take_range(MtReader *reader, MtRange *range);
static bool try_take(MtReader *reader, MtRange *range, bool cut);
static void cut_range(MtReader *reader, MtRange *range);
static void read_range(MtReader *reader, MtRange *range, MtOutcome *outcome);
static void look_again(MtReader *reader, const MtVerifyTable *table, const MtRange *range, MtOutcome *outcome);
static MtVerifyTable *begin_reading(MtReader *reader, MtRange *range);
static void learn_queue(MtReader *reader, MtVerifyTable *table);
static char *unfit(MtReader *reader, MtVerifyTable *table);
static char *unfit_on_target(MtReader *reader, MtVerifyTable *table);
static void check_intact(MtReader *reader, const MtVerifyTable *table);
static bool is_final(int sqlerrcode);
static bool try_range(MtReader *reader, MtRange *range);
static void throttle(const MtReader *reader, int64 rows, TimestampTz started);

/* mt_verify_read compares ranges of a run at one point. */
void
mt_verify_read(int32 migration_id, const MtVerifyOrder *order)
{
	MtReader	reader = {.order = order};
	MtRange		range;

	open_reader(&reader, migration_id);
	while (GetCurrentTimestamp() < reader.until && take_range(&reader, &range))
	{
		if (!try_range(&reader, &range))
			mt_remote_run(reader.remote, "ROLLBACK");
		MemoryContextReset(reader.context);
	}
	mt_remote_close(reader.remote);
}

static void
open_reader(MtReader *reader, int32 migration_id)
{
	int			workers;
	MtRows	   *there;
	MtSpiScope	scope;
	char	   *here;

	mt_xact_begin();
	reader->migration = mt_migration_by_id(migration_id, false);
	reader->until = reader->order->point + mt_option_microseconds(migration_id, "verify_snapshot_limit");
	workers = Min(mt_option_integer(migration_id, "verify_workers"), mt_option_integer(migration_id, "copy_workers"));
	reader->rate = (double) mt_option_integer(migration_id, "verify_rate") / workers;
	reader->context = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers range", ALLOCSET_DEFAULT_SIZES);
	reader->remote = mt_remote_open(reader->migration);
	/* A range is read by its index on both sides, by one process: what is planned must not depend on statistics. */
	mt_remote_run(reader->remote, "SET enable_seqscan = off; SET max_parallel_workers_per_gather = 0; SET jit = off");
	there = mt_remote_query(reader->remote, mt_verify_sql_hashes(), MT_NO_PARAMS);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, mt_verify_sql_hashes(), MT_NO_ARGS);
	here = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	reader->same_hash = strcmp(here, there->values[0][0]) == 0;
	mt_xact_commit();
}

/*
 * take_range takes a range that is left over, or the next one of a table; false when there is none.
 *
 * Where the table cannot be read to find where the range ends, it goes to the end: whoever reads it is told why.
 */
static bool
take_range(MtReader *reader, MtRange *range)
{
	ErrorData  *volatile error = NULL;
	volatile bool found = false;

	CHECK_FOR_INTERRUPTS();
	MemoryContextSwitchTo(reader->context);
	memset(range, 0, sizeof(*range));
	PG_TRY();
	{
		found = try_take(reader, range, true);
	}
	PG_CATCH();
	{
		error = mt_xact_abort(reader->context);
	}
	PG_END_TRY();
	if (error == NULL)
		return found;
	if (is_final(error->sqlerrcode))
		return try_take(reader, range, false);
	if (range->verification != 0)
	{
		mt_xact_begin();
		mt_verification_note(range->verification, mt_error_text(error));
		mt_xact_commit();
	}
	ReThrowError(error);
}

static bool
try_take(MtReader *reader, MtRange *range, bool cut)
{
	bool		found;

	mt_xact_begin();
	found = mt_range_take(reader->order->run, reader->order->point, range);
	if (found && range->doubtful)
		range->suspects = mt_suspect_list(range);
	if (!found && !reader->order->back && mt_range_next(reader->order->run, range))
	{
		if (cut)
			cut_range(reader, range);
		mt_range_give(range);
		found = true;
	}
	mt_xact_commit();
	return found;
}

/* cut_range finds where the next range ends, by the source's index and as the table is now. */
static void
cut_range(MtReader *reader, MtRange *range)
{
	MtRelation *relation = mt_relation_by_id(range->relation, false);
	MtVerifyTable *table;
	MtKeyRange	keys = {.low = range->low};
	const char **params;
	int			nparams;
	MtRows	   *rows;

	if (relation->name[0] == '\0' || strcmp(relation->state, "syncing") != 0)
		return;
	table = mt_verify_describe(relation, reader->migration->owner);
	range->nkeys = table->nkeys;
	nparams = mt_verify_params(table, &keys, psprintf(INT64_FORMAT, range->rows), &params);
	rows = mt_verify_local(table, mt_verify_sql_cut(table, false, &keys), nparams, params);
	range->high = rows->count > 0 ? rows->values[0] : NULL;
}

/* try_range compares a range and stores its outcome; false when its table cannot be compared. */
static bool
try_range(MtReader *reader, MtRange *range)
{
	MtOutcome	outcome = {.point = reader->order->point};
	TimestampTz started = GetCurrentTimestamp();
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		read_range(reader, range, &outcome);
	}
	PG_CATCH();
	{
		error = mt_xact_abort(reader->context);
	}
	PG_END_TRY();
	mt_xact_begin();
	if (error == NULL && range->doubtful)
		mt_suspect_settle(range, &outcome);
	else if (error == NULL)
		mt_range_finish(range, &outcome);
	else if (is_final(error->sqlerrcode))
		mt_verification_fail(range->verification, mt_error_text(error));
	else
		mt_verification_note(range->verification, mt_error_text(error));
	mt_xact_commit();
	if (error != NULL && (!is_final(error->sqlerrcode) || !mt_remote_usable(reader->remote)))
		ReThrowError(error);
	throttle(reader, outcome.source_rows, started);
	return error == NULL;
}

/* read_range compares a range, or looks at its suspects again, in a transaction at the point on both sides. */
static void
read_range(MtReader *reader, MtRange *range, MtOutcome *outcome)
{
	MtKeyRange	keys = {range->low, range->high};
	TimestampTz started = GetCurrentTimestamp();
	MtVerifyTable *table = begin_reading(reader, range);

	if (range->doubtful)
		look_again(reader, table, range, outcome);
	else
		mt_compare_range(table, reader->remote, &keys, range->rows, outcome);
	check_intact(reader, table);
	outcome->mark = mt_mark_format(mt_mark_from_snapshot(GetActiveSnapshot()));
	outcome->microseconds = GetCurrentTimestamp() - started;
	mt_remote_run(reader->remote, "COMMIT");
	mt_xact_commit();
}

/* look_again judges rows that differed at an earlier point while a change was on its way. */
static void
look_again(MtReader *reader, const MtVerifyTable *table, const MtRange *range, MtOutcome *outcome)
{
	MtSuspects	suspects = {.table = table, .remote = reader->remote, .outcome = outcome};

	suspects.context = CurrentMemoryContext;
	mt_judge_again(&suspects, range->suspects);
	outcome->target_rows = suspects.extra - suspects.missing;
}

/* begin_reading begins the transactions at the point, and describes the table as it is in them. */
static MtVerifyTable *
begin_reading(MtReader *reader, MtRange *range)
{
	MtVerifyTable *table;
	char	   *why;

	mt_point_begin(reader->order->source);
	mt_remote_run(reader->remote, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	mt_remote_run(reader->remote, psprintf("SET TRANSACTION SNAPSHOT %s", quote_literal_cstr(reader->order->target)));
	table = mt_verify_describe(mt_relation_by_id(range->relation, false), reader->migration->owner);
	table->same_hash = reader->same_hash;
	range->nkeys = table->nkeys;
	why = unfit(reader, table);
	if (why == NULL)
		why = unfit_on_target(reader, table);
	if (why != NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg_internal("%s", why)));
	learn_queue(reader, table);
	return table;
}

/*
 * learn_queue finds out where the target notes what it has for us, and how much of it is here.
 *
 * The mark is the one that the source's snapshot shows: it was stored with the rows that came with it.
 */
static void
learn_queue(MtReader *reader, MtVerifyTable *table)
{
	char	   *mark = mt_reverse_mark_seen(reader->migration->id);

	if (!mt_migration_by_id(reader->migration->id, false)->reversing)
		return;
	table->queue = mt_sql_queue_name(reader->migration, table->relation);
	/* Nothing of it is here where nothing ever came. */
	table->reverse_mark = mark ? mark : "1:1:";
	table->back = reader->order->back;
}

/* unfit says why a table cannot be compared at this point, as the source tells; or NULL. */
static char *
unfit(MtReader *reader, MtVerifyTable *table)
{
	MtSpiScope	scope;
	char	   *why;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT CASE WHEN r.tier <> 'realtime' THEN 'its tier is ' || r.tier"
				" WHEN EXISTS (SELECT FROM migrate_tiers.disarmed AS d WHERE d.relation = r.id)"
				"  THEN 'it is to be copied again: the queue has reached queue_limit'"
				" WHEN r.state <> 'syncing' THEN 'it does not follow yet: its state is ' || r.state END"
				" FROM migrate_tiers.relation AS r WHERE r.id = $1",
				MT_ARGS(MT_INT4(table->relation->id)));
	why = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return why;
}

/* unfit_on_target does the same for the target, and learns what the table is like there. */
static char *
unfit_on_target(MtReader *reader, MtVerifyTable *table)
{
	StringInfoData columns;
	StringInfoData keys;
	MtRows	   *rows;

	initStringInfo(&columns);
	initStringInfo(&keys);
	for (int i = 0; i < table->relation->nkeys; i++)
		appendStringInfo(&keys, "%s%s", i ? ", " : "", quote_literal_cstr(table->relation->key_columns[i]));
	for (int i = 0; i < table->columns->count; i++)
		appendStringInfo(&columns, "%s%s", i ? ", " : "", quote_literal_cstr(table->columns->columns[i].name));
	rows = mt_remote_query(reader->remote,
						   psprintf("SELECT c.relkind = 'p', EXISTS (SELECT FROM migrate_tiers.joined AS j"
									"  WHERE j.migration = $1 AND j.relation = $2),"
									" (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a"
									"  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''"
									"  AND a.attname <> ALL (ARRAY[%s]::name[])),"
									" (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a"
									"  WHERE a.attrelid = c.oid AND NOT a.attnotnull AND a.attname = ANY (ARRAY[%s]::name[]))"
									" FROM pg_class AS c WHERE c.oid = $3::regclass",
									columns.data, keys.data),
						   MT_PARAMS(reader->migration->ident, psprintf("%d", table->relation->id),
									 mt_relation_target_name(table->relation)));
	if (rows->count == 0 || strcmp(rows->values[0][1], "t") != 0)
		return pstrdup("the target's table does not follow yet");
	table->relation->target_partitioned = strcmp(rows->values[0][0], "t") == 0;
	if (rows->values[0][2] && !mt_option_bool(reader->migration->id, "ignore_target_columns"))
		return psprintf("the target's table has columns of its own: %s (option ignore_target_columns)", rows->values[0][2]);
	if (rows->values[0][3])
		return psprintf("columns of the key can be null on the target: %s; set NOT NULL there", rows->values[0][3]);
	return NULL;
}

/* check_intact finds out whether what was read is what the snapshots stand for. */
static void
check_intact(MtReader *reader, const MtVerifyTable *table)
{
	MtBothRows	both = mt_verify_both(table, reader->remote, mt_verify_sql_intact(table, false),
									  mt_verify_sql_intact(table, true), MT_NO_PARAMS);

	if (strcmp(both.source->values[0][0], "t") != 0 || strcmp(both.target->values[0][0], "t") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("table \"%s\" was truncated or rewritten since the common point", table->relation->name)));
}

/* is_final says of which errors another attempt would be no better. */
static bool
is_final(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_FEATURE_NOT_SUPPORTED:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			return true;
		case ERRCODE_DATA_EXCEPTION:
			/* So a snapshot says that is not there any more. */
			return sqlerrcode != ERRCODE_INVALID_PARAMETER_VALUE;
		default:
			return false;
	}
}

/* throttle waits, holding nothing, until the rows read are what this reader's share of the rate allows. */
static void
throttle(const MtReader *reader, int64 rows, TimestampTz started)
{
	TimestampTz until = reader->rate > 0 ? started + (int64) ((double) rows / reader->rate * USECS_PER_SEC) : 0;
	long		left;

	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until)) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
