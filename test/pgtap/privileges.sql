-- Who may see and do what.

BEGIN;
SELECT no_plan();
SET LOCAL search_path = public, pg_catalog;

-- Objects, whoever asks; documented.sql has the rest.
SELECT ok(NOT has_sequence_privilege('public', c.oid, 'USAGE, SELECT, UPDATE'), format('PUBLIC has nothing on sequence %s', c.oid::regclass))
  FROM pg_class c WHERE c.relnamespace = 'migrate_tiers'::regnamespace AND c.relkind = 'S';
SELECT ok(NOT has_table_privilege('public', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER'), format('PUBLIC cannot write through view %s', c.oid::regclass))
  FROM pg_class c WHERE c.relnamespace = 'migrate_tiers'::regnamespace AND c.relkind = 'v';
SELECT ok(NOT has_schema_privilege('public', 'migrate_tiers', 'CREATE'), 'PUBLIC creates nothing in our schema');

SELECT is((SELECT string_agg(t.tgfoid::regproc::text, ',') FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
            WHERE c.relnamespace = 'migrate_tiers'::regnamespace AND NOT t.tgisinternal), NULL, 'no trigger on our own tables');
SELECT is((SELECT p.provolatile::text FROM pg_proc p WHERE p.pronamespace = 'migrate_tiers'::regnamespace AND p.proname = f), 'v', f || ' is volatile')
  FROM unnest('{create_migration,drop_migration,tag,tag_schema,untag,set_option,preflight,pause,resume,start_workers,wait_for_sync,sync_token,verify,repair}'::text[]) f;

-- Two people.
CREATE ROLE anna;
CREATE ROLE bert;
CREATE ROLE annas_helper IN ROLE anna;
CREATE TABLE annas (id int PRIMARY KEY);
ALTER TABLE annas OWNER TO anna;
CREATE TABLE berts (id int PRIMARY KEY);
ALTER TABLE berts OWNER TO bert;
CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', dbname 'nowhere');
GRANT USAGE ON FOREIGN SERVER there TO anna;
CREATE USER MAPPING FOR anna SERVER there OPTIONS (user 'anna', password 'p4ssw0rd');
GRANT USAGE ON SCHEMA public TO anna, bert;
GRANT SELECT, UPDATE ON __tcache__ TO anna, bert, annas_helper;
GRANT ALL ON ALL TABLES IN SCHEMA pg_temp TO anna, bert, annas_helper;
GRANT ALL ON ALL SEQUENCES IN SCHEMA pg_temp TO anna, bert, annas_helper;

SET LOCAL ROLE anna;
SELECT lives_ok($$SELECT migrate_tiers.create_migration('annas_own', 'there')$$, 'anna creates a migration');
SELECT lives_ok($$SELECT migrate_tiers.tag('annas', 'realtime')$$, 'and tags her table');
SELECT throws_ok($$SELECT migrate_tiers.tag('berts', 'realtime')$$, '42501', NULL, 'but not bert''s');
SELECT is((SELECT count(*) FROM migrate_tiers.status), 1::bigint, 'she sees it');
SELECT is((SELECT count(*) FROM migrate_tiers.tables), 1::bigint, 'with its table');

RESET ROLE;
UPDATE migrate_tiers.relation SET uncaptured = now() WHERE relation = 'annas'::regclass;

SET LOCAL ROLE annas_helper;
SELECT is((SELECT count(*) FROM migrate_tiers.status), 1::bigint, 'a member of the owner sees it');
SELECT is((SELECT string_agg(name, ',') FROM migrate_tiers.uncaptured), 'annas', 'with what was not captured');
SELECT lives_ok($$SELECT migrate_tiers.set_option('max_lag', '6 s')$$, 'and drives it');

SET LOCAL ROLE bert;
SELECT is((SELECT count(*) FROM migrate_tiers.status), 0::bigint, 'bert sees no migration');
SELECT is((SELECT count(*) FROM migrate_tiers.tables), 0::bigint, 'no table');
SELECT is((SELECT count(*) FROM migrate_tiers.uncaptured), 0::bigint, 'none that was not captured');
SELECT is((SELECT count(*) FROM migrate_tiers.progress), 0::bigint, 'no progress');
SELECT is((SELECT count(*) FROM migrate_tiers.pending), 0::bigint, 'no pending key');
SELECT is((SELECT count(*) FROM migrate_tiers.transitions), 0::bigint, 'no transition');
SELECT is((SELECT count(*) FROM migrate_tiers.options WHERE migration = 'annas_own'), 0::bigint, 'no option');
SELECT throws_ok(sql, '42501', NULL, 'bert is refused: ' || sql)
  FROM unnest(ARRAY[
    $$SELECT migrate_tiers.drop_migration('annas_own')$$,
    $$SELECT migrate_tiers.tag('berts', 'realtime', migration => 'annas_own')$$,
    $$SELECT * FROM migrate_tiers.tag_schema('public', 'ignored', 'annas_own')$$,
    $$SELECT migrate_tiers.untag('annas', 'annas_own')$$,
    $$SELECT migrate_tiers.set_option('max_lag', '1 s', 'annas_own')$$,
    $$SELECT * FROM migrate_tiers.preflight('annas_own')$$,
    $$SELECT migrate_tiers.pause('annas_own')$$,
    $$SELECT migrate_tiers.resume('annas_own')$$,
    $$SELECT * FROM migrate_tiers.gates('syncing', 'annas_own')$$,
    $$SELECT migrate_tiers.confirm('x', 'y', 'annas_own')$$,
    $$SELECT migrate_tiers.add_gate('syncing', 'x', 'SELECT true', 'annas_own')$$,
    $$SELECT migrate_tiers.drop_gate('syncing', 'x', 'annas_own')$$,
    $$SELECT migrate_tiers.expect_instance('x', 'annas_own')$$,
    $$SELECT migrate_tiers.forget_instance('x', 'annas_own')$$,
    $$SELECT * FROM migrate_tiers.instances_there('[]')$$,
    $$TABLE migrate_tiers.instance$$,
    $$TABLE migrate_tiers.instance_seen$$,
    $$TABLE migrate_tiers.own_gate$$,
    $$TABLE migrate_tiers.confirmation$$,
    $$SELECT * FROM migrate_tiers.verify(migration => 'annas_own')$$,
    $$SELECT migrate_tiers.repair('annas', migration => 'annas_own')$$,
    $$TABLE migrate_tiers.verification$$,
    $$TABLE migrate_tiers.discrepancy$$,
    $$TABLE migrate_tiers.migration$$,
    $$TABLE migrate_tiers.relation$$,
    $$TABLE migrate_tiers.option_value$$,
    $$TABLE migrate_tiers.copy_task$$,
    $$TABLE migrate_tiers.transition$$,
    $$SELECT migrate_tiers.create_migration('berts_own', 'there')$$]) AS sql;
SELECT throws_ok(format('SELECT migrate_tiers.%I()', p.proname), NULL, NULL, format('capture cannot be called by hand: %s', p.proname))
  FROM pg_proc p WHERE p.pronamespace = 'migrate_tiers'::regnamespace AND p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype);

-- A trigger of ours that someone else puts on a table of his must not write into another's queue.  He may make
-- it, since whoever makes a partition of a captured table does.
CREATE TEMP TABLE mine (id int PRIMARY KEY);
CREATE TRIGGER forged AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION migrate_tiers.capture('1');
SELECT lives_ok($$INSERT INTO mine VALUES (1)$$, 'bert''s capture trigger does nothing where nothing is captured');

-- Nor is one on a table of the migration to crash the server, which brings the rows to AFTER ROW only.
RESET ROLE;
GRANT ALL ON annas TO bert;
SET LOCAL ROLE bert;
SELECT throws_ok(format('CREATE TRIGGER a_forged %s ON annas FOR EACH %s EXECUTE FUNCTION migrate_tiers.capture();', event, level)
    || ' INSERT INTO annas VALUES (1) ON CONFLICT (id) DO UPDATE SET id = excluded.id; TRUNCATE annas', '39P01', NULL, format('nor as %s %s', event, level))
  FROM (VALUES ('AFTER INSERT', 'STATEMENT'), ('AFTER UPDATE', 'STATEMENT'), ('BEFORE INSERT OR UPDATE', 'STATEMENT'),
               ('BEFORE INSERT', 'ROW'), ('AFTER TRUNCATE', 'STATEMENT')) AS v(event, level);

RESET ROLE;
SELECT is((SELECT count(*) FROM migrate_tiers.status), 1::bigint, 'a superuser sees all');
SELECT unalike(coalesce((SELECT string_agg(s::text, '') FROM migrate_tiers.status s), '') || coalesce((SELECT string_agg(s::text, '') FROM migrate_tiers.options s), '')
    || (SELECT string_agg(s::text, '') FROM migrate_tiers.migration s), '%p4ssw0rd%', 'the password is in none of our relations');
SELECT lives_ok($$SELECT migrate_tiers.drop_migration('annas_own')$$, 'and may drop what is planned');

SELECT * FROM finish();
ROLLBACK;
