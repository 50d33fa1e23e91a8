-- The guard of captured tables: event triggers that fire for everybody, also
-- in replica role.

CREATE FUNCTION migrate_tiers.guard_command_start() RETURNS event_trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'mt_ddl_command_start';
CREATE FUNCTION migrate_tiers.guard_command_end() RETURNS event_trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'mt_ddl_command_end';
CREATE FUNCTION migrate_tiers.guard_drop() RETURNS event_trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'mt_sql_drop';
CREATE FUNCTION migrate_tiers.guard_rewrite() RETURNS event_trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'mt_table_rewrite';

COMMENT ON FUNCTION migrate_tiers.guard_command_start() IS
    'Refuses to detach a partition of a captured table, or to drop the index of its key, concurrently; and keeps the extension while it has migrations.';
COMMENT ON FUNCTION migrate_tiers.guard_command_end() IS
    'Refuses DDL that would break the migration of a captured table (SQLSTATE MT004), unless migrate_tiers.allow_ddl is on; covers new partitions.';
COMMENT ON FUNCTION migrate_tiers.guard_drop() IS
    'Refuses to drop a captured table, its partitions, columns or key (SQLSTATE MT004), unless migrate_tiers.allow_ddl is on; and the foreign server of a migration, and the user mapping of its owner between planned and finished.';
COMMENT ON FUNCTION migrate_tiers.guard_rewrite() IS
    'Refuses to rewrite a captured table (SQLSTATE MT004); with migrate_tiers.allow_ddl it is copied again.';

REVOKE ALL ON FUNCTION migrate_tiers.guard_command_start(), migrate_tiers.guard_command_end(),
    migrate_tiers.guard_drop(), migrate_tiers.guard_rewrite() FROM PUBLIC;

CREATE EVENT TRIGGER migrate_tiers_guard_command_start ON ddl_command_start
    WHEN TAG IN ('ALTER TABLE', 'DROP INDEX', 'DROP EXTENSION', 'DROP OWNED')
    EXECUTE FUNCTION migrate_tiers.guard_command_start();
-- ALTER VIEW and its like, and ALTER TYPE, rename columns of tables, too; ALTER EXTENSION moves types and operators.
CREATE EVENT TRIGGER migrate_tiers_guard_command_end ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER FOREIGN TABLE', 'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER INDEX', 'ALTER TRIGGER',
                 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER SCHEMA', 'ALTER EXTENSION', 'ALTER OPERATOR', 'ALTER SEQUENCE',
                 'CREATE TABLE', 'CREATE FOREIGN TABLE', 'CREATE SCHEMA', 'CREATE TRIGGER')
    EXECUTE FUNCTION migrate_tiers.guard_command_end();
CREATE EVENT TRIGGER migrate_tiers_guard_drop ON sql_drop
    EXECUTE FUNCTION migrate_tiers.guard_drop();
CREATE EVENT TRIGGER migrate_tiers_guard_rewrite ON table_rewrite
    EXECUTE FUNCTION migrate_tiers.guard_rewrite();

ALTER EVENT TRIGGER migrate_tiers_guard_command_start ENABLE ALWAYS;
ALTER EVENT TRIGGER migrate_tiers_guard_command_end ENABLE ALWAYS;
ALTER EVENT TRIGGER migrate_tiers_guard_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER migrate_tiers_guard_rewrite ENABLE ALWAYS;

COMMENT ON EVENT TRIGGER migrate_tiers_guard_command_start IS 'keeps DDL from breaking a migration';
COMMENT ON EVENT TRIGGER migrate_tiers_guard_command_end IS 'keeps DDL from breaking a migration';
COMMENT ON EVENT TRIGGER migrate_tiers_guard_drop IS 'keeps DDL from breaking a migration';
COMMENT ON EVENT TRIGGER migrate_tiers_guard_rewrite IS 'keeps DDL from breaking a migration';

