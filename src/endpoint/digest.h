/*
 * digest.h
 *	  A digest of rows in SQL that both sides compute alike.
 *
 * Each row gives one bigint: a mixed exclusive-or of hashes of its columns, each
 * with a seed of its own, and each mixed in full: a difference in one column is undone
 * by that in another only by chance.  Typed hash functions are used where what they take
 * for equal has one form only; everything else is hashed as text, so that 1.0 and
 * 1.00 differ.  Sessions on both sides have the same pinned settings.
 *
 * Functions that partition by hash do not change between major versions.  Where
 * the two servers are of another byte order, digests differ: then all is sent.
 */
#ifndef MT_DIGEST_H
#define MT_DIGEST_H

#include "base/row.h"

/* An expression over the columns, each behind a prefix ("t."). */
extern char *mt_sql_row_digest(const MtColumns *columns, const char *prefix);

/* Count and sum of the digests of a table's rows ("t"). */
extern char *mt_sql_table_digest(const char *row_digest, const char *table);

#endif							/* MT_DIGEST_H */
