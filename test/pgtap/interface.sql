-- The public interface: what scripts may rely on.  A change here is a change
-- of the contract.

BEGIN;
SELECT no_plan();
SET LOCAL search_path = public, pg_catalog;

-- Functions and procedures: name, arguments as written, result.  The migration
-- is the last argument of each that drives one, and need not be said.
CREATE TEMP TABLE contract (name text, kind text, arguments text, result text);
INSERT INTO contract VALUES
    ('create_migration', 'f', 'migration name, server name', 'void'),
    ('drop_migration', 'f', 'migration name DEFAULT NULL::name', 'void'),
    ('tag', 'f', 'relation regclass, tier text, target text DEFAULT NULL::text, migration name DEFAULT NULL::name', 'void'),
    ('tag_schema', 'f', 'schema name, tier text, migration name DEFAULT NULL::name', 'TABLE(relation regclass, tier text, note text)'),
    ('untag', 'f', 'relation regclass, migration name DEFAULT NULL::name', 'void'),
    ('suggest_tiers', 'f', NULL, NULL),
    ('set_option', 'f', 'name text, value text, migration name DEFAULT NULL::name', 'void'),
    ('preflight', 'f', 'migration name DEFAULT NULL::name', 'TABLE(check_name text, object text, status text, detail text, hint text)'),
    ('advance', 'p', 'IN to_phase text, IN migration name DEFAULT NULL::name', NULL),
    ('revert', 'p', 'IN to_phase text, IN migration name DEFAULT NULL::name', NULL),
    ('pause', 'f', 'migration name DEFAULT NULL::name', 'void'),
    ('resume', 'f', 'migration name DEFAULT NULL::name', 'void'),
    ('start_workers', 'f', NULL, NULL),
    ('batch_policy', 'f', 'relation regclass, every interval DEFAULT NULL::interval, mode text DEFAULT ''diff''::text, max_age interval DEFAULT NULL::interval, watermark name DEFAULT NULL::name, migration name DEFAULT NULL::name', 'void'),
    ('schedule', 'f', 'relation regclass, cron text, migration name DEFAULT NULL::name', 'void'),
    ('unschedule', 'f', 'relation regclass, migration name DEFAULT NULL::name', 'void'),
    ('push_batch', 'f', 'relation regclass, migration name DEFAULT NULL::name', 'migrate_tiers.batches'),
    ('sync_token', 'f', 'migration name DEFAULT NULL::name', 'text'),
    ('wait_for_sync', 'f', 'token text DEFAULT NULL::text, timeout interval DEFAULT ''00:01:00''::interval, migration name DEFAULT NULL::name', 'void'),
    ('verify', 'f', 'relation regclass DEFAULT NULL::regclass, migration name DEFAULT NULL::name', 'TABLE(relation regclass, verdict text, source_rows bigint, target_rows bigint, different_rows bigint, at_mark pg_snapshot, started timestamp with time zone, finished timestamp with time zone, detail text)'),
    ('repair', 'f', 'relation regclass, side text DEFAULT NULL::text, migration name DEFAULT NULL::name', 'bigint'),
    ('rehearse', 'p', 'IN to_phase text, IN migration name DEFAULT NULL::name', NULL),
    ('plan', 'f', 'to_phase text, migration name DEFAULT NULL::name', NULL),
    ('confirm', 'f', 'gate text, note text, migration name DEFAULT NULL::name', 'void'),
    ('add_gate', 'f', 'to_phase text, gate text, query text, migration name DEFAULT NULL::name', 'void'),
    ('drop_gate', 'f', 'to_phase text, gate text, migration name DEFAULT NULL::name', 'void'),
    ('expect_instance', 'f', 'name text, migration name DEFAULT NULL::name', 'void'),
    ('forget_instance', 'f', 'name text, migration name DEFAULT NULL::name', 'void'),
    ('report_instance', 'f', 'name text, phase text, migration name DEFAULT NULL::name', 'void'),
    ('gates', 'f', 'to_phase text DEFAULT NULL::text, migration name DEFAULT NULL::name', 'TABLE(to_phase text, gate text, passed boolean, detail text, hint text)');

CREATE TEMP VIEW ours AS
    SELECT p.oid, p.proname::text AS name, p.prokind::text AS kind, pg_get_function_arguments(p.oid) AS arguments,
           pg_get_function_result(p.oid) AS result
      FROM pg_proc p WHERE p.pronamespace = 'migrate_tiers'::regnamespace;

SELECT is((SELECT string_agg(kind, ',') FROM ours o WHERE o.name = c.name), c.kind, format('%s is there, once', c.name))
  FROM contract c;
SELECT is((SELECT o.arguments FROM ours o WHERE o.name = c.name), c.arguments, format('arguments of %s', c.name))
  FROM contract c WHERE c.arguments IS NOT NULL;
SELECT is((SELECT o.result FROM ours o WHERE o.name = c.name), c.result, format('result of %s', c.name))
  FROM contract c WHERE c.result IS NOT NULL;
SELECT ok(o.arguments LIKE '%migration name DEFAULT NULL::name', format('%s can be told the migration last', c.name))
  FROM contract c JOIN ours o USING (name)
 WHERE c.name NOT IN ('create_migration');
SELECT ok(has_function_privilege('public', o.oid, 'EXECUTE'), format('anyone may call %s (who may drive is checked inside)', c.name))
  FROM contract c JOIN ours o USING (name);

