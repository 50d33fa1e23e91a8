/*
 * structure.c
 *	  Asks a side what it is and what its tables look like, in one statement
 *	  whatever the number of tables.
 *
 * Names come out as they read under search_path pg_catalog, so that two sides
 * agree on a type or an expression exactly when its text is the same.  Nothing
 * here locks a user's table: only system catalogs are read.
 */
#include "endpoint/structure.h"

#include "base/pin.h"
#include "base/spi.h"
#include "endpoint/sequence.h"
#include "utils/json.h"

/* The tables that are asked for, and each with all its partitions. */
#define WANTED \
	"WITH RECURSIVE wanted AS MATERIALIZED (" \
	" SELECT w.id, c.oid, c.relkind, c.relpersistence, c.relowner, n.oid AS schema_oid" \
	" FROM jsonb_to_recordset($1::jsonb) AS w(id integer, schema text, name text)" \
	" JOIN pg_namespace n ON n.nspname = w.schema::name" \
	" JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name)," \
	" tree AS MATERIALIZED (" \
	" SELECT w.id, t.oid FROM wanted w" \
	" CROSS JOIN LATERAL (SELECT w.oid UNION SELECT p.relid FROM pg_partition_tree(w.oid) p) t)," \
	" member AS MATERIALIZED (" \
	" SELECT t.id, c.oid, c.relkind, c.relpersistence, c.relowner, a.amname" \
	" FROM tree t JOIN pg_class c ON c.oid = t.oid LEFT JOIN pg_am a ON a.oid = c.relam),"

/* A partition is read, and gets triggers, as a table by itself: those are barred whose owner does not let us. */
#define TABLES \
	" rights AS MATERIALIZED (SELECT m.id, m.oid, pg_has_role(m.relowner, 'USAGE') AS owned," \
	" row_security_active(m.oid) AS row_security," \
	" (SELECT jsonb_agg(p) FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p" \
	"  WHERE NOT has_table_privilege(m.oid, p)) AS lacks FROM member m)," \
	" tables AS (SELECT jsonb_agg(jsonb_build_object('id', w.id, 'oid', w.oid::bigint, 'kind', w.relkind," \
	" 'persistence', w.relpersistence," \
	" 'owned', g.owned, 'row_security', g.row_security, 'lacks', g.lacks, 'barred', b.barred," \
	" 'schema_usage', has_schema_privilege(w.schema_oid, 'USAGE')," \
	" 'schema_create', has_schema_privilege(w.schema_oid, 'CREATE')," \
	" 'indexed', EXISTS (SELECT FROM pg_index x WHERE x.indrelid = w.oid)," \
	" 'partitions', coalesce(m.partitions, 0), 'unfit', m.unfit)) AS value" \
	" FROM wanted w JOIN rights g ON g.id = w.id AND g.oid = w.oid LEFT JOIN (SELECT id, count(*) AS partitions," \
	"  jsonb_agg(jsonb_build_object('name', oid::regclass::text, 'kind', relkind," \
	"  'persistence', relpersistence, 'method', amname) ORDER BY oid::regclass::text)" \
	"  FILTER (WHERE relkind = 'f' OR relpersistence <> 'p' OR amname <> 'heap') AS unfit" \
	"  FROM member WHERE relkind <> 'p' GROUP BY id) m ON m.id = w.id" \
	" LEFT JOIN (SELECT k.id, jsonb_agg(jsonb_build_object('name', k.oid::regclass::text, 'owned', k.owned," \
	"  'row_security', k.row_security, 'lacks', k.lacks) ORDER BY k.oid::regclass::text) AS barred" \
	"  FROM rights k JOIN wanted r ON r.id = k.id AND r.oid <> k.oid" \
	"  WHERE NOT k.owned OR k.row_security OR k.lacks IS NOT NULL GROUP BY k.id) b ON b.id = w.id),"

