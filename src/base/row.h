/*
 * row.h
 *	  A row on its way to the other side: its columns, each in the binary form
 *	  of its type, or as text where the binary form holds OIDs of this database.
 */
#ifndef MT_ROW_H
#define MT_ROW_H

#include "base/compat.h"

#include "access/tupdesc.h"
#include "lib/stringinfo.h"

typedef struct MtColumn
{
	char	   *name;
	AttrNumber	attnum;
	Oid			type;
	bool		binary;			/* travels in the binary form of its type */
	bool		plain;			/* values that "=" takes for equal (texts under C) are the same bytes */
	bool		identity_always;
	bool		fixed;			/* of the key, and equal only to the same bytes: an update of a row cannot change it */
	FmgrInfo	send;			/* where binary */
	FmgrInfo	output;
	FmgrInfo	receive;		/* where binary */
	FmgrInfo	input;
	Oid			io_param;
} MtColumn;

typedef struct MtColumns
{
	int			count;
	bool		all_binary;		/* COPY (FORMAT binary) can carry the row */
	MtColumn   *columns;
} MtColumns;

/* Describes the columns that travel: all but dropped and generated ones. */
extern MtColumns *mt_columns_describe(TupleDesc tupdesc);

/* The named columns in that order (all, where names is NULL), numbered as a query's result has them. */
extern MtColumns *mt_columns_of_result(const MtColumns *columns, int count, char **names);

/* The bytes of one value in the column's form; allocated in the current memory context. */
extern bytea *mt_column_bytes(MtColumn *column, Datum value);

/* The value that such bytes stand for. */
extern Datum mt_column_value(MtColumn *column, const char *data, int length);

/* "a, b, c", each quoted, each behind a prefix. */
extern char *mt_columns_list(const MtColumns *columns, const char *prefix);

/*
 * A COPY stream under way: rows are put in, bytes come out through "send" in
 * pieces of about 64 kB, so that neither a long stream nor a huge value has to
 * fit in memory twice.
 */
typedef struct MtCopyStream
{
	MtColumns  *columns;
	bool		binary;
	void (*send)(void *arg, const char *data, int length);
	void	   *arg;
	StringInfoData buffer;
	MemoryContext scratch;		/* of one row */
	int64		rows;
	int64		bytes;
} MtCopyStream;

extern void mt_copy_stream_begin(MtCopyStream *stream, MtColumns *columns,
								 void (*send)(void *arg, const char *data, int length), void *arg);
extern void mt_copy_stream_put(MtCopyStream *stream, const Datum *values, const bool *nulls);
extern void mt_copy_stream_end(MtCopyStream *stream);

#endif							/* MT_ROW_H */
