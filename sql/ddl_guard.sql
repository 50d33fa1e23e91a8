-- The guard: DDL that would break the migration of a captured table is refused,
-- or followed when migrate_tiers.allow_ddl says so; all other DDL passes.
\set tables 'CREATE SCHEMA ddl_guard; CREATE TYPE ddl_guard.mood AS ENUM (''low'', ''high''); CREATE TYPE ddl_guard.pair AS (a int, b ddl_guard.mood); CREATE DOMAIN ddl_guard.pairs AS ddl_guard.pair[]; CREATE TABLE ddl_guard.item (id int PRIMARY KEY, mood ddl_guard.mood, pairs ddl_guard.pairs, n int NOT NULL, note text); CREATE TABLE ddl_guard."Log" (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); CREATE TABLE ddl_guard.log_1 PARTITION OF ddl_guard."Log" FOR VALUES FROM (0) TO (10); CREATE TABLE ddl_guard.log_2 PARTITION OF ddl_guard."Log" FOR VALUES FROM (10) TO (30) PARTITION BY RANGE (at); CREATE TABLE ddl_guard.log_21 PARTITION OF ddl_guard.log_2 FOR VALUES FROM (10) TO (20); CREATE TABLE ddl_guard.marked (id int NOT NULL); CREATE UNIQUE INDEX marked_id ON ddl_guard.marked (id); ALTER TABLE ddl_guard.marked REPLICA IDENTITY USING INDEX marked_id;'
:tables
\c mt_target
:tables
\c mt_regress
CREATE FUNCTION guarded() RETURNS TABLE (relation regclass, state text, note text, key_columns name[], partitions text)
LANGUAGE sql AS $$
  SELECT r.relation, r.state, r.note, r.key_columns,
         (SELECT string_agg(p.oid::regclass::text, ', ' ORDER BY p.oid::regclass::text) FROM unnest(r.partitions) p(oid))
    FROM migrate_tiers.relation r ORDER BY r.id
$$;
CREATE FUNCTION triggers(of regclass) RETURNS TABLE (tgname name, tgenabled "char")
LANGUAGE sql AS $$
  SELECT t.tgname, t.tgenabled
    FROM pg_trigger t WHERE t.tgrelid = of ORDER BY 1
$$;
-- How it ends while rows move is a matter of other tests: here nothing is sent.
CREATE PROCEDURE settled() LANGUAGE sql AS
  $$UPDATE migrate_tiers.relation SET state = 'syncing', note = NULL$$;
CREATE TABLE ddl_guard.other (id int PRIMARY KEY, n int);
SELECT migrate_tiers.create_migration('shop', 'target');
SELECT count(*) FROM migrate_tiers.tag_schema('ddl_guard', 'realtime');
SELECT migrate_tiers.tag('ddl_guard.other', 'ignored');

-- Before it is captured, a table may change.
ALTER TABLE ddl_guard.item ADD COLUMN early int;
ALTER TABLE ddl_guard.item DROP COLUMN early;

SET client_min_messages = warning;
CALL migrate_tiers.advance('syncing');
SELECT migrate_tiers.wait_for_sync(timeout => '60 s');
SELECT migrate_tiers.pause();
RESET client_min_messages;

-- What does not matter to the migration passes.
COMMENT ON TABLE ddl_guard.item IS 'a comment';
CREATE INDEX item_note ON ddl_guard.item (note);
ALTER INDEX ddl_guard.item_note RENAME TO item_note_2;
DROP INDEX ddl_guard.item_note_2;
CREATE STATISTICS ddl_guard.item_more ON n, id FROM ddl_guard.item;
ALTER TABLE ddl_guard.item ALTER COLUMN n SET STATISTICS 300, ALTER COLUMN n SET DEFAULT 1, SET (fillfactor = 80);
ALTER TABLE ddl_guard.item ADD CONSTRAINT positive CHECK (n > 0), ALTER COLUMN note SET NOT NULL;
ALTER TABLE ddl_guard.item DROP CONSTRAINT positive, ALTER COLUMN note DROP NOT NULL;
GRANT SELECT ON ddl_guard.item TO PUBLIC;
VACUUM FULL ddl_guard.item;
CLUSTER ddl_guard.item USING item_pkey;
CREATE FUNCTION ddl_guard.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER own AFTER INSERT ON ddl_guard.item FOR EACH ROW EXECUTE FUNCTION ddl_guard.nothing();
ALTER TABLE ddl_guard.item DISABLE TRIGGER own;
DROP TRIGGER own ON ddl_guard.item;
CREATE VIEW ddl_guard.seen AS SELECT * FROM ddl_guard.item;
DROP VIEW ddl_guard.seen;
ALTER TABLE ddl_guard.other ADD COLUMN more text, ALTER COLUMN n TYPE bigint;
CREATE TABLE ddl_guard.child () INHERITS (ddl_guard.item);
DROP TABLE ddl_guard.child;
CREATE TEMPORARY TABLE item (id int);
ALTER TABLE pg_temp.item ADD COLUMN n int;
DROP TABLE pg_temp.item;

