-- Proposals of tiers, each with its reason.
CREATE SCHEMA suggest;
SET search_path = suggest;
CREATE ROLE regress_mt_etl;
CREATE ROLE regress_mt_reader;
CREATE TABLE nightly (id int PRIMARY KEY, v int);
CREATE TABLE filled (id int PRIMARY KEY, v int);
CREATE TABLE shared (LIKE filled INCLUDING ALL);
CREATE TABLE swept (id int PRIMARY KEY, v int);
CREATE TABLE ticket (id int PRIMARY KEY, v int);
CREATE TABLE customer (id int PRIMARY KEY, v int);
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customer);
CREATE TABLE sales_summary (id int PRIMARY KEY, v int);
CREATE TABLE customer_stats (id int PRIMARY KEY REFERENCES customer, v int);
CREATE TABLE heap (v int);
CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
CREATE TABLE parent_heap (id int UNIQUE);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent_heap (id));
CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (500);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (500) TO (10000);
CREATE MATERIALIZED VIEW totals AS SELECT v, count(*) FROM customer GROUP BY v;

-- Emptied and filled, three nights.
INSERT INTO nightly SELECT i, i FROM generate_series(1, 200) i;
TRUNCATE nightly;
INSERT INTO nightly SELECT i, i FROM generate_series(1, 200) i;
TRUNCATE nightly;
INSERT INTO nightly SELECT i, i FROM generate_series(1, 200) i;
INSERT INTO part SELECT i, i FROM generate_series(1, 1000) i;
TRUNCATE part;
INSERT INTO part SELECT i, i FROM generate_series(1, 1000) i;

-- Filled by one role and read by another; by two roles.
GRANT INSERT ON filled, shared TO regress_mt_etl;
GRANT SELECT ON filled, shared TO regress_mt_reader;
GRANT INSERT ON shared TO regress_mt_reader;
INSERT INTO filled SELECT i, i FROM generate_series(1, 200) i;
INSERT INTO shared SELECT i, i FROM generate_series(1, 200) i;

-- Updated as a whole; and by single rows.
SET enable_indexscan = off;
SET enable_bitmapscan = off;
INSERT INTO swept SELECT i, i FROM generate_series(1, 2000) i;
UPDATE swept SET v = v + 1;
RESET enable_indexscan;
RESET enable_bitmapscan;
SET enable_seqscan = off;
INSERT INTO ticket SELECT i, i FROM generate_series(1, 2000) i;
UPDATE ticket SET v = v + 1 WHERE id = 5;
RESET enable_seqscan;
SELECT pg_stat_force_next_flush();

SELECT relation, tier, regexp_replace(reason, '; \d+ (kB|bytes)$', '; SIZE') AS reason
  FROM migrate_tiers.suggest_tiers() WHERE relation::text IN (SELECT relname FROM pg_class WHERE relnamespace = 'suggest'::regnamespace)
 ORDER BY relation::text COLLATE "C";

-- One that has a tier needs none.
SELECT migrate_tiers.create_migration('shop', 'target');
SELECT migrate_tiers.tag('child', 'realtime'), migrate_tiers.tag('nightly', 'batch'), migrate_tiers.tag('heap', 'ignored');
SELECT relation, tier FROM migrate_tiers.suggest_tiers() WHERE relation::text IN ('child', 'nightly', 'heap', 'parent_heap', 'ticket');
SELECT relation, tier FROM migrate_tiers.suggest_tiers('shop') WHERE relation::text IN ('child', 'nightly', 'heap', 'parent_heap', 'ticket');
SELECT migrate_tiers.drop_migration('shop');

DROP SCHEMA suggest CASCADE;
DROP ROLE regress_mt_etl, regress_mt_reader;
