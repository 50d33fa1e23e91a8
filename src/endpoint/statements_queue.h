/*
 * statements_queue.h
 *	  The SQL of what only happens while both sides are written: the target's
 *	  queues, and rows that both sides changed.
 */
#ifndef MT_STATEMENTS_QUEUE_H
#define MT_STATEMENTS_QUEUE_H

#include "base/row.h"
#include "catalog/relation.h"

/*
 * The queue that a table has on the target.  The first parameter of each is the mark that what
 * is to be read is not in.
 */
extern char *mt_sql_queue_name(const MtMigration *migration, const MtRelation *relation);
extern char *mt_sql_writer_name(const MtMigration *migration);

/* A row where some transaction's entries are not in the mark; with the tables that have some, and since when. */
extern char *mt_sql_writer_unsent(const MtMigration *migration);
extern char *mt_sql_queues_unsent(const MtMigration *migration, const List *relations);
extern char *mt_sql_leaves_state(const MtMigration *migration);

/* Entries: kind, xid, time written (or NULL), condition, then the key's columns in their form. */
extern char *mt_sql_queue_entries(const MtMigration *migration, const MtRelation *relation,
								  const MtColumns *columns, bool times);

/* Rows of the keys that are there, in the columns' form; keys that are not. */
extern char *mt_sql_queue_present(const MtMigration *migration, const MtRelation *relation,
								  const MtColumns *columns);
extern char *mt_sql_queue_absent(const MtMigration *migration, const MtRelation *relation,
								 const MtColumns *columns);

/* Deletes the entries of so many keys that transactions have left.  Parameters: all of these, xid8[]; then of each key
 * its columns, and its transactions. */
extern char *mt_sql_queue_cancel(const MtMigration *migration, const MtRelation *relation,
								 const MtColumns *columns, int keys);

/* The type of a column of the key. */
extern char *mt_sql_key_type(const MtRelation *relation, const MtColumns *columns, int number);

/* Adds an entry of a key (parameters), as a writer does. */
extern char *mt_sql_queue_note(const MtMigration *migration, const MtRelation *relation,
							   const MtColumns *columns);

/* Notes that truncations (the parameter after the key's, text) must not concern a key. */
extern char *mt_sql_queue_spare(const MtMigration *migration, const MtRelation *relation,
								const MtColumns *columns);

/* A row by its key (parameters), in the columns' form; or as one jsonb. */
extern char *mt_sql_target_row(const MtRelation *relation, const MtColumns *columns);
extern char *mt_sql_row_image(const char *table, const MtRelation *relation, const MtColumns *columns,
							  bool typed);

/* A row by its key that meets a condition over plain column names, on the receiver. */
extern char *mt_sql_row_meets(const MtRelation *relation, const MtColumns *columns, const char *condition,
							  bool typed);

#endif							/* MT_STATEMENTS_QUEUE_H */