#define COLUMNS_OF \
	" columns AS (SELECT jsonb_agg(jsonb_build_object('id', w.id, 'name', a.attname," \
	" 'position', a.attnum, 'type', format_type(a.atttypid, a.atttypmod)," \
	" 'collation', (SELECT l.collnamespace::regnamespace || '.' || quote_ident(l.collname)" \
	"  FROM pg_collation l WHERE l.oid = a.attcollation)," \
	" 'not_null', a.attnotnull, 'null_free', a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint n" \
	"  WHERE n.conrelid = w.oid AND n.contype = 'n' AND n.conkey[1] = a.attnum AND NOT n.convalidated)," \
	" 'generated', a.attgenerated, 'identity', a.attidentity," \
	" 'has_default', a.atthasdef OR a.attidentity <> '')) AS value" \
	" FROM wanted w JOIN pg_attribute a ON a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped),"

/* User-defined types that columns use, also inside arrays, domains, composites and ranges. */
#define TYPES \
	" used (oid) AS (SELECT a.atttypid FROM wanted w JOIN pg_attribute a ON a.attrelid = w.oid" \
	"  AND a.attnum > 0 AND NOT a.attisdropped" \
	" UNION SELECT x.oid FROM used u JOIN pg_type t ON t.oid = u.oid CROSS JOIN LATERAL (" \
	"  SELECT t.typelem WHERE t.typelem <> 0 UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0" \
	"  UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid" \
	"   AND a.attnum > 0 AND NOT a.attisdropped" \
	"  UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid) x(oid))," \
	" types AS (SELECT jsonb_agg(jsonb_build_object('type', format_type(t.oid, NULL), 'definition'," \
	" CASE t.typtype" \
	" WHEN 'e' THEN 'enum (' || (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)" \
	"  FROM pg_enum e WHERE e.enumtypid = t.oid) || ')'" \
	" WHEN 'd' THEN 'domain over ' || format_type(t.typbasetype, t.typtypmod)" \
	"  || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END || coalesce((SELECT ' ' ||" \
	"  string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY pg_get_constraintdef(k.oid))" \
	"  FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '')" \
	" WHEN 'c' THEN 'composite (' || (SELECT string_agg('\"' || replace(a.attname, '\"', '\"\"') || '\" ' ||" \
	"  format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) FROM pg_attribute a" \
	"  WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) || ')'" \
	" WHEN 'r' THEN 'range of ' || (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid)" \
	" WHEN 'm' THEN 'multirange of ' || (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngmultitypid = t.oid)" \
	" ELSE 'base type' END)) AS value" \
	" FROM used u JOIN pg_type t ON t.oid = u.oid" \
	" WHERE t.typnamespace <> 'pg_catalog'::regnamespace AND t.typcategory <> 'A'),"

/* A definition is cut after USING, so that names of index and table do not count. */
#define INDEXES \
	" indexes AS (SELECT jsonb_agg(jsonb_build_object('id', w.id, 'name', x.indexrelid::regclass::text," \
	" 'unique', x.indisunique, 'exclusion', x.indisexclusion, 'immediate', x.indimmediate," \
	" 'whole', x.indpred IS NULL AND x.indexprs IS NULL AND x.indisvalid," \
	" 'columns', (SELECT jsonb_agg(a.attname ORDER BY a.attname)" \
	"  FROM unnest((x.indkey::int2[])[0:x.indnkeyatts - 1]) k JOIN pg_attribute a" \
	"  ON a.attrelid = x.indrelid AND a.attnum = k)," \
	" 'definition', substring(pg_get_indexdef(x.indexrelid) FROM ' USING (.*)$'))) AS value" \
	" FROM wanted w JOIN pg_index x ON x.indrelid = w.oid AND (x.indisunique OR x.indisexclusion)),"

#define CHECKS \
	" checks AS (SELECT jsonb_agg(jsonb_build_object('id', w.id, 'name', k.conname," \
	" 'definition', pg_get_constraintdef(k.oid))) AS value" \
	" FROM wanted w JOIN pg_constraint k ON k.conrelid = w.oid AND k.contype = 'c'),"

/*
 * What would act in a session whose role is replica, or refuse the upsert (an UPDATE rule does so even when it is
 * disabled); and what writes past statement triggers.  A partition that is written through its parent is not asked for
 * its rules.
 */
