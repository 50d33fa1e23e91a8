/*
 * target_block.h
 *	  How the files behind target.h change the target: one anonymous block,
 *	  atomic of itself, so that neither an error nor a lost connection leaves
 *	  half a change or an open transaction.  Inside a transaction of the
 *	  caller it is a part of that.
 */
#ifndef MT_TARGET_BLOCK_H
#define MT_TARGET_BLOCK_H

#include "catalog/relation.h"
#include "endpoint/endpoint.h"
#include "endpoint/target.h"

/* Number that the installations and removals of all migrations take turns by. */
#define MT_TARGET_LOCK "7236836164411949139"

/* Runs the body of a PL/pgSQL block; no lock is waited for longer than lock_timeout. */
extern void mt_target_block(MtRemote *remote, const char *body, const char *lock_timeout);

/* The same for plain statements, separated by semicolons. */
extern void mt_target_locking(MtRemote *remote, const char *sql, const char *lock_timeout);

/* The table's quoted name, as a literal. */
extern char *mt_target_table_literal(const MtRelation *relation);

/* Our schema there: what all migrations share, and what this one has of its own. */
extern void mt_target_schema_create(MtRemote *remote, const MtMigration *migration);
extern void mt_target_schema_drop(MtRemote *remote, const MtMigration *migration);

/* Parts of the schema: the functions of the fence, and what applications call. */
extern const char *const mt_target_fence_functions;
extern const char *const mt_target_routines;

/*
 * The token that a session names, hashed: everyone may read the text of functions and conditions, and must not learn
 * the token there.  It costs who names none next to nothing, since all of it is strict.
 */
#define MT_TARGET_SESSION \
	"pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(" \
	"pg_catalog.current_setting('migrate_tiers.session', true), 'SQL_ASCII')), 'hex')"

/* What makes the function of a migration's fence. */
extern char *mt_target_fence_function(const MtMigration *migration);

/* Takes every fence of the migration off, wherever its tables have gone. */
extern void mt_target_unfence_all(MtRemote *remote, const MtMigration *migration);

/* Adds the foreign keys again and checks them; one that does not hold stays NOT VALID, with a WARNING. */
extern void mt_target_restore_foreign_keys(MtRemote *remote, const MtMigration *migration);

/*
 * The end of a block that brings back what is on the list, as s: a table that was altered meanwhile (class 42) does
 * not allow it any more, and only a person can say what is wanted instead.
 */
#define MT_TARGET_WAY_OUT(statement) \
	"EXCEPTION WHEN syntax_error_or_access_rule_violation THEN\n" \
	"  RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM, DETAIL = 'The statement was: ' || " statement ",\n" \
	"    HINT = pg_catalog.format('Mend that in the target database. Or, if it is made already or not wanted any more, run there:'\n" \
	"      ' DELETE FROM migrate_tiers.set_aside WHERE migration = %%L AND relation = %%s AND kind = %%L AND table_oid = %%s AND name = %%L',\n" \
	"      s.migration, s.relation, s.kind, s.table_oid, s.name);\n"

/* Brings back what is still set aside, with a WARNING for what cannot be; before all is forgotten. */
extern void mt_target_restore_leftovers(MtRemote *remote, const MtMigration *migration);

#endif							/* MT_TARGET_BLOCK_H */
