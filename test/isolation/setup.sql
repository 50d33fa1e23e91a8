-- A source with a target beside it in the same cluster; every spec finds both
-- tables empty and no migration, and leaves them so.

SELECT current_setting('unix_socket_directories') AS socket, current_setting('port') AS port, current_database() AS source \gset

DROP DATABASE IF EXISTS mt_isolation_target WITH (FORCE);
CREATE DATABASE mt_isolation_target TEMPLATE template0;
\connect mt_isolation_target
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE other (id int PRIMARY KEY, v text);
\connect :source
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE other (id int PRIMARY KEY, v text);
CREATE EXTENSION dblink;
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION migrate_tiers;
CREATE SERVER new_db FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'socket', port :'port', dbname 'mt_isolation_target');
CREATE USER MAPPING FOR CURRENT_USER SERVER new_db OPTIONS (user 'postgres');

-- What the target has, once everything committed before now is there.
CREATE FUNCTION on_target(tablename text) RETURNS TABLE (id int, v text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM migrate_tiers.wait_for_sync(timeout => '30 s');
    RETURN QUERY SELECT t.id, t.v FROM dblink('new_db', format('SELECT id, v FROM %I ORDER BY id', tablename)) AS t(id int, v text);
END
$$;

-- Declares a migration of both tables.
CREATE PROCEDURE declared() LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL client_min_messages = warning;
    PERFORM migrate_tiers.create_migration('m', 'new_db');
    PERFORM migrate_tiers.tag('item', 'realtime');
    PERFORM migrate_tiers.tag('other', 'realtime');
END
$$;
