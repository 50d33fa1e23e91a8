/*
 * structure.h
 *	  What a side says of itself and of the tables of a migration: asked with
 *	  the same statement on both sides, so that the answers can be compared.
 */
#ifndef MT_STRUCTURE_H
#define MT_STRUCTURE_H

#include "catalog/relation.h"
#include "endpoint/endpoint.h"

/*
 * Both return a JSON object with the members server (an object), and tables,
 * columns, types, indexes, checks, triggers, rules, foreign_keys and sequences (arrays,
 * whose elements name our table by id).  Rights are those of the migration's
 * owner here, and of the role that the user mapping names there.
 */
extern char *mt_structure_local(const MtMigration *migration, const List *relations);
extern char *mt_structure_remote(MtRemote *remote, const List *relations);

#endif							/* MT_STRUCTURE_H */
