/*
 * instance.h
 *	  An application server, known by its application_name or by its own
 *	  report: a row of migrate_tiers.instance where it is expected, and of
 *	  migrate_tiers.instance_seen where something was seen of it.
 *
 * What capture saw of it is in the queue, and here once the queue's row may
 * be gone: the worker keeps what its ticks read in memory and saves it every few
 * seconds, and always before it gives rows of the queue back.
 */
#ifndef MT_INSTANCE_H
#define MT_INSTANCE_H

#include "catalog/queue_read.h"

/* Puts a name on the roster, or takes it off; false when it was not there. */
extern void mt_instance_expect(int32 migration, const char *name);
extern bool mt_instance_forget(int32 migration, const char *name);

/* The names on the roster, as a text[] written as text. */
extern char *mt_instance_expected(int32 migration);

/* Notes what an instance says of itself; false when it is not on the roster. */
extern bool mt_instance_report(int32 migration, const char *name, MtPhase phase);

/* Which applications wrote the source, and when last; lives in the memory context of its creation. */
typedef struct MtInstances MtInstances;

extern MtInstances *mt_instances_create(void);

/* Remembers who wrote a row of the queue; or every row of it, what was sent included. */
extern void mt_instances_note(MtInstances *instances, const MtQueueRow *row);
extern void mt_instances_read_queue(MtInstances *instances, const MtMigration *migration);

/* Saves what is remembered, in the current transaction, and forgets it when that has committed. */
extern bool mt_instances_any(const MtInstances *instances);
extern void mt_instances_save(const MtInstances *instances, int32 migration);
extern void mt_instances_clear(MtInstances *instances);

/* What is remembered, as a JSON array of {"name", "written"}: written is an age in seconds. */
extern char *mt_instances_json(const MtInstances *instances);

/* Takes over what the target knows, as a JSON array: see instances_there() in SQL. */
extern void mt_instance_merge(int32 migration, const char *there);

#endif							/* MT_INSTANCE_H */
