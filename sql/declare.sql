-- Declaring: a migration is created, its tables are sorted into tiers, and it
-- is dropped again.
CREATE SCHEMA declare;
CREATE TABLE declare.customer (id int PRIMARY KEY, name text);
CREATE TABLE declare."Bestellung ""ö""" (nr int, "Jahr" int, id int REFERENCES declare.customer, PRIMARY KEY ("Jahr", nr));
CREATE TABLE declare.no_key (a int);
CREATE TABLE declare.identity (a int NOT NULL, b text NOT NULL, c text);
CREATE UNIQUE INDEX identity_ba ON declare.identity (b, a) INCLUDE (c);
ALTER TABLE declare.identity REPLICA IDENTITY USING INDEX identity_ba;
CREATE TABLE declare.event (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE declare.event_2020 PARTITION OF declare.event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE UNLOGGED TABLE declare.cache (id int PRIMARY KEY);
CREATE VIEW declare.names AS SELECT name FROM declare.customer;
CREATE MATERIALIZED VIEW declare.totals AS SELECT count(*) FROM declare.customer;
CREATE DOMAIN declare.code AS text;
CREATE TABLE declare.coded (code declare.code PRIMARY KEY);
CREATE FUNCTION declare.tags() RETURNS TABLE (relation regclass, tier text, state text, target text, key name[], operators text[], index regclass)
LANGUAGE sql AS $$
  SELECT r.relation::regclass, r.tier, r.state, format('%I.%I', r.target_schema, r.target_name),
         r.key_columns, r.key_operators, CASE WHEN r.key_columns <> '{}' THEN migrate_tiers.key_index(r.relation)::regclass END
    FROM migrate_tiers.relation r ORDER BY r.relation::regclass::text
$$;

SELECT migrate_tiers.create_migration('shop', 'target');
SELECT name, owner::regrole::text = current_user AS mine, phase, syncing, paused FROM migrate_tiers.migration;

-- What can be realtime is tagged; what cannot is listed with the reason.
SELECT relation, tier, note FROM migrate_tiers.tag_schema('declare', 'realtime');
SELECT * FROM declare.tags();

-- What has a tier keeps it when its schema is tagged again.
SELECT migrate_tiers.tag('declare.no_key', 'batch');
SELECT relation, tier, left(note, 13) AS note FROM migrate_tiers.tag_schema('declare', 'ignored');

-- Tagging again changes the tier; a key is kept for realtime tables only.
SELECT migrate_tiers.tag('declare.coded', 'batch');
SELECT migrate_tiers.tag('declare.totals', 'batch');
-- Another name on the target: parts are read as in SQL, the schema is optional, and it stays until it is given again.
SELECT migrate_tiers.tag('declare.customer', 'realtime', target => 'Crm."Kunde ""ß"""');
SELECT migrate_tiers.tag('declare.event', 'realtime', target => 'events');
SELECT migrate_tiers.tag('declare.customer', 'realtime');
SELECT * FROM declare.tags();

-- A table that is taken out is a table without a tier.
SELECT migrate_tiers.untag('declare.cache');
SELECT count(*) FROM declare.tags() WHERE relation = 'declare.cache'::regclass;

-- A column makes no key where old rows may hold nulls, though PostgreSQL (from 18 on) has it as NOT NULL that is NOT VALID.
CREATE TABLE declare.not_valid (a int);
INSERT INTO declare.not_valid VALUES (NULL);
CREATE UNIQUE INDEX not_valid_a ON declare.not_valid (a);
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        EXECUTE 'ALTER TABLE declare.not_valid ADD CONSTRAINT not_null NOT NULL a NOT VALID';
        ALTER TABLE declare.not_valid REPLICA IDENTITY USING INDEX not_valid_a;
    END IF;
END $$;
SELECT migrate_tiers.key_index('declare.not_valid'::regclass);
SELECT migrate_tiers.tag('declare.not_valid', 'realtime');
SELECT migrate_tiers.tag('declare.not_valid', 'batch');
SELECT migrate_tiers.batch_policy('declare.not_valid', mode => 'diff');
SELECT migrate_tiers.untag('declare.not_valid');
DROP TABLE declare.not_valid;

-- A table as TimescaleDB has them: a trigger keeps rows out of it, which are in its chunks.
CREATE TABLE declare.hyper (id int PRIMARY KEY);
CREATE SCHEMA _timescaledb_internal;
CREATE TABLE _timescaledb_internal.chunk () INHERITS (declare.hyper);
SELECT migrate_tiers.tag('declare.hyper', 'realtime');
DROP SCHEMA _timescaledb_internal CASCADE;
SELECT migrate_tiers.tag('declare.hyper', 'realtime');
CREATE TRIGGER ts_insert_blocker BEFORE INSERT ON declare.hyper FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
SELECT migrate_tiers.tag('declare.hyper', 'batch');
SELECT migrate_tiers.untag('declare.hyper');
SELECT note FROM migrate_tiers.tag_schema('declare', 'realtime') WHERE relation = 'declare.hyper'::regclass;
SELECT migrate_tiers.tag('declare.hyper', 'ignored');
SELECT migrate_tiers.untag('declare.hyper');
DROP TABLE declare.hyper;

-- A second migration is declared beside it; now the name has to be said.
SELECT migrate_tiers.create_migration('Übersiedlung 2', 'target');
SELECT migrate_tiers.tag('declare.cache', 'ignored', migration => 'Übersiedlung 2');
SELECT m.name, count(*) FROM migrate_tiers.relation r JOIN migrate_tiers.migration m ON m.id = r.migration GROUP BY 1 ORDER BY 1;
SELECT migrate_tiers.drop_migration('Übersiedlung 2');
SELECT migrate_tiers.drop_migration();
SELECT (SELECT count(*) FROM migrate_tiers.migration) AS migrations, (SELECT count(*) FROM migrate_tiers.relation) AS relations;

-- Tiers are proposed without a migration, too: what is derived, and what realtime rows refer to.
CREATE TABLE declare.daily_summary (day date PRIMARY KEY, total int);
CREATE TABLE declare.report (id int PRIMARY KEY);
CREATE TABLE declare.report_line (id int PRIMARY KEY, report int REFERENCES declare.report);
CREATE TABLE declare.refilled (id int PRIMARY KEY);
INSERT INTO declare.refilled SELECT generate_series(1, 200);
TRUNCATE declare.refilled;
INSERT INTO declare.refilled SELECT generate_series(1, 200);
TRUNCATE declare.refilled;
INSERT INTO declare.refilled SELECT generate_series(1, 200);
SELECT pg_stat_force_next_flush();
SELECT relation, tier, split_part(reason, ';', 1) AS reason
  FROM migrate_tiers.suggest_tiers() WHERE relation::text LIKE 'declare.%' ORDER BY relation::text;

SET client_min_messages = warning;
DROP SCHEMA declare CASCADE;
