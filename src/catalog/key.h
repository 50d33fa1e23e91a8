/*
 * key.h
 *	  The bytes of a key: how the queue holds the key of a row.
 *
 * Columns follow each other in the key's order.  A type of fixed length is its
 * bytes as in a tuple; one of variable length is its length (varint) and its
 * bytes, never compressed or out of line.  The same value of a type can have
 * several byte forms (numeric 1.0 and 1.00): they are different keys to the
 * queue, which is harmless, since rows are read by the key's own equality.
 */
#ifndef MT_KEY_H
#define MT_KEY_H

#include "base/compat.h"

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"

typedef struct MtKeyColumn
{
	AttrNumber	attnum;			/* in the relation at hand: a partition's may differ */
	Oid			type;
	int16		length;
	bool		by_value;
	char		align;
	Oid			collation;
} MtKeyColumn;

typedef struct MtKeyDesc
{
	int			count;
	MtKeyColumn columns[INDEX_MAX_KEYS];
} MtKeyDesc;

/* Finds the columns by name in a relation's descriptor. */
extern void mt_key_describe(MtKeyDesc *desc, TupleDesc tupdesc, int count, char **names);

/* Appends the key of a row. */
extern void mt_key_encode(const MtKeyDesc *desc, TupleTableSlot *slot, StringInfo to);

/* Whether two rows would have the same bytes. */
extern bool mt_key_is_same(const MtKeyDesc *desc, TupleTableSlot *one, TupleTableSlot *other);

/* Appends the same of values, in the order of the key. */
extern void mt_key_encode_values(const MtKeyDesc *desc, const Datum *values, StringInfo to);

/* Turns bytes into values, which are allocated in the current memory context. */
extern void mt_key_decode(const MtKeyDesc *desc, const char *bytes, int length, Datum *values);

#endif							/* MT_KEY_H */
