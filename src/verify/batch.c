/*
 * batch.c
 *	  Compares a batch table with the snapshot of its last push.
 *
 * The sender goes on to write its table, and nothing captures that: so the receiver
 * is compared with count and digest that the push took in the snapshot that it sent
 * (option batch_digest).  Both tables are read, since it is to be known, too, whether the sender has
 * moved on; and where both are the same now, no digest is needed.  Each is read in one snapshot, as a push does.
 *
 * Which rows differ can be told only while the sender still has what it sent, of a table with a key.
 *
 * A push that begins meanwhile makes what was read worthless: it is read again.
 */
#include "verify/batch.h"

#include "access/table.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/row.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/batch.h"
#include "catalog/identity.h"
#include "catalog/option.h"
#include "catalog/verification.h"
#include "endpoint/digest.h"
#include "endpoint/side.h"
#include "endpoint/statements.h"
#include "verify/compare.h"

/* How often it is read again. */
#define ATTEMPTS 3

typedef struct MtContents
{
	TimestampTz read;			/* when */
	char	   *shape;			/* hash of what was asked for */
	char	   *why;			/* the two sides cannot be compared, or NULL */
	char	  **source;			/* count and digest */
	char	  **target;
	MtOutcome	outcome;		/* with the rows that differ */
} MtContents;

static MtBatchRecord *read_record(int32 relation);
static void read_both(const MtMigration *migration, MtRelation *relation, const MtBatchRecord *record,
					  MtContents *contents);
static void find_rows(const MtMigration *migration, const MtRelation *relation, MtRemote *remote,
					  const MtBatchRecord *record, MtContents *contents);
static MtColumns *describe_columns(const MtRelation *relation);
static char *describe(const MtColumns *columns, MtContents *contents);
static char *look_there(const MtMigration *migration, MtRemote *remote, MtRelation *relation, const MtColumns *columns);
static char *hash_alike(MtRemote *remote);
static void judge(const MtMigration *migration, const MtRelation *relation, const MtVerifyOrder *order,
				  const MtBatchRecord *record, MtContents *contents);
static char *which_rows(const MtOutcome *outcome);
static bool is_same(char *const *contents, int64 rows, const char *digest);

/* mt_verify_batch compares one table. */
void
mt_verify_batch(const MtMigration *migration, MtRelation *relation, const MtVerifyOrder *order)
{
	MtBatchRecord *record = read_record(relation->id);
	char	   *why = record->why;

	for (int i = 0; i < ATTEMPTS && why == NULL; i++)
	{
		MtContents	contents = {0};
		MtBatchRecord *later;

		read_both(migration, relation, record, &contents);
		later = read_record(relation->id);
		if (contents.why == NULL && record->digest != NULL && strcmp(contents.shape, record->shape) != 0)
			contents.why = pstrdup("its columns have changed since it was pushed");
		if (later->id == record->id && contents.why == NULL)
		{
			judge(migration, relation, order, record, &contents);
			return;
		}
		record = later;
		why = contents.why ? contents.why : record->why;
	}
	mt_xact_begin();
	mt_verification_refuse(migration->id, relation->id, order->run, order->scheduled,
						   why ? why : "it was pushed again and again while it was read");
	mt_xact_commit();
}

static MtBatchRecord *
read_record(int32 relation)
{
	MtBatchRecord *record;

	mt_xact_begin();
	record = mt_batch_record(relation);
	mt_xact_commit();
	return record;
}

