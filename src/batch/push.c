/*
 * push.c
 *	  One push from its beginning to its end: see push.h.
 *
 * Three transactions of this database: the push is noted, it is done, its end is noted.
 * Between the second and the third the receiver has the new snapshot and we do not
 * know it; then the row says that the push was cut off, and the next one finds
 * nothing to do.
 */
#include "batch/push.h"

#include "access/table.h"
#include "catalog/pg_class_d.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "base/errors.h"
#include "base/name.h"
#include "base/spi.h"
#include "base/xact.h"
#include "catalog/journal.h"
#include "catalog/option.h"
#include "endpoint/digest.h"
#include "endpoint/give_way.h"
#include "endpoint/statements.h"
#include "endpoint/twin.h"

/* How often lock_timeout is doubled for a push that somebody has asked for: see endpoint/give_way.h. */
#define ORDERED_PATIENCE 3

static MtPush *begin_push(const MtMigration *migration, int32 relation_id, MtBatch *batch);
static MtRemote *connect_target(const MtMigration *migration);
static void check_phase(const MtMigration *migration);
static void check_turn(const MtMigration *migration);
static void name_sides(MtPush *push);
static void check_empty(MtPush *push);
static void do_push(MtPush *push);
static void record_digest(MtPush *push);
static void describe(MtPush *push);
static void find_key(MtPush *push, bool view);
static void check_rights(const MtPush *push);
static void fail_push(const MtBatch *batch, ErrorData *error, bool gave_way);

/* mt_push_run pushes one table. */
void
mt_push_run(const MtMigration *migration, MtRemote **remote, int32 relation, int64 id, bool scheduled)
{
	MemoryContext context = CurrentMemoryContext;
	MtBatch    *batch = palloc0(sizeof(MtBatch));
	MtPush	   *push;
	int			patience;

	batch->id = id;
	batch->relation = relation;
	batch->scheduled = scheduled;
	push = begin_push(migration, relation, batch);
	/* What somebody has asked for is not given up at once; nor what was given up before. */
	patience = Max(batch->failures, scheduled ? 0 : ORDERED_PATIENCE);
	PG_TRY();
	{
		check_turn(migration);
		if (*remote == NULL || !mt_remote_usable(*remote))
			*remote = connect_target(migration);
		push->there.remote = *remote;
		mt_remote_set_patience(*remote, patience);
		do_push(push);
	}
	PG_CATCH();
	{
		ErrorData  *error = mt_xact_abort(context);
		bool		gave_way = *remote != NULL && mt_remote_gave_way(*remote);

		batch->bytes += batch->applied ? push->pace.bytes : 0;
		/* A server that has answered has not committed. */
		batch->maybe_applied = batch->maybe_applied && push->receiver == &push->there && !mt_remote_usable(*remote);
		if (*remote != NULL)
			mt_remote_close(*remote);
		*remote = NULL;
		fail_push(batch, error, gave_way);
		ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	batch->bytes += push->pace.bytes;
	mt_xact_begin();
	mt_batch_end(batch, NULL);
	mt_xact_commit();
}

/* begin_push reads what is to be done, and notes that it begins. */
static MtPush *
begin_push(const MtMigration *migration, int32 relation_id, MtBatch *batch)
{
	MtPush	   *push = palloc0(sizeof(MtPush));

	mt_xact_begin();
	push->migration = migration;
	push->relation = mt_relation_by_id(relation_id, false);
	push->policy = mt_policy_read(relation_id);
	push->batch = batch;
	push->keep_digest = mt_option_bool(migration->id, "batch_digest");
	push->pace.rate = mt_option_integer(migration->id, "copy_rate");
	push->here.owner = migration->owner;
	push->here.relid = push->relation->relid;
	batch->reverse = push->here.writes = migration->phase >= MT_READ_TARGET;
	batch->mode = push->policy->mode;
	check_phase(migration);
	if (strcmp(push->relation->tier, "batch") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s is tagged %s and not batch", mt_relation_target_name(push->relation),
						push->relation->tier)));
	if (batch->id == 0)
		batch->id = mt_batch_next_id();
	batch->failures = mt_batch_failures(relation_id, batch->reverse);
	/* Asked before this push is noted, which may then have filled the table, too. */
	push->may_replace = batch->reverse || mt_batch_has_filled(relation_id) || mt_option_bool(migration->id, "overwrite");
	mt_batch_begin(batch);
	mt_xact_commit();
	return push;
}

