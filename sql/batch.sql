-- Batch tables: how they are declared, pushed, and what is refused.
CREATE SCHEMA batch;
SET search_path = batch;
CREATE TABLE summary (id int PRIMARY KEY, at timestamptz, v text);
CREATE TABLE heap (v int, w text);
CREATE TABLE live (id int PRIMARY KEY);
CREATE MATERIALIZED VIEW totals AS SELECT v, count(*) AS n FROM heap GROUP BY v;
CREATE TABLE journal (seq bigint, v text);
CREATE TABLE "Odd ""name" ("Key ""column" int PRIMARY KEY, "va'lue" text);
CREATE TABLE part (id int, day int, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
SELECT current_database() AS source \gset
\c mt_target
CREATE SCHEMA batch;
SET search_path = batch;
CREATE TABLE summary (id int PRIMARY KEY, at timestamptz, v text);
CREATE TABLE heap (v int, w text);
CREATE TABLE live (id int PRIMARY KEY);
CREATE TABLE totals (n bigint, v int UNIQUE NOT NULL);
CREATE TABLE journal (seq bigint, v text);
CREATE TABLE "Odd ""name" ("Key ""column" int PRIMARY KEY, "va'lue" text);
CREATE TABLE part (id int, day int, v text, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part DEFAULT;
\c :source
SET search_path = batch;
SELECT migrate_tiers.create_migration('shop', 'target');
SELECT count(migrate_tiers.tag(c.oid, 'batch')::text) FROM pg_class AS c
 WHERE relnamespace = 'batch'::regnamespace AND relkind IN ('r', 'p', 'm') AND NOT relispartition AND relname <> 'live';
SELECT migrate_tiers.tag('live', 'realtime');

-- A policy can be changed at any time; what is not said goes back to its default.
SELECT migrate_tiers.batch_policy('summary', every => '15 min', max_age => '1 hour');
SELECT every, mode, max_age, watermark FROM migrate_tiers.policy;
SELECT migrate_tiers.batch_policy('summary', mode => 'append', watermark => 'at', max_age => '2 hours');
SELECT every, mode, max_age, watermark FROM migrate_tiers.policy;
SELECT migrate_tiers.batch_policy('heap', mode => 'replace');

-- What cannot be; the call that would do keeps what is set else.
SELECT migrate_tiers.batch_policy('heap', every => '1 day', mode => 'replace', max_age => '2 days');
SELECT migrate_tiers.batch_policy('heap');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('heap', mode => 'replace');
SELECT migrate_tiers.batch_policy('heap');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('totals');
\echo :SQLSTATE
CREATE UNIQUE INDEX ON totals (v);
SELECT migrate_tiers.batch_policy('totals');
SELECT migrate_tiers.batch_policy('heap', mode => 'merge');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('heap', mode => 'append');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('heap', mode => 'append', watermark => 'x');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('heap', mode => 'replace', watermark => 'v');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('summary', every => '0');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('summary', max_age => '-1 h');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('live');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('pg_class');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy(NULL);
\echo :SQLSTATE
SELECT migrate_tiers.push_batch('live');
\echo :SQLSTATE
SELECT migrate_tiers.push_batch('summary');
\echo :SQLSTATE
SELECT migrate_tiers.schedule('summary', '0 3 * * *');
\echo :SQLSTATE
SELECT migrate_tiers.unschedule('summary');
\echo :SQLSTATE

-- Only who may drive the migration.
CREATE ROLE regress_mt_batch;
GRANT USAGE ON SCHEMA batch TO regress_mt_batch;
SET ROLE regress_mt_batch;
SELECT migrate_tiers.push_batch('summary');
\echo :SQLSTATE
SELECT migrate_tiers.batch_policy('summary');
\echo :SQLSTATE
SELECT count(*) FROM migrate_tiers.batches;
SELECT count(*) FROM migrate_tiers.freshness;
\echo :SQLSTATE
RESET ROLE;
SELECT migration, relation, mode, fresh FROM migrate_tiers.freshness WHERE relation = 'summary'::regclass;
CREATE ROLE regress_mt_batch_owner;
UPDATE migrate_tiers.migration SET owner = 'regress_mt_batch_owner'::regrole;
SET ROLE regress_mt_batch_owner;
SELECT mode, max_age, fresh FROM migrate_tiers.freshness WHERE mode = 'append';
RESET ROLE;
UPDATE migrate_tiers.migration SET owner = current_user::regrole;
DROP ROLE regress_mt_batch_owner;
DROP OWNED BY regress_mt_batch;
DROP ROLE regress_mt_batch;

-- Pushes.
SET client_min_messages = warning;
CALL migrate_tiers.advance('syncing');
RESET client_min_messages;
INSERT INTO summary SELECT i, '2020-01-01'::timestamptz + i * interval '1 h', 'v' || i FROM generate_series(1, 100) i;
INSERT INTO heap SELECT i % 5, 'w' FROM generate_series(1, 50) i;
REFRESH MATERIALIZED VIEW totals;
INSERT INTO journal SELECT i, 'x' FROM generate_series(1, 20) i;
INSERT INTO "Odd ""name" SELECT i, 'it''s ' || i FROM generate_series(1, 10) i;
INSERT INTO part SELECT i, i % 20, 'p' FROM generate_series(1, 40) i;
SELECT migrate_tiers.batch_policy('summary'), migrate_tiers.batch_policy('journal', mode => 'append', watermark => 'seq');
SELECT relation, direction, mode, source_rows, target_rows, inserted, updated, deleted, error, note
  FROM unnest(ARRAY['summary', 'heap', 'totals', 'journal', '"Odd ""name"', 'part']::regclass[]) AS t
 CROSS JOIN LATERAL migrate_tiers.push_batch(t);
UPDATE "Odd ""name" SET "va'lue" = 'other' WHERE "Key ""column" < 3;
UPDATE part SET day = 19 - day WHERE id <= 2;
DELETE FROM heap WHERE v = 4;
REFRESH MATERIALIZED VIEW totals;
SELECT relation, mode, source_rows, target_rows, inserted, updated, deleted
  FROM unnest(ARRAY['totals', '"Odd ""name"', 'part']::regclass[]) AS t CROSS JOIN LATERAL migrate_tiers.push_batch(t);
SELECT migrate_tiers.batch_policy('"Odd ""name"', mode => 'replace'), migrate_tiers.batch_policy('part', mode => 'replace');
DELETE FROM "Odd ""name" WHERE "Key ""column" = 5;
UPDATE part SET v = 'q' WHERE id = 7;
SELECT relation, mode, source_rows, target_rows, inserted, updated, deleted
  FROM unnest(ARRAY['"Odd ""name"', 'part']::regclass[]) AS t CROSS JOIN LATERAL migrate_tiers.push_batch(t);
SELECT relation, state FROM migrate_tiers.tables WHERE tier = 'batch' ORDER BY relation::text COLLATE "C";

-- A table that is locked exclusively is not waited for.
BEGIN;
LOCK TABLE summary;
\set VERBOSITY terse
SELECT migrate_tiers.push_batch('summary');
\echo :SQLSTATE
ROLLBACK;
SELECT substr(error, 1, 6) AS error, note FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1;

-- A key that has gone, a watermark that has gone, one that goes backwards, one that is null.
\set VERBOSITY default
ALTER TABLE summary DROP CONSTRAINT summary_pkey;
SELECT migrate_tiers.push_batch('summary');
\echo :SQLSTATE
ALTER TABLE summary ADD PRIMARY KEY (id);
ALTER TABLE journal RENAME seq TO number;
SELECT migrate_tiers.push_batch('journal');
\echo :SQLSTATE
ALTER TABLE journal RENAME number TO seq;
DELETE FROM journal WHERE seq > 10;
SELECT migrate_tiers.push_batch('journal');
\echo :SQLSTATE
INSERT INTO journal SELECT i, 'x' FROM generate_series(11, 20) i;
INSERT INTO journal VALUES (15, 'late'), (21, 'new');
SELECT migrate_tiers.push_batch('journal');
\echo :SQLSTATE
INSERT INTO journal VALUES (NULL, 'none');
SELECT migrate_tiers.push_batch('journal');
\echo :SQLSTATE

-- An emptied table is pushed as empty, which is noted.
TRUNCATE summary;
SELECT source_rows, target_rows, deleted, note FROM migrate_tiers.push_batch('summary');

-- The receiver kept what it had where a push failed.
\c mt_target
SET search_path = batch;
SELECT count(*), max(seq) FROM journal;
SELECT count(*) FROM summary;
SELECT * FROM "Odd ""name" ORDER BY 1 LIMIT 4;
SELECT * FROM totals ORDER BY v;
SELECT count(*) FROM pg_class WHERE relname LIKE 'stage%';
\c :source
SET search_path = batch;
SET client_min_messages = warning;
CALL migrate_tiers.revert('planned');
SELECT migrate_tiers.drop_migration();
SELECT count(*) FROM migrate_tiers.policy;
SELECT count(*) FROM migrate_tiers.imprint;
DROP SCHEMA batch CASCADE;
\c mt_target
SET client_min_messages = warning;
DROP SCHEMA batch CASCADE;
