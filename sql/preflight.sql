-- Preflight: what would stop or spoil a migration is found before it begins.
CREATE FUNCTION findings() RETURNS TABLE (check_name text, object text, status text, detail text, hint text)
LANGUAGE sql AS $$
  SELECT * FROM migrate_tiers.preflight('shop') p
   WHERE p.status <> 'ok' AND p.check_name <> 'worker_slots'
$$;

-- Two sides that fit: one row a check, all ok.  The order of columns does not matter, dropped ones do not count.
CREATE SCHEMA preflight;
CREATE TYPE preflight.mood AS ENUM ('sad', 'happy');
CREATE DOMAIN preflight.positive AS int CHECK (VALUE > 0);
CREATE TYPE preflight.pair AS (a int, b preflight.mood);
CREATE TABLE preflight.parent (id int PRIMARY KEY, gone int, name text COLLATE "C" NOT NULL, mood preflight.mood, p preflight.pair[]);
ALTER TABLE preflight.parent DROP COLUMN gone;
CREATE TABLE preflight."Kind ""ö""" (a int, b text, parent int REFERENCES preflight.parent, n preflight.positive,
    twice int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (b, a), UNIQUE (n), CHECK (a > 0));
CREATE TABLE preflight.event (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE preflight.event_1 PARTITION OF preflight.event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE preflight.totals (n bigint);
SELECT migrate_tiers.create_migration('shop', 'target');
SELECT count(*) FROM migrate_tiers.tag_schema('preflight', 'realtime');
SELECT migrate_tiers.tag('preflight.totals', 'batch');
\c mt_target
CREATE SCHEMA preflight;
CREATE TYPE preflight.mood AS ENUM ('sad', 'happy');
CREATE DOMAIN preflight.positive AS int CHECK (VALUE > 0);
CREATE TYPE preflight.pair AS (a int, b preflight.mood);
CREATE TABLE preflight.parent (name text COLLATE "C" NOT NULL, p preflight.pair[], mood preflight.mood, id int PRIMARY KEY);
CREATE TABLE preflight."Kind ""ö""" (a int, b text, parent int REFERENCES preflight.parent, n preflight.positive,
    twice int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, b), UNIQUE (n), CHECK (a > 0));
CREATE TABLE preflight.event (id int, at date, PRIMARY KEY (id, at)) PARTITION BY LIST (id);
CREATE TABLE preflight.event_rest PARTITION OF preflight.event DEFAULT;
CREATE TABLE preflight.totals (n bigint);
\c mt_regress
SELECT check_name, object, status, regexp_replace(detail, 'PostgreSQL \d+', 'PostgreSQL NN') AS detail, hint
  FROM migrate_tiers.preflight() WHERE check_name <> 'worker_slots';
-- Processes: of sync, of a verification and its readers, of the schedule of pushes and a push.
SELECT migrate_tiers.set_option('copy_workers', '64'), migrate_tiers.set_option('verify_workers', '64');
SELECT substring(detail FROM '^\d+ worker slots are needed') FROM migrate_tiers.preflight() WHERE check_name = 'worker_slots';
SELECT migrate_tiers.set_option('copy_workers', NULL), migrate_tiers.set_option('verify_workers', NULL);

-- What both sides say of themselves is compared, whatever the session's settings.
\set moment 'CREATE DOMAIN preflight.moment AS timestamptz CHECK (VALUE >= ''2000-01-01 00:00:00+00''); CREATE DOMAIN preflight.length AS interval CHECK (VALUE < ''1 day 2 hours''); CREATE TABLE preflight.moments (id int PRIMARY KEY, at preflight.moment, "for" preflight.length, CHECK (at < ''2100-05-06''));'
:moment
SELECT migrate_tiers.tag('preflight.moments', 'realtime');
\c mt_target
:moment
\c mt_regress
SET TimeZone = 'Europe/Berlin';
SET DateStyle = 'German';
SET IntervalStyle = 'iso_8601';
SELECT * FROM findings();
SET quote_all_identifiers = on;
SELECT * FROM findings();
\c mt_regress
SELECT migrate_tiers.untag('preflight.moments');
DROP TABLE preflight.moments;

