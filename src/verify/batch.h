/*
 * batch.h
 *	  Compares a batch table with the snapshot of its last push: see batch.c.
 */
#ifndef MT_VERIFY_BATCH_H
#define MT_VERIFY_BATCH_H

#include "catalog/relation.h"
#include "catalog/worker.h"

/* Compares a table and stores the verdict, in transactions of its own; raises an error where it cannot. */
extern void mt_verify_batch(const MtMigration *migration, MtRelation *relation, const MtVerifyOrder *order);

#endif							/* MT_VERIFY_BATCH_H */