/* connect_target opens a session whose statements are as those of this process. */
static MtRemote *
connect_target(const MtMigration *migration)
{
	MtRemote   *remote;

	mt_xact_begin();
	remote = mt_twin_open(migration);
	mt_xact_commit();
	mt_remote_run(remote, "SET session_replication_role = replica; SET max_parallel_workers_per_gather = 0; SET jit = off");
	/* A whole table would be sorted for an aggregate that takes few of its rows. */
	mt_remote_run(remote, "SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'enable_presorted_aggregate'");
	return remote;
}

static void
check_phase(const MtMigration *migration)
{
	if (migration->phase == MT_PLANNED || migration->phase == MT_FINISHED)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("nothing is pushed in phase %s", mt_phase_name(migration->phase)),
				 migration->phase == MT_FINISHED ?
				 errhint("It is at its end; SELECT migrate_tiers.drop_migration() forgets it.") :
				 errhint("Go on with CALL migrate_tiers.advance('syncing').")));
}

/* check_turn refuses to guess who is to send while a transition that turns that was cut off, or has just begun. */
static void
check_turn(const MtMigration *migration)
{
	MtPhase		from;
	MtPhase		to;

	mt_xact_begin();
	if (mt_journal_open(migration, &from, &to) && (from >= MT_READ_TARGET) != (to >= MT_READ_TARGET))
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("nothing is pushed while the transition from %s to %s has not ended", mt_phase_name(from),
						mt_phase_name(to)),
				 errdetail("It says which side pushes its tables to the other."),
				 errhint("If it was cut off: CALL migrate_tiers.%s('%s') goes on with it, %s('%s') undoes it.",
						 to > from ? "advance" : "revert", mt_phase_name(to),
						 to > from ? "revert" : "advance", mt_phase_name(from))));
	mt_xact_commit();
}

/* do_push sends one snapshot and has it applied. */
static void
do_push(MtPush *push)
{
	MtBatch    *batch = push->batch;

	name_sides(push);
	check_empty(push);
	if (push->sender == &push->there)
	{
		mt_xact_begin();
		describe(push);
		mt_xact_commit();
	}
	batch->snapshot_time = GetCurrentTimestamp();
	mt_side_begin_reading(push->sender, push->relation->relid, mt_relation_target_sql(push->relation));
	if (push->sender == &push->here)
		describe(push);
	if (strcmp(batch->mode, "refresh") == 0)
		mt_push_refresh(push);
	else if (strcmp(batch->mode, "replace") == 0)
		mt_push_replace(push);
	else if (strcmp(batch->mode, "append") == 0)
		mt_push_append(push);
	else
		mt_push_diff(push);
	record_digest(push);
	mt_side_commit(push->sender);
	if (push->afterwards != NULL)
		mt_side_manage(push->noting, push->afterwards);
	if (batch->sender_rows == 0)
		batch->note = psprintf("the sender's table was empty in the snapshot; " INT64_FORMAT " rows were deleted",
							   batch->deleted);
}

/* record_digest keeps what a verification compares the receiver with: a digest of the snapshot that was sent. */
static void
record_digest(MtPush *push)
{
	MtBatch    *batch = push->batch;

	/* A receiver that computes the rows itself need not have those of the sender. */
	if (!push->keep_digest || strcmp(batch->mode, "refresh") == 0)
		return;
	batch->shape = push->digest;
	batch->digest = mt_side_query(push->sender, mt_sql_table_digest(push->digest, push->from))->values[0][1];
}

/* name_sides says who sends to whom in this phase, and what the table is called on each side. */
static void
name_sides(MtPush *push)
{
	const MtRelation *relation = push->relation;
	char	   *source = quote_qualified_identifier(relation->schema, relation->name);
	char	   *target = mt_relation_target_name(relation);
	char	   *source_rows = mt_relation_source_name(relation);
	char	   *target_rows;
	MtRows	   *kind;

	kind = mt_remote_query(push->there.remote, "SELECT relkind FROM pg_class WHERE oid = pg_catalog.to_regclass($1)",
						   MT_PARAMS(target));
	if (kind->count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the target has no table %s", target),
				 errhint("Create it there, or name another one: SELECT migrate_tiers.tag(%s, 'batch', target => 'schema.table').",
						 quote_literal_cstr(source))));
	target_rows = psprintf("%s%s", kind->values[0][0][0] == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
						   mt_relation_target_sql(relation));
	push->sender = push->batch->reverse ? &push->there : &push->here;
	push->receiver = push->batch->reverse ? &push->here : &push->there;
	push->sender_name = push->batch->reverse ? target : source;
	push->from = push->batch->reverse ? target_rows : source_rows;
	push->to = push->batch->reverse ? source_rows : target_rows;
	push->into = push->batch->reverse ? source : target;
	push->into_sql = push->batch->reverse ? mt_name_qualify(relation->schema, relation->name) :
		mt_relation_target_sql(relation);
	if (!push->batch->reverse && kind->values[0][0][0] == RELKIND_MATVIEW)
		push->batch->mode = "refresh";
}

