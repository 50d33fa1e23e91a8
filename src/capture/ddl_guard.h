/*
 * ddl_guard.h
 *	  Watches DDL on captured tables: event triggers compare their structure
 *	  after each command with what was recorded when capture began.
 */
#ifndef MT_DDL_GUARD_H
#define MT_DDL_GUARD_H

#include "catalog/relation.h"
#include "nodes/nodes.h"
#include "nodes/pg_list.h"

/* Prepares caches and hooks; called once, when the library is loaded. */
extern void mt_ddl_init(void);

/*
 * Refuses the changes of a captured table that the guard does not let pass, or
 * makes the best of them: the rest of src/capture/ddl_*.c, for ddl_guard.c only.
 */
extern void mt_ddl_check(int32 relation_id, bool creating);
extern bool mt_ddl_allowed(const MtRelation *relation, bool recopy);
extern void mt_ddl_refuse(const MtRelation *relation, const char *name, const char *what, bool recopy);
extern void mt_ddl_recopy(int32 relation_id, const char *what);
extern void mt_ddl_forget(Oid relid, const char *name);
extern void mt_ddl_check_sequences(Node *command);
extern void mt_ddl_keep_init(void);
extern void mt_ddl_keep_extension(void);

#endif							/* MT_DDL_GUARD_H */
