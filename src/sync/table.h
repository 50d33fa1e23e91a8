/*
 * table.h
 *	  A realtime table as the worker of a migration keeps it between ticks.
 */
#ifndef MT_TABLE_H
#define MT_TABLE_H

#include "base/compat.h"

#include "executor/spi.h"

#include "base/mark.h"
#include "base/row.h"
#include "catalog/key.h"
#include "catalog/queue.h"
#include "catalog/relation.h"
#include "endpoint/endpoint.h"
#include "sync/keys.h"
#include "sync/truncation.h"
#include "sync/unsent.h"

/* Plans of statements that set rows here: delete and update of one row, insert and upsert of one or MT_BATCH_ROWS. */
#define MT_HERE_PLANS 6

/* Rows that one statement takes where there are as many: what a statement costs by itself is shared. */
#define MT_BATCH_ROWS 16

struct MtTable
{
	int32		id;				/* hash key */
	MtRelation *relation;
	bool		joined;			/* the receiver's copy follows the mark */
	bool		joining;		/* will, with the next tick */
	bool		can_update;
	bool		distinct_keys;	/* keys that look different are different */
	bool		other_unique;	/* an index besides the key's refuses rows, too */
	bool		in_two;			/* rows are set by an update and an insert of those that are missing */
	MtMark	   *captured_from;	/* S0 */
	MtKeyDesc	key;
	MtColumns  *columns;
	SPIPlanPtr	read_row;
	/* statements of the receiver's session, for one row and for MT_BATCH_ROWS, prepared when first used */
	char	   *delete;
	char	   *insert[2];
	char	   *update;			/* where in_two: before upsert, which then inserts; both of one row */
	char	   *upsert[2];
	bool		insert_prepared[2], upsert_prepared[2];
	/* where changes of the target come here: the same with the sides exchanged, and its plans */
	MtRelation *mirror;
	SPIPlanPtr	here[MT_HERE_PLANS];

	/* of the tick under way */
	MtKeySet   *keys;
	List	   *truncations;	/* MtTruncation */

	MtBothSides both;			/* the same, while both sides are written */
};

/* Describes a table in the current memory context, which has to outlive it. */
extern void mt_table_open(MtTable *table, MtRelation *relation);

/* Frees what the memory context does not: plans. */
extern void mt_table_close(MtTable *table);

/* Takes an entry of the queue into the tick under way; returns the truncation that it is, or NULL. */
extern MtTruncation *mt_table_note(MtTable *table, const MtEntry *entry, MemoryContext context);

/* Forgets the tick under way. */
extern void mt_table_reset(MtTable *table);
extern bool mt_table_touched(const MtTable *table);

/* Runs as the owner of the migration, under the active snapshot: one row by its key.
 * fields (one a column) are NULL-data where absent or null; returns whether the row exists. */
extern bool mt_table_read_row(MtTable *table, const Datum *key, MtField *fields, int64 *bytes);

/* The column of the key's number. */
extern MtColumn *mt_table_key_column(MtTable *table, int number);

/* The value of bytes from the target; input of a user's type (checks of a domain) runs as the table's owner. */
extern Datum mt_table_value(const MtTable *table, Oid migration_owner, MtColumn *column, const MtField *field);

/* A key as parameters of a statement that finds rows by it. */
extern void mt_table_key_fields(MtTable *table, const Datum *key, MtField *fields);

/* A key for people: "(a, b)=(1, x)"; long values are cut. */
extern char *mt_table_key_text(MtTable *table, const Datum *key);

#endif							/* MT_TABLE_H */
