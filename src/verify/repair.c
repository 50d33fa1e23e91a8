/*
 * repair.c
 *	  Mends what a verification found: see repair.h.
 *
 * No row is written here.  The keys are noted in the queue of the side that is
 * right, as if their rows had been changed there: sync then makes the other side what
 * this one is, also where the row is absent.  So a row that changes meanwhile is no
 * special case, and one that both sides change is a conflict as ever.
 */
#include "verify/repair.h"

#include "access/table.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/errors.h"
#include "base/pin.h"
#include "base/spi.h"
#include "catalog/key.h"
#include "catalog/queue.h"
#include "endpoint/endpoint.h"
#include "endpoint/statements_queue.h"
#include "endpoint/twin.h"
#include "verify/table.h"

/* Keys of discrepancies that nobody has asked to be mended yet. */
typedef struct MtDamage
{
	int			count;
	char	 ***keys;			/* [row][column] */
} MtDamage;

/* Where a key column's text becomes a value. */
typedef struct MtKeyInput
{
	AttrNumber	attnum;
	FmgrInfo	function;
	Oid			param;
	int32		typmod;
} MtKeyInput;

static void check_tier(const MtRelation *relation);
static bool target_is_right(const MtMigration *migration, const char *side);
static void read_damage(const MtRelation *relation, MtDamage *damage);
static void note_on_source(const MtMigration *migration, const MtRelation *relation, const MtDamage *damage);
static void describe_input(Relation table, const MtRelation *relation, MtKeyInput *input);
static void note_on_target(const MtMigration *migration, const MtRelation *relation, const MtDamage *damage);

/* mt_repair_run has differing rows sent again, and counts them. */
int64
mt_repair_run(const MtMigration *migration, const MtRelation *relation, const char *side)
{
	bool		target = target_is_right(migration, side);
	MtDamage	damage = {0};
	MtSpiScope	scope;

	check_tier(relation);
	read_damage(relation, &damage);
	if (damage.count == 0)
		return 0;
	if (target)
		note_on_target(migration, relation, &damage);
	else
		note_on_source(migration, relation, &damage);
	mt_spi_begin(&scope);
	mt_spi_exec_latest(SPI_OK_UPDATE,
					   "UPDATE migrate_tiers.discrepancy SET repaired = clock_timestamp() WHERE relation = $1 AND repaired IS NULL"
					   " AND verification = (SELECT max(id) FROM migrate_tiers.verification WHERE relation = $1)",
					   MT_ARGS(MT_INT4(relation->id)));
	mt_spi_end(&scope);
	return damage.count;
}

/* check_tier refuses a table that sync does not mend: nobody reads a queue for it. */
static void
check_tier(const MtRelation *relation)
{
	const char *name = quote_qualified_identifier(relation->schema, relation->name);

	if (strcmp(relation->tier, "realtime") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s is tagged %s, and repair mends realtime tables", name, relation->tier),
				 strcmp(relation->tier, "batch") == 0 ?
				 errhint("A push mends it: SELECT migrate_tiers.push_batch(%s).", quote_literal_cstr(name)) : 0));
}

/* target_is_right says which side is right: the one that applications read, unless told otherwise. */
static bool
target_is_right(const MtMigration *migration, const char *side)
{
	if (side == NULL)
		return migration->phase == MT_READ_TARGET || migration->phase == MT_TARGET_ONLY;
	if (strcmp(side, "source") == 0)
		return false;
	if (strcmp(side, "target") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown side \"%s\"", side),
				 errhint("Sides are source and target.")));
	if (!migration->reversing)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("nothing is sent from the target to the source in phase %s", mt_phase_name(migration->phase)),
				 errhint("Call migrate_tiers.repair with side 'source', or change the rows here.")));
	return true;
}

/* read_damage reads what the table's last verification has found, whatever the caller's snapshot. */
static void
read_damage(const MtRelation *relation, MtDamage *damage)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	damage->count = (int) mt_spi_exec_latest(SPI_OK_SELECT,
											 "SELECT key FROM migrate_tiers.discrepancy WHERE relation = $1 AND repaired IS NULL"
											 " AND verification = (SELECT max(id) FROM migrate_tiers.verification WHERE relation = $1)"
											 " ORDER BY id",
											 MT_ARGS(MT_INT4(relation->id)));
	damage->keys = MemoryContextAllocHuge(scope.caller, sizeof(char **) * (damage->count + 1));
	for (int i = 0; i < damage->count; i++)
	{
		int			columns;

		damage->keys[i] = mt_spi_texts(&scope, i, 1, &columns);
		if (columns != relation->nkeys)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the key of table \"%s\" was changed since it was verified", relation->name),
					 errhint("Call migrate_tiers.verify() again.")));
	}
	mt_spi_end(&scope);
}