#define TRIGGERS \
	" triggers AS (SELECT jsonb_agg(jsonb_build_object('id', m.id, 'table', m.oid::regclass::text, 'name', g.tgname)" \
	"  ORDER BY m.oid::regclass::text, g.tgname) AS value" \
	" FROM member m JOIN pg_trigger g ON g.tgrelid = m.oid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal" \
	" JOIN pg_proc f ON f.oid = g.tgfoid JOIN pg_namespace s ON s.oid = f.pronamespace" \
	" WHERE s.nspname <> 'migrate_tiers')," \
	" rules AS (SELECT jsonb_agg(jsonb_build_object('id', w.id, 'table', w.oid::regclass::text, 'name', r.rulename," \
	"  'on_update', r.ev_type = '2', 'enabled', r.ev_enabled <> 'D') ORDER BY w.oid::regclass::text, r.rulename) AS value" \
	" FROM wanted w JOIN pg_rewrite r ON r.ev_class = w.oid" \
	" WHERE r.ev_type = '2' OR (r.ev_type <> '1' AND r.ev_enabled IN ('A', 'R')))," \
	" subscriptions AS (SELECT jsonb_agg(jsonb_build_object('id', m.id, 'table', m.oid::regclass::text, 'name', s.subname)" \
	"  ORDER BY m.oid::regclass::text, s.subname) AS value" \
	" FROM member m JOIN pg_subscription_rel l ON l.srrelid = m.oid JOIN pg_subscription s ON s.oid = l.srsubid),"

#define FOREIGN_KEYS \
	" foreign_keys AS (SELECT jsonb_agg(jsonb_build_object('id', m.id, 'name', k.conname," \
	" 'table', m.oid::regclass::text, 'parent_schema', p.nspname, 'parent_name', p.relname)) AS value" \
	" FROM member m JOIN pg_constraint k ON k.conrelid = m.oid AND k.contype = 'f' AND k.conparentid = 0" \
	" CROSS JOIN LATERAL (SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace" \
	"  WHERE c.oid = coalesce(pg_partition_root(k.confrelid), k.confrelid)) p),"

/* Each sequence behind a column, with what the column's type can hold of it. */
#define SEQUENCES \
	MT_SQL_SEQUENCE_USES \
	" sequences AS (SELECT jsonb_agg(jsonb_build_object('id', u.id, 'column', u.attname, 'oid', c.oid::bigint," \
	" 'name', c.oid::regclass::text, 'plain', c.relname, 'owned', pg_has_role(c.relowner, 'USAGE')," \
	" 'start', q.seqstart, 'increment', q.seqincrement, 'minimum', q.seqmin, 'maximum', q.seqmax," \
	" 'cache', q.seqcache, 'cycle', q.seqcycle, 'last', CASE WHEN has_sequence_privilege(c.oid, 'SELECT, USAGE')" \
	"  THEN pg_sequence_last_value(c.oid) END," \
	" 'lowest', " MT_SQL_LOWEST("u.atttypid") ", 'highest', " MT_SQL_HIGHEST("u.atttypid") ")) AS value" \
																						   " FROM uses u LEFT JOIN pg_class c ON c.oid = u.sequence LEFT JOIN pg_sequence q ON q.seqrelid = c.oid),"

