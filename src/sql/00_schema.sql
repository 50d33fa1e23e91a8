/* migrate_tiers--1.0.sql: built from src/sql, in order of the file names */

\echo Use "CREATE EXTENSION migrate_tiers" to load this file. \quit

-- Rows of ours are written as heap rows, whatever the database makes other tables of.
SET LOCAL default_table_access_method = heap;

CREATE SCHEMA migrate_tiers;
GRANT USAGE ON SCHEMA migrate_tiers TO PUBLIC;
COMMENT ON SCHEMA migrate_tiers IS 'moves this database to another server while it is in use; see the function comments, or README.md';

