-- Preflight, part one: the source, and the two servers.
--
-- Each check is a function of the migration and of what both sides said of
-- themselves (endpoint/structure.c); it returns what is wrong, and no row
-- where all is well.  They are called by preflight() only, as the owner of the
-- extension.

CREATE FUNCTION migrate_tiers.preflight_tables_tagged(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Children by inheritance are tables of their own, wherever they are: their rows are seen in a table that moves.
    WITH RECURSIVE heir (oid, root) AS (
        SELECT i.inhrelid, r.relation FROM migrate_tiers.relation r JOIN pg_inherits i ON i.inhparent = r.relation
         WHERE r.migration = m AND r.tier IN ('realtime', 'batch')
        UNION
        SELECT i.inhrelid, h.root FROM heir h JOIN pg_inherits i ON i.inhparent = h.oid),
    moving (schema_oid) AS (
        SELECT k.relnamespace FROM migrate_tiers.relation r JOIN pg_class k ON k.oid = r.relation WHERE r.migration = m)
    SELECT c.oid::regclass::text,
           CASE c.relkind WHEN 'm' THEN 'warning' ELSE 'failure' END,
           CASE WHEN c.relnamespace IN (SELECT s.schema_oid FROM moving s)
                THEN format('this %s of schema %I has no tier',
                            CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'table' END, n.nspname)
                ELSE format('this table inherits from %s and has no tier',
                            (SELECT min(h.root::regclass::text) FROM heir h WHERE h.oid = c.oid)) END,
           format('Run SELECT migrate_tiers.tag(%L, %L), or choose another tier.', c.oid::regclass,
                  CASE WHEN c.relpersistence = 'p' AND migrate_tiers.key_index(c.oid) IS NOT NULL
                       THEN 'realtime' ELSE 'batch' END)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND c.relpersistence <> 't'
       AND (c.relnamespace IN (SELECT s.schema_oid FROM moving s) OR c.oid IN (SELECT h.oid FROM heir h))
       AND NOT EXISTS (SELECT FROM migrate_tiers.relation r WHERE r.relation = c.oid)
       AND NOT EXISTS (SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                          AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
    UNION ALL
    SELECT r.target_schema || '.' || r.target_name, 'failure',
           'the table was dropped after it was tagged',
           format('Run SELECT migrate_tiers.untag(%s).', r.relation)
      FROM migrate_tiers.relation r
     WHERE r.migration = m AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relation)
    UNION ALL
    SELECT g.name, 'failure', 'the migration has no table',
           'Begin with migrate_tiers.suggest_tiers(), then migrate_tiers.tag_schema and migrate_tiers.tag.'
      FROM migrate_tiers.migration g
     WHERE g.id = m AND NOT EXISTS (SELECT FROM migrate_tiers.relation r WHERE r.migration = m)
    ORDER BY 1
$$;

CREATE FUNCTION migrate_tiers.preflight_source_storage(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.name, 'failure',
           CASE WHEN u.kind = 'f' THEN 'a foreign table cannot be captured'
                WHEN u.persistence <> 'p' THEN 'an unlogged table cannot be realtime: a crash empties it'
                ELSE format('access method %I cannot be copied by ranges of blocks', u.method) END,
           CASE WHEN u.kind = 'f' THEN 'Detach the partition and migrate it by itself.'
                WHEN u.persistence <> 'p' THEN format('Run ALTER TABLE %s SET LOGGED, or tag it batch.', u.name)
                ELSE 'Tag it batch, or store it as heap.' END
      FROM migrate_tiers.relation r
      JOIN jsonb_to_recordset(source->'tables') AS s(id integer, unfit jsonb) ON s.id = r.id
     CROSS JOIN LATERAL jsonb_to_recordset(s.unfit) AS u(name text, kind text, persistence text, method text)
     WHERE r.migration = m AND r.tier = 'realtime'
     ORDER BY 1
$$;

CREATE FUNCTION migrate_tiers.preflight_source_key(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid::regclass::text, 'failure',
           format(CASE WHEN g."column" IS NULL THEN 'the key (%s), under which the table was tagged, is not its key any more'
                       ELSE 'the key (%s) contains generated column %I, which is not sent' END,
                  (SELECT string_agg(quote_ident(k), ', ') FROM unnest(r.key_columns) k), g."column"),
           CASE WHEN g."column" IS NULL THEN format('Tag it again: SELECT migrate_tiers.tag(%L, ''realtime'').', c.oid::regclass)
                ELSE format('Run ALTER TABLE %s REPLICA IDENTITY USING INDEX with a unique index without generated columns, and tag it again.',
                            c.oid::regclass) END
      FROM migrate_tiers.relation r JOIN pg_class c ON c.oid = r.relation
      LEFT JOIN LATERAL (SELECT min(a.attname::text) AS "column" FROM pg_attribute a
                          WHERE a.attrelid = c.oid AND a.attname = ANY (r.key_columns) AND a.attgenerated <> '') g ON true
     WHERE r.migration = m AND r.tier = 'realtime'
       AND NOT EXISTS (
           SELECT FROM pg_index x
            WHERE x.indexrelid = migrate_tiers.key_index(r.relation)
              AND r.key_columns = ARRAY(SELECT a.attname
                      FROM unnest((x.indkey::int2[])[0:x.indnkeyatts - 1]) WITH ORDINALITY k(attnum, position)
                      JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
                     ORDER BY k.position))
     ORDER BY 1
$$;

CREATE FUNCTION migrate_tiers.preflight_source_privileges(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, 'failure',
           CASE WHEN NOT s.owned THEN format('role %s, which owns the migration, does not own the table', g.owner::regrole)
                WHEN NOT s.schema_usage THEN format('role %s may not use the schema of the table', g.owner::regrole)
                WHEN NOT o.usage THEN format('role %s, which owns the table, may not use its schema', c.relowner::regrole)
                ELSE format('role %s may not read the table', g.owner::regrole) END,
           CASE WHEN NOT s.owned THEN format('Run ALTER TABLE %s OWNER TO %s, or make that role a member of the owner.',
                                             r.relation::regclass, g.owner::regrole)
                WHEN NOT s.schema_usage THEN format('Run GRANT USAGE ON SCHEMA %s TO %s.',
                                                    c.relnamespace::regnamespace, g.owner::regrole)
                WHEN NOT o.usage THEN format('Run GRANT USAGE ON SCHEMA %s TO %s: its rows are read and written as that role.',
                                             c.relnamespace::regnamespace, c.relowner::regrole)
                ELSE format('Run GRANT SELECT ON %s TO %s.', r.relation::regclass, g.owner::regrole) END
      FROM migrate_tiers.relation r
      JOIN migrate_tiers.migration g ON g.id = r.migration
      JOIN pg_class c ON c.oid = r.relation
      JOIN jsonb_to_recordset(source->'tables') AS s(id integer, owned boolean, schema_usage boolean, lacks jsonb) ON s.id = r.id
     CROSS JOIN LATERAL (SELECT has_schema_privilege(c.relowner, c.relnamespace, 'USAGE') AS usage) AS o
     WHERE r.migration = m AND r.tier <> 'ignored'
       AND (NOT s.owned OR NOT s.schema_usage OR NOT o.usage OR s.lacks @> '["SELECT"]')
    UNION ALL
    SELECT p.name, 'failure',
           CASE WHEN NOT p.owned THEN format('role %s, which owns the migration, does not own the partition', g.owner::regrole)
                ELSE format('role %s may not read the partition', g.owner::regrole) END,
           CASE WHEN NOT p.owned THEN format('Run ALTER TABLE %s OWNER TO %s, or make that role a member of the owner.',
                                             p.name, g.owner::regrole)
                ELSE format('Run GRANT SELECT ON %s TO %s.', p.name, g.owner::regrole) END
      FROM migrate_tiers.relation r
      JOIN migrate_tiers.migration g ON g.id = r.migration
      JOIN jsonb_to_recordset(source->'tables') AS s(id integer, barred jsonb) ON s.id = r.id
     CROSS JOIN LATERAL jsonb_to_recordset(s.barred) AS p(name text, owned boolean, lacks jsonb)
     WHERE r.migration = m AND r.tier = 'realtime' AND (NOT p.owned OR p.lacks @> '["SELECT"]')
     ORDER BY 1
$$;

-- The triggers that advance() makes anew are no finding.
CREATE FUNCTION migrate_tiers.preflight_source_triggers(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, 'failure',
           format('trigger %I of table %s has the name of one of migrate_tiers', g.tgname, g.tgrelid::regclass),
           format('Run ALTER TRIGGER %I ON %s RENAME TO ..., or drop it.', g.tgname, g.tgrelid::regclass)
      FROM migrate_tiers.relation r
     CROSS JOIN LATERAL (SELECT r.relation AS oid UNION SELECT p.relid FROM pg_partition_tree(r.relation) AS p) AS t
      JOIN pg_trigger g ON g.tgrelid = t.oid AND g.tgparentid = 0
      JOIN (VALUES ('migrate_tiers_capture', 'migrate_tiers.capture()'::regprocedure, 1),
                   ('migrate_tiers_capture_truncate', 'migrate_tiers.capture()', 0),
                   ('migrate_tiers_fence', 'migrate_tiers.fence()', 0)) AS o(name, function, level) ON o.name = g.tgname
     WHERE r.migration = m AND r.tier = 'realtime'
       AND (g.tgfoid <> o.function OR g.tgtype & 1 <> o.level OR g.tgconstraint <> 0)
     ORDER BY 1, 3
$$;

CREATE FUNCTION migrate_tiers.preflight_row_security(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%s of %s', coalesce(p.name, r.relation::regclass::text), v.side), 'failure',
           format('row security would hide rows from role %I', v.structure->'server'->>'user'),
           format('Run ALTER ROLE %I BYPASSRLS on that side, or ALTER TABLE %s NO FORCE ROW LEVEL SECURITY where it owns the table.',
                  v.structure->'server'->>'user',
                  CASE WHEN p.name IS NOT NULL THEN p.name WHEN v.side = 'source' THEN r.relation::regclass::text
                       ELSE format('%I.%I', r.target_schema, r.target_name) END)
      FROM (VALUES ('source', source), ('target', target)) AS v(side, structure)
     CROSS JOIN LATERAL jsonb_to_recordset(v.structure->'tables') AS s(id integer, row_security boolean, barred jsonb)
      JOIN migrate_tiers.relation r ON r.id = s.id
     CROSS JOIN LATERAL (SELECT NULL AS name, s.row_security UNION ALL
                         SELECT b.name, b.row_security FROM jsonb_to_recordset(s.barred) AS b(name text, row_security boolean)
                          WHERE r.tier = 'realtime') AS p
     WHERE r.tier <> 'ignored' AND p.row_security
     ORDER BY 1
$$;

CREATE FUNCTION migrate_tiers.preflight_foreign_keys(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, 'failure',
           format('foreign key %I refers to %I.%I, which is %s', f.name, f.parent_schema, f.parent_name,
                  coalesce(p.tier, 'not tagged')),
           format('Run SELECT migrate_tiers.tag(%L, ''realtime''): rows and those that they refer to must follow together.',
                  format('%I.%I', f.parent_schema, f.parent_name))
      FROM jsonb_to_recordset(source->'foreign_keys')
               AS f(id integer, name text, parent_schema text, parent_name text)
      JOIN migrate_tiers.relation r ON r.id = f.id AND r.tier = 'realtime'
      LEFT JOIN pg_namespace n ON n.nspname = f.parent_schema::name
      LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = f.parent_name::name
      LEFT JOIN migrate_tiers.relation p ON p.relation = c.oid AND p.migration = m
     WHERE p.tier IS DISTINCT FROM 'realtime'
     ORDER BY 1, f.name
$$;

-- Large objects are not rows of any table.  A column that holds their numbers
-- is found by its type, and by a look at some of its rows, since oid columns
-- can hold other things too (phase/preflight_holders.c).
CREATE FUNCTION migrate_tiers.preflight_large_objects(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.relation::oid::regclass::text, 'failure',
           format('column %I holds large objects, which cannot follow in realtime', h."column"),
           'Keep them in a column of type bytea, or tag the table ignored.'
      FROM jsonb_to_recordset(source->'holders') AS h(relation bigint, "column" text)
    UNION ALL
    SELECT current_database(), 'warning', 'the database has large objects, which are not migrated',
           'Copy those that are needed with pg_dump --large-objects.'
     WHERE EXISTS (SELECT FROM pg_largeobject_metadata) AND source->'holders' = '[]'
$$;

-- A subscriber stops at the first row of a table that it has not, and its slot holds WAL back.
CREATE FUNCTION migrate_tiers.preflight_publications(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('%I of %s', p.name, v.side), 'warning',
           CASE WHEN p.all_tables THEN 'a publication FOR ALL TABLES has those of the extension, too'
                ELSE 'the publication has tables of the extension' END
           || ': subscribers without schema migrate_tiers stop, and their slots hold back WAL',
           CASE WHEN p.all_tables
                THEN 'Publish your own tables by a list (FOR TABLE) or by schema (FOR TABLES IN SCHEMA), and refresh the subscriptions. Consumers that are no PostgreSQL may ignore the schema.'
                ELSE format('Take them out with ALTER PUBLICATION %I DROP, and refresh the subscriptions.', p.name) END
      FROM (VALUES ('source', source), ('target', target)) AS v(side, structure)
     CROSS JOIN LATERAL jsonb_to_recordset(v.structure->'server'->'publications') AS p(name text, all_tables boolean)
     ORDER BY v.side, p.name
$$;

CREATE FUNCTION migrate_tiers.preflight_source_subscriptions(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, 'warning',
           format('subscription %I writes table %s, and could not go on in target_only', g.name, g."table"),
           format('Until then what it brings is captured. Before target_only, ALTER SUBSCRIPTION %I DISABLE, and let it come to the target by other means.',
                  g.name)
      FROM jsonb_to_recordset(source->'subscriptions') AS g(id integer, "table" text, name text)
      JOIN migrate_tiers.relation r ON r.id = g.id AND r.tier = 'realtime'
     ORDER BY 1, 3
$$;

CREATE FUNCTION migrate_tiers.preflight_worker_slots(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'max_worker_processes', 'warning',
           format('%s worker slots are needed, %s of %s are free', n.needed, n.free, n.total),
           'Lower the option copy_workers, or raise max_worker_processes at the next restart.'
      -- Of sync; of the copy, or of a verification after it and its readers; of the schedule of pushes, and a push.
      FROM (SELECT 1 + (SELECT greatest(c.value::integer, 1 + least(v.value::integer, c.value::integer))
                          FROM migrate_tiers.options c JOIN migrate_tiers.options v USING (migration)
                         WHERE c.name = 'copy_workers' AND v.name = 'verify_workers' AND c.migration = g.name)
                     + (SELECT CASE WHEN count(*) > 0 THEN 2 ELSE 0 END FROM migrate_tiers.relation r
                         WHERE r.migration = m AND r.tier = 'batch') AS needed,
                   current_setting('max_worker_processes')::integer AS total,
                   current_setting('max_worker_processes')::integer
                   - (SELECT count(*) FROM pg_stat_activity a
                       WHERE a.backend_type NOT IN ('client backend', 'autovacuum launcher', 'autovacuum worker',
                             'checkpointer', 'background writer', 'walwriter', 'walsender', 'walreceiver', 'startup',
                             'archiver', 'logger', 'io worker', 'slotsync worker', 'walsummarizer',
                             'standalone backend')) AS free
              FROM migrate_tiers.migration g WHERE g.id = m) n
     WHERE n.free < n.needed
$$;

CREATE FUNCTION migrate_tiers.preflight_lock_table(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- Capture taken off a partitioned table takes three locks a partition; a tick those of what it writes with its
    -- indexes, and on the target those of two temporary tables for each.
    WITH RECURSIVE tree (oid) AS (
        SELECT r.relation FROM migrate_tiers.relation r WHERE r.migration = m AND r.tier = 'realtime'
        UNION
        SELECT i.inhrelid FROM tree t JOIN pg_class p ON p.oid = t.oid AND p.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid),
    needed (locks) AS (
        SELECT sum(CASE WHEN c.relispartition THEN 3 ELSE 13 END + (SELECT count(*) FROM pg_index x WHERE x.indrelid = c.oid))
          FROM tree t JOIN pg_class c ON c.oid = t.oid),
    owners (processes, each) AS (
        SELECT current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint,
               current_setting('max_locks_per_transaction')::bigint)
    SELECT 'max_locks_per_transaction', 'warning',
           format('one transaction may take %s locks; there is room for %s, of all transactions', n.locks, o.processes * o.each),
           format('Set max_locks_per_transaction to %s at the next restart, on the target, too.', ceil(2 * n.locks / o.processes))
      FROM needed n, owners o
     WHERE n.locks > o.processes * o.each / 2
$$;

CREATE FUNCTION migrate_tiers.preflight_target_server(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.database, v.status, v.detail, v.hint
      FROM jsonb_to_record(target->'server') AS t(database text, version integer, version_text text,
               recovery boolean, system text, started timestamptz, connections_left integer, extension boolean)
      JOIN jsonb_to_record(source->'server') AS s(database text, version integer, version_text text,
               system text, started timestamptz) ON true
     CROSS JOIN LATERAL (VALUES
        (t.version >= 190000, 'warning', format('PostgreSQL %s is newer than this extension was tested with', t.version_text),
         'Versions 15 to 18 are supported.'),
        (t.version / 10000 < s.version / 10000, 'warning',
         format('the target is PostgreSQL %s, older than the source (%s)', t.version_text, s.version_text),
         'Make sure that the application can do with the older version.'),
        (t.recovery, 'failure', 'the target is a standby, which takes no writes', 'Let the foreign server name its primary.'),
        ((t.system, t.started, t.database) = (s.system, s.started, s.database), 'failure',
         'the target is this very database', 'Let the foreign server name another one.'),
        (t.connections_left < 2 + (SELECT o.value::integer FROM migrate_tiers.options o
             JOIN migrate_tiers.migration g ON g.name = o.migration WHERE g.id = m AND o.name = 'copy_workers'),
         'warning', format('the target has %s connections left', t.connections_left),
         'Lower the option copy_workers, or raise max_connections there.'),
        (t.extension, 'failure', 'the extension migrate_tiers is installed in the target database',
         'Run DROP EXTENSION migrate_tiers there; a target needs no extension.')
     ) AS v(found, status, detail, hint)
     WHERE v.found
$$;

CREATE FUNCTION migrate_tiers.preflight_encoding(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.database, v.status, v.detail, v.hint
      FROM jsonb_to_record(target->'server') AS t(database text, encoding text, locale text)
      JOIN jsonb_to_record(source->'server') AS s(encoding text, locale text) ON true
     CROSS JOIN LATERAL (VALUES
        (t.encoding <> s.encoding, 'failure', format('the encoding is %s here and %s on the target', s.encoding, t.encoding),
         format('Create the target database with ENCODING %L.', s.encoding)),
        (t.locale <> s.locale, 'warning', format('the default collation is %s here and %s on the target', s.locale, t.locale),
         'Text will sort in another order there.')
     ) AS v(found, status, detail, hint)
     WHERE v.found
$$;

CREATE FUNCTION migrate_tiers.preflight_clock(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT target->'server'->>'database', 'failure',
           format('the clock of the target is %s s %s', round(abs(c.ahead), 1),
                  CASE WHEN c.ahead > 0 THEN 'ahead' ELSE 'behind' END),
           'Let both servers take the time from NTP: conflicts are decided by it.'
      FROM (SELECT (target->>'clock_ahead')::numeric AS ahead) c
     WHERE abs(c.ahead) > 1
$$;

