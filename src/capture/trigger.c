/*
 * trigger.c
 *	  The capture trigger: runs inside the transactions of applications.
 *
 * It notes which key changed, not what it became: memory and, seldom, the local
 * queue are all that it touches, never the network.  What it has to know of a
 * table it reads from our catalog once in a session, and again when the table
 * was altered; the trigger of rows has no arguments, since the server copies
 * these for every statement.
 *
 * TRUNCATE is captured BEFORE, since a partition whose bound says nothing
 * portable (hash) is captured key by key, which needs the rows.
 */
#include "base/compat.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_partitioned_table.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/pin.h"
#include "base/spi.h"
#include "capture/attach.h"
#include "capture/buffer.h"
#include "capture/fence.h"
#include "catalog/applying.h"
#include "catalog/key.h"

#define RECENT_TABLES 64

/* How the names of the triggers begin that a migration makes. */
#define OWN_NAME "migrate_tiers_capture"

/* A table or partition as captured by this backend. */
typedef struct MtCaptured
{
	Oid			relid;			/* hash key */
	Oid			trigger;
	bool		valid;
	int32		migration;
	int32		relation;
	bool		idle;			/* not captured: the trigger came with a dump of a database where it was */
	bool		whole;			/* no partition of the captured table, but all of it */
	bool		past;			/* can be written past its own statement triggers, which are the fence */
	Oid			all;			/* the captured table that this is, or is a partition of */
	/* Where it was emptied as a whole; its locks last at least as long as that (sub)transaction. */
	FullTransactionId emptied;
	SubTransactionId emptied_at;
	MtKeyDesc	key;
} MtCaptured;

static HTAB *captured_tables = NULL;
static Oid	migration_table = InvalidOid;	/* whose invalidation may be the end of idleness */
static MtCaptured *recent[RECENT_TABLES];	/* by the OID, which is cheaper than the hash table */
static StringInfoData key_bytes;

PG_FUNCTION_INFO_V1(mt_capture);
PGDLLEXPORT Datum mt_capture(PG_FUNCTION_ARGS);

static void check_event(const TriggerData *data);
static MtCaptured *get_captured(Relation relation, Trigger *trigger);
static void check_idle(Relation relation, const Trigger *trigger);
static void note_key(const MtCaptured *captured, TupleTableSlot *slot);
static void note_truncate(MtCaptured *captured, Relation relation);
static bool is_emptied_with_all(const MtCaptured *captured);
static bool has_hash_bound(Oid relid);
static void note_every_key(const MtCaptured *captured, Relation relation);
static void on_invalidation(Datum arg, Oid relid);

/* mt_capture_init prepares the caches; called once, when the library is loaded. */
void
mt_capture_init(void)
{
	HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(MtCaptured)};
	MemoryContext previous = MemoryContextSwitchTo(TopMemoryContext);

	captured_tables = hash_create("migrate_tiers captured tables", 64, &control, HASH_ELEM | HASH_BLOBS);
	initStringInfo(&key_bytes);
	MemoryContextSwitchTo(previous);
	CacheRegisterRelcacheCallback(on_invalidation, (Datum) 0);
	mt_buffer_init();
}

/* mt_capture notes the key of a changed row, or a TRUNCATE. */
Datum
mt_capture(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	MtCaptured *captured;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("migrate_tiers.capture() is a trigger function")));
	check_event(data);
	if (mt_capture_applying)
		return PointerGetDatum(NULL);
	captured = get_captured(data->tg_relation, data->tg_trigger);
	if (captured->idle)
		return PointerGetDatum(NULL);
	/* The lock comes before the look at the fence, so that who closes it waits for this writer, too. */
	if (captured->past)
		mt_fence_check(captured->migration, data->tg_relation);
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		note_truncate(captured, data->tg_relation);
	else if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
	{
		note_key(captured, data->tg_newslot);
		if (!mt_key_is_same(&captured->key, data->tg_trigslot, data->tg_newslot))
			note_key(captured, data->tg_trigslot);
	}
	else
		note_key(captured, data->tg_trigslot);
	return PointerGetDatum(NULL);
}

/*
 * check_event refuses what no trigger of ours fires for: anyone with the privilege TRIGGER may make others, also on
 * tables that are captured, and only AFTER ROW brings the rows that are to be noted.
 */
static void
check_event(const TriggerData *data)
{
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event) ? TRIGGER_FIRED_BEFORE(data->tg_event) :
		TRIGGER_FIRED_FOR_ROW(data->tg_event) && TRIGGER_FIRED_AFTER(data->tg_event))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("trigger \"%s\" on table \"%s\" was not made by migrate_tiers",
					data->tg_trigger->tgname, RelationGetRelationName(data->tg_relation)),
			 errdetail("migrate_tiers.capture() notes rows after they were changed, and TRUNCATE before."),
			 errhint("Drop the trigger.")));
}