/* read_both reads count and digest of the table on both sides at once. */
static void
read_both(const MtMigration *migration, MtRelation *relation, const MtBatchRecord *record, MtContents *contents)
{
	MtSide		here = {.owner = migration->owner, .relid = relation->relid};
	MtSide		there = {NULL};
	MtRows	   *source;
	MtRows	   *target;
	MtColumns  *columns;
	char	   *digest;

	mt_xact_begin();
	there.remote = mt_remote_open(migration);
	columns = describe_columns(relation);
	digest = describe(columns, contents);
	mt_xact_commit();
	mt_remote_run(there.remote, "SET max_parallel_workers_per_gather = 0; SET jit = off");
	contents->why = look_there(migration, there.remote, relation, columns);
	if (contents->why == NULL)
		contents->why = hash_alike(there.remote);
	contents->read = GetCurrentTimestamp();
	mt_side_begin_reading(&here, relation->relid, NULL);
	mt_side_begin_reading(&there, InvalidOid, mt_relation_target_sql(relation));
	mt_side_query_both(&here, mt_sql_table_digest(digest, mt_relation_source_name(relation)), &source,
					   &there, mt_sql_table_digest(digest, mt_sql_receiver_rows(relation)), &target);
	contents->source = source->values[0];
	contents->target = target->values[0];
	find_rows(migration, relation, there.remote, record, contents);
	mt_side_commit(&there);
	mt_side_commit(&here);
	mt_remote_close(there.remote);
}

/* find_rows lists the rows that differ, in the same two snapshots, where that says which rows of the push do. */
static void
find_rows(const MtMigration *migration, const MtRelation *relation, MtRemote *remote, const MtBatchRecord *record,
		  MtContents *contents)
{
	char	  **sender = record->reverse ? contents->target : contents->source;
	char	  **receiver = record->reverse ? contents->source : contents->target;
	int64		rows = strtoll(sender[0], NULL, 10);
	MtIdentity *key = mt_identity_find(relation->relid);
	MtRelation *keyed;
	MtVerifyTable *table;
	MtKeyRange	all = {NULL, NULL};

	if (key == NULL || record->digest == NULL || contents->why != NULL ||
		!is_same(sender, record->rows, record->digest) || is_same(receiver, rows, sender[1]))
		return;
	/* A batch table has none on record. */
	keyed = palloc(sizeof(MtRelation));
	*keyed = *relation;
	keyed->nkeys = key->ncolumns;
	keyed->key_columns = key->columns;
	keyed->key_operators = key->operators;
	table = mt_verify_describe(keyed, migration->owner);
	table->same_hash = true;
	mt_compare_range(table, remote, &all, rows, &contents->outcome);
	contents->outcome.nkeys = key->ncolumns;
}

static MtColumns *
describe_columns(const MtRelation *relation)
{
	Relation	table = table_open(relation->relid, AccessShareLock);
	MtColumns  *columns = mt_columns_describe(RelationGetDescr(table));

	table_close(table, NoLock);
	return columns;
}

/* describe gives the expression that stands for a row, and its hash. */
static char *
describe(const MtColumns *columns, MtContents *contents)
{
	char	   *digest = mt_sql_row_digest(columns, "t.");
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT md5($1)", MT_ARGS(MT_TEXT(digest)));
	contents->shape = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return digest;
}

/*
 * look_there asks what the target's table is: of one that is partitioned its partitions are read, too.  Returns why its
 * rows cannot be those of the source, or NULL.
 */
static char *
look_there(const MtMigration *migration, MtRemote *remote, MtRelation *relation, const MtColumns *columns)
{
	char	   *name = mt_relation_target_name(relation);
	StringInfoData names;
	MtRows	   *rows;
	bool		ignored;

	initStringInfo(&names);
	for (int i = 0; i < columns->count; i++)
		appendStringInfo(&names, "%s%s", i ? ", " : "", quote_literal_cstr(columns->columns[i].name));
	rows = mt_remote_query(remote,
						   psprintf("SELECT c.relkind = 'p', (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)"
									"  FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
									"  AND a.attgenerated = '' AND a.attname <> ALL (ARRAY[%s]::name[]))"
									" FROM pg_class AS c WHERE c.oid = pg_catalog.to_regclass($1)",
									names.data),
						   MT_PARAMS(name));
	if (rows->count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the target has no table %s", name)));
	relation->target_partitioned = rows->values[0][0][0] == 't';
	mt_xact_begin();
	ignored = mt_option_bool(migration->id, "ignore_target_columns");
	mt_xact_commit();
	if (rows->values[0][1] == NULL || ignored)
		return NULL;
	return psprintf("the target's table has columns of its own: %s (option ignore_target_columns)", rows->values[0][1]);
}

/* hash_alike says why digests of the two servers say nothing; or NULL. */
static char *
hash_alike(MtRemote *remote)
{
	MtRows	   *there = mt_remote_query(remote, mt_verify_sql_hashes(), MT_NO_PARAMS);
	MtSpiScope	scope;
	char	   *here;

	mt_xact_begin();
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, mt_verify_sql_hashes(), MT_NO_ARGS);
	here = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	mt_xact_commit();
	return strcmp(here, there->values[0][0]) == 0 ? NULL : pstrdup("the two servers hash in different ways");
}