-- Columns and names.
ALTER TABLE ddl_guard.item ADD COLUMN more int;
\echo :SQLSTATE
ALTER TABLE ddl_guard.item DROP COLUMN n;
ALTER TABLE ddl_guard.item RENAME COLUMN n TO m;
ALTER TABLE ddl_guard.item ALTER COLUMN note TYPE varchar(10);
ALTER TABLE ddl_guard.item ALTER COLUMN n TYPE int USING n + 1;
ALTER TABLE ddl_guard.item ALTER COLUMN note TYPE text COLLATE "C";
ALTER TABLE ddl_guard.item ALTER COLUMN n ADD GENERATED ALWAYS AS IDENTITY;
ALTER TABLE ddl_guard.item RENAME TO thing;
ALTER INDEX ddl_guard.item RENAME TO thing;
ALTER SEQUENCE ddl_guard.item RENAME TO thing;
ALTER VIEW ddl_guard.item RENAME COLUMN id TO ident;
ALTER MATERIALIZED VIEW ddl_guard.item RENAME COLUMN id TO ident;
ALTER FOREIGN TABLE ddl_guard.item RENAME COLUMN id TO ident;
ALTER TYPE ddl_guard.item RENAME ATTRIBUTE id TO ident;
ALTER TABLE ddl_guard.item SET SCHEMA public;
ALTER SCHEMA ddl_guard RENAME TO guarded;
ALTER TABLE ddl_guard.item SET UNLOGGED;
CREATE TABLE ddl_guard.parent (LIKE ddl_guard.item);
ALTER TABLE ddl_guard.item INHERIT ddl_guard.parent;
ALTER TABLE ddl_guard.parent ADD COLUMN from_above int;
ALTER TABLE ddl_guard.item NO INHERIT ddl_guard.parent;
DROP TABLE ddl_guard.parent;

-- The key; REINDEX gives its index another OID.
REINDEX INDEX CONCURRENTLY ddl_guard.marked_id;
REINDEX TABLE CONCURRENTLY ddl_guard.item;
SELECT check_name, object, status FROM migrate_tiers.preflight() WHERE check_name = 'source_key';
CREATE UNIQUE INDEX unmarked_id ON ddl_guard.marked (id);
DROP INDEX ddl_guard.unmarked_id;
ALTER TABLE ddl_guard.item DROP CONSTRAINT item_pkey;
ALTER TABLE ddl_guard.item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (n);
DROP INDEX ddl_guard.marked_id;
DROP INDEX CONCURRENTLY ddl_guard.marked_id;
ALTER TABLE ddl_guard.marked REPLICA IDENTITY FULL;

-- Types, also inside others.
ALTER TYPE ddl_guard.mood ADD VALUE 'middle';
ALTER TYPE ddl_guard.mood RENAME VALUE 'low' TO 'lower';
ALTER TYPE ddl_guard.mood RENAME TO humour;
ALTER TYPE ddl_guard.pair RENAME ATTRIBUTE a TO c;
DROP TYPE ddl_guard.mood CASCADE;

-- Capture itself.
ALTER TABLE ddl_guard.item DISABLE TRIGGER ALL;
ALTER TABLE ddl_guard.item DISABLE TRIGGER migrate_tiers_capture;
ALTER TABLE ddl_guard.item ENABLE TRIGGER migrate_tiers_capture;
ALTER TABLE ddl_guard.log_21 DISABLE TRIGGER ALL;
ALTER TRIGGER migrate_tiers_capture ON ddl_guard.item RENAME TO mine;
DROP TRIGGER migrate_tiers_capture ON ddl_guard.item;
CREATE OR REPLACE TRIGGER migrate_tiers_capture AFTER INSERT ON ddl_guard.item FOR EACH ROW EXECUTE FUNCTION ddl_guard.nothing();
CREATE OR REPLACE TRIGGER migrate_tiers_capture AFTER INSERT ON ddl_guard.item FOR EACH ROW EXECUTE FUNCTION migrate_tiers.capture();
CREATE TRIGGER forged AFTER INSERT ON ddl_guard.item FOR EACH ROW EXECUTE FUNCTION migrate_tiers.capture();
DROP TRIGGER forged ON ddl_guard.item;
DROP TRIGGER migrate_tiers_capture_truncate ON ddl_guard.log_1;

