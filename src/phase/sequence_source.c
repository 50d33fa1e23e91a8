/*
 * sequence_source.c
 *	  Alters sequences of the source.
 *
 * A lock on a sequence waits for every transaction that drew a number from it,
 * and who draws one queues behind.  So those of one table are locked together
 * within one lock_timeout, in a transaction that asks the target for nothing
 * once it has them.
 */
#include "phase/sequence_source.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/lock.h"
#include "base/spi.h"

/* The sequences behind the columns of table $1; $2 is the owner of the migration. */
static const char uses_query[] =
	"WITH RECURSIVE tree(id, oid) AS (SELECT 0, $1 UNION SELECT 0, p.relid::oid FROM pg_partition_tree($1) p)," MT_SQL_SEQUENCE_USES
	" named AS (SELECT u.attname, c.oid, c.relname, c.relowner,"
	"  max(" MT_SQL_LOWEST("u.atttypid") ") AS lowest, min(" MT_SQL_HIGHEST("u.atttypid") ") AS highest"
																						  "  FROM uses u JOIN pg_class c ON c.oid = u.sequence GROUP BY 1, 2, 3, 4),"
																						  " own AS (SELECT q.seqrelid, coalesce(m.start, q.seqstart)::numeric AS start,"
																						  "  coalesce(m.increment, q.seqincrement)::numeric AS increment, coalesce(m.cycle, q.seqcycle) AS cycle"
																						  "  FROM pg_sequence q LEFT JOIN migrate_tiers.sequence m ON m.sequence = q.seqrelid)"
																						  " SELECT n.attname::text, n.oid, n.relname::text, n.oid::regclass::text, pg_has_role($2, n.relowner, 'USAGE'),"
																						  " o.increment < 0, o.cycle, o.increment::text, (2 * o.increment)::text, o.start::text, (o.start + o.increment)::text,"
																						  " n.lowest::text, n.highest::text FROM named n JOIN own o ON o.seqrelid = n.oid ORDER BY n.oid, n.attname";

/* The sequences that table $1 has let take turns; gone: it was dropped. */
static const char turns_query[] =
	"SELECT q.sequence, c.oid IS NULL FROM migrate_tiers.sequence q"
	" LEFT JOIN pg_class c ON c.oid = q.sequence AND c.relkind = 'S' WHERE q.relation = $1 ORDER BY q.sequence";

/* Whether column $2 of table $1 holds integers and leads an index that tells its ends. */
static const char indexed_query[] =
	"SELECT EXISTS (SELECT FROM pg_attribute a JOIN pg_index x ON x.indrelid = a.attrelid AND x.indkey[0] = a.attnum"
	" JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam"
	" WHERE a.attrelid = $1 AND a.attname = $2::name AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)"
	" AND x.indisvalid AND x.indpred IS NULL AND m.amname = 'btree')";

/* Where sequence $1 is, of direction $2; $3 is the furthest row, $4 and $5 are the ends of its column's type. */
static const char beyond_query[] =
	"WITH s AS (SELECT p.last_value::numeric - CASE WHEN p.is_called THEN 0 ELSE $2 END AS last,"
	" CASE WHEN $2 > 0 THEN least(q.seqmax, $5::numeric) ELSE greatest(q.seqmin, $4::numeric) END AS bound"
	" FROM pg_sequence q CROSS JOIN LATERAL migrate_tiers.sequence_position(q.seqrelid) p WHERE q.seqrelid = $1),"
	" r AS (SELECT $3::numeric AS last)"
	" SELECT CASE WHEN $2 * r.last > $2 * s.last AND abs(s.bound - s.last) <= 2 * $2 * (s.bound - r.last)"
	" THEN r.last ELSE s.last END::text FROM s, r WHERE s.last IS NOT NULL";

/* The furthest value that sequence $1 gave out, and whether it cycled. */
static const char given_query[] =
	"SELECT CASE WHEN p.is_called THEN p.last_value"
	" WHEN p.last_value <> q.begun THEN p.last_value - sign(q.increment)::bigint"
	" WHEN q.is_called THEN q.last_value END::text,"
	" (q.cycle AND sign(q.increment) * p.last_value < sign(q.increment) * q.begun)::text"
	" FROM migrate_tiers.sequence q CROSS JOIN LATERAL migrate_tiers.sequence_position(q.sequence) p"
	" WHERE q.sequence = $1 AND p.last_value IS NOT NULL";

