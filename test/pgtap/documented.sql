-- Everything that a person can call or read has a comment, and nothing else
-- can be called or read by just anyone.
BEGIN;
SELECT plan(8);

CREATE TEMPORARY VIEW member AS
    SELECT d.classid, d.objid
      FROM pg_depend d
      JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
     WHERE e.extname = 'migrate_tiers' AND d.deptype = 'e';

SELECT isnt_empty($$SELECT FROM member WHERE classid = 'pg_proc'::regclass$$, 'the extension has functions');

SELECT is_empty($$
    SELECT p.oid::regprocedure FROM member m JOIN pg_proc p ON m.objid = p.oid
     WHERE m.classid = 'pg_proc'::regclass AND obj_description(p.oid, 'pg_proc') IS NULL
       AND has_function_privilege('public', p.oid, 'EXECUTE')
    $$, 'every function and procedure that everyone may call has a comment');

SELECT is_empty($$
    SELECT p.oid::regprocedure FROM member m JOIN pg_proc p ON m.objid = p.oid
     WHERE m.classid = 'pg_proc'::regclass AND (p.prosecdef OR p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c'))
       AND NOT coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)
    $$, 'every function in SQL or PL/pgSQL pins its search_path');

SELECT is_empty($$
    SELECT c.oid::regclass FROM member m JOIN pg_class c ON m.objid = c.oid
     WHERE m.classid = 'pg_class'::regclass AND c.relkind = 'v' AND obj_description(c.oid, 'pg_class') IS NULL
    $$, 'every view has a comment');

SELECT is_empty($$
    SELECT c.oid::regclass, a.attname
      FROM member m JOIN pg_class c ON m.objid = c.oid JOIN pg_attribute a ON a.attrelid = c.oid
     WHERE m.classid = 'pg_class'::regclass AND c.relkind = 'v'
       AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
    $$, 'every column of a view has a comment');

SELECT is_empty($$
    SELECT t.typname FROM member m JOIN pg_type t ON m.objid = t.oid
     WHERE m.classid = 'pg_type'::regclass AND t.typtype IN ('e', 'd') AND obj_description(t.oid, 'pg_type') IS NULL
    $$, 'every type has a comment');

SELECT is_empty($$
    SELECT c.oid::regclass, a.privilege_type
      FROM member m JOIN pg_class c ON m.objid = c.oid, aclexplode(c.relacl) a
     WHERE m.classid = 'pg_class'::regclass AND a.grantee = 0
       AND (c.relkind <> 'v' OR a.privilege_type <> 'SELECT')
    $$, 'of relations, everyone may only read views');

SELECT is_empty($$
    SELECT c.oid::regclass FROM member m JOIN pg_class c ON m.objid = c.oid
     WHERE m.classid = 'pg_class'::regclass AND c.relkind = 'v'
       AND NOT coalesce(c.reloptions @> '{security_barrier=true}' OR c.reloptions @> '{security_barrier}', false)
    $$, 'every view is a security barrier');

SELECT * FROM finish();
ROLLBACK;
