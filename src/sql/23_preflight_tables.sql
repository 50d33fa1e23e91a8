-- Preflight, part two: the tables of the target.
--
-- While a table is being copied its rows are ours and its keys are set aside:
-- then nothing is said about them.

CREATE FUNCTION migrate_tiers.preflight_target_privileges(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.database, 'failure', v.detail, v.hint
      FROM jsonb_to_record(target->'server') AS t("user" text, database text, replica boolean, schema_ready boolean,
               schema_owner text, temporary boolean)
     CROSS JOIN LATERAL (VALUES
        (NOT t.replica, format('role %I may not set session_replication_role, so triggers and foreign keys would act twice', t."user"),
         format('Run GRANT SET ON PARAMETER session_replication_role TO %I on the target.', t."user")),
        (NOT t.schema_ready AND t.schema_owner IS NULL, format('role %I may not create the schema migrate_tiers', t."user"),
         format('Run GRANT CREATE ON DATABASE %I TO %I on the target.', t.database, t."user")),
        (NOT t.schema_ready AND t.schema_owner IS NOT NULL, format('the schema migrate_tiers belongs to role %s', t.schema_owner),
         format('Run GRANT %s TO %I on the target.', t.schema_owner, t."user")),
        (NOT t.temporary, format('role %I may not create temporary tables', t."user"),
         format('Run GRANT TEMPORARY ON DATABASE %I TO %I on the target.', t.database, t."user"))
     ) AS v(found, detail, hint)
     WHERE v.found
    UNION ALL
    SELECT r.relation::regclass::text, 'failure', v.detail, v.hint
      FROM migrate_tiers.relation r
      JOIN jsonb_to_recordset(target->'tables') AS t(id integer, owned boolean, lacks jsonb, schema_usage boolean,
               schema_create boolean, indexed boolean) ON t.id = r.id
     CROSS JOIN (SELECT target->'server'->>'user' AS name) u
     CROSS JOIN LATERAL (VALUES
        (NOT t.schema_usage, format('role %I may not use schema %I of the target', u.name, r.target_schema),
         format('Run GRANT USAGE ON SCHEMA %I TO %I on the target.', r.target_schema, u.name)),
        (NOT t.owned AND r.tier = 'realtime', format('role %I does not own the table on the target, so it cannot fence it', u.name),
         format('Run ALTER TABLE %I.%I OWNER TO %I on the target.', r.target_schema, r.target_name, u.name)),
        (t.lacks IS NOT NULL, format('role %I lacks the privilege %s on the target', u.name,
             (SELECT string_agg(p, ', ') FROM jsonb_array_elements_text(t.lacks) p)),
         format('Run GRANT ALL ON %I.%I TO %I on the target.', r.target_schema, r.target_name, u.name)),
        (t.indexed AND NOT t.schema_create AND r.tier = 'realtime' AND EXISTS (SELECT FROM migrate_tiers.options o
             JOIN migrate_tiers.migration g ON g.name = o.migration
             WHERE g.id = m AND o.name = 'defer_indexes' AND o.value::boolean),
         format('role %I may not create indexes in schema %I of the target', u.name, r.target_schema),
         format('Run GRANT CREATE ON SCHEMA %I TO %I on the target, or set the option defer_indexes to off.',
                r.target_schema, u.name))
     ) AS v(found, detail, hint)
     WHERE r.tier <> 'ignored' AND v.found
    UNION ALL
    SELECT r.relation::regclass::text, 'failure', v.detail, v.hint
      FROM migrate_tiers.relation r
      JOIN jsonb_to_recordset(target->'tables') AS t(id integer, barred jsonb) ON t.id = r.id
     CROSS JOIN LATERAL jsonb_to_recordset(t.barred) AS p(name text, owned boolean, lacks jsonb)
     CROSS JOIN (SELECT target->'server'->>'user' AS name) u
     CROSS JOIN LATERAL (VALUES
        (NOT p.owned, format('role %I does not own partition %s on the target, so it cannot fence it', u.name, p.name),
         format('Run ALTER TABLE %s OWNER TO %I on the target.', p.name, u.name)),
        (p.owned AND p.lacks IS NOT NULL, format('role %I lacks the privilege %s of partition %s on the target', u.name,
             (SELECT string_agg(l, ', ') FROM jsonb_array_elements_text(p.lacks) l), p.name),
         format('Run GRANT ALL ON %s TO %I on the target.', p.name, u.name))
     ) AS v(found, detail, hint)
     WHERE r.tier = 'realtime' AND v.found
     ORDER BY 1, 3
$$;

CREATE FUNCTION migrate_tiers.preflight_target_tables(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.oid::oid::regclass::text, v.status, v.detail, v.hint
      FROM migrate_tiers.relation r
      JOIN jsonb_to_recordset(source->'tables') AS s(id integer, oid bigint, kind text) ON s.id = r.id
      LEFT JOIN jsonb_to_recordset(target->'tables')
               AS t(id integer, kind text, persistence text, partitions integer) ON t.id = r.id
     CROSS JOIN LATERAL (SELECT format('%I.%I', r.target_schema, r.target_name)) AS f(name)
     CROSS JOIN LATERAL (VALUES
        (t.id IS NULL, 'failure', format('the target has no table %s', f.name),
         'Create it there, for example with pg_dump --schema-only, or name another with tag(..., target => ...).'),
        (t.kind = 'm' AND s.kind = 'm', 'warning', format('%s is a materialized view on the target', f.name),
         'A push refreshes it there, from the tables that its query reads there. Make it a table there if rows are to be sent.'),
        (t.kind NOT IN ('r', 'p') AND NOT (t.kind = 'm' AND s.kind = 'm'), 'failure',
         format('%s is not a table on the target', f.name), 'Name another one with tag(..., target => ...).'),
        (t.kind = 'p' AND t.partitions = 0, 'failure', format('%s has no partition on the target', f.name),
         'Create partitions for its rows there.'),
        (t.kind IN ('r', 'p') AND t.persistence = 'u', 'warning', format('%s is unlogged on the target', f.name),
         format('A crash empties it: run ALTER TABLE %s SET LOGGED there.', f.name))
     ) AS v(found, status, detail, hint)
     WHERE r.tier <> 'ignored' AND v.found
     ORDER BY 1
$$;

-- The columns of both sides, matched by name; one side is null where it has none.
CREATE FUNCTION migrate_tiers.preflight_matched_columns(source jsonb, target jsonb)
    RETURNS TABLE (id integer, object text, tier text, "column" text,
                   here boolean, there boolean, source_type text, target_type text,
                   source_collation text, target_collation text, source_not_null boolean, target_not_null boolean,
                   source_generated boolean, target_generated boolean, target_default boolean,
                   source_identity text, target_identity text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.id, r.relation::regclass::text, r.tier, coalesce(s.name, t.name),
           s.name IS NOT NULL, t.name IS NOT NULL, s.type, t.type,
           s."collation", t."collation", s.null_free, t.not_null,
           s.generated <> '', t.generated <> '', t.has_default, s.identity, t.identity
      FROM jsonb_to_recordset(source->'columns') AS s(id integer, name text, type text, "collation" text,
               null_free boolean, generated text, identity text)
      FULL JOIN jsonb_to_recordset(target->'columns') AS t(id integer, name text, type text, "collation" text,
               not_null boolean, generated text, identity text, has_default boolean) ON t.id = s.id AND t.name = s.name
      JOIN migrate_tiers.relation r ON r.id = coalesce(s.id, t.id)
     WHERE r.tier <> 'ignored'
       AND r.id IN (SELECT x.id FROM jsonb_to_recordset(target->'tables') AS x(id integer, kind text) WHERE x.kind IN ('r', 'p'))
$$;

CREATE FUNCTION migrate_tiers.preflight_columns(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.object, v.status, v.detail, v.hint
      FROM migrate_tiers.preflight_matched_columns(source, target) c
     CROSS JOIN LATERAL (VALUES
        (c.here AND NOT c.there AND NOT c.source_generated, 'failure', format('column %I is missing on the target', c."column"),
         format('Add it there, with type %s.', c.source_type)),
        (c.here AND NOT c.there AND c.source_generated, 'warning',
         format('generated column %I is missing on the target', c."column"), 'Add it there where it is needed.'),
        (c.there AND NOT c.here AND c.target_not_null AND NOT c.target_default, 'failure',
         format('column %I of the target is NOT NULL without a default, and missing here', c."column"),
         'Give it a default there, or add it here.'),
        (c.there AND NOT c.here AND NOT (c.target_not_null AND NOT c.target_default), 'warning',
         format('column %I of the target is missing here', c."column"), 'Its default fills it there.'),
        (c.source_generated AND c.there AND NOT c.target_generated, 'failure',
         format('column %I is generated here but not on the target, where it would stay empty', c."column"),
         'Make it generated there too: generated columns are not sent.'),
        (c.here AND NOT c.source_generated AND c.target_generated, 'failure',
         format('column %I is generated on the target, so what is here cannot be stored', c."column"),
         'Make it an ordinary column there.'),
        (c.here AND c.there AND c.tier = 'realtime' AND c.source_identity <> 'a' AND c.target_identity = 'a', 'failure',
         format('column %I is GENERATED ALWAYS AS IDENTITY on the target and not here, so no update could store what is here', c."column"),
         format('Run ALTER TABLE ... ALTER COLUMN %I SET GENERATED BY DEFAULT there.', c."column"))
     ) AS v(found, status, detail, hint)
     WHERE v.found
     ORDER BY c.object, c."column"
$$;

CREATE FUNCTION migrate_tiers.preflight_types(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.object, 'failure',
           format('column %I has type %s here and %s on the target', c."column", c.source_type, c.target_type),
           'Make them equal: rows are sent in binary.'
      FROM migrate_tiers.preflight_matched_columns(source, target) c
     WHERE c.source_type <> c.target_type
    UNION ALL
    SELECT s.type, 'failure',
           format('the type is %s here and %s on the target', s.definition, t.definition),
           'Make them equal with ALTER TYPE or ALTER DOMAIN.'
      FROM jsonb_to_recordset(source->'types') AS s(type text, definition text)
      JOIN jsonb_to_recordset(target->'types') AS t(type text, definition text) ON t.type = s.type
     WHERE s.definition <> t.definition
     ORDER BY 1, 3
$$;

CREATE FUNCTION migrate_tiers.preflight_collations(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.object, 'failure',
           format('column %I has collation %s here and %s on the target', c."column",
                  c.source_collation, c.target_collation),
           'Make them equal with ALTER TABLE ... ALTER COLUMN ... TYPE ... COLLATE.'
      FROM migrate_tiers.preflight_matched_columns(source, target) c
     WHERE c.source_collation <> c.target_collation
     ORDER BY c.object, c."column"
$$;

CREATE FUNCTION migrate_tiers.preflight_not_null(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- A row of the target without a key could be neither sent nor compared.
    SELECT c.object, CASE WHEN c.target_not_null OR k.needed THEN 'failure' ELSE 'warning' END,
           CASE WHEN c.target_not_null THEN format('column %I can be null here but not on the target', c."column")
                ELSE format('column %I cannot be null here but can on the target', c."column") END,
           CASE WHEN c.target_not_null THEN 'Drop NOT NULL there, or set it here.' ELSE 'Set NOT NULL there.' END
      FROM migrate_tiers.preflight_matched_columns(source, target) c
      JOIN migrate_tiers.relation r ON r.id = c.id
     CROSS JOIN LATERAL (SELECT r.tier = 'realtime' AND r.state NOT IN ('copying', 'recopy')
                                AND c."column" = ANY (r.key_columns)) AS k(needed)
     WHERE c.source_not_null <> c.target_not_null
       AND NOT c.source_generated AND NOT c.target_generated
       -- A materialized view knows of no NOT NULL.
       AND NOT (c.target_not_null AND c.tier = 'batch')
     ORDER BY c.object, c."column"
$$;

CREATE FUNCTION migrate_tiers.preflight_target_key(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH keys AS (
        SELECT r.relation, r.target_schema, r.target_name, bool_or(x.immediate) AS immediate,
               (SELECT string_agg(quote_ident(k), ', ') FROM unnest(r.key_columns) k) AS columns
          FROM migrate_tiers.relation r
          JOIN jsonb_to_recordset(target->'tables') AS t(id integer, kind text) ON t.id = r.id AND t.kind IN ('r', 'p')
          LEFT JOIN jsonb_to_recordset(target->'indexes')
                   AS x(id integer, "unique" boolean, exclusion boolean, immediate boolean, whole boolean, columns jsonb)
            ON x.id = r.id AND x."unique" AND x.whole AND NOT x.exclusion
           AND x.columns = (SELECT to_jsonb(array_agg(k ORDER BY k)) FROM unnest(r.key_columns) k)
         WHERE r.migration = m AND r.tier = 'realtime' AND r.state NOT IN ('copying', 'recopy')
         GROUP BY r.id)
    SELECT k.relation::regclass::text, 'failure',
           CASE WHEN k.immediate IS NULL THEN format('the target has no unique index on exactly (%s)', k.columns)
                ELSE format('the key (%s) is deferrable on the target', k.columns) END,
           CASE WHEN k.immediate IS NULL THEN format('Run ALTER TABLE %I.%I ADD PRIMARY KEY (%s) there.',
                                                     k.target_schema, k.target_name, k.columns)
                ELSE 'Make it NOT DEFERRABLE there, or add a unique index: rows are upserted by it.' END
      FROM keys k
     WHERE k.immediate IS NOT TRUE
     ORDER BY 1
$$;

-- What restricts rows, as text to compare: the order of the columns of a unique index is no matter.
CREATE FUNCTION migrate_tiers.preflight_constraints_of(structure jsonb)
    RETURNS TABLE (id integer, text text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.id, CASE WHEN x.exclusion THEN 'exclusion constraint ' || x.definition
                      WHEN NOT x.whole OR x.definition LIKE '%NULLS NOT DISTINCT%' THEN 'unique index ' || x.definition
                      ELSE format('unique index on (%s)', (SELECT string_agg(quote_ident(c), ', ' ORDER BY c)
                                                             FROM jsonb_array_elements_text(x.columns) c)) END
      FROM jsonb_to_recordset(structure->'indexes')
               AS x(id integer, exclusion boolean, whole boolean, columns jsonb, definition text)
    UNION
    SELECT k.id, k.definition FROM jsonb_to_recordset(structure->'checks') AS k(id integer, definition text)
$$;

CREATE FUNCTION migrate_tiers.preflight_constraints(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, 'warning',
           CASE WHEN t.id IS NULL THEN format('the target has no %s', c.text)
                ELSE format('the target has %s, and here is none', c.text) END,
           CASE WHEN t.id IS NULL THEN 'Create it there before applications write the target.'
                ELSE 'A row that it refuses stops the sync.' END
      FROM migrate_tiers.preflight_constraints_of(source) AS s(id, text)
      FULL JOIN migrate_tiers.preflight_constraints_of(target) AS t(id, text) ON t.id = s.id AND t.text = s.text
     CROSS JOIN LATERAL (SELECT coalesce(s.id, t.id), coalesce(s.text, t.text)) AS c(id, text)
      JOIN migrate_tiers.relation r ON r.id = c.id
      JOIN jsonb_to_recordset(target->'tables') AS p(id integer, kind text) ON p.id = c.id AND p.kind IN ('r', 'p')
     WHERE (s.id IS NULL OR t.id IS NULL) AND r.tier = 'realtime' AND r.state NOT IN ('copying', 'recopy')
     ORDER BY 1, 3
$$;

-- The trigger that checks a deferrable constraint later does not fire for rows that are sent: of two rows that both
-- sides write, neither is refused. One side alone has checked its own. A warning as long as nothing is begun.
CREATE FUNCTION migrate_tiers.preflight_deferrable(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, CASE WHEN g.phase = 'planned' THEN 'warning' ELSE 'failure' END,
           format('%s constraint %s %s is deferrable: what the two sides write would not be checked against each other',
                  CASE WHEN x.exclusion THEN 'exclusion' ELSE 'unique' END, x.name, x.side),
           'Before dual_write, drop it and add it again as NOT DEFERRABLE, on both sides and until the migration is finished; or tag the table otherwise.'
      FROM (SELECT s.*, 'here' AS side
              FROM jsonb_to_recordset(source->'indexes') AS s(id integer, name text, exclusion boolean, immediate boolean)
             UNION ALL
            SELECT t.*, 'of the target'
              FROM jsonb_to_recordset(target->'indexes') AS t(id integer, name text, exclusion boolean, immediate boolean)) AS x
      JOIN migrate_tiers.relation r ON r.id = x.id AND r.tier = 'realtime'
      JOIN migrate_tiers.migration g ON g.id = r.migration
     WHERE NOT x.immediate
     ORDER BY 1, 3
$$;

-- What the target writes comes here from dual_write on, as it goes there before.  A warning as long as nothing is begun.
CREATE FUNCTION migrate_tiers.preflight_source_rules(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, CASE WHEN p.phase = 'planned' THEN 'warning' ELSE 'failure' END,
           format('rule %I of table %s here would change or refuse what comes from the target', g.name, g."table"),
           CASE WHEN g.on_update
                THEN format('Before dual_write, run DROP RULE %I ON %s: rows are upserted, which an UPDATE rule refuses, a disabled one too.', g.name, g."table")
                ELSE format('Before dual_write, run ALTER TABLE %s ENABLE RULE %I: then it acts for applications only.', g."table", g.name) END
      FROM jsonb_to_recordset(source->'rules') AS g(id integer, "table" text, name text, on_update boolean)
      JOIN migrate_tiers.relation r ON r.id = g.id AND r.tier = 'realtime'
      JOIN migrate_tiers.migration p ON p.id = r.migration
     ORDER BY 1, 3
$$;

CREATE FUNCTION migrate_tiers.preflight_target_triggers(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, 'failure',
           format('trigger %I of the target''s table %s fires for replicated rows too', g.name, g."table"),
           format('Run ALTER TABLE %s ENABLE TRIGGER %I there: then it fires for applications only.', g."table", g.name)
      FROM jsonb_to_recordset(target->'triggers') AS g(id integer, "table" text, name text)
      JOIN migrate_tiers.relation r ON r.id = g.id AND r.tier IN ('realtime', 'batch')
    UNION ALL
    SELECT r.relation::regclass::text, 'failure',
           format('rule %I of the target''s table %s changes what is written', g.name, g."table"),
           CASE WHEN g.on_update AND r.tier = 'realtime'
                THEN format('Run DROP RULE %I ON %s there: rows are upserted, which an UPDATE rule refuses, a disabled one too.', g.name, g."table")
                ELSE format('Run ALTER TABLE %s DISABLE RULE %I there, or drop it.', g."table", g.name) END
      FROM jsonb_to_recordset(target->'rules') AS g(id integer, "table" text, name text, on_update boolean, enabled boolean)
      JOIN migrate_tiers.relation r ON r.id = g.id AND (r.tier = 'realtime' OR r.tier = 'batch' AND g.enabled)
    UNION ALL
    SELECT r.relation::regclass::text, 'warning',
           format('subscription %I of the target writes table %s, which neither the fence nor capture there notices', g.name, g."table"),
           format('Take the table out of the subscription: ALTER SUBSCRIPTION %I REFRESH PUBLICATION when it is not published any more.', g.name)
      FROM jsonb_to_recordset(target->'subscriptions') AS g(id integer, "table" text, name text)
      JOIN migrate_tiers.relation r ON r.id = g.id AND r.tier = 'realtime'
     ORDER BY 1, 3
$$;

CREATE FUNCTION migrate_tiers.preflight_target_foreign_keys(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, 'warning',
           format('foreign key %I of the target''s table %s refers to %I.%I there, which no realtime table fills',
                  f.name, f."table", f.parent_schema, f.parent_name),
           'Make sure that the rows that it needs are there: it is not checked while rows are sent.'
      FROM jsonb_to_recordset(target->'foreign_keys')
               AS f(id integer, name text, "table" text, parent_schema text, parent_name text)
      JOIN migrate_tiers.relation r ON r.id = f.id AND r.tier = 'realtime'
     WHERE NOT EXISTS (SELECT FROM migrate_tiers.relation p WHERE p.migration = m AND p.tier = 'realtime'
                        AND p.target_schema = f.parent_schema::name AND p.target_name = f.parent_name::name)
     ORDER BY 1, f.name
$$;

CREATE FUNCTION migrate_tiers.preflight_target_empty(m integer, source jsonb, target jsonb)
    RETURNS TABLE (object text, status text, detail text, hint text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.relation::regclass::text, CASE WHEN o.value::boolean THEN 'warning' ELSE 'failure' END,
           format('%I.%I has rows on the target', r.target_schema, r.target_name),
           CASE WHEN o.value::boolean THEN 'They will be deleted, since the option overwrite is on.'
                ELSE 'Empty it there, or allow it: SELECT migrate_tiers.set_option(''overwrite'', ''on'').' END
      FROM jsonb_array_elements_text(target->'filled') AS f(id)
      JOIN migrate_tiers.relation r ON r.id = f.id::integer
      JOIN migrate_tiers.migration g ON g.id = r.migration
      JOIN migrate_tiers.options o ON o.migration = g.name AND o.name = 'overwrite'
     WHERE r.tier <> 'ignored' AND r.state IN ('planned', 'waiting')
     ORDER BY 1
$$;

CREATE FUNCTION migrate_tiers.preflight(migration name DEFAULT NULL)
    RETURNS TABLE (check_name text, object text, status text, detail text, hint text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_preflight';
COMMENT ON FUNCTION migrate_tiers.preflight(name) IS
'checks both sides for what would stop or spoil the migration and changes nothing; a row a finding, status ok, warning or failure, with a hint what to do. advance(''syncing'') is refused while there is a failure. Errors: 42704 no such migration, 42501 not its owner';

REVOKE ALL ON FUNCTION migrate_tiers.preflight_matched_columns(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_constraints_of(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_tables_tagged(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_source_storage(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_source_key(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_source_privileges(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_source_triggers(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_row_security(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_foreign_keys(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_large_objects(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_publications(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_source_subscriptions(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_worker_slots(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_lock_table(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_target_server(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_encoding(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_clock(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_target_privileges(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_target_tables(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_columns(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_types(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_collations(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_not_null(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_target_key(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_constraints(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_deferrable(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_source_rules(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_target_triggers(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_target_foreign_keys(integer, jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION migrate_tiers.preflight_target_empty(integer, jsonb, jsonb) FROM PUBLIC;

