-- What cannot be declared is refused with a SQLSTATE and a hint, and changes nothing.
CREATE SCHEMA bad_input;
CREATE TABLE bad_input.good (id int PRIMARY KEY, v text);
CREATE TABLE bad_input."Straße ""1""" ("Größe" int);
CREATE TABLE bad_input.nullable_key (a int, b int UNIQUE);
CREATE TABLE bad_input.partial_key (a int NOT NULL);
CREATE UNIQUE INDEX ON bad_input.partial_key (a) WHERE a > 0;
CREATE TABLE bad_input.generated_key (a int, "Kopie" int GENERATED ALWAYS AS (a) STORED, b int NOT NULL, PRIMARY KEY (a, "Kopie"));
CREATE UNIQUE INDEX plain ON bad_input.generated_key (b);
CREATE TABLE bad_input.parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE bad_input.part PARTITION OF bad_input.parted FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
CREATE TABLE bad_input.leaf PARTITION OF bad_input.part FOR VALUES FROM (0) TO (10);
CREATE VIEW bad_input.view AS SELECT * FROM bad_input.good;
CREATE MATERIALIZED VIEW bad_input.matview AS SELECT * FROM bad_input.good;
CREATE FOREIGN TABLE bad_input.foreign_table (id int) SERVER target;
CREATE UNLOGGED TABLE bad_input.unlogged (id int PRIMARY KEY);
CREATE TEMPORARY TABLE temporary (id int PRIMARY KEY);
CREATE SEQUENCE bad_input.sequence;
CREATE TYPE bad_input.composite AS (a int);

-- Without a migration.
SELECT migrate_tiers.tag('bad_input.good', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.drop_migration();
\echo :SQLSTATE
SELECT * FROM migrate_tiers.preflight('office');
\echo :SQLSTATE

-- Servers and mappings.
SELECT migrate_tiers.create_migration('shop', 'nowhere');
\echo :SQLSTATE
CREATE FOREIGN DATA WRAPPER bad_input_wrapper;
CREATE SERVER bad_input_server FOREIGN DATA WRAPPER bad_input_wrapper;
SELECT migrate_tiers.create_migration('shop', 'bad_input_server');
\echo :SQLSTATE
CREATE SERVER "Über ""Server""" FOREIGN DATA WRAPPER postgres_fdw;
CREATE ROLE regress_mt_owner;
SET ROLE regress_mt_owner;
SELECT migrate_tiers.create_migration('shop', 'Über "Server"');
\echo :SQLSTATE
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER "Über ""Server""" TO regress_mt_owner;
SET ROLE regress_mt_owner;
SELECT migrate_tiers.create_migration('shop', 'Über "Server"');
\echo :SQLSTATE
RESET ROLE;
CREATE USER MAPPING FOR regress_mt_owner SERVER "Über ""Server""" OPTIONS (user 'someone');
SET ROLE regress_mt_owner;
SELECT migrate_tiers.create_migration('shop', 'Über "Server"');
\echo :SQLSTATE
RESET ROLE;
SELECT migrate_tiers.create_migration('', 'target');
\echo :SQLSTATE
SELECT migrate_tiers.create_migration(NULL, 'target');
\echo :SQLSTATE
SELECT count(*) FROM migrate_tiers.migration;

SELECT migrate_tiers.create_migration('shop', 'target');
SELECT migrate_tiers.create_migration('shop', 'target');
\echo :SQLSTATE

-- Tables and tiers.
SELECT migrate_tiers.tag('bad_input.nothing', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag(4294967295, 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag(NULL, 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.good', NULL);
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.good', 'Realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input."Straße ""1"""', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.nullable_key', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.partial_key', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.generated_key', 'realtime');
\echo :SQLSTATE
SELECT relation, note FROM migrate_tiers.tag_schema('bad_input', 'realtime') WHERE relation = 'bad_input.generated_key'::regclass;
SELECT relation, tier, reason FROM migrate_tiers.suggest_tiers() WHERE relation = 'bad_input.generated_key'::regclass;
ALTER TABLE bad_input.generated_key REPLICA IDENTITY USING INDEX plain;
SELECT migrate_tiers.tag('bad_input.generated_key', 'realtime');
SELECT key_columns FROM migrate_tiers.relation WHERE relation = 'bad_input.generated_key'::regclass;
DO $$
DECLARE r regclass;
BEGIN
    FOR r IN SELECT relation FROM migrate_tiers.relation LOOP PERFORM migrate_tiers.untag(r); END LOOP;
END $$;
SELECT migrate_tiers.tag('bad_input.part', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.leaf', 'ignored');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.view', 'batch');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.matview', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.foreign_table', 'batch');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.unlogged', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('temporary', 'batch');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.sequence', 'batch');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.good_pkey', 'batch');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.composite', 'batch');
\echo :SQLSTATE
SELECT migrate_tiers.tag('pg_catalog.pg_class', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('information_schema.sql_features', 'ignored');
\echo :SQLSTATE
SELECT migrate_tiers.tag('migrate_tiers.migration', 'realtime');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.good', 'realtime', migration => 'office');
\echo :SQLSTATE
SELECT * FROM migrate_tiers.tag_schema('nowhere', 'realtime');
\echo :SQLSTATE
SELECT * FROM migrate_tiers.tag_schema('pg_catalog', 'ignored');
\echo :SQLSTATE
SELECT * FROM migrate_tiers.tag_schema('bad_input', 'fast');
\echo :SQLSTATE
SELECT migrate_tiers.untag('bad_input.good');
\echo :SQLSTATE

-- Names on the target.
SELECT migrate_tiers.tag('bad_input.good', 'realtime', target => '');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.good', 'realtime', target => 'a.b.c');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.good', 'realtime', target => '"a.b');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.good', 'realtime', target => 'a; DROP TABLE b');
\echo :SQLSTATE
SELECT count(*) FROM migrate_tiers.relation;
SELECT migrate_tiers.tag('bad_input.good', 'realtime');
SELECT migrate_tiers.tag('bad_input."Straße ""1"""', 'batch', target => 'good');
\echo :SQLSTATE

