/*
 * target_partition.c
 *	  Partitions of a captured table of the target that come and go while it is written.
 *
 * The row triggers come to a new partition by themselves, the TRUNCATE trigger
 * does not; and neither rows that are attached with a partition, nor those that go
 * when one is detached or dropped, fire any trigger.  So it is known which
 * leaf partitions there were, with their bounds, and of the difference all keys
 * are noted that can be concerned: entries say where to look, not what is there,
 * so that one too many does no harm.
 */
#include "endpoint/target_capture.h"

#include "utils/builtins.h"

#include "base/settings.h"
#include "endpoint/target_block.h"

/* A hash bound names a parent by its number, which means nothing on the other side. */
#define NO_CONDITION "(bound IS NULL OR bound OPERATOR(pg_catalog.~) 'satisfies_hash_partition')"

#define NOTE_WRITER \
	"INSERT INTO migrate_tiers.writer_%1$.8s VALUES (pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(),\n" \
	"  pg_catalog.current_setting('application_name'));\n"

/*
 * Before the fence was opened for the first time, there is nothing to note.  A partition whose file
 * is not its first one may have been truncated before it had the trigger.
 */
static const char *const came_body =
	"DECLARE\n"
	"  leaf oid := %3$s;\n"
	"  bound text := pg_catalog.pg_get_partition_constraintdef(leaf);\n"
	"BEGIN\n"
	"IF (SELECT phase <> 'syncing' FROM migrate_tiers.migration WHERE ident = %4$s) THEN\n"
	"  IF (SELECT relfilenode <> oid FROM pg_catalog.pg_class WHERE oid = leaf) AND NOT " NO_CONDITION " THEN\n"
	"    INSERT INTO migrate_tiers.queue_%1$.8s_%2$d (kind, condition) VALUES (2, bound);\n"
	"  END IF;\n"
	"  EXECUTE %5$s || leaf::regclass || ' c';\n" NOTE_WRITER
	"END IF;\n"
	"INSERT INTO migrate_tiers.leaf (migration, relation, leaf, bound) VALUES (%4$s, %2$d, leaf, bound);\n"
	"END";

static const char *const gone_body =
	"DECLARE\n"
	"  bound text;\n"
	"BEGIN\n"
	"DELETE FROM migrate_tiers.leaf l WHERE l.migration = %4$s AND l.relation = %2$d AND l.leaf = %3$s RETURNING l.bound INTO bound;\n"
	"IF (SELECT phase = 'syncing' FROM migrate_tiers.migration WHERE ident = %4$s) THEN RETURN; END IF;\n"
	"INSERT INTO migrate_tiers.queue_%1$.8s_%2$d (kind, condition) VALUES\n"
	"  (CASE WHEN " NO_CONDITION " THEN 1 ELSE 2 END, CASE WHEN " NO_CONDITION " THEN NULL ELSE bound END);\n"
	"EXECUTE %5$s || CASE WHEN " NO_CONDITION " THEN '' ELSE ' WHERE ' || bound END;\n" NOTE_WRITER
	"END";

static void note_keys(MtRemote *remote, const MtMigration *migration, const MtRelation *relation,
					  const char *body, const char *leaf, const char *from);

/* mt_target_cover_partitions looks for leaf partitions that came or went; each is a transaction of its own. */
void
mt_target_cover_partitions(MtRemote *remote, const MtMigration *migration, const MtRelation *relation)
{
	MtRows	   *rows;

	rows = mt_remote_query(remote,
						   "WITH RECURSIVE tree(oid, relkind) AS (SELECT oid, relkind FROM pg_catalog.pg_class"
						   " WHERE oid = pg_catalog.to_regclass($1) UNION ALL SELECT c.oid, c.relkind FROM tree t"
						   " JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending"
						   " JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE t.relkind = 'p')"
						   " SELECT t.oid, t.oid::pg_catalog.regclass, l.leaf"
						   " FROM (SELECT oid FROM tree WHERE relkind = 'r') t FULL JOIN"
						   " (SELECT leaf FROM migrate_tiers.leaf WHERE migration = $2 AND relation = $3) l ON l.leaf = t.oid"
						   " WHERE t.oid IS NULL OR l.leaf IS NULL ORDER BY t.oid NULLS LAST",
						   MT_PARAMS(mt_relation_target_name(relation), migration->ident,
									 psprintf("%d", relation->id)));
	for (int row = 0; row < rows->count; row++)
	{
		char	  **value = rows->values[row];

		/* Not before the trigger is there: what it saw need not be noted. */
		if (value[0] != NULL)
		{
			mt_target_locking(remote, mt_target_truncate_trigger(migration, relation, value[1]),
							  mt_lock_timeout_text());
			note_keys(remote, migration, relation, came_body, value[0], "ONLY ");
		}
		else
			note_keys(remote, migration, relation, gone_body, value[2],
					  psprintf("%s c", mt_relation_target_name(relation)));
	}
}

/* note_keys runs a body with the statement that notes all keys of what follows FROM. */
static void
note_keys(MtRemote *remote, const MtMigration *migration, const MtRelation *relation, const char *body,
		  const char *leaf, const char *from)
{
	char	   *statement = psprintf("INSERT INTO migrate_tiers.queue_%.8s_%d (kind, %s) SELECT 0, %s FROM %s",
									 migration->ident, relation->id, mt_target_queue_columns(relation),
									 mt_target_key_columns(relation, "c."), from);

	mt_target_block(remote,
					psprintf(body, migration->ident, relation->id, leaf, quote_literal_cstr(migration->ident),
							 quote_literal_cstr(statement)),
					mt_lock_timeout_text());
}
