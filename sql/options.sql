-- Options: each has a type, a default and a meaning; a value is checked when it is set.
SELECT name, value, "default", type, unit, meaning FROM migrate_tiers.options;

SELECT migrate_tiers.create_migration('shop', 'target');
SELECT count(*), count(*) FILTER (WHERE value = "default") AS defaults FROM migrate_tiers.options WHERE migration = 'shop';

-- Values of each type; a value is kept as it was given.
SELECT migrate_tiers.set_option('max_lag', '1 min');
SELECT migrate_tiers.set_option('copy_rate', '64MB');
SELECT migrate_tiers.set_option('copy_workers', '4', 'shop');
SELECT migrate_tiers.set_option('defer_indexes', 'off');
SELECT migrate_tiers.set_option('conflict_policy', 'last_write');
SELECT name, value FROM migrate_tiers.options WHERE value <> "default" ORDER BY name;

-- null goes back to the default.
SELECT migrate_tiers.set_option('max_lag', NULL);
SELECT value FROM migrate_tiers.options WHERE name = 'max_lag';

-- The retention of the queue is where the capture trigger finds it.
SELECT migrate_tiers.set_option('queue_retention', '2 min');
SELECT queue_retention FROM migrate_tiers.migration;
SELECT migrate_tiers.set_option('queue_retention', NULL);
SELECT queue_retention FROM migrate_tiers.migration;

-- What is not a value is refused, with the way to write one.
SELECT migrate_tiers.set_option('max_log', '1 min');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('max_lag', 'soon');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('max_lag', '-1 s');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('queue_retention', '10 ms');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('max_age', '200000000 years');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('copy_workers', '0');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('copy_workers', '65');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('copy_workers', 'many');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('copy_rate', '-1');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('copy_rate', '5 parsecs');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('chunk_size', '1kB');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('overwrite', 'maybe');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('conflict_policy', 'newest');
\echo :SQLSTATE
SELECT migrate_tiers.set_option(NULL, 'x');
\echo :SQLSTATE
SELECT migrate_tiers.set_option('max_lag', '1 s', 'office');
\echo :SQLSTATE
SELECT name, value FROM migrate_tiers.options WHERE value <> "default" ORDER BY name;

-- Options of a migration are seen by its owner's members, and its defaults by all.
CREATE ROLE regress_mt_stranger;
SET ROLE regress_mt_stranger;
SELECT count(*) AS rows, count(migration) AS of_migrations FROM migrate_tiers.options;
SELECT migrate_tiers.set_option('max_lag', '1 s');
\echo :SQLSTATE
RESET ROLE;
DROP ROLE regress_mt_stranger;

SELECT migrate_tiers.drop_migration('shop');
SELECT count(*) FROM migrate_tiers.option_value;
