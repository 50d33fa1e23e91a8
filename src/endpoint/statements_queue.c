/*
 * statements_queue.c
 *	  The SQL of what only happens while both sides are written: reading the
 *	  queue of the target, looking for rows that both sides changed, and keeping
 *	  the one that lost.  See statements_queue.h.
 *
 * A queue on the target has a table of its own for each table: xid, noted, kind,
 * condition, and the key's columns k1, k2, ...  An entry is unsent where the mark
 * does not see its transaction.
 */
#include "endpoint/statements_queue.h"

#include "catalog/pg_type_d.h"
#include "utils/builtins.h"

#include "base/name.h"
#include "endpoint/statements.h"
#include "endpoint/target_capture.h"

/*
 * Entries that the mark in parameter 1 does not see: of transactions that began after it, or ran then.  Nothing else
 * is read: from the oldest that ran on, that would be all since it began, at each look; it may stay open for hours.
 */
#define UNSENT_SINCE "q.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax($1::pg_catalog.pg_snapshot)"
#define UNSENT_THEN \
	"q.xid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT pg_catalog.pg_snapshot_xip($1::pg_catalog.pg_snapshot)))"

/*
 * Where the log ends; a place right behind a page's header means the end of the page before, which
 * is all that a flush ever reaches.
 */
#define LOG_END \
	"(SELECT CASE WHEN l.at OPERATOR(pg_catalog.%%) l.page = 24 OR l.at OPERATOR(pg_catalog.%%) l.segment = 40" \
	" THEN l.lsn OPERATOR(pg_catalog.-) (l.at OPERATOR(pg_catalog.%%) l.page) ELSE l.lsn END" \
	" FROM (SELECT i.lsn, i.lsn OPERATOR(pg_catalog.-) '0/0'::pg_catalog.pg_lsn AS at," \
	" pg_catalog.current_setting('wal_block_size')::pg_catalog.numeric AS page," \
	" pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))::pg_catalog.numeric AS segment" \
	" FROM pg_catalog.pg_current_wal_insert_lsn() AS i(lsn)) AS l)"

static char *unsent(const char *table);
static const MtColumn *key_column(const MtRelation *relation, const MtColumns *columns, int number);
static char *as_text(const char *value);
static bool exact_in_jsonb(Oid type);
static char *forms(const MtColumns *columns, const char *prefix);
static char *key_forms(const MtRelation *relation, const MtColumns *columns);
static char *queue_match(const MtRelation *relation, const char *row);
static char *key_params(const MtRelation *relation, const MtColumns *columns);

/* mt_sql_queue_name names the queue of a table on the target. */
char *
mt_sql_queue_name(const MtMigration *migration, const MtRelation *relation)
{
	return psprintf("migrate_tiers.queue_%.8s_%d", migration->ident, relation->id);
}

/* mt_sql_writer_name names the table of the transactions that wrote a queue on the target. */
char *
mt_sql_writer_name(const MtMigration *migration)
{
	return psprintf("migrate_tiers.writer_%.8s", migration->ident);
}

/* mt_sql_writer_unsent returns a row where there is something unsent. */
char *
mt_sql_writer_unsent(const MtMigration *migration)
{
	const char *name = mt_sql_writer_name(migration);

	/* In the order of the index, which is then taken whatever the statistics say. */
	return psprintf("(SELECT 1 FROM %s AS q WHERE " UNSENT_SINCE " ORDER BY q.xid DESC LIMIT 1) UNION ALL"
					" (SELECT 1 FROM %s AS q WHERE " UNSENT_THEN " ORDER BY q.xid DESC LIMIT 1) LIMIT 1",
					name, name);
}

/* unsent gives what is unsent of a table, in two parts since each then goes by the index, also for the first few. */
static char *
unsent(const char *table)
{
	return psprintf("(SELECT * FROM %s AS q WHERE " UNSENT_SINCE " UNION ALL SELECT * FROM %s AS q WHERE " UNSENT_THEN ")",
					table, table);
}

/*
 * mt_sql_queues_unsent returns a row of text: the snapshot, its time, since when something is unsent, the
 * ids of the tables that it is of, with as many entries as parameter 2 allows to count ("1:5 3:12 "), a
 * place in the log behind all that the snapshot sees, and the state of the leaf partitions.
 */
char *
mt_sql_queues_unsent(const MtMigration *migration, const List *relations)
{
	StringInfoData tables;
	ListCell   *cell;
	bool		partitioned = false;

	initStringInfo(&tables);
	foreach(cell, relations)
	{
		const MtRelation *relation = (const MtRelation *) lfirst(cell);

		partitioned = partitioned || relation->target_partitioned;
		appendStringInfo(&tables, "%s(SELECT '%d:' || nullif(pg_catalog.count(*), 0) || ' '"
								  " FROM (SELECT FROM %s AS q LIMIT $2::pg_catalog.int8) AS l)",
						 tables.len ? ", " : "", relation->id, unsent(mt_sql_queue_name(migration, relation)));
	}
	return psprintf("SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text, pg_catalog.clock_timestamp()::pg_catalog.text,"
					" (SELECT pg_catalog.min(q.committed)::pg_catalog.text FROM %s AS q),"
					" pg_catalog.array_to_string(ARRAY[%s]::pg_catalog.text[], ''), " LOG_END "::pg_catalog.text, (%s)",
					unsent(mt_sql_writer_name(migration)), tables.data,
					partitioned ? mt_sql_leaves_state(migration) : "SELECT ''");
}