static void run_block(MtSpiScope *scope, const char *body);
static void check_owned(const MtMigration *migration, const MtSourceSequence *sequence);
static char *furthest_row(const MtMigration *migration, const MtRelation *relation, const MtSourceSequence *sequence);
static bool has_ends(const MtRelation *relation, const char *column);

/* mt_source_sequences lists what is behind the columns of a table, whatever the transaction's snapshot. */
List *
mt_source_sequences(const MtMigration *migration, const MtRelation *relation)
{
	List	   *sequences = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec_latest(SPI_OK_SELECT, uses_query, MT_ARGS(MT_OID(relation->relid), MT_OID(migration->owner)));
	for (uint64 row = 0; row < count; row++)
	{
		MtSourceSequence *sequence = MemoryContextAlloc(scope.caller, sizeof(MtSourceSequence));
		MemoryContext spi;

		sequence->use.column = mt_spi_text(&scope, row, 1);
		sequence->use.sequence = (Oid) mt_spi_int8(row, 2);
		sequence->use.name = mt_spi_text(&scope, row, 3);
		sequence->use.full_name = mt_spi_text(&scope, row, 4);
		sequence->owned = mt_spi_bool(row, 5);
		sequence->descending = mt_spi_bool(row, 6);
		sequence->cycle = mt_spi_bool(row, 7);
		sequence->increment = mt_spi_text(&scope, row, 8);
		sequence->step = mt_spi_text(&scope, row, 9);
		sequence->begin = mt_spi_text(&scope, row, 10);
		sequence->target_begin = mt_spi_text(&scope, row, 11);
		sequence->lowest = mt_spi_text(&scope, row, 12);
		sequence->highest = mt_spi_text(&scope, row, 13);
		spi = MemoryContextSwitchTo(scope.caller);
		sequences = lappend(sequences, sequence);
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return sequences;
}

/* mt_source_sequences_interleave has the sequences of a table take turns; what they are is read under the lock. */
void
mt_source_sequences_interleave(const MtMigration *migration, const MtRelation *relation)
{
	List	   *oids = NIL;
	ListCell   *cell;
	MtSpiScope	scope;

	foreach(cell, mt_source_sequences(migration, relation))
	{
		check_owned(migration, (MtSourceSequence *) lfirst(cell));
		oids = list_append_unique_oid(oids, ((MtSourceSequence *) lfirst(cell))->use.sequence);
	}
	mt_lock_tables(oids, ShareRowExclusiveLock);
	foreach(cell, mt_source_sequences(migration, relation))
	{
		const MtSourceSequence *sequence = (MtSourceSequence *) lfirst(cell);
		MtTurn		turn = {
			.migration = psprintf("%d", migration->id),
			.relation = relation->id,
			.sequence = sequence->use.sequence,
			.source = sequence->use.sequence,
			.begin = sequence->begin,
			.step = sequence->step,
			.lowest = sequence->lowest,
			.highest = sequence->highest,
		};

		/* One that came behind a column after the lock is left to the target's step, which misses its row. */
		if (list_member_oid(oids, turn.sequence))
			run_block(&scope, mt_sequence_interleave_sql(true, &turn));
	}
}

static void
check_owned(const MtMigration *migration, const MtSourceSequence *sequence)
{
	if (!sequence->owned)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\", which owns migration \"%s\", does not own sequence %s",
						GetUserNameFromId(migration->owner, false), migration->name, sequence->use.full_name),
				 errhint("Run ALTER SEQUENCE %s OWNER TO %s.", sequence->use.full_name,
						 quote_identifier(GetUserNameFromId(migration->owner, false)))));
}

/* mt_source_turns lists the sequences that take turns. */
List *
mt_source_turns(int32 migration)
{
	List	   *turns = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec_latest(SPI_OK_SELECT,
							   "SELECT q.sequence FROM migrate_tiers.sequence AS q JOIN migrate_tiers.relation AS r ON r.id = q.relation"
							   " WHERE r.migration = $1 ORDER BY q.sequence",
							   MT_ARGS(MT_INT4(migration)));
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		turns = lappend_oid(turns, (Oid) mt_spi_int8(row, 1));
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return turns;
}

