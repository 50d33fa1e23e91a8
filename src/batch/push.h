/*
 * push.h
 *	  A push of a batch table: one snapshot of the sender, applied by the receiver in one transaction.
 *
 * Readers of the receiver see the snapshot before or this one, and wait for nobody: only rows are locked there.  A push
 * that fails at whatever moment leaves the snapshot before it.  The phase alone says who sends and who receives.
 */
#ifndef MT_PUSH_H
#define MT_PUSH_H

#include "catalog/batch.h"
#include "endpoint/side.h"

/* What identifies a row on both sides, and cuts a table into ranges. */
typedef struct MtPushKey
{
	int			count;
	char	  **names;			/* of the columns, as the catalogs have them: each server quotes otherwise */
	char	  **columns;		/* quoted */
	char	  **operators;		/* equality: OPERATOR(schema.=) */
	char	  **types;			/* of literals */
	bool		ordered;		/* ranges of it can be compared on both sides */
	bool		as_record;		/* there is no array of its values but as records */
} MtPushKey;

typedef struct MtPush
{
	const MtMigration *migration;
	const MtRelation *relation;
	const MtPolicy *policy;
	MtBatch    *batch;
	MtSide		here;
	MtSide		there;
	MtSide	   *sender;
	MtSide	   *receiver;
	char	   *from;			/* the sender's table, with ONLY where it needs that */
	char	   *to;				/* the receiver's table, too */
	char	   *into;			/* the receiver's table in messages, and for regclass */
	char	   *into_sql;		/* for INSERT and COPY */
	char	   *sender_name;	/* without ONLY */
	MtColumns  *columns;
	char	   *digest;			/* of a row of "t" */
	bool		keep_digest;	/* of the whole snapshot */
	bool		may_replace;	/* the receiver's rows are ours, or may be replaced */
	char	   *owner;			/* of the table here, quoted */
	char	   *mark_type;		/* of the watermark's literals, in mode append */
	MtPushKey  *key;			/* in mode diff; in mode replace where there is one */
	MtPace		pace;
	char	   *afterwards;		/* what is to be noted when the sender's transaction has ended, or NULL */
	MtSide	   *noting;			/* on which side */
} MtPush;

/*
 * Runs a push of a table that is locked (mt_batch_lock), and notes how it began and ended; raises its error.
 * id 0: a number is taken.  The connection is opened where there is none that is usable.
 */
extern void mt_push_run(const MtMigration *migration, MtRemote **remote, int32 relation, int64 id, bool scheduled);

/* Drops what pushes that were cut off have left in this database. */
extern void mt_push_clean(const MtMigration *migration);

/* The modes; the sender's transaction has begun.  With mt_push_commit they commit what the receiver is to show. */
extern void mt_push_diff(MtPush *push);
extern void mt_push_replace(MtPush *push);
extern void mt_push_append(MtPush *push);
extern void mt_push_commit(MtPush *push);
extern void mt_push_refresh(MtPush *push);	/* where the receiver computes the rows itself: nothing is sent */

/* All rows are sent to a stage; of the receiver's table only those that differ are changed.  It needs the key. */
extern void mt_push_whole(MtPush *push);

/* The watermark's column; raises an error where there is none. */
extern MtColumn *mt_push_watermark(const MtPush *push);

/* Finds the key that both sides have; NULL, or an error where it is required. */
extern MtPushKey *mt_push_find_key(MtPush *push, bool required);

/* Refuses tables whose columns are not alike. */
extern void mt_push_check_columns(MtPush *push);

/* Whether the key of a materialized view, which cannot be NOT NULL, holds nulls: they are in no range. */
extern bool mt_push_has_null_keys(MtPush *push);
extern void mt_push_refuse_nulls(MtPush *push);

extern char *mt_push_columns(const MtPush *push, const char *prefix);	/* for SELECT, each behind a prefix */

#endif							/* MT_PUSH_H */
