
-- Application servers: who is expected, what each says of itself, and what capture saw of it.

CREATE TABLE migrate_tiers.instance (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    name text NOT NULL,                                        -- application_name of its connections
    reported_phase text,
    reported_at timestamptz,
    PRIMARY KEY (migration, name)
);

-- Nobody but the worker writes this one, so that it waits for nobody.
CREATE TABLE migrate_tiers.instance_seen (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    name text NOT NULL,
    reported_phase text,                                       -- on the target
    reported_at timestamptz,                                   -- by the clock of the source
    last_source_write timestamptz,
    last_target_write timestamptz,                             -- by the clock of the source
    PRIMARY KEY (migration, name)
);

-- What the target knows of instances, as phase/instances.c asks for it: ages in seconds, so that the
-- clock of the target does not matter.
CREATE FUNCTION migrate_tiers.instances_there(report jsonb)
    RETURNS TABLE (name text, reported_phase text, reported_at timestamptz, last_write timestamptz)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.name, t.phase, clock_timestamp() - make_interval(secs => t.reported), clock_timestamp() - make_interval(secs => t.written)
      FROM jsonb_to_recordset(report) AS t (name text, phase text, reported float8, written float8)
$$;
REVOKE ALL ON FUNCTION migrate_tiers.instances_there(jsonb) FROM PUBLIC;

CREATE FUNCTION migrate_tiers.expect_instance(name text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_expect_instance';
COMMENT ON FUNCTION migrate_tiers.expect_instance(text, name) IS
'puts an application server on the roster: gates then wait for its reports. name is the application_name of its connections. Errors: 22023 no name, or longer than an application_name; 42501 not the owner of the migration';

CREATE FUNCTION migrate_tiers.forget_instance(name text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_forget_instance';
COMMENT ON FUNCTION migrate_tiers.forget_instance(text, name) IS
'takes an application server off the roster: gates do not wait for it any more. Errors: 42704 not on it, 42501 not the owner of the migration';

CREATE FUNCTION migrate_tiers.report_instance(name text, phase text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_report_instance';
COMMENT ON FUNCTION migrate_tiers.report_instance(text, text, name) IS
'says that an application server now works as that phase has it; called by the server itself, here or on the target, by any role. Errors: 42704 not on the roster, 22023 unknown phase';

CREATE VIEW migrate_tiers.instances WITH (security_barrier) AS
    SELECT m.name AS migration, coalesce(i.name, s.name) AS name, i.name IS NOT NULL AS expected,
           CASE WHEN s.reported_at > i.reported_at OR i.reported_at IS NULL THEN s.reported_phase
                ELSE i.reported_phase END AS reported_phase,
           greatest(i.reported_at, s.reported_at) AS reported_at,
           s.last_source_write, s.last_target_write
      FROM migrate_tiers.instance AS i
      FULL JOIN migrate_tiers.instance_seen AS s ON s.migration = i.migration AND s.name = i.name
      JOIN migrate_tiers.migration AS m ON m.id = coalesce(i.migration, s.migration)
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY m.name, expected DESC, coalesce(i.name, s.name);
GRANT SELECT ON migrate_tiers.instances TO PUBLIC;
COMMENT ON VIEW migrate_tiers.instances IS 'a line an application server: expected, reported, and what capture saw of it, with a delay of some seconds';
COMMENT ON COLUMN migrate_tiers.instances.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.instances.name IS 'application_name of its connections; empty: those that have none';
COMMENT ON COLUMN migrate_tiers.instances.expected IS 'whether it is on the roster';
COMMENT ON COLUMN migrate_tiers.instances.reported_phase IS 'phase that it last said it works in, on either side';
COMMENT ON COLUMN migrate_tiers.instances.reported_at IS 'when it said so, by the clock of the source';
COMMENT ON COLUMN migrate_tiers.instances.last_source_write IS 'when a transaction of it that wrote realtime tables of the source last committed';
COMMENT ON COLUMN migrate_tiers.instances.last_target_write IS 'the same of the target, by the clock of the source';

CREATE VIEW migrate_tiers.routing WITH (security_barrier) AS
    SELECT m.name AS migration, m.phase,
           CASE WHEN m.phase IN ('planned', 'syncing', 'dual_write') THEN 'source' ELSE 'target' END AS reads,
           CASE WHEN m.phase IN ('planned', 'syncing') THEN 'source'
                WHEN m.phase IN ('dual_write', 'read_target') THEN 'either' ELSE 'target' END AS writes
      FROM migrate_tiers.migration AS m
     ORDER BY m.name;
GRANT SELECT ON migrate_tiers.routing TO PUBLIC;
COMMENT ON VIEW migrate_tiers.routing IS 'where applications read and write now; for everyone, also on the target';
COMMENT ON COLUMN migrate_tiers.routing.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.routing.phase IS 'phase that it is in';
COMMENT ON COLUMN migrate_tiers.routing.reads IS 'source or target';
COMMENT ON COLUMN migrate_tiers.routing.writes IS 'source, target, or either: some servers here, some there, or both';