/* check_empty refuses rows of the target that no push has brought, as preflight does before syncing. */
static void
check_empty(MtPush *push)
{
	if (push->may_replace || strcmp(push->batch->mode, "refresh") == 0 ||
		mt_side_query(push->receiver, psprintf("SELECT EXISTS (SELECT FROM %s)", push->to))->values[0][0][0] == 'f')
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s has rows on the target, and nothing was pushed into it yet", push->into),
			 errhint("Empty it there, or allow it: SELECT migrate_tiers.set_option('overwrite', 'on').")));
}

/*
 * describe reads what our catalogs know, since no transaction of ours may be open later: the columns are
 * the source's.
 */
static void
describe(MtPush *push)
{
	Relation	table;
	bool		view;
	Oid			role;

	check_rights(push);
	table = table_open(push->relation->relid, AccessShareLock);
	view = table->rd_rel->relkind == RELKIND_MATVIEW;
	push->columns = mt_columns_describe(RelationGetDescr(table));
	table_close(table, AccessShareLock);
	if (view && push->batch->reverse)
		push->batch->mode = "refresh";
	mt_push_check_columns(push);
	push->digest = mt_sql_row_digest(push->columns, "t.");
	role = mt_spi_table_role(push->migration->owner, push->relation->relid, push->here.writes);
	push->owner = pstrdup(quote_identifier(GetUserNameFromId(role, false)));
	if (strcmp(push->batch->mode, "append") == 0)
		push->mark_type = mt_sql_type(mt_push_watermark(push)->type);
	find_key(push, view);
}

/* find_key finds what identifies a row: mode diff cannot do without, mode replace can. */
static void
find_key(MtPush *push, bool view)
{
	bool		diff = strcmp(push->batch->mode, "diff") == 0;

	if (!diff && strcmp(push->batch->mode, "replace") != 0)
		return;
	push->key = mt_push_find_key(push, diff);
	if (push->key == NULL || !view || !mt_push_has_null_keys(push))
		return;
	if (diff)
		mt_push_refuse_nulls(push);
	push->key = NULL;
}

/* check_rights refuses a table that the migration's owner may not read whole. */
static void
check_rights(const MtPush *push)
{
	Oid			relid = push->relation->relid;
	AclMode		needed = push->batch->reverse ? ACL_SELECT | ACL_INSERT | ACL_UPDATE | ACL_DELETE : ACL_SELECT;

	if (pg_class_aclmask(relid, push->migration->owner, needed, ACLMASK_ALL) != needed)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relid));
	if (check_enable_rls(relid, push->migration->owner, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security hides rows of table %s from the owner of the migration",
						mt_table_name(relid)),
				 errhint("Let the migration belong to a role with BYPASSRLS.")));
}

/* mt_push_commit has the receiver commit; what fails from here on does not take back what was applied. */
void
mt_push_commit(MtPush *push)
{
	push->batch->maybe_applied = true;
	mt_remote_set_patience(push->there.remote, MT_MOST_PATIENCE);
	mt_side_commit(push->receiver);
	push->batch->applied = true;
}

/* fail_push notes why a push failed, or what failed after it; what could not be locked is tried again later. */
static void
fail_push(const MtBatch *batch, ErrorData *error, bool gave_way)
{
	MtBatch		failed = *batch;
	char	   *text = mt_error_text(error);

	if (batch->applied)
		failed.note = psprintf("it was applied; what was to be done after that failed: %s", text);
	else if (batch->maybe_applied)
		text = psprintf("57P01: the push was cut off; whether it was applied is not known: %s", text);
	else if (gave_way)
		failed.note = pstrdup("postponed: somebody waited for the table that the push reads, and the target was silent");
	else if (mt_error_is_lock(error))
		failed.note = pstrdup("postponed: somebody holds a lock on the table that the push needs");
	mt_xact_begin();
	mt_batch_end(&failed, batch->applied ? NULL : text);
	mt_xact_commit();
}

/* mt_push_columns lists the columns, each behind a prefix. */
char *
mt_push_columns(const MtPush *push, const char *prefix)
{
	return mt_columns_list(push->columns, prefix);
}