/*
 * mt_sql_leaves_state returns a text that is another one when a partition was attached, detached, or truncated without
 * a trigger to note it: each attachment is a row of its own, known by the transaction that made it.
 */
char *
mt_sql_leaves_state(const MtMigration *migration)
{
	return psprintf("SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.sum(pg_catalog.hashint8extended("
					"i.inhrelid::pg_catalog.int8, i.xmin::pg_catalog.text::pg_catalog.int8)), ' ',"
					" (SELECT pg_catalog.string_agg(c.relfilenode::pg_catalog.text, ' ' ORDER BY c.oid)"
					" FROM migrate_tiers.leaf AS l JOIN pg_catalog.pg_class AS c ON c.oid = l.leaf"
					" WHERE l.migration = %s AND NOT l.covered)) FROM pg_catalog.pg_inherits AS i",
					quote_literal_cstr(migration->ident));
}

/* mt_sql_queue_entries reads the entries that the mark does not see. */
char *
mt_sql_queue_entries(const MtMigration *migration, const MtRelation *relation, const MtColumns *columns,
					 bool times)
{
	const char *written = "NULL::pg_catalog.timestamptz";
	const char *writers = "";

	if (times)
	{
		written = "coalesce(w.committed, q.noted)";
		writers = psprintf(" LEFT JOIN (SELECT q.xid, pg_catalog.max(q.committed) AS committed FROM %s AS q"
						   " GROUP BY q.xid) AS w ON w.xid OPERATOR(pg_catalog.=) q.xid",
						   unsent(mt_sql_writer_name(migration)));
	}
	return psprintf("SELECT q.kind::pg_catalog.int4, q.xid, %s, q.condition, %s FROM %s AS q%s",
					written, key_forms(relation, columns), unsent(mt_sql_queue_name(migration, relation)), writers);
}

/* mt_sql_queue_present reads the rows whose keys the queue holds, each once. */
char *
mt_sql_queue_present(const MtMigration *migration, const MtRelation *relation, const MtColumns *columns)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&names, "%sq.k%d", i ? ", " : "", i + 1);
	return psprintf("SELECT %s FROM (SELECT DISTINCT %s FROM %s AS q WHERE q.kind = 0) AS q"
					" JOIN %s%s AS t ON %s",
					forms(columns, "t."), names.data, unsent(mt_sql_queue_name(migration, relation)),
					relation->target_partitioned ? "" : "ONLY ", mt_relation_target_sql(relation),
					queue_match(relation, "t."));
}

/* mt_sql_queue_absent reads the keys of the queue that have no row. */
char *
mt_sql_queue_absent(const MtMigration *migration, const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("SELECT %s FROM %s AS q WHERE q.kind = 0"
					" AND NOT EXISTS (SELECT FROM %s%s AS t WHERE %s)",
					key_forms(relation, columns), unsent(mt_sql_queue_name(migration, relation)),
					relation->target_partitioned ? "" : "ONLY ", mt_relation_target_sql(relation),
					queue_match(relation, "t."));
}

/* mt_sql_queue_note adds an entry of a key; no application has written it, not even one without a name. */
char *
mt_sql_queue_note(const MtMigration *migration, const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("WITH w AS (INSERT INTO %s (xid, committed, application)"
					" VALUES (pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), NULL))"
					" INSERT INTO %s (kind, %s) VALUES (0, %s)",
					mt_sql_writer_name(migration), mt_sql_queue_name(migration, relation),
					mt_target_queue_columns(relation), key_params(relation, columns));
}

/* mt_sql_queue_spare notes that truncations are not to concern a key. */
char *
mt_sql_queue_spare(const MtMigration *migration, const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("INSERT INTO %s (kind, %s, condition) VALUES (3, %s, $%d::pg_catalog.text)",
					mt_sql_queue_name(migration, relation), mt_target_queue_columns(relation),
					key_params(relation, columns), relation->nkeys + 1);
}

/* mt_sql_target_row reads a row of the target by its key, in the columns' form. */
char *
mt_sql_target_row(const MtRelation *relation, const MtColumns *columns)
{
	return psprintf("SELECT %s FROM %s%s AS t WHERE %s", forms(columns, "t."),
					relation->target_partitioned ? "" : "ONLY ", mt_relation_target_sql(relation),
					mt_sql_key_match(relation, columns, "t.", 1));
}

/*
 * mt_sql_row_image reads a row by its key as jsonb; "table" is named with the ONLY that it needs.
 *
 * Of most types the value is kept as its text, before jsonb sees it: that would lose the spaces and doubled keys of
 * json and the bounds of an array, refuses a \u0000, and of a type with a cast to json (hstore) nobody could read
 * back what that gave.  A jsonb that is NULL is left out, so that it is not taken for the null of jsonb.
 */