-- Dropping.
DROP TABLE ddl_guard.item;
DROP TABLE ddl_guard.log_1;
DROP TABLE ddl_guard.log_2;
SET client_min_messages = warning;
DROP SCHEMA ddl_guard CASCADE;
RESET client_min_messages;
DROP SERVER target CASCADE;
DROP EXTENSION migrate_tiers;
DROP EXTENSION migrate_tiers CASCADE;
\echo :SQLSTATE

-- Partitions: a new one is covered, whoever makes it; others are refused.
ALTER TABLE ddl_guard."Log" DETACH PARTITION ddl_guard.log_1;
ALTER TABLE ddl_guard."Log" DETACH PARTITION ddl_guard.log_1 CONCURRENTLY;
ALTER TABLE ddl_guard.log_2 DETACH PARTITION ddl_guard.log_21;
CREATE TABLE ddl_guard.loose (id int NOT NULL, at int NOT NULL);
ALTER TABLE ddl_guard."Log" ATTACH PARTITION ddl_guard.loose FOR VALUES FROM (40) TO (50);
CREATE ROLE regress_mt_app;
GRANT USAGE, CREATE ON SCHEMA ddl_guard TO regress_mt_app;
ALTER TABLE ddl_guard."Log" OWNER TO regress_mt_app;
ALTER TABLE ddl_guard.log_2 OWNER TO regress_mt_app;
CREATE UNLOGGED TABLE ddl_guard.log_4 PARTITION OF ddl_guard."Log" FOR VALUES FROM (60) TO (70);
CREATE FOREIGN TABLE ddl_guard.log_4 PARTITION OF ddl_guard."Log" FOR VALUES FROM (60) TO (70) SERVER target;
SET ROLE regress_mt_app;
SET quote_all_identifiers = on;
CREATE TABLE ddl_guard.log_3 PARTITION OF ddl_guard."Log" FOR VALUES FROM (30) TO (40);
RESET quote_all_identifiers;
CREATE TABLE ddl_guard.log_22 PARTITION OF ddl_guard.log_2 FOR VALUES FROM (20) TO (30);
CREATE TABLE ddl_guard.own (id int);
CREATE TRIGGER forged AFTER INSERT ON ddl_guard.own FOR EACH ROW EXECUTE FUNCTION migrate_tiers.capture('1');
INSERT INTO ddl_guard.own VALUES (1);
DROP TABLE ddl_guard.own;
RESET ROLE;
SELECT * FROM triggers('ddl_guard.log_3');
SELECT * FROM triggers('ddl_guard.log_22');
SELECT relation, state, partitions FROM guarded();

-- A captured table that became a partition itself.
CREATE TABLE ddl_guard.root (LIKE ddl_guard.item) PARTITION BY RANGE (id);
ALTER TABLE ddl_guard.root ATTACH PARTITION ddl_guard.item DEFAULT;
DROP TABLE ddl_guard.root;

-- Let pass: names, without a new copy.
SET migrate_tiers.allow_ddl = on;
ALTER TABLE ddl_guard.item RENAME TO thing;
ALTER TABLE ddl_guard.thing RENAME COLUMN id TO "Item's id";
SELECT * FROM triggers('ddl_guard.thing');
ALTER TYPE ddl_guard.mood ADD VALUE 'middle';
SELECT * FROM guarded();
RESET migrate_tiers.allow_ddl;
ALTER TABLE ddl_guard.thing RENAME TO item;
SET migrate_tiers.allow_ddl = on;
ALTER TABLE ddl_guard.thing RENAME TO item;

-- Let pass: rows that may have moved.
ALTER TABLE ddl_guard.item ADD COLUMN more int;
SELECT relation, state, note FROM guarded() WHERE state = 'recopy';
CALL settled();
ALTER TABLE ddl_guard.item ALTER COLUMN n TYPE bigint;
SELECT relation, state, note FROM guarded() WHERE state = 'recopy';
CALL settled();
ALTER TABLE ddl_guard.item ALTER COLUMN n TYPE bigint USING n + 1;
SELECT relation, state, note FROM guarded() WHERE state = 'recopy';
CALL settled();
ALTER TABLE ddl_guard.item DROP CONSTRAINT item_pkey;
ALTER TABLE ddl_guard.item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (n);
SELECT * FROM guarded() WHERE state = 'recopy';
SELECT * FROM triggers('ddl_guard.item');
CALL settled();
ALTER TABLE ddl_guard.item DISABLE TRIGGER ALL;
SELECT * FROM triggers('ddl_guard.item');