/* mt_source_sequences_prepare collects what gives the sequences of a table their settings again. */
MtSourceRestore *
mt_source_sequences_prepare(MtSourceRestore *so_far, const MtMigration *migration, const MtRelation *relation,
							MtRemote   *remote, bool in_turn)
{
	MtSourceRestore *restore = so_far ? so_far : palloc0(sizeof(MtSourceRestore));
	List	   *turns = NIL;
	ListCell   *cell;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec_latest(SPI_OK_SELECT, turns_query, MT_ARGS(MT_INT4(relation->id)));
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		turns = lappend_oid(turns, (Oid) mt_spi_int8(row, 1));
		if (!mt_spi_bool(row, 2))
			restore->present = lappend_oid(restore->present, (Oid) mt_spi_int8(row, 1));
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	foreach(cell, turns)
	{
		char	   *lapped = NULL;
		char	   *given = NULL;

		if (remote != NULL && in_turn)
			given = mt_target_sequence_reached(remote, migration, lfirst_oid(cell), &lapped);
		else if (remote != NULL)
			given = mt_target_sequence_given(remote, migration, lfirst_oid(cell), &lapped);
		restore->blocks = lappend(restore->blocks,
								  mt_sequence_restore_sql(true, psprintf("q.sequence = %u", lfirst_oid(cell)), true, given,
														  lapped, true));
	}
	return restore;
}

/* mt_source_sequences_restore does it, under locks that were got within one lock_timeout. */
void
mt_source_sequences_restore(const MtSourceRestore *restore)
{
	ListCell   *cell;
	MtSpiScope	scope;

	mt_lock_tables(restore->present, ShareRowExclusiveLock);
	foreach(cell, restore->blocks)
		run_block(&scope, (char *) lfirst(cell));
}

/*
 * mt_source_sequence_beyond returns the value that the target's sequence has to
 * begin after: the last that the source's gave out or a session holds, or the
 * furthest row that is there.  Rows that leave less than half of what is left
 * are no such bound: some applications keep rows with ids of their own far out.
 */
char *
mt_source_sequence_beyond(const MtMigration *migration, const MtRelation *relation, const MtSourceSequence *sequence)
{
	char	   *row = sequence->cycle ? NULL : furthest_row(migration, relation, sequence);
	char	   *beyond;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	if (mt_spi_exec_latest(SPI_OK_SELECT, beyond_query,
						   MT_ARGS(MT_OID(sequence->use.sequence), MT_INT4(sequence->descending ? -1 : 1), MT_TEXT(row),
								   MT_TEXT(sequence->lowest), MT_TEXT(sequence->highest))) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("sequence %s does not exist any more", sequence->use.full_name)));
	beyond = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return beyond;
}

/* furthest_row reads the last value that is in the column, as the table's owner; NULL where no index tells it. */
static char *
furthest_row(const MtMigration *migration, const MtRelation *relation, const MtSourceSequence *sequence)
{
	char	   *table = has_ends(relation, sequence->use.column) ? mt_table_lock_reading(relation->relid) : NULL;
	char	   *row;
	MtSpiScope	scope;

	if (table == NULL)
		return NULL;
	mt_spi_begin_table(&scope, migration->owner, relation->relid, false);
	mt_spi_exec_latest(SPI_OK_SELECT,
					   psprintf("SELECT %s(%s)::text FROM %s", sequence->descending ? "min" : "max",
								quote_identifier(sequence->use.column), table),
					   MT_NO_ARGS);
	row = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return row;
}

static bool
has_ends(const MtRelation *relation, const char *column)
{
	MtSpiScope	scope;
	bool		indexed;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, indexed_query, MT_ARGS(MT_OID(relation->relid), MT_TEXT(column)));
	indexed = mt_spi_bool(0, 1);
	mt_spi_end(&scope);
	return indexed;
}

/* mt_source_sequence_given returns the furthest value that a sequence gave out, in its turn or before it. */
char *
mt_source_sequence_given(Oid sequence, char **lapped)
{
	char	   *given = NULL;
	MtSpiScope	scope;

	*lapped = NULL;
	mt_spi_begin(&scope);
	if (mt_spi_exec_latest(SPI_OK_SELECT, given_query, MT_ARGS(MT_OID(sequence))) > 0)
	{
		given = mt_spi_text(&scope, 0, 1);
		*lapped = mt_spi_text(&scope, 0, 2);
	}
	mt_spi_end(&scope);
	return given;
}

/* run_block runs a block as the extension's owner, to whom our tables belong; the guard of DDL lets it pass. */
static void
run_block(MtSpiScope *scope, const char *body)
{
	mt_spi_begin(scope);
	(void) set_config_option("migrate_tiers.allow_ddl", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	mt_spi_exec(SPI_OK_UTILITY, psprintf("DO %s", quote_literal_cstr(body)), MT_NO_ARGS);
	mt_spi_end(scope);
}
