/*
 * cron.h
 *	  Pushes that pg_cron asks for.
 */
#ifndef MT_CRON_H
#define MT_CRON_H

#include "catalog/relation.h"

/* Registers a job of the calling role, or changes the one of the table. */
extern void mt_cron_schedule(const MtMigration *migration, const MtRelation *relation, const char *schedule);

/* Removes the job of a table, whosever it is; false when there is none. */
extern bool mt_cron_unschedule(const MtRelation *relation);

#endif							/* MT_CRON_H */