-- A table belongs to one migration, and a migration to its owner.
SELECT migrate_tiers.create_migration('office', 'target');
SELECT migrate_tiers.tag('bad_input.good', 'batch', migration => 'office');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.good', 'batch');
\echo :SQLSTATE
ALTER USER MAPPING FOR regress_mt_owner SERVER "Über ""Server""" OPTIONS (ADD password 'secret');
GRANT USAGE ON SCHEMA bad_input TO regress_mt_owner;
SET ROLE regress_mt_owner;
SELECT migrate_tiers.create_migration('own', 'Über "Server"');
SELECT migrate_tiers.tag('bad_input.good', 'batch');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.nullable_key', 'batch', migration => 'shop');
\echo :SQLSTATE
SELECT migrate_tiers.untag('bad_input.good', 'shop');
\echo :SQLSTATE
SELECT migrate_tiers.drop_migration('shop');
\echo :SQLSTATE
SELECT * FROM migrate_tiers.preflight('shop');
\echo :SQLSTATE
SELECT relation, tier, note FROM migrate_tiers.tag_schema('bad_input', 'batch') WHERE relation = 'bad_input.nullable_key'::regclass;
SELECT * FROM migrate_tiers.migration;
\echo :SQLSTATE
SELECT migrate_tiers.drop_migration();
RESET ROLE;

-- In a later phase the realtime tier stays as it is; the rest may move.
UPDATE migrate_tiers.migration SET phase = 'syncing' WHERE name = 'shop';
SELECT migrate_tiers.tag('bad_input.good', 'batch', migration => 'shop');
\echo :SQLSTATE
SELECT migrate_tiers.untag('bad_input.good', 'shop');
\echo :SQLSTATE
UPDATE migrate_tiers.migration SET phase = 'read_target' WHERE name = 'shop';
SELECT migrate_tiers.tag('bad_input.parted', 'realtime', migration => 'shop');
\echo :SQLSTATE
UPDATE migrate_tiers.migration SET phase = 'syncing' WHERE name = 'shop';
SELECT * FROM migrate_tiers.tag_schema('bad_input', 'realtime', 'shop');
\echo :SQLSTATE
SELECT migrate_tiers.tag('bad_input.parted', 'batch', migration => 'shop');
SELECT migrate_tiers.tag('bad_input.parted', 'ignored', migration => 'shop');
SELECT migrate_tiers.untag('bad_input.parted', 'shop');
UPDATE migrate_tiers.migration SET phase = 'planned', transition = 'capture' WHERE name = 'shop';
SELECT migrate_tiers.tag('bad_input.parted', 'batch', migration => 'shop');
\echo :SQLSTATE
UPDATE migrate_tiers.migration SET transition = NULL WHERE name = 'shop';

-- Nothing but what was accepted is there.
SELECT m.name, r.relation::regclass, r.tier FROM migrate_tiers.relation r JOIN migrate_tiers.migration m ON m.id = r.migration;
SELECT migrate_tiers.drop_migration('shop'), migrate_tiers.drop_migration('office');
SET client_min_messages = warning;
DROP SCHEMA bad_input CASCADE;
DROP SERVER "Über ""Server""" CASCADE;
DROP FOREIGN DATA WRAPPER bad_input_wrapper CASCADE;
DROP ROLE regress_mt_owner;