-- Tiers: every table of the schemas has one, and what realtime rows refer to is realtime.
CREATE TABLE preflight.untagged (id int PRIMARY KEY);
CREATE MATERIALIZED VIEW preflight.derived AS SELECT 1 AS one;
SELECT migrate_tiers.tag('preflight.parent', 'batch');
SELECT * FROM findings();
SELECT migrate_tiers.untag('preflight.parent');
SELECT * FROM findings() WHERE check_name = 'foreign_keys';
SELECT migrate_tiers.tag('preflight.parent', 'realtime');
DROP TABLE preflight.untagged;
DROP MATERIALIZED VIEW preflight.derived;
-- Children by inheritance are tables of their own, in other schemas, too; not those of what is ignored.
CREATE SCHEMA preflight_elsewhere;
CREATE TABLE preflight_elsewhere.child (PRIMARY KEY (id)) INHERITS (preflight.parent);
CREATE TABLE preflight_elsewhere.grandchild () INHERITS (preflight_elsewhere.child);
SELECT * FROM findings();
SELECT migrate_tiers.tag('preflight_elsewhere.child', 'ignored');
SELECT object, detail FROM findings();
SELECT migrate_tiers.untag('preflight_elsewhere.child'), migrate_tiers.tag('preflight.parent', 'ignored');
SELECT object, detail FROM findings() WHERE check_name = 'tables_tagged';
SELECT migrate_tiers.tag('preflight.parent', 'realtime');
SET client_min_messages = warning;
DROP SCHEMA preflight_elsewhere CASCADE;
RESET client_min_messages;

-- Keys and storage that changed after the table was tagged.
ALTER TABLE preflight.event DROP CONSTRAINT event_pkey;
ALTER TABLE preflight.event_1 SET UNLOGGED;
CREATE FOREIGN TABLE preflight.event_2 PARTITION OF preflight.event FOR VALUES FROM ('2021-01-01') TO ('2022-01-01') SERVER target;
SELECT * FROM findings();
DROP FOREIGN TABLE preflight.event_2;
ALTER TABLE preflight.event_1 SET LOGGED;
ALTER TABLE preflight.event ADD PRIMARY KEY (id, at);
SELECT migrate_tiers.tag('preflight.event', 'realtime');
SELECT * FROM findings();
BEGIN;
ALTER TABLE preflight."Kind ""ö""" DROP COLUMN a CASCADE;
ALTER TABLE preflight."Kind ""ö""" ADD a int GENERATED ALWAYS AS (7) STORED, ADD PRIMARY KEY (b, a);
SELECT * FROM findings() WHERE check_name = 'source_key';
ROLLBACK;

-- Tables of the target: missing, of another kind, without partitions, filled.
\c mt_target
ALTER TABLE preflight.parent RENAME TO parent_elsewhere;
CREATE VIEW preflight.parent AS SELECT * FROM preflight.parent_elsewhere;
ALTER TABLE preflight.totals RENAME TO totals_elsewhere;
DROP TABLE preflight.event_rest;
INSERT INTO preflight.parent_elsewhere (id, name) VALUES (1, 'first');
INSERT INTO preflight."Kind ""ö""" (a, b) VALUES (1, 'x');
\c mt_regress
SELECT * FROM findings();
SELECT migrate_tiers.tag('preflight.parent', 'realtime', target => 'preflight.parent_elsewhere');
SELECT migrate_tiers.set_option('overwrite', 'on');
SELECT * FROM findings();
SELECT migrate_tiers.set_option('overwrite', NULL);
SELECT migrate_tiers.tag('preflight.parent', 'realtime', target => 'preflight.parent');
\c mt_target
TRUNCATE preflight.parent_elsewhere, preflight."Kind ""ö""";
DROP VIEW preflight.parent;
ALTER TABLE preflight.parent_elsewhere RENAME TO parent;
ALTER TABLE preflight.totals_elsewhere RENAME TO totals;
CREATE TABLE preflight.event_rest PARTITION OF preflight.event DEFAULT;