-- Let pass: partitions.
ALTER TABLE ddl_guard."Log" ATTACH PARTITION ddl_guard.loose FOR VALUES FROM (40) TO (50);
SELECT relation, state, note, partitions FROM guarded() WHERE state = 'recopy';
SELECT * FROM triggers('ddl_guard.loose');
CALL settled();
ALTER TABLE ddl_guard."Log" DETACH PARTITION ddl_guard.log_2;
SELECT relation, state, note, partitions FROM guarded() WHERE state = 'recopy';
SELECT * FROM triggers('ddl_guard.log_2');
SELECT * FROM triggers('ddl_guard.log_21');
CALL settled();
-- A table of somebody else's is let alone, with what looks like a trigger of ours.
CREATE TABLE ddl_guard.own (id int);
SELECT id AS log_id FROM migrate_tiers.relation WHERE relation = 'ddl_guard."Log"'::regclass \gset
CREATE TRIGGER forged BEFORE TRUNCATE ON ddl_guard.own FOR EACH STATEMENT EXECUTE FUNCTION migrate_tiers.capture(:'log_id');
CREATE TABLE ddl_guard.log_5 PARTITION OF ddl_guard."Log" FOR VALUES FROM (50) TO (60);
SELECT tgname FROM triggers('ddl_guard.own');
DROP TABLE ddl_guard.own;
-- Old strings do no harm.
SET standard_conforming_strings = off;
SET escape_string_warning = off;
CREATE TABLE ddl_guard.log_6 PARTITION OF ddl_guard."Log" FOR VALUES FROM (60) TO (70);
DROP TABLE ddl_guard.log_5, ddl_guard.log_6;
RESET standard_conforming_strings;
RESET escape_string_warning;
CALL settled();
ALTER TABLE ddl_guard."Log" DETACH PARTITION ddl_guard.log_1 CONCURRENTLY;
DROP TABLE ddl_guard.log_3;
SELECT relation, state, note, partitions FROM guarded() WHERE state = 'recopy';
CALL settled();

-- Row security that hides rows from the migration's owner is told of; this owner sees all.
ALTER TABLE ddl_guard.item ENABLE ROW LEVEL SECURITY;
ALTER TABLE ddl_guard.item DISABLE ROW LEVEL SECURITY;

-- While the target has changes of its own, nothing passes after which a table would have to be copied again.
UPDATE migrate_tiers.migration SET reversing = true, phase = 'read_target';
ALTER TABLE ddl_guard.item ADD COLUMN even_more int;
ALTER TABLE ddl_guard.item ALTER COLUMN note TYPE varchar USING note || '!';
ALTER TABLE ddl_guard.item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (n, "Item's id");
ALTER TABLE ddl_guard."Log" DETACH PARTITION ddl_guard.loose CONCURRENTLY;
DROP INDEX CONCURRENTLY ddl_guard.marked_id;
ALTER TABLE ddl_guard.item RENAME COLUMN note TO noted;
ALTER TABLE ddl_guard.item RENAME COLUMN noted TO note;
CREATE TABLE ddl_guard.log_7 PARTITION OF ddl_guard."Log" FOR VALUES FROM (70) TO (80);
RESET migrate_tiers.allow_ddl;
ALTER TABLE ddl_guard.item ADD COLUMN even_more int;
ALTER TABLE ddl_guard.item RENAME COLUMN note TO noted;
SET migrate_tiers.allow_ddl = on;
UPDATE migrate_tiers.migration SET reversing = false, phase = 'syncing';
SELECT relation, state FROM guarded() WHERE state = 'recopy';

-- A captured table that is dropped leaves the migration.
DROP TABLE ddl_guard.marked;
SELECT relation, state FROM guarded();
RESET migrate_tiers.allow_ddl;

-- However a table came to be without its key, there is a way back.
BEGIN;
ALTER EVENT TRIGGER migrate_tiers_guard_drop DISABLE;
ALTER EVENT TRIGGER migrate_tiers_guard_command_end DISABLE;
ALTER TABLE ddl_guard.item DROP CONSTRAINT item_pkey;
ALTER EVENT TRIGGER migrate_tiers_guard_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER migrate_tiers_guard_command_end ENABLE ALWAYS;
COMMIT;
SET client_min_messages = warning;
CALL migrate_tiers.revert('planned');
-- Not captured any more: everything may change.
ALTER TABLE ddl_guard.item ADD COLUMN late int;
SELECT migrate_tiers.drop_migration('shop');
DROP SCHEMA ddl_guard CASCADE;
DROP FUNCTION guarded, triggers;
DROP PROCEDURE settled;
DROP ROLE regress_mt_app;
\c mt_target
SET client_min_messages = warning;
DROP SCHEMA ddl_guard CASCADE;
