/*
 * compat.h
 *	  Every test of PG_VERSION_NUM in the project, and nothing else.
 *
 * PostgreSQL 15 to 18 are supported.  Code elsewhere uses the names defined
 * here, which are those of the newest version wherever one exists.
 */
#ifndef MT_COMPAT_H
#define MT_COMPAT_H

#include "postgres.h"

#include "fmgr.h"

#if PG_VERSION_NUM < 150000
#error "migrate_tiers needs PostgreSQL 15 or later"
#endif

/* 16 exports functions hidden by default; 15 needs to be told. */
#if PG_VERSION_NUM < 160000
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

/* 16 moved what looks into variable-length values out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 18 says it before the declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn __attribute__((noreturn))
#endif

/* 18 turned "is a background worker" round, and can log that a lock is not free.  This one raises nothing. */
#if PG_VERSION_NUM >= 180000
#define mt_proc_is_worker(proc)	   (!(proc)->isRegularBackend)
#define mt_lock_if_free(tag, mode) LockAcquireExtended(tag, mode, true, true, false, NULL, false)
#else
#define mt_proc_is_worker(proc)	   ((proc)->isBackgroundWorker)
#define mt_lock_if_free(tag, mode) LockAcquireExtended(tag, mode, true, true, false, NULL)
#endif

/* 17 asks whether a stronger lock would do, too. */
#if PG_VERSION_NUM >= 170000
#define mt_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define mt_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode)
#endif

/* 16 made a plain list of the locks of a process in a partition of the lock table. */
#if PG_VERSION_NUM >= 160000
#define MtLockIterator							   dlist_iter
#define mt_foreach_lock(iterator, proc, partition) dlist_foreach(iterator, &(proc)->myProcLocks[partition])
#define mt_this_lock(iterator)					   dlist_container(PROCLOCK, procLink, (iterator).cur)
#else
#define MtLockIterator SHM_QUEUE *
#define mt_foreach_lock(iterator, proc, partition) \
	for ((iterator) = (proc)->myProcLocks[partition].next; (iterator) != &(proc)->myProcLocks[partition]; \
		 (iterator) = (iterator)->next)
#define mt_this_lock(iterator) ((PROCLOCK *) ((char *) (iterator) -offsetof(PROCLOCK, procLink)))
#endif

/* 16 renamed relfilenode. */
#if PG_VERSION_NUM >= 160000
#define mt_relation_filenode(relation) ((Oid) (relation)->rd_locator.relNumber)
#else
#define mt_relation_filenode(relation) ((relation)->rd_node.relNode)
#endif

/* 16 can return an error instead of raising it. */
#if PG_VERSION_NUM >= 160000
#define mt_qualified_name_list(name) stringToQualifiedNameList(name, NULL)
#else
#define mt_qualified_name_list(name) stringToQualifiedNameList(name)
#endif

/* 16 made becoming a role a right of its own. */
#if PG_VERSION_NUM >= 160000
#define mt_may_become_role(role) member_can_set_role(GetUserId(), role)
#else
#define mt_may_become_role(role) is_member_of_role(GetUserId(), role)
#endif

#endif							/* MT_COMPAT_H */