/*
 * judge stores the verdict: whether the receiver has what was sent, or at least what the sender has now.
 *
 * Where the push kept no digest, and the sender has other rows now, nothing is known; nor is it where the receiver
 * of the push writes the table itself now, since the phase has turned.
 */
static void
judge(const MtMigration *migration, const MtRelation *relation, const MtVerifyOrder *order,
	  const MtBatchRecord *record, MtContents *contents)
{
	MtOutcome  *outcome = &contents->outcome;
	char *const *sender = record->reverse ? contents->target : contents->source;
	char *const *receiver = record->reverse ? contents->source : contents->target;
	bool		kept = record->digest != NULL;
	bool		as_sent = kept && is_same(receiver, record->rows, record->digest);
	bool		as_now = is_same(receiver, strtoll(sender[0], NULL, 10), sender[1]);
	const char *moved = kept && is_same(sender, record->rows, record->digest) ? "not " : "";
	const char *side = record->reverse ? "target" : "source";
	MtPhase		phase;
	bool		turned;
	const char *verdict;
	char	   *detail;

	mt_xact_begin();
	phase = mt_migration_by_id(migration->id, false)->phase;
	turned = record->reverse != (phase >= MT_READ_TARGET);
	verdict = as_sent || as_now ? "equal" : kept && !turned ? "different" :
		"unknown";
	if (as_sent)
		detail = psprintf("as the push of %s sent it; since then the %s has %schanged", record->taken, side, moved);
	else if (as_now)
		detail = psprintf("%sas the %s is now", kept ? psprintf("not as the push of %s sent it, but ", record->taken) : "", side);
	else if (turned)
		detail = psprintf("the %s computes it since phase %s began, and no push from there was applied yet",
						  record->reverse ? "source" : "target", mt_phase_name(phase));
	else if (kept)
		detail = psprintf("not as the push of %s sent it; since then the %s has %schanged%s"
						  " Call migrate_tiers.push_batch to send it again",
						  record->taken, side, moved, which_rows(outcome));
	else
		detail = psprintf("not as the %s is now, and the push of %s kept no digest to compare with."
						  " Set option batch_digest to on, and push it again",
						  side, record->taken);
	outcome->point = contents->read;
	outcome->source_rows = strtoll(contents->source[0], NULL, 10);
	outcome->target_rows = strtoll(contents->target[0], NULL, 10);
	mt_verification_store(migration->id, relation->id, order->run, order->scheduled, verdict, outcome, detail);
	mt_xact_commit();
}

/* which_rows says where the rows that differ are, if they are known. */
static char *
which_rows(const MtOutcome *outcome)
{
	int			kept = list_length(outcome->discrepancies);

	if (outcome->different_rows == 0)
		return pstrdup("; which rows differ cannot be told.");
	if (kept < outcome->different_rows)
		return psprintf("; %d of the rows that differ are in discrepancies.", kept);
	return pstrdup("; the rows that differ are in discrepancies.");
}

static bool
is_same(char *const *contents, int64 rows, const char *digest)
{
	return strtoll(contents[0], NULL, 10) == rows && strcmp(contents[1], digest) == 0;
}
