/*
 * ddl_own.h
 *	  DDL of ours on users' tables, which the guard does not judge.
 */
#ifndef MT_DDL_OWN_H
#define MT_DDL_OWN_H

#include "base/compat.h"

/* The command at hand is ours. */
extern bool mt_ddl_own;

/* Executes a command within a scope of queries. */
extern void mt_ddl_own_exec(const char *sql);

#endif							/* MT_DDL_OWN_H */
