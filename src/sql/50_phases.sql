-- From phase to phase, the workers, and waiting for them.

CREATE PROCEDURE migrate_tiers.advance(to_phase text, migration name DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'mt_advance';
COMMENT ON PROCEDURE migrate_tiers.advance(text, name) IS
'goes one phase forward, which has to be named; commits after each step, so it runs outside of a transaction block. Returns when the phase is reached; the copy goes on in the workers. Errors: MT001 a gate has not passed, MT003 not the next phase, MT008 another server sends to the target, 55P03 somebody else changes the migration or a lock was not to be had in attach_timeout, 25001 in a transaction block; then the phase is the one it was';

CREATE PROCEDURE migrate_tiers.revert(to_phase text, migration name DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'mt_revert';
COMMENT ON PROCEDURE migrate_tiers.revert(text, name) IS
'goes one phase back, which has to be named; the steps of advance undone in the opposite order. Back in planned the target''s tables are as they were found, empty. Where the target cannot be reached, read_target and dual_write are gone back to all the same, with a warning of what may be lost. There is no way back from finished. Errors: as of advance';

CREATE PROCEDURE migrate_tiers.rehearse(to_phase text, migration name DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'mt_rehearse';
COMMENT ON PROCEDURE migrate_tiers.rehearse(text, name) IS
'goes to the next phase, sees that sync works there, and comes back: the reversal as a routine, with all gates of both ways. Where the way back is barred it ends in the phase that it went to. Errors: as of advance; MT003 for finished, which has no way back, MT006 no sync';

CREATE FUNCTION migrate_tiers.plan(to_phase text, migration name DEFAULT NULL)
    RETURNS TABLE (number integer, step text, object text, side text, statement text, inverse text)
    LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'mt_plan';
COMMENT ON FUNCTION migrate_tiers.plan(text, name) IS
'what advance or revert to a phase would run, step by step, on which side, and the inverse of each; changes nothing. Errors: MT003 not a phase next to the current one';

CREATE FUNCTION migrate_tiers.gates(to_phase text DEFAULT NULL, migration name DEFAULT NULL)
    RETURNS TABLE (to_phase text, gate text, passed boolean, detail text, hint text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_gates';
COMMENT ON FUNCTION migrate_tiers.gates(text, name) IS
'what stands between here and a phase, the next if not given: a row a gate. Errors: MT003 not a phase next to the current one';

CREATE FUNCTION migrate_tiers.pause(migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_pause';
COMMENT ON FUNCTION migrate_tiers.pause(name) IS
'ends the workers until resume: nothing is copied or sent, capture goes on';

CREATE FUNCTION migrate_tiers.resume(migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_resume';
COMMENT ON FUNCTION migrate_tiers.resume(name) IS
'lets the workers go on after pause';

CREATE FUNCTION migrate_tiers.start_workers(migration name DEFAULT NULL) RETURNS integer
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_start_workers';
COMMENT ON FUNCTION migrate_tiers.start_workers(name) IS
'starts the worker of a migration, or of each of yours, that should run and does not; returns how many were started. For a pg_cron job, and after a restart of the server. Errors: 53400 no background worker is free';

CREATE FUNCTION migrate_tiers.sync_token(migration name DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_sync_token';
COMMENT ON FUNCTION migrate_tiers.sync_token(name) IS
'a token for all that is committed now, for wait_for_sync';

CREATE FUNCTION migrate_tiers.wait_for_sync(token text DEFAULT NULL, timeout interval DEFAULT '60 s', migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_wait_for_sync';
COMMENT ON FUNCTION migrate_tiers.wait_for_sync(text, interval, name) IS
'returns when the target has all that was committed before the token, or before now if there is none; waits for the copy, too. timeout null: without end. Errors: MT006 not in time (the detail tells members of the migration''s owner why, others only that sending is stopped or paused), MT003 not in sync in this phase, 22P02 not a token';

