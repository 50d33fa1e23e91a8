-- Proposing tiers.

-- A table is derived when it is defined so, when it cannot be captured, when its rows come and
-- go in bulk, when one role fills it and others only read it, or when no row of it is ever looked
-- for by itself; what realtime rows refer to is realtime whatever it looks like.
CREATE FUNCTION migrate_tiers.suggest_tiers_to(caller oid)
    RETURNS TABLE (relation regclass, tier text, reason text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE candidate AS MATERIALIZED (
        SELECT c.oid, c.relname, c.relkind, c.relpersistence, w.*, g.writers, g.writer, g.readers,
               x.has_key, x.has_generated_key
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (
               SELECT migrate_tiers.key_index(c.oid) IS NOT NULL AS has_key, count(*) FILTER (WHERE g.generated) > 0 AS has_generated_key
                 FROM pg_index x
                CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_attribute a
                                                    WHERE a.attrelid = x.indrelid AND a.attgenerated <> ''
                                                      AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])) AS generated) g
                WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid
                  AND (x.indisprimary OR x.indisreplident AND c.relreplident = 'i')) x
         CROSS JOIN LATERAL (
               SELECT sum(greatest(k.relpages, 0)) AS pages, sum(pg_stat_get_tuples_inserted(k.oid)) AS inserted,
                      sum(pg_stat_get_tuples_updated(k.oid)) AS updated, sum(pg_stat_get_tuples_deleted(k.oid)) AS deleted,
                      sum(pg_stat_get_live_tuples(k.oid)) AS live, sum(pg_stat_get_numscans(k.oid)) AS whole,
                      sum((SELECT sum(pg_stat_get_numscans(x.indexrelid)) FROM pg_index x WHERE x.indrelid = k.oid)) AS singly
                 FROM (SELECT c.oid UNION SELECT p.relid FROM pg_partition_tree(c.oid) p) t
                 JOIN pg_class k ON k.oid = t.oid) w
         CROSS JOIN LATERAL (
               -- Roles but the owner, PUBLIC among them: those that may write, and those that may only read.
               SELECT count(*) FILTER (WHERE p.writes) AS writers,
                      coalesce(max(p.grantee) FILTER (WHERE p.writes), c.relowner) AS writer,
                      count(*) FILTER (WHERE NOT p.writes AND p.reads) AS readers
                 FROM (SELECT a.grantee, bool_or(a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')) AS writes,
                              bool_or(a.privilege_type = 'SELECT') AS reads
                         FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner GROUP BY a.grantee) p) g
         WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND c.relpersistence <> 't'
           AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'migrate_tiers')
           AND pg_has_role(caller, c.relowner, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_depend d
                            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                              AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')),
    edge AS MATERIALIZED (
        SELECT DISTINCT coalesce(pg_partition_root(k.conrelid), k.conrelid)::oid AS child,
               coalesce(pg_partition_root(k.confrelid), k.confrelid)::oid AS parent
          FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0),
    judged AS MATERIALIZED (
        SELECT c.*, e.neighbours,
               CASE WHEN c.relkind = 'm' THEN 'it is a materialized view'
                    WHEN c.relpersistence = 'u' THEN 'it is unlogged: a crash may empty it, so nothing in it is the only copy'
                    WHEN NOT c.has_key AND c.has_generated_key
                    THEN 'its key contains a generated column; with another key it could be realtime'
                    WHEN NOT c.has_key THEN 'it has no key; with a primary key it could be realtime'
               END AS cannot,
               CASE WHEN e.neighbours > 0 THEN NULL
                    WHEN c.updated = 0 AND c.inserted >= 100 AND c.inserted - c.deleted >= 2 * greatest(c.live, 1)
                    THEN format('it is emptied and filled in bulk: %s rows inserted, %s there, none updated', c.inserted, c.live)
                    WHEN c.updated + c.deleted = 0 AND c.live >= 100 AND c.readers > 0
                     AND (c.writers = 0 OR c.writers = 1 AND c.writer <> 0)
                    THEN format('only role %s fills it, others may but read it: %s rows inserted, none updated or deleted',
                                quote_ident(pg_get_userbyid(c.writer)), c.inserted)
                    WHEN c.live >= 1000 AND c.updated > 0 AND c.singly = 0 AND c.whole > 0
                    THEN format('its rows are never updated singly: %s updates, and no row was ever looked up by an index', c.updated)
                    WHEN c.relname ~* '(^|_)(agg|aggregates?|summary|summaries|rollups?|stats|statistics|reports?|cube|snapshots?|hourly|daily|weekly|monthly|yearly)(_|$)'
                    THEN 'its name is that of a summary, and no foreign key ties it to other tables'
               END AS derived
          FROM candidate c
         CROSS JOIN LATERAL (SELECT count(*) AS neighbours FROM edge
                              WHERE c.oid IN (edge.child, edge.parent) AND edge.child <> edge.parent) e),
    realtime (oid) AS (
        SELECT j.oid FROM judged j WHERE j.cannot IS NULL AND j.derived IS NULL
        UNION
        SELECT t.relation FROM migrate_tiers.relation t WHERE t.tier = 'realtime'
        UNION
        SELECT edge.parent FROM realtime JOIN edge ON edge.child = realtime.oid)
    SELECT j.oid::regclass,
           CASE WHEN j.cannot IS NULL AND j.oid IN (SELECT r.oid FROM realtime r) THEN 'realtime' ELSE 'batch' END,
           CASE WHEN j.cannot IS NOT NULL
                THEN j.cannot || CASE WHEN j.oid IN (SELECT r.oid FROM realtime r)
                                      THEN '; but realtime tables refer to it' ELSE '' END
                WHEN j.derived IS NOT NULL THEN j.derived
                WHEN j.inserted + j.updated + j.deleted = 0 THEN 'it has a key; no write was counted yet'
                ELSE format('it is written by rows: %s inserts, %s updates, %s deletes', j.inserted, j.updated, j.deleted)
           END
           || CASE WHEN j.neighbours > 0 THEN format('; foreign keys tie it to %s table%s', j.neighbours,
                                                     CASE j.neighbours WHEN 1 THEN '' ELSE 's' END) ELSE '' END
           || CASE WHEN j.pages > 0 THEN format('; %s', pg_size_pretty(j.pages * current_setting('block_size')::bigint))
                   ELSE '' END
      FROM judged j
     WHERE NOT EXISTS (SELECT FROM migrate_tiers.relation r WHERE r.relation = j.oid)
     ORDER BY 2 DESC, j.oid::regclass::text
$$;
REVOKE ALL ON FUNCTION migrate_tiers.suggest_tiers_to(oid) FROM PUBLIC;

CREATE FUNCTION migrate_tiers.suggest_tiers(migration name DEFAULT NULL)
    RETURNS TABLE (relation regclass, tier text, reason text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_suggest_tiers';
COMMENT ON FUNCTION migrate_tiers.suggest_tiers(name) IS
'proposes a tier for each table that you own and that has none, with the reason: what it is, its key, its foreign keys, how it was written and read since statistics began, who may write it, its size. It is the same for every migration: a table is part of one at most. Changes nothing. Errors: 42704 no such migration, 42501 not its owner';

