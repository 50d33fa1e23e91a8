/*
 * target_capture.h
 *	  What the files behind target_reverse.h share, and nobody else sees.
 */
#ifndef MT_TARGET_CAPTURE_H
#define MT_TARGET_CAPTURE_H

#include "catalog/relation.h"
#include "endpoint/endpoint.h"

/* The name of a table's trigger that is for this. */
extern char *mt_target_reverse_trigger(const MtMigration *migration, const MtRelation *relation,
									   const char *purpose);

/* Rows come and go: what is gone is to be reused soon, however large the table once was. */
#define MT_QUEUE_STORAGE \
	"autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000," \
	" autovacuum_vacuum_insert_threshold = -1"

/* The functions of a table's triggers; its oid, its owner quoted. */
extern char *mt_target_note_functions(const MtMigration *migration, const MtRelation *relation, bool by_row,
									  const char *oid, const char *owner);

/* The TRUNCATE trigger of a table or partition, whose name comes quoted. */
extern char *mt_target_truncate_trigger(const MtMigration *migration, const MtRelation *relation,
										const char *table);

/* The key's columns as the queue names them ("k1, k2"), and as the table does, with a prefix. */
extern char *mt_target_queue_columns(const MtRelation *relation);
extern char *mt_target_key_columns(const MtRelation *relation, const char *prefix);

/* Statements on what is kept of a table's triggers; in target_armed.c. */
extern char *mt_target_arm_sql(const MtMigration *migration, const MtRelation *relation);
extern char *mt_target_disarm_sql(const MtMigration *migration, const MtRelation *relation);
extern char *mt_target_disarm_leaf_sql(const MtMigration *migration, const MtRelation *relation, const char *leaf);
extern char *mt_target_disturbed_sql(const MtMigration *migration, const MtRelation *relation);
extern char *mt_target_uncover_sql(const MtMigration *migration, const MtRelation *relation);

/* The query of what is not any more what it was: relation, and trigger_oid, 0 where the source has to note it only. */
extern char *mt_target_touched_sql(const MtMigration *migration);

/* Notes the leaf partitions of a table that is captured from now on. */
extern char *mt_target_leaves_sql(const MtMigration *migration, const MtRelation *relation);

#endif							/* MT_TARGET_CAPTURE_H */
