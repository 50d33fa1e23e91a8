/*
 * target_note.c
 *	  The functions of the target's triggers that note keys in a table's queue.
 *
 * They run with the rights of the mapping's role, since a writer needs none on
 * our schema.  Those that every statement calls are as lean as they can be: each expression
 * is set up anew by each transaction, a search_path that is pinned costs as
 * much as four of them, and a condition of the trigger, which each statement
 * parses and plans anew, as much as ten.  So our own sessions are told here, and every name
 * and operator is qualified instead; "changed", the transition table, comes
 * before any table of that name.
 */
#include "endpoint/target_capture.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "endpoint/target_block.h"

/* What a trigger does not see to: our own sessions. */
#define IF_OURS \
	"  IF " MT_TARGET_SESSION " OPERATOR(pg_catalog.=) %3$s THEN RETURN NULL; END IF;\n"

/*
 * Notes the transaction, once.  The setting comes before the row, since constraints that are
 * immediate unset it by the row; it is an assignment, which needs no executor.
 */
#define NOTE_WRITER(unless) \
	"  IF " unless "pg_catalog.strpos(pg_catalog.current_setting('migrate_tiers.xid', true),\n" \
	"    pg_catalog.concat('%1$.8s=', pg_catalog.pg_current_xact_id(), ';')) OPERATOR(pg_catalog.>) 0 THEN RETURN NULL; END IF;\n" \
	"  noted := pg_catalog.set_config('migrate_tiers.xid', pg_catalog.concat(pg_catalog.current_setting('migrate_tiers.xid', true),\n" \
	"    '%1$.8s=', pg_catalog.pg_current_xact_id(), ';'), true);\n" \
	"  INSERT INTO migrate_tiers.writer_%1$.8s\n" \
	"    VALUES (pg_catalog.pg_current_xact_id(), NULL, pg_catalog.current_setting('application_name'));\n" \
	"  RETURN NULL;\n" \
	"END"

/* Ident, table, hash of the token, columns of the queue, and of the transition table; or of the old and the new row. */
static const char *const statement_body =
	"DECLARE noted pg_catalog.text;\n"
	"BEGIN\n" IF_OURS
	"  INSERT INTO migrate_tiers.queue_%1$.8s_%2$d (kind, %4$s) SELECT 0, %5$s FROM changed c;\n" NOTE_WRITER("NOT FOUND OR ");

static const char *const row_body =
	"DECLARE noted pg_catalog.text;\n"
	"BEGIN\n" IF_OURS
	"  IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN\n"
	"    INSERT INTO migrate_tiers.queue_%1$.8s_%2$d (kind, %4$s) VALUES (0, %5$s);\n"
	"  ELSE\n"
	"    INSERT INTO migrate_tiers.queue_%1$.8s_%2$d (kind, %4$s) VALUES (0, %6$s);\n"
	"  END IF;\n" NOTE_WRITER("");

static const char *const key_body =
	"DECLARE noted pg_catalog.text;\n"
	"BEGIN\n" IF_OURS
	"  INSERT INTO migrate_tiers.queue_%1$.8s_%2$d (kind, %4$s) VALUES (0, %5$s);\n" NOTE_WRITER("");

/* Whoever makes a partition, which takes the owner's rights, makes its triggers by that. */
static const char *const key_function =
	"CREATE OR REPLACE FUNCTION migrate_tiers.%5$s_%1$.8s_%2$d() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS %3$s;\n"
	"REVOKE ALL ON FUNCTION migrate_tiers.%5$s_%1$.8s_%2$d() FROM PUBLIC;\n"
	"GRANT EXECUTE ON FUNCTION migrate_tiers.%5$s_%1$.8s_%2$d() TO %4$s;\n";

/*
 * A partition is told by its bound; where that is a hash, by the keys of its rows.  A transaction
 * that noted the whole table need not: since then it has the table for itself.
 */
