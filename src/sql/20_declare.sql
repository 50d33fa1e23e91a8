-- Declaring a migration.

CREATE FUNCTION migrate_tiers.create_migration(migration name, server name) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_create_migration';
COMMENT ON FUNCTION migrate_tiers.create_migration(name, name) IS
'declares a migration of this database to the one behind a foreign server of postgres_fdw; the caller owns it and needs USAGE on the server, a user mapping and, unless superuser, a password in it. Errors: 42704 unknown server or no mapping, 42501 no USAGE, 2F003 no password, 42710 name in use';

CREATE FUNCTION migrate_tiers.drop_migration(migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_drop_migration';
COMMENT ON FUNCTION migrate_tiers.drop_migration(name) IS
'ends a migration and takes everything of it away on both sides; what was copied stays on the target. In phase syncing, or with a transition that was cut off, it ends the workers and waits for locks for attach_timeout in all, and is called in a transaction of its own. A target that cannot be reached ends it, and so do phases in which the target is written, unless option forget_target is on: then the target is left as it is. Errors: 42704 no such migration, 42501 not its owner, MT003 the target may be written, MT008 another server sends to the target, 25001 in a transaction block, 55P03 a lock was not to be had, those of the connection to the target';

CREATE FUNCTION migrate_tiers.tag(relation regclass, tier text, target text DEFAULT NULL, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_tag';
COMMENT ON FUNCTION migrate_tiers.tag(regclass, text, text, name) IS
'gives a table, partitioned table or materialized view the tier realtime, batch or ignored; target is its name on the target, [schema.]table, the same if not given. Tagging again changes the tier. A realtime table that becomes batch while syncing is locked when its capture ends, for which attach_timeout is waited, until the transaction ends: so this is called in a transaction of its own, once a statement; the sync worker takes the fence off the target''s table afterwards. Errors: 22023 unknown tier, 42809 wrong kind of relation, 42P16 temporary or unlogged, 55000 no key for realtime or a realtime table refers to it, 42501 not the owner, 42710 in another migration or target in use, MT001 preflight finds something against a table that is to be realtime while syncing, MT003 not possible in this phase, 55006 its copy or a push is under way, 25001 becomes batch in a transaction block or after another one in its transaction, 55P03 the lock was not to be had';

CREATE FUNCTION migrate_tiers.tag_schema(schema name, tier text, migration name DEFAULT NULL)
    RETURNS TABLE (relation regclass, tier text, note text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_tag_all';
COMMENT ON FUNCTION migrate_tiers.tag_schema(name, text, name) IS
'gives a tier to every table of a schema that has none; a row a table, with the tier that it has now and a note where that is another or none. Tables of extensions are left out unless the tier is ignored. Errors: 3F000 unknown schema, 22023 unknown tier, MT003 not possible in this phase';

CREATE FUNCTION migrate_tiers.untag(relation regclass, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_untag';
COMMENT ON FUNCTION migrate_tiers.untag(regclass, name) IS
'takes a table out of the migration. Errors: 42704 not tagged, MT003 not possible in this phase';

CREATE FUNCTION migrate_tiers.set_option(name text, value text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_set_option';
COMMENT ON FUNCTION migrate_tiers.set_option(text, text, name) IS
'sets an option of a migration, effective at once; null goes back to the default. The view options shows all. Errors: 42704 unknown option or role, 22023 or 22007 not a value of it, 42501 a new owner whose rights the caller has not, or who may not use the server';

CREATE FUNCTION migrate_tiers.option_definitions()
    RETURNS TABLE (name text, type text, default_value text, unit text, meaning text)
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'mt_option_definitions';
COMMENT ON FUNCTION migrate_tiers.option_definitions() IS 'the options that a migration has, with their defaults';

CREATE VIEW migrate_tiers.options WITH (security_barrier) AS
    SELECT m.name AS migration, d.name,
           CASE d.type WHEN 'role' THEN (SELECT r.rolname::text FROM pg_catalog.pg_roles AS r WHERE r.oid = m.owner)
                ELSE coalesce(v.value, d.default_value) END AS value,
           d.default_value AS "default", d.type, d.unit, d.meaning
      FROM migrate_tiers.option_definitions() WITH ORDINALITY
               AS d (name, type, default_value, unit, meaning, position)
      LEFT JOIN migrate_tiers.migration m ON pg_catalog.pg_has_role(m.owner, 'MEMBER')
      LEFT JOIN migrate_tiers.option_value v ON v.migration = m.id AND v.name = d.name
     ORDER BY m.name, d.position;
GRANT SELECT ON migrate_tiers.options TO PUBLIC;
COMMENT ON VIEW migrate_tiers.options IS 'options of each migration of yours; only the defaults when there is none';
COMMENT ON COLUMN migrate_tiers.options.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.options.name IS 'name of the option, for set_option';
COMMENT ON COLUMN migrate_tiers.options.value IS 'value in effect';
COMMENT ON COLUMN migrate_tiers.options."default" IS 'value when it is not set';
COMMENT ON COLUMN migrate_tiers.options.type IS 'boolean, integer, interval, uuid, enum or role';
COMMENT ON COLUMN migrate_tiers.options.unit IS 'what an integer counts; sizes may be written with kB, MB, GB';
COMMENT ON COLUMN migrate_tiers.options.meaning IS 'what it does';

-- The index of a table's key: the primary key, or else the replica identity.
-- Only a valid, whole btree index over columns that cannot be null will do: a
-- key with a null or with an expression identifies no row, and one that compares
-- by overlap (WITHOUT OVERLAPS) identifies many.  Nor will one with a generated
-- column, which is not sent: the target makes its own value.
CREATE FUNCTION migrate_tiers.key_index(relation oid) RETURNS oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT x.indexrelid
      FROM pg_index x
      JOIN pg_class t ON t.oid = x.indrelid
      JOIN pg_class c ON c.oid = x.indexrelid
      JOIN pg_am m ON m.oid = c.relam
     WHERE x.indrelid = $1 AND x.indisunique AND x.indisvalid AND m.amname = 'btree'
       AND x.indpred IS NULL AND x.indexprs IS NULL
       AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = x.indrelid
                          AND a.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]) AND (NOT a.attnotnull OR a.attgenerated <> ''))
       -- From PostgreSQL 18 on: NOT NULL that is NOT VALID, old rows may hold nulls.
       AND NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conrelid = x.indrelid AND n.contype = 'n' AND NOT n.convalidated
                          AND n.conkey[1] = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]))
       AND (x.indisprimary OR t.relreplident = 'i' AND x.indisreplident)
     ORDER BY x.indisprimary DESC
     LIMIT 1
$$;
REVOKE ALL ON FUNCTION migrate_tiers.key_index(oid) FROM PUBLIC;
