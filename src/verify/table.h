/*
 * table.h
 *	  A table under comparison, and the SQL that reads it: one text for both
 *	  sides but for the table's name, built here only.
 *
 * What is compared is the text of each column as its output function gives it
 * under pinned settings.  It tells apart all that sync carries over, and nothing
 * else: bytes of a text and not its equality, the scale of a numeric, -0, the
 * white space of json, the padding of a character(n).
 */
#ifndef MT_VERIFY_TABLE_H
#define MT_VERIFY_TABLE_H

#include "base/row.h"
#include "catalog/relation.h"
#include "endpoint/endpoint.h"

/* Rows of a range are summed up in so many parts at most, by a hash of the key. */
#define MT_MAX_PARTS 4096

typedef struct MtVerifyTable
{
	MtRelation *relation;
	MtColumns  *columns;
	Oid			owner;			/* of the migration: reads the source */
	int			nkeys;
	char	  **key_types;
	char	  **less;			/* operators of the key's own order: OPERATOR(schema.<) */
	char	  **greater;
	char	  **at_least;
	bool		plain_order;	/* one name serves all columns, as a comparison of rows wants it */
	bool		same_hash;		/* both servers hash a text alike */
	char	   *queue;			/* of the target, where it is written, too; else NULL */
	char	   *reverse_mark;	/* what of it is here at the point */
	bool		back;			/* the point is the end of a tick from the target */
	char	   *key_text;
	char	   *row_text;
} MtVerifyTable;

/* Keys from low to before high; NULL is no bound. */
typedef struct MtKeyRange
{
	char	  **low;
	char	  **high;
} MtKeyRange;

/* Describes the table as it is now; same_hash is for the caller to find out. */
extern MtVerifyTable *mt_verify_describe(MtRelation *relation, Oid owner);

/* What of it is compared, as one text: another one is another comparison. */
extern char *mt_verify_shape(const MtVerifyTable *table);

/* part, rows and two sums of hashes, a row a part. */
extern char *mt_verify_sql_digest(const MtVerifyTable *table, bool target, const MtKeyRange *range, int parts);

/* The key's columns and two hashes, a row a row; one more parameter: a bit a part, 1 for those wanted. */
extern char *mt_verify_sql_rows(const MtVerifyTable *table, bool target, const MtKeyRange *range, int parts);

/* The key that stands so many rows (one more parameter) after the begin of the range; none: fewer are there. */
extern char *mt_verify_sql_cut(const MtVerifyTable *table, bool target, const MtKeyRange *range);

/* For keys as one text[] a column: position (from 1), hashes, array of a hash a column, row as jsonb, key's columns. */
extern char *mt_verify_sql_images(const MtVerifyTable *table, bool target, bool with_row);

/*
 * Whether what a snapshot shows of the table is still there: it was not truncated or rewritten since.
 * Hashes of texts that two servers agree on, if they hash alike.
 */
extern char *mt_verify_sql_intact(const MtVerifyTable *table, bool target);
extern char *mt_verify_sql_hashes(void);

/* Lines up the bounds of a range as parameters; then one more, unless NULL. */
extern int	mt_verify_params(const MtVerifyTable *table, const MtKeyRange *range, const char *more,
							 const char ***params);

/* Runs a statement on the source, in the transaction that is open, as the owner; or on both sides at once. */
typedef struct MtBothRows
{
	MtRows	   *source;
	MtRows	   *target;
} MtBothRows;

extern MtRows *mt_verify_local(const MtVerifyTable *table, const char *sql, int nparams, const char *const *params);
extern MtBothRows mt_verify_both(const MtVerifyTable *table, MtRemote *remote, const char *source_sql,
								 const char *target_sql, int nparams, const char *const *params);

#endif							/* MT_VERIFY_TABLE_H */
