/*
 * statements.h
 *	  The SQL that reads rows by key on one side and applies them on the other.
 *	  It is built here only, whichever side is which.
 */
#ifndef MT_STATEMENTS_H
#define MT_STATEMENTS_H

#include "base/row.h"
#include "catalog/relation.h"

/* Names of what a large tick stages, in the temporary schema of the receiver's session. */
#define MT_STAGE_ROWS "mt_stage_rows"
#define MT_STAGE_KEYS "mt_stage_keys"

/* Reads a row by its key: parameters are the key's columns. */
extern char *mt_sql_read_row(const MtRelation *relation, const MtColumns *columns);

/* Reads the rows whose keys the named relation "mt_keys" (k1, k2, ...) holds; those that are gone. */
extern char *mt_sql_read_present(const MtRelation *relation, const MtColumns *columns, bool distinct);
extern char *mt_sql_read_absent(const MtRelation *relation);
extern char *mt_sql_lock_present(const MtRelation *relation);

/* Applies rows: parameters are all columns of each; or one deletion: those of the key. */
extern char *mt_sql_upsert(const MtRelation *relation, const MtColumns *columns, int rows);
/* The same as an upsert of one row in two statements; the first locks it only as hard as what changes asks for. */
extern char *mt_sql_update(const MtRelation *relation, const MtColumns *columns);
extern char *mt_sql_insert_missing(const MtRelation *relation, const MtColumns *columns);
extern char *mt_sql_insert(const MtRelation *relation, const MtColumns *columns, int rows);
extern char *mt_sql_delete(const MtRelation *relation, const MtColumns *columns);

/* A TRUNCATE of the sender: all rows, or those that meet a condition, but for some keys (parameters). */
extern char *mt_sql_truncate(const MtRelation *relation, const MtColumns *columns, const char *condition,
							 int spared);

/* COPY ... FROM STDIN into the table itself, or into what stages it. */
extern char *mt_sql_copy(const MtRelation *relation, const MtColumns *columns);
extern char *mt_sql_stage_create(const MtRelation *relation, const MtColumns *columns);
extern char *mt_sql_stage_copy_rows(const MtColumns *columns);
extern char *mt_sql_stage_copy_keys(const MtRelation *relation, const MtColumns *columns);
extern char *mt_sql_stage_lock(const MtRelation *relation);
extern char *mt_sql_stage_delete_absent(const MtRelation *relation);
extern char *mt_sql_stage_delete_present(const MtRelation *relation);
extern char *mt_sql_stage_update(const MtRelation *relation, const MtColumns *columns);
extern char *mt_sql_stage_insert(const MtRelation *relation, const MtColumns *columns, bool missing_only);
extern char *mt_sql_stage_drop(void);

/* "left.a = $1::type AND ...", parameters from number first on; and "(a = $1)". */
extern char *mt_sql_key_match(const MtRelation *relation, const MtColumns *columns, const char *left, int first);
/* Whether two rows, each behind a prefix, differ by their image.  With a relation they have the same key of it. */
extern char *mt_sql_differs(const MtRelation *relation, const MtColumns *columns, const char *left, const char *right);
/* "a = from.a, ...", but for what cannot be set. */
extern char *mt_sql_set_list(const MtColumns *columns, const char *from);
extern char *mt_sql_receiver_rows(const MtRelation *relation);
extern char *mt_sql_type(Oid type);

/* Whether rows can be updated in place: no column refuses it. */
extern bool mt_sql_can_update(const MtRelation *relation, const MtColumns *columns);

#endif							/* MT_STATEMENTS_H */