-- Columns: missing on either side, generated on one, other types, collations and NOT NULL.
ALTER TABLE preflight.parent DROP COLUMN mood, ADD extra int, ADD needed int NOT NULL, ADD filled int NOT NULL DEFAULT 1,
    ALTER name TYPE varchar(20) COLLATE "POSIX", ALTER name DROP NOT NULL, ALTER p SET NOT NULL, ALTER id ADD GENERATED ALWAYS AS IDENTITY;
ALTER TABLE preflight."Kind ""ö""" ALTER twice DROP EXPRESSION, DROP COLUMN parent, ADD parent int GENERATED ALWAYS AS (a) STORED;
ALTER TYPE preflight.mood ADD VALUE 'so so' BEFORE 'happy';
ALTER DOMAIN preflight.positive SET NOT NULL;
\c mt_regress
-- From PostgreSQL 18 on a constraint may be NOT VALID: old rows may hold nulls.
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        EXECUTE 'ALTER TABLE preflight.parent ADD CONSTRAINT not_valid NOT NULL p NOT VALID';
    END IF;
END $$;
SELECT * FROM findings();
ALTER TABLE preflight.parent ALTER p DROP NOT NULL;
\c mt_target
DROP TABLE preflight.parent, preflight."Kind ""ö""";
DROP TYPE preflight.pair;
DROP TYPE preflight.mood;
CREATE TYPE preflight.mood AS ENUM ('sad', 'happy');
ALTER DOMAIN preflight.positive DROP NOT NULL;
CREATE TYPE preflight.pair AS (a int, b preflight.mood);
CREATE TABLE preflight.parent (id int UNIQUE DEFERRABLE, name text COLLATE "C" NOT NULL, mood preflight.mood, p preflight.pair[]);
CREATE TABLE preflight."Kind ""ö""" (a int, b text, parent int, n preflight.positive,
    twice int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, b, n), EXCLUDE (n WITH =), CHECK (a > 5));

-- Keys, constraints, triggers and rules of the target.
CREATE FUNCTION preflight.act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER harmless BEFORE INSERT ON preflight.event FOR EACH ROW EXECUTE FUNCTION preflight.act();
CREATE TRIGGER acting BEFORE INSERT ON preflight.event_rest FOR EACH ROW EXECUTE FUNCTION preflight.act();
ALTER TABLE preflight.event_rest ENABLE ALWAYS TRIGGER acting;
CREATE RULE rewriting AS ON UPDATE TO preflight.parent DO ALSO NOTHING;
CREATE TRIGGER counting BEFORE INSERT ON preflight.totals FOR EACH ROW EXECUTE FUNCTION preflight.act();
ALTER TABLE preflight.totals ENABLE REPLICA TRIGGER counting;
CREATE RULE also AS ON UPDATE TO preflight.totals DO ALSO NOTHING;
CREATE RULE disabled AS ON UPDATE TO preflight."Kind ""ö""" DO ALSO NOTHING;
ALTER TABLE preflight."Kind ""ö""" DISABLE RULE disabled;
CREATE RULE not_asked AS ON UPDATE TO preflight.event_rest DO ALSO NOTHING;
CREATE RULE disabled AS ON UPDATE TO preflight.totals DO ALSO NOTHING;
ALTER TABLE preflight.totals DISABLE RULE disabled;
-- As a subscription looks that has begun with a table; nobody is there to connect to.
SET client_min_messages = error;
CREATE SUBSCRIPTION feeding CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, enabled = false, create_slot = false, slot_name = NONE);
SET allow_system_table_mods = on;
INSERT INTO pg_subscription_rel SELECT oid, 'preflight.event_rest'::regclass, 'r', NULL FROM pg_subscription WHERE subname = 'feeding';
RESET allow_system_table_mods;
RESET client_min_messages;
CREATE TABLE preflight.other (id int PRIMARY KEY);
ALTER TABLE preflight.event ADD FOREIGN KEY (id) REFERENCES preflight.other;
\c mt_regress
CREATE RULE disabled AS ON UPDATE TO preflight.parent DO ALSO NOTHING;
ALTER TABLE preflight.parent DISABLE RULE disabled;
CREATE RULE acting AS ON DELETE TO preflight.parent DO ALSO NOTHING;
ALTER TABLE preflight.parent ENABLE REPLICA RULE acting;
CREATE RULE own AS ON INSERT TO preflight.parent DO ALSO NOTHING;
SELECT * FROM findings();
DROP RULE disabled ON preflight.parent;
DROP RULE acting ON preflight.parent;
DROP RULE own ON preflight.parent;
\c mt_target
DROP TRIGGER acting ON preflight.event_rest;
DROP TRIGGER counting ON preflight.totals;
DROP RULE also ON preflight.totals;
DROP RULE disabled ON preflight.totals;
DROP RULE not_asked ON preflight.event_rest;
DROP SUBSCRIPTION feeding;
DROP TABLE preflight.parent, preflight."Kind ""ö""";
DROP TABLE preflight.other CASCADE;
CREATE TABLE preflight.parent (id int PRIMARY KEY, name text COLLATE "C" NOT NULL, mood preflight.mood, p preflight.pair[]);
CREATE TABLE preflight."Kind ""ö""" (a int, b text, parent int REFERENCES preflight.parent, n preflight.positive,
    twice int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (b, a), UNIQUE (n), CHECK (a > 0));