static const char *const truncate_body =
	"DECLARE noted text; bound text;\n"
	"BEGIN\n"
	"  IF TG_RELID <> %3$s THEN\n"
	"    IF pg_partition_root(TG_RELID) IS DISTINCT FROM pg_partition_root(%3$s) THEN RETURN NULL; END IF;\n"
	"    IF EXISTS (SELECT FROM migrate_tiers.queue_%1$.8s_%2$d q WHERE q.xid = pg_current_xact_id() AND q.kind = 1) THEN\n"
	"      RETURN NULL;\n"
	"    END IF;\n"
	"    PERFORM set_config('quote_all_identifiers', 'on', true);\n"
	"    bound := pg_get_partition_constraintdef(TG_RELID);\n"
	"    PERFORM set_config('quote_all_identifiers', 'off', true);\n"
	"  END IF;\n"
	"  IF bound ~ 'satisfies_hash_partition' THEN\n"
	"    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN\n"
	"      RAISE EXCEPTION USING ERRCODE = '0A000',\n"
	"        MESSAGE = format('a hash partition of a migrated table can be truncated in READ COMMITTED only: %%I.%%I', TG_TABLE_SCHEMA, TG_TABLE_NAME),\n"
	"        DETAIL = 'The keys of its rows are noted, and an older snapshot need not see them all.',\n"
	"        HINT = 'Truncate it in a transaction of isolation level READ COMMITTED, or truncate the partitioned table.';\n"
	"    END IF;\n"
	"    EXECUTE %4$s || TG_RELID::regclass || ' c';\n"
	"  ELSE\n"
	"    INSERT INTO migrate_tiers.queue_%1$.8s_%2$d (kind, condition) VALUES (CASE WHEN bound IS NULL THEN 1 ELSE 2 END, bound);\n"
	"  END IF;\n" NOTE_WRITER("");

static const char *const truncate_function =
	"CREATE OR REPLACE FUNCTION migrate_tiers.truncate_%1$.8s_%2$d() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
	"SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO, YMD' SET IntervalStyle = postgres SET TimeZone = 'UTC'\n"
	"SET extra_float_digits = 3 SET bytea_output = hex SET quote_all_identifiers = off SET row_security = off\n"
	"SET standard_conforming_strings = on SET lc_monetary = 'C' AS %3$s;\n"
	"REVOKE ALL ON FUNCTION migrate_tiers.truncate_%1$.8s_%2$d() FROM PUBLIC;\n";

static char *key_note(const MtMigration *migration, const MtRelation *relation, const char *owner, const char *name,
					  const char *body, const char *from);

/* mt_target_note_functions returns what makes the functions of a table, whose owner comes quoted. */
char *
mt_target_note_functions(const MtMigration *migration, const MtRelation *relation, bool by_row, const char *oid,
						 const char *owner)
{
	char	   *every_key = psprintf("INSERT INTO migrate_tiers.queue_%.8s_%d (kind, %s) SELECT 0, %s FROM ONLY ",
									 migration->ident, relation->id, mt_target_queue_columns(relation),
									 mt_target_key_columns(relation, "c."));
	char	   *truncate = psprintf(truncate_body, migration->ident, relation->id, oid, quote_literal_cstr(every_key));

	return psprintf("%s%s%s",
					by_row ? key_note(migration, relation, owner, "capture", row_body, "OLD.") :
						key_note(migration, relation, owner, "capture", statement_body, "c."),
					key_note(migration, relation, owner, "key", key_body, "OLD."),
					psprintf(truncate_function, migration->ident, relation->id, quote_literal_cstr(truncate)));
}

/* key_note returns what makes one that notes keys. */
static char *
key_note(const MtMigration *migration, const MtRelation *relation, const char *owner, const char *name,
		 const char *body, const char *from)
{
	char	   *text = psprintf(body, migration->ident, relation->id, quote_literal_cstr(migration->token_hash),
								mt_target_queue_columns(relation), mt_target_key_columns(relation, from),
								mt_target_key_columns(relation, "NEW."));

	return psprintf(key_function, migration->ident, relation->id, quote_literal_cstr(text), owner, name);
}