#define SERVER \
	" server AS (SELECT jsonb_build_object(" \
	" 'version', current_setting('server_version_num')::integer," \
	" 'version_text', current_setting('server_version')," \
	" 'user', current_user, 'database', current_database()," \
	" 'encoding', current_setting('server_encoding')," \
	" 'locale', concat_ws(' ', (to_jsonb(d)->>'datlocprovider'), d.datcollate, d.datctype," \
	"  coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'))," \
	" 'recovery', pg_is_in_recovery()," \
	" 'system', (SELECT system_identifier::text FROM pg_control_system())," \
	" 'started', pg_postmaster_start_time()," \
	" 'extension', EXISTS (SELECT FROM pg_extension WHERE extname = 'migrate_tiers')," \
	" 'schema_ready', coalesce((SELECT pg_has_role(n.nspowner, 'USAGE') FROM pg_namespace n" \
	"  WHERE n.nspname = 'migrate_tiers'), has_database_privilege(d.oid, 'CREATE'))," \
	" 'schema_owner', (SELECT n.nspowner::regrole::text FROM pg_namespace n WHERE n.nspname = 'migrate_tiers')," \
	" 'publications', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', p.pubname, 'all_tables', p.puballtables)), '[]')" \
	"  FROM pg_publication p WHERE p.puballtables OR EXISTS (SELECT FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid" \
	"   WHERE r.prpubid = p.oid AND c.relnamespace = to_regnamespace('migrate_tiers'))" \
	"  OR EXISTS (SELECT FROM pg_publication_namespace s" \
	"   WHERE s.pnpubid = p.oid AND s.pnnspid = to_regnamespace('migrate_tiers')))," \
	" 'temporary', has_database_privilege(d.oid, 'TEMPORARY')," \
	" 'replica', has_parameter_privilege('session_replication_role', 'SET')," \
	" 'connections_left', current_setting('max_connections')::integer" \
	"  - current_setting('superuser_reserved_connections')::integer" \
	"  - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')" \
	" ) AS value FROM pg_database d WHERE d.datname = current_database())"

static const char structure_query[] =
	WANTED TABLES COLUMNS_OF TYPES INDEXES CHECKS TRIGGERS FOREIGN_KEYS SEQUENCES SERVER
	" SELECT jsonb_build_object('server', server.value, 'tables', coalesce(tables.value, '[]'),"
	" 'columns', coalesce(columns.value, '[]'), 'types', coalesce(types.value, '[]'),"
	" 'indexes', coalesce(indexes.value, '[]'), 'checks', coalesce(checks.value, '[]'),"
	" 'triggers', coalesce(triggers.value, '[]'), 'rules', coalesce(rules.value, '[]'),"
	" 'subscriptions', coalesce(subscriptions.value, '[]'),"
	" 'foreign_keys', coalesce(foreign_keys.value, '[]'), 'sequences', coalesce(sequences.value, '[]'))"
	" FROM server, tables, columns, types, indexes, checks, triggers, rules, subscriptions, foreign_keys, sequences";

static char *list_names(const List *relations, bool target);
static void append_member(StringInfo json, const char *name, const char *value);

/* mt_structure_local asks this database, as the owner of the migration. */
char *
mt_structure_local(const MtMigration *migration, const List *relations)
{
	char	   *names = list_names(relations, false);
	char	   *structure;
	MtSpiScope	scope;
	/* Constants in definitions are to look as those of the target. */
	int			guc_level = mt_pin_begin();

	mt_spi_begin_as(&scope, migration->owner);
	mt_spi_exec(SPI_OK_SELECT, structure_query, MT_ARGS(MT_TEXT(names)));
	structure = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	mt_pin_end(guc_level);
	return structure;
}

/* mt_structure_remote asks the target. */
char *
mt_structure_remote(MtRemote *remote, const List *relations)
{
	return mt_remote_query(remote, structure_query, MT_PARAMS(list_names(relations, true)))->values[0][0];
}

/* list_names writes the tables to ask for as a JSON array. */
static char *
list_names(const List *relations, bool target)
{
	StringInfoData json;
	ListCell   *cell;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	foreach(cell, relations)
	{
		const MtRelation *relation = lfirst(cell);

		appendStringInfo(&json, "%s{\"id\":%d", foreach_current_index(cell) > 0 ? "," : "", relation->id);
		append_member(&json, "schema", target ? relation->target_schema : relation->schema);
		append_member(&json, "name", target ? relation->target_name : relation->name);
		appendStringInfoChar(&json, '}');
	}
	appendStringInfoChar(&json, ']');
	return json.data;
}

static void
append_member(StringInfo json, const char *name, const char *value)
{
	appendStringInfo(json, ",\"%s\":", name);
	escape_json(json, value);
}