-- Rights: of the owner here, and of the mapping's role there.
CREATE ROLE regress_mt_there LOGIN;
GRANT SELECT ON preflight.parent TO regress_mt_there;
ALTER TABLE preflight.totals ENABLE ROW LEVEL SECURITY;
REVOKE TEMPORARY ON DATABASE mt_target FROM PUBLIC;
\c mt_regress
CREATE ROLE regress_mt_here;
UPDATE migrate_tiers.migration SET owner = 'regress_mt_here'::regrole;
GRANT USAGE ON FOREIGN SERVER target TO regress_mt_here;
CREATE USER MAPPING FOR regress_mt_here SERVER target OPTIONS (user 'regress_mt_there', password_required 'false');
ALTER TABLE preflight.event OWNER TO regress_mt_here;
ALTER TABLE preflight.event ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT * FROM findings();
DROP USER MAPPING FOR regress_mt_here SERVER target;
SELECT check_name, status, detail, hint FROM migrate_tiers.preflight() WHERE check_name = 'target_reachable';
UPDATE migrate_tiers.migration SET owner = current_user::regrole;
SELECT object, status, detail, hint FROM migrate_tiers.preflight() WHERE check_name = 'source_privileges';
ALTER TABLE preflight.event OWNER TO CURRENT_USER;
ALTER TABLE preflight.event DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
DROP OWNED BY regress_mt_here;
DROP ROLE regress_mt_here;
\c mt_target
ALTER TABLE preflight.totals DISABLE ROW LEVEL SECURITY;
DROP OWNED BY regress_mt_there;
DROP ROLE regress_mt_there;
GRANT TEMPORARY ON DATABASE mt_target TO PUBLIC;

-- The server behind: the extension in the target, this very database, nobody at home.
CREATE EXTENSION migrate_tiers;
\c mt_regress
SELECT * FROM findings();
\c mt_target
DROP EXTENSION migrate_tiers;
\c mt_regress
ALTER SERVER target OPTIONS (SET dbname 'mt_regress');
SELECT * FROM findings() WHERE check_name = 'target_server';
ALTER SERVER target OPTIONS (SET dbname 'mt_nowhere');
SELECT check_name, status, detail ~ 'could not connect to server "target"' AS says_so, hint ~ 'Check the options' AS hints
  FROM findings();
ALTER SERVER target OPTIONS (SET dbname 'mt_target');
SELECT * FROM findings();