/* note_on_source puts the keys into the queue, in this transaction, as the capture trigger would. */
static void
note_on_source(const MtMigration *migration, const MtRelation *relation, const MtDamage *damage)
{
	Relation	table = table_open(relation->relid, AccessShareLock);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsVirtual);
	MtKeyInput *input = palloc0(sizeof(MtKeyInput) * relation->nkeys);
	MtKeyDesc	key;
	MtQueue		queue;
	StringInfoData entries;
	StringInfoData bytes;
	/* The caller's session is to read values as they were written. */
	int			guc_level = mt_pin_begin();

	if (!mt_queue_load(migration->id, &queue))
		elog(ERROR, "migration %d does not exist", migration->id);
	mt_key_describe(&key, RelationGetDescr(table), relation->nkeys, relation->key_columns);
	describe_input(table, relation, input);
	initStringInfo(&entries);
	initStringInfo(&bytes);
	ExecStoreAllNullTuple(slot);
	for (int i = 0; i < damage->count; i++)
	{
		for (int column = 0; column < relation->nkeys; column++)
		{
			slot->tts_isnull[input[column].attnum - 1] = false;
			slot->tts_values[input[column].attnum - 1] =
				InputFunctionCall(&input[column].function, damage->keys[i][column], input[column].param,
								  input[column].typmod);
		}
		resetStringInfo(&bytes);
		mt_key_encode(&key, slot, &bytes);
		if (entries.len > 0 && entries.len + bytes.len > MT_QUEUE_ROW_BYTES)
		{
			(void) mt_queue_insert(&queue, entries.data, entries.len);
			resetStringInfo(&entries);
		}
		mt_entry_append(&entries, relation->id, MT_ENTRY_KEY, bytes.data, bytes.len);
	}
	(void) mt_queue_insert(&queue, entries.data, entries.len);
	ExecDropSingleTupleTableSlot(slot);
	table_close(table, NoLock);
	mt_pin_end(guc_level);
}

static void
describe_input(Relation table, const MtRelation *relation, MtKeyInput *input)
{
	for (int i = 0; i < relation->nkeys; i++)
	{
		Oid			function;
		Form_pg_attribute attribute;

		input[i].attnum = get_attnum(RelationGetRelid(table), relation->key_columns[i]);
		attribute = TupleDescAttr(RelationGetDescr(table), input[i].attnum - 1);
		getTypeInputInfo(attribute->atttypid, &function, &input[i].param);
		fmgr_info(function, &input[i].function);
		input[i].typmod = attribute->atttypmod;
	}
}

/* note_on_target puts the keys into the target's queue, in a transaction of its own there. */
static void
note_on_target(const MtMigration *migration, const MtRelation *relation, const MtDamage *damage)
{
	MtVerifyTable *table = mt_verify_describe(mt_relation_by_id(relation->id, false), migration->owner);
	MtRemote   *remote = mt_twin_open(migration);
	StringInfoData insert;
	StringInfoData values;

	initStringInfo(&insert);
	initStringInfo(&values);
	for (int i = 0; i < relation->nkeys; i++)
	{
		appendStringInfo(&insert, ", k%d", i + 1);
		appendStringInfo(&values, ", $%d::%s", i + 1, table->key_types[i]);
	}
	mt_remote_run(remote, "BEGIN");
	for (int i = 0; i < damage->count; i++)
		(void) mt_remote_query(remote,
							   psprintf("INSERT INTO %s (kind%s) VALUES (0%s)",
										mt_sql_queue_name(migration, relation), insert.data, values.data),
							   relation->nkeys, (const char *const *) damage->keys[i]);
	(void) mt_remote_query(remote,
						   psprintf("INSERT INTO %s (xid, committed, application) VALUES (pg_current_xact_id(),"
									" clock_timestamp(), NULL)",
									mt_sql_writer_name(migration)),
						   MT_NO_PARAMS);
	mt_remote_run(remote, "COMMIT");
	mt_remote_close(remote);
}