-- Views: the columns that scripts rely on, with their types.
CREATE TEMP TABLE columns_of (view text, name text, type text);
INSERT INTO columns_of
SELECT v.view, split_part(c, ':', 1), nullif(split_part(c, ':', 2), '')
  FROM (VALUES
    ('status', 'migration:name,phase:text,transition:text,workers_running:boolean,forward_lag:interval,reverse_lag:interval,forward_pending:bigint,reverse_pending:bigint,queue_bytes:bigint,stopped:text'),
    ('tables', 'migration:name,relation:regclass,target:,tier:text,state:text,copied_rows:bigint,estimated_rows:bigint,eta:interval,last_verified:timestamp with time zone,last_verdict:text'),
    ('transitions', 'id:,from_phase:text,to_phase:text,started:timestamp with time zone,finished:timestamp with time zone,requested_by:,outcome:text,steps:jsonb,gates:jsonb,error:text'),
    ('options', 'migration:name,name:text,value:text,default:text,meaning:text'),
    ('instances', 'name:text,expected:boolean,reported_phase:text,reported_at:timestamp with time zone,last_source_write:timestamp with time zone,last_target_write:timestamp with time zone'),
    ('routing', 'migration:name,phase:text,reads:text,writes:text'),
    ('progress', 'migration:name,relation:regclass'),
    ('verifications', 'relation:regclass,verdict:text,source_rows:bigint,target_rows:bigint,different_rows:bigint,at_mark:pg_snapshot,started:timestamp with time zone,finished:timestamp with time zone'),
    ('discrepancies', 'relation:regclass,key:text[],source_row:jsonb,target_row:jsonb'),
    ('batches', 'id:,relation:regclass,direction:text,mode:text,source_rows:bigint,target_rows:bigint,inserted:bigint,updated:bigint,deleted:bigint,bytes:bigint,started:timestamp with time zone,finished:timestamp with time zone,error:text'),
    ('pending', 'migration:name')) AS v(view, list)
 CROSS JOIN LATERAL unnest(string_to_array(v.list, ',')) AS c;

SELECT has_view('migrate_tiers', v, format('view %s', v)) FROM (SELECT DISTINCT view::name AS v FROM columns_of ORDER BY 1) s;
SELECT ok(EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = to_regclass('migrate_tiers.' || c.view) AND a.attname = c.name AND NOT a.attisdropped
                     AND (c.type IS NULL OR format_type(a.atttypid, a.atttypmod) = c.type)),
          format('column %s of %s%s', c.name, c.view, ' is ' || c.type))
  FROM columns_of c;
SELECT ok(has_table_privilege('public', to_regclass('migrate_tiers.' || v), 'SELECT'), format('anyone may read %s', v))
  FROM (SELECT DISTINCT view AS v FROM columns_of ORDER BY 1) s;

-- Options: names and defaults.
SELECT is((SELECT d.default_value FROM migrate_tiers.option_definitions() d WHERE d.name = o.name), o.value, format('default of %s', o.name))
  FROM (VALUES ('max_lag', '5s'), ('max_age', '24h'), ('quiet_period', '10 min'), ('copy_workers', '2'), ('copy_rate', '0'),
               ('queue_limit', '0'), ('queue_retention', '5 min'), ('conflict_policy', 'reading_side'), ('attach_timeout', '10 min'), ('verify_every', '0'), ('verify_workers', '1'), ('verify_rate', '0'),
               ('batch_digest', 'off'), ('verify_snapshot_limit', '10 min'))
       AS o(name, value);
SELECT ok((SELECT d.default_value FROM migrate_tiers.option_definitions() d WHERE d.name = o) = ANY ('{true,on}'), o || ' is on') FROM unnest('{defer_indexes}'::text[]) o;
SELECT ok((SELECT d.default_value FROM migrate_tiers.option_definitions() d WHERE d.name = o) = ANY ('{false,off}'), o || ' is off') FROM unnest('{overwrite}'::text[]) o;
SELECT is((SELECT count(*) FROM migrate_tiers.option_definitions() d WHERE coalesce(d.meaning, '') = ''), 0::bigint, 'each option says what it does');

-- Settings.
SELECT is((SELECT s.boot_val || coalesce(' ' || s.unit, '') || ' ' || s.context FROM pg_settings s WHERE s.name = 'migrate_tiers.' || g.name), g.value, format('setting %s', g.name))
  FROM (VALUES ('lock_timeout', '200 ms superuser'), ('allow_ddl', 'off user'), ('small_tick', '2048 superuser')) AS g(name, value);
SELECT throws_ok('SET migrate_tiers.no_such_setting = 1', '42602', NULL, 'a setting that is not ours is refused');

-- All of it lives in one schema.
SELECT is((SELECT string_agg(DISTINCT pg_describe_object(d.classid, d.objid, 0), ', ') FROM pg_depend d
            WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
              AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'migrate_tiers')
              AND d.classid NOT IN ('pg_event_trigger'::regclass, 'pg_namespace'::regclass)
              AND pg_describe_object(d.classid, d.objid, 0) NOT LIKE '%migrate_tiers.%'), NULL, 'no object of ours is outside of schema migrate_tiers');

SELECT * FROM finish();
ROLLBACK;