char *
mt_sql_row_image(const char *table, const MtRelation *relation, const MtColumns *columns, bool typed)
{
	StringInfoData values;
	StringInfoData without;

	initStringInfo(&values);
	initStringInfo(&without);
	for (int i = 0; i < columns->count; i++)
	{
		const char *name = mt_name_quote(columns->columns[i].name);
		char	   *value = psprintf("t.%s", name);

		appendStringInfo(&values, "%s%s AS %s", i ? ", " : "",
						 exact_in_jsonb(columns->columns[i].type) ? value : as_text(value), name);
		if (columns->columns[i].type == JSONBOID)
			appendStringInfo(&without,
							 " OPERATOR(pg_catalog.-) CASE WHEN i.%s IS NULL THEN ARRAY[%s]::pg_catalog.text[] ELSE '{}' END",
							 name, quote_literal_cstr(columns->columns[i].name));
	}
	return psprintf("SELECT (pg_catalog.to_jsonb(i.*)%s)::pg_catalog.text FROM (SELECT %s FROM %s AS t WHERE %s) AS i",
					without.data, values.data, table, mt_sql_key_match(relation, typed ? columns : NULL, "t.", 1));
}

/*
 * as_text makes of a value what its type's output gives: a cast to text might be a user's own, whose text cannot be
 * read back.  Compared with NULL like this, a row of nothing but NULLs is not NULL.
 */
static char *
as_text(const char *value)
{
	return psprintf("CASE WHEN %s IS NOT DISTINCT FROM NULL THEN NULL ELSE pg_catalog.concat(%s) END", value, value);
}

/* exact_in_jsonb says whether to_jsonb keeps a value of a type so that it can be read back. */
static bool
exact_in_jsonb(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case UUIDOID:
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case JSONBOID:
			return true;
		default:
			return false;
	}
}

/* mt_sql_row_meets reads whether the receiver's row of a key meets a condition. */
char *
mt_sql_row_meets(const MtRelation *relation, const MtColumns *columns, const char *condition, bool typed)
{
	return psprintf("SELECT 1 FROM %s AS t WHERE %s AND (%s\n)", mt_sql_receiver_rows(relation),
					mt_sql_key_match(relation, typed ? columns : NULL, "t.", 1), condition);
}

/* mt_sql_truncate deletes all rows, or those that meet a condition over plain column names, but for some keys. */
char *
mt_sql_truncate(const MtRelation *relation, const MtColumns *columns, const char *condition, int spared)
{
	StringInfoData but;

	if (spared == 0)
		return psprintf("DELETE FROM %s WHERE (%s\n)", mt_sql_receiver_rows(relation), condition ? condition : "true");
	initStringInfo(&but);
	for (int i = 0; i < spared; i++)
		appendStringInfo(&but, "%s(%s)", i ? " OR " : "",
						 mt_sql_key_match(relation, columns, "t.", 1 + i * relation->nkeys));
	return psprintf("DELETE FROM %s AS t WHERE (%s\n) AND NOT (%s)", mt_sql_receiver_rows(relation),
					condition ? condition : "true", but.data);
}

static const MtColumn *
key_column(const MtRelation *relation, const MtColumns *columns, int number)
{
	for (int i = 0; i < columns->count; i++)
		if (strcmp(columns->columns[i].name, relation->key_columns[number]) == 0)
			return &columns->columns[i];
	elog(ERROR, "key column \"%s\" is not among the columns", relation->key_columns[number]);
	return NULL;
}

/* forms lists columns so that each comes in its form: what travels as text is made text there. */
static char *
forms(const MtColumns *columns, const char *prefix)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < columns->count; i++)
	{
		char	   *value = psprintf("%s%s", prefix, mt_name_quote(columns->columns[i].name));

		appendStringInfo(&list, "%s%s", i ? ", " : "", columns->columns[i].binary ? value : as_text(value));
	}
	return list.data;
}

static char *
key_forms(const MtRelation *relation, const MtColumns *columns)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < relation->nkeys; i++)
	{
		char	   *value = psprintf("q.k%d", i + 1);

		appendStringInfo(&list, "%s%s", i ? ", " : "",
						 key_column(relation, columns, i)->binary ? value : as_text(value));
	}
	return list.data;
}

static char *
queue_match(const MtRelation *relation, const char *row)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&text, "%s%s%s %s q.k%d", i ? " AND " : "", row,
						 mt_name_quote(relation->key_columns[i]), relation->key_operators[i], i + 1);
	return text.data;
}

/* mt_sql_key_type names the type of a column of the key, as a parameter is cast to it. */
char *
mt_sql_key_type(const MtRelation *relation, const MtColumns *columns, int number)
{
	return mt_sql_type(key_column(relation, columns, number)->type);
}

/* key_params lists as many typed parameters. */
static char *
key_params(const MtRelation *relation, const MtColumns *columns)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < relation->nkeys; i++)
		appendStringInfo(&text, "%s$%d::%s", i ? ", " : "", i + 1, mt_sql_key_type(relation, columns, i));
	return text.data;
}
