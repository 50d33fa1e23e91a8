/*
 * declare.h
 *	  Begins a migration, and opens it for a change of what it is declared to be.
 */
#ifndef MT_DECLARE_H
#define MT_DECLARE_H

#include "catalog/migration.h"

/* Declares a migration to the target behind a foreign server; the caller owns it. */
extern void mt_declare_create(const char *name, const char *server);

/* Gives a migration of the caller's to another role whose rights he has, too. */
extern void mt_declare_set_owner(const MtMigration *migration, const char *role);

/*
 * Finds a migration that the caller may drive, locks it and reads it again.
 * The lock lasts until the end of the transaction.
 */
extern MtMigration *mt_declare_open(const char *name);

/* The same, and refuses while a transition is under way or was cut off. */
extern MtMigration *mt_declare_open_settled(const char *name);

#endif							/* MT_DECLARE_H */