/* get_captured returns what is known of a table, from the cache or the catalog. */
static MtCaptured *
get_captured(Relation relation, Trigger *trigger)
{
	Oid			relid = RelationGetRelid(relation);
	MtCaptured **slot = &recent[relid % RECENT_TABLES];
	MtCaptured *captured = *slot;

	if (captured != NULL && captured->relid == relid && captured->valid &&
		captured->trigger == trigger->tgoid)
		return captured;
	captured = hash_search(captured_tables, &relid, HASH_FIND, NULL);
	if (captured == NULL || !captured->valid || captured->trigger != trigger->tgoid)
	{
		MtRelationKey tagged;
		MtKeyDesc	key = {0};
		bool		found;
		bool		idle = !mt_relation_find_key(relid, &tagged);
		bool		past;

		if (idle)
			check_idle(relation, trigger);
		else
			mt_key_describe(&key, RelationGetDescr(relation), tagged.nkeys, tagged.key_columns);
		/* By a table above it, or by a subscription. */
		past = has_superclass(tagged.relid) || IsLogicalWorker();
		/* From here on nothing can fail: an entry that is half filled would be taken for whole. */
		captured = hash_search(captured_tables, &relid, HASH_ENTER, &found);
		captured->trigger = trigger->tgoid;
		captured->idle = idle;
		captured->migration = tagged.migration;
		captured->relation = tagged.id;
		captured->whole = tagged.relid == relid;
		captured->all = tagged.relid;
		captured->past = past;
		if (!found)
			captured->emptied = InvalidFullTransactionId;
		captured->key = key;
		captured->valid = true;
	}
	*slot = captured;
	return captured;
}

/*
 * check_idle lets a trigger do nothing: a dump that is taken while a table is captured holds the triggers and no row
 * of ours, and what is restored from it is to be written, also while a migration captures other tables of it, or this
 * one not yet.  One by another name is nobody's work but a stranger's, which is told of while something is captured:
 * anyone may make one with the function, as a partition's are made.
 */
static void
check_idle(Relation relation, const Trigger *trigger)
{
	migration_table = mt_extension_table("migration");
	if (strncmp(trigger->tgname, OWN_NAME, strlen(OWN_NAME)) != 0 && mt_queue_exists())
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" on table \"%s\" was not made by migrate_tiers",
						trigger->tgname, RelationGetRelationName(relation)),
				 errdetail("No migration captures the table."),
				 errhint("Drop the trigger.")));
}

static void
note_key(const MtCaptured *captured, TupleTableSlot *slot)
{
	resetStringInfo(&key_bytes);
	mt_key_encode(&captured->key, slot, &key_bytes);
	mt_buffer_note(captured->migration, captured->relation, MT_ENTRY_KEY, key_bytes.data, key_bytes.len);
}

/* note_truncate notes that a table, or the part of it that a partition holds, is emptied. */
static void
note_truncate(MtCaptured *captured, Relation relation)
{
	if (captured->whole)
	{
		mt_buffer_note(captured->migration, captured->relation, MT_ENTRY_TRUNCATE, "", 0);
		captured->emptied = GetTopFullTransactionId();
		captured->emptied_at = GetCurrentSubTransactionId();
		return;
	}
	if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return;					/* its leaves are truncated with it, and say so themselves */
	mt_buffer_note(captured->migration, captured->relation, MT_ENTRY_TRUNCATE_PART,
				   (char *) &RelationGetRelid(relation), sizeof(Oid));
	if (is_emptied_with_all(captured))
		return;
	if (has_hash_bound(RelationGetRelid(relation)))
		note_every_key(captured, relation);
	else
	{
		/* A bound's text must not depend on the session of whoever truncates, nor on keywords: see base/name.h. */
		int			guc_level = mt_pin_begin();
		Datum		condition;
		bool		isnull;
		LOCAL_FCINFO(call, 1);

		(void) set_config_option("quote_all_identifiers", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
		call->args[0].value = ObjectIdGetDatum(RelationGetRelid(relation));
		call->args[0].isnull = false;
		condition = pg_get_partition_constraintdef(call);
		isnull = call->isnull;
		mt_pin_end(guc_level);
		if (isnull)
			mt_buffer_note(captured->migration, captured->relation, MT_ENTRY_TRUNCATE, "", 0);
		else
		{
			char	   *where = TextDatumGetCString(condition);

			mt_buffer_note(captured->migration, captured->relation, MT_ENTRY_TRUNCATE_WHERE, where, strlen(where));
		}
	}
}

/*
 * is_emptied_with_all says whether the whole table was emptied before in this (sub)transaction, which has had it
 * locked since: what a partition has now was written by itself, and noted.
 */
static bool
is_emptied_with_all(const MtCaptured *captured)
{
	const MtCaptured *all = hash_search(captured_tables, &captured->all, HASH_FIND, NULL);

	return all != NULL && FullTransactionIdEquals(all->emptied, GetTopFullTransactionIdIfAny()) &&
		all->emptied_at == GetCurrentSubTransactionId();
}

/* has_hash_bound says whether any level above a partition divides by hash. */
static bool
has_hash_bound(Oid relid)
{
	for (Oid table = mt_relation_parent(relid); OidIsValid(table); table = mt_relation_parent(table))
	{
		Relation	ancestor = relation_open(table, AccessShareLock);
		bool		hash = RelationGetPartitionKey(ancestor)->strategy == PARTITION_STRATEGY_HASH;

		relation_close(ancestor, NoLock);
		if (hash)
			return true;
	}
	return false;
}

/* note_every_key notes the keys of all rows of a partition that is about to be emptied. */
static void
note_every_key(const MtCaptured *captured, Relation relation)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(relation, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		note_key(captured, slot);
		CHECK_FOR_INTERRUPTS();
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
}

/* on_invalidation marks what is cached of a table as stale; it may come at any time. */
static void
on_invalidation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	MtCaptured *captured;

	if (OidIsValid(relid))
	{
		captured = hash_search(captured_tables, &relid, HASH_FIND, NULL);
		if (captured != NULL)
			captured->valid = false;
		if (relid != migration_table)
			return;
	}
	hash_seq_init(&status, captured_tables);
	while ((captured = hash_seq_search(&status)) != NULL)
		captured->valid = captured->valid && OidIsValid(relid) && !captured->idle;
}