-- Publications that have our tables, too, on either side; those of other tables are no matter.
SET client_min_messages = error;
CREATE PUBLICATION "All" FOR ALL TABLES;
CREATE PUBLICATION ours FOR TABLES IN SCHEMA migrate_tiers;
CREATE PUBLICATION one_of_ours FOR TABLE migrate_tiers.migration;
CREATE PUBLICATION others FOR TABLES IN SCHEMA preflight, public;
CREATE PUBLICATION nothing;
\c mt_target
SET client_min_messages = error;
CREATE PUBLICATION there FOR ALL TABLES;
\c mt_regress
SELECT * FROM findings();
ALTER SERVER target OPTIONS (SET dbname 'mt_nowhere');
SELECT object FROM findings() WHERE check_name = 'publications';
ALTER SERVER target OPTIONS (SET dbname 'mt_target');
DROP PUBLICATION "All", ours, one_of_ours, others, nothing;
\c mt_target
DROP PUBLICATION there;
\c mt_regress

-- A subscription that writes a table of the source, as it looks.
SET client_min_messages = error;
CREATE SUBSCRIPTION fed CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, enabled = false, create_slot = false, slot_name = NONE);
SET allow_system_table_mods = on;
INSERT INTO pg_subscription_rel SELECT s.oid, t.oid, 'r', NULL FROM pg_subscription s, (VALUES ('preflight.event_1'::regclass), ('preflight.totals')) t(oid)
 WHERE s.subname = 'fed';
RESET allow_system_table_mods;
RESET client_min_messages;
SELECT * FROM findings();
DROP SUBSCRIPTION fed;

-- Large objects behind a realtime table.
SELECT lo_create(4242);
CREATE TABLE preflight.picture (id int PRIMARY KEY, data oid, relation oid);
INSERT INTO preflight.picture VALUES (1, 4242, 1259);
SELECT migrate_tiers.tag('preflight.picture', 'ignored');
SELECT * FROM findings();
SELECT migrate_tiers.tag('preflight.picture', 'realtime');
SELECT * FROM findings() WHERE check_name = 'large_objects';
SELECT lo_unlink(4242);

-- A materialized view on both sides is a batch table that is refreshed there.
CREATE MATERIALIZED VIEW preflight.derived AS SELECT 1 AS one;
SELECT migrate_tiers.tag('preflight.derived', 'batch');
\c mt_target
CREATE MATERIALIZED VIEW preflight.derived AS SELECT 1 AS one;
\c mt_regress
SELECT status, detail, hint FROM findings() WHERE object = 'preflight.derived';
SELECT migrate_tiers.untag('preflight.derived');
DROP MATERIALIZED VIEW preflight.derived;

-- More partitions than a transaction of ours may have locks for.
BEGIN;
CREATE TABLE preflight.many (id int PRIMARY KEY) PARTITION BY RANGE (id);
DO $$
BEGIN
    FOR i IN 1 .. current_setting('max_locks_per_transaction')::int
                  * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) / 8 LOOP
        EXECUTE format('CREATE TABLE preflight.many_%s PARTITION OF preflight.many FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
    END LOOP;
END $$;
SELECT migrate_tiers.tag('preflight.many', 'realtime');
SELECT p.status, p.detail ~ '^one transaction may take \d+ locks; there is room for \d+, of all transactions$' AS tells,
       substring(p.hint FROM 'max_locks_per_transaction to (\d+)')::int BETWEEN current_setting('max_locks_per_transaction')::int
           AND 2 * current_setting('max_locks_per_transaction')::int AS hints
  FROM migrate_tiers.preflight() p WHERE p.check_name = 'lock_table';
ROLLBACK;

-- A table that was dropped behind our back, and a migration without any.
DROP TABLE preflight.picture;
SELECT check_name, object, status, detail, hint ~ 'migrate_tiers.untag\(\d+\)' AS hints FROM findings();
SELECT migrate_tiers.drop_migration();
SELECT migrate_tiers.create_migration('shop', 'target');
SELECT * FROM findings();
SELECT migrate_tiers.drop_migration();

DROP FUNCTION findings();
SET client_min_messages = warning;
DROP SCHEMA preflight CASCADE;
\c mt_target
SET client_min_messages = warning;
DROP SCHEMA preflight CASCADE;
