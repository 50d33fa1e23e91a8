-- Views.  Each shows a role the migrations that it may drive: those whose owner
-- it is a member of.  The functions check that once more.

CREATE FUNCTION migrate_tiers.sync_state(migration integer, OUT running boolean, OUT lag interval, OUT pending bigint, OUT queue_bytes bigint,
    OUT reverse_lag interval, OUT reverse_pending bigint)
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'mt_sync_state';
COMMENT ON FUNCTION migrate_tiers.sync_state(integer) IS
'what the view status shows of a migration''s worker and queue. Errors: 42501 not its owner';

CREATE FUNCTION migrate_tiers.pending_entries(migration integer)
    RETURNS TABLE (relation regclass, kind text, key text, xid xid8, committed timestamptz, application_name text)
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'mt_pending_entries';
COMMENT ON FUNCTION migrate_tiers.pending_entries(integer) IS
'what the view pending shows of a migration. Errors: 42501 not its owner';

-- Tables whose triggers on the target were touched, so that rows which were written there may be missing here: until a
-- verification that began later finds both sides equal, or the table is copied anew.
CREATE VIEW migrate_tiers.uncaptured WITH (security_barrier) AS
    SELECT r.migration, r.id AS relation, r.relation::regclass::text AS name, r.uncaptured AS at
      FROM migrate_tiers.relation AS r JOIN migrate_tiers.migration AS m ON m.id = r.migration
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
       AND r.tier = 'realtime' AND r.uncaptured > coalesce(r.copy_finished, '-infinity')
       AND NOT EXISTS (SELECT FROM migrate_tiers.verification AS v
                        WHERE v.relation = r.id AND v.verdict = 'equal' AND v.oldest > r.uncaptured);
GRANT SELECT ON migrate_tiers.uncaptured TO PUBLIC;
COMMENT ON VIEW migrate_tiers.uncaptured IS 'tables whose changes on the target may not have been noted, for the other views and the gates';
COMMENT ON COLUMN migrate_tiers.uncaptured.migration IS 'number of the migration';
COMMENT ON COLUMN migrate_tiers.uncaptured.relation IS 'number of the table';
COMMENT ON COLUMN migrate_tiers.uncaptured.name IS 'the table on the source';
COMMENT ON COLUMN migrate_tiers.uncaptured.at IS 'up to when changes may not have been noted';

CREATE VIEW migrate_tiers.status WITH (security_barrier) AS
    SELECT m.name AS migration, m.phase, m.transition,
           s.running AS workers_running,
           s.lag AS forward_lag, s.reverse_lag,
           s.pending AS forward_pending, s.reverse_pending,
           s.queue_bytes,
           CASE WHEN m.stopped IS NOT NULL AND m.reverse_stopped IS NOT NULL
                THEN 'forward: ' || m.stopped || pg_catalog.chr(10) || 'reverse: ' || m.reverse_stopped
                WHEN m.stopped IS NOT NULL THEN 'forward: ' || m.stopped
                WHEN m.reverse_stopped IS NOT NULL THEN 'reverse: ' || m.reverse_stopped
                WHEN m.copy_error IS NOT NULL THEN 'copy: ' || m.copy_error
                WHEN EXISTS (SELECT FROM migrate_tiers.disarmed AS d WHERE d.migration = m.id)
                THEN 'capture: the queue has reached queue_limit; tables in state recopy are not captured until they are copied again'
                WHEN u.tables IS NOT NULL
                THEN pg_catalog.format('capture: the triggers of %s on the target were disabled for a time, and what was written then may be missing'
                     ' on the source; verify(), and repair(relation, side => ''target'') what differs, until verify() finds it equal', u.tables)
                END AS stopped,
           least(m.stopped_at, m.reverse_stopped_at, m.copy_error_at, u.at,
                 (SELECT min(d.at) FROM migrate_tiers.disarmed AS d WHERE d.migration = m.id)) AS stopped_at,
           m.paused,
           CASE WHEN m.queue_limit > 0 AND s.queue_bytes > m.queue_limit AND (m.reversing OR m.phase NOT IN ('planned', 'syncing'))
                THEN pg_catalog.format('queue: %s bytes, more than queue_limit; nothing is dropped in this phase', s.queue_bytes)
                END AS alarm
      FROM migrate_tiers.migration AS m, migrate_tiers.sync_state(m.id) AS s,
           LATERAL (SELECT pg_catalog.string_agg(c.name, ', ' ORDER BY c.name) AS tables, min(c.at) AS at
                      FROM migrate_tiers.uncaptured AS c WHERE c.migration = m.id) AS u
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY m.name;
GRANT SELECT ON migrate_tiers.status TO PUBLIC;
COMMENT ON VIEW migrate_tiers.status IS 'a line a migration: where it is, how far the target is behind, what is stopped and why';
COMMENT ON COLUMN migrate_tiers.status.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.status.phase IS 'phase that it is in';
COMMENT ON COLUMN migrate_tiers.status.transition IS 'step of a transition under way, or null; not null for long: cut off, to be finished or undone by advance or revert';
COMMENT ON COLUMN migrate_tiers.status.workers_running IS 'whether the sync worker runs';
COMMENT ON COLUMN migrate_tiers.status.forward_lag IS 'age of the oldest committed change that the target does not have; 0 when it has all, null when there is no sync';
COMMENT ON COLUMN migrate_tiers.status.reverse_lag IS 'the same from target to source, as the worker saw it last; null where there is no reverse sync';
COMMENT ON COLUMN migrate_tiers.status.forward_pending IS 'changed keys in the queue that the target does not have, those of tables being copied included';
COMMENT ON COLUMN migrate_tiers.status.reverse_pending IS 'keys that the target has changed and the source could not take yet, as the worker saw it last; null where there is no reverse sync, and where the target does not tell whether there are any';
COMMENT ON COLUMN migrate_tiers.status.queue_bytes IS 'size of the queue on disk in bytes, sent changes within queue_retention included';
COMMENT ON COLUMN migrate_tiers.status.stopped IS 'null, or why sending, copying or capture stopped: SQLSTATE, message, detail; it is tried again by itself';
COMMENT ON COLUMN migrate_tiers.status.stopped_at IS 'since when it is stopped, or the first of several';
COMMENT ON COLUMN migrate_tiers.status.paused IS 'whether pause was called';
COMMENT ON COLUMN migrate_tiers.status.alarm IS 'null, or what is to be seen to although nothing is stopped: a queue above queue_limit where nothing may be dropped';

CREATE VIEW migrate_tiers.tables WITH (security_barrier) AS
    SELECT m.name AS migration, r.relation::regclass AS relation,
           pg_catalog.format('%I.%I', r.target_schema, r.target_name) AS target, r.tier,
           CASE WHEN r.tier = 'batch'
                THEN (SELECT CASE WHEN f.pushing THEN 'pushing' WHEN f.fresh IS NULL THEN 'waiting'
                                  WHEN f.fresh THEN 'fresh' ELSE 'stale' END
                        FROM migrate_tiers.freshness AS f WHERE f.relation = r.relation)
                WHEN d.disarmed THEN 'recopy'
                WHEN r.state = 'syncing' AND (m.stopped IS NOT NULL OR u.uncaptured) THEN 'stopped' ELSE r.state END AS state,
           c.rows AS copied_rows,
           CASE WHEN r.tier = 'realtime' THEN greatest(r.estimated_rows, c.rows) END AS estimated_rows,
           CASE WHEN r.state = 'copying' AND c.done > 0 AND c.blocks > c.done
                THEN (pg_catalog.clock_timestamp() - r.copy_started) * ((c.blocks - c.done) / c.done) END AS eta,
           v.oldest AS last_verified, v.verdict AS last_verdict,
           CASE WHEN d.disarmed THEN 'the queue has reached queue_limit'
                WHEN u.uncaptured THEN 'its triggers on the target were disabled for a time' ELSE r.note END AS note,
           r.copy_started, r.copy_finished
      FROM migrate_tiers.relation AS r
      JOIN migrate_tiers.migration AS m ON m.id = r.migration
      LEFT JOIN LATERAL (
           SELECT pg_catalog.sum(t.rows)::bigint AS rows,
                  pg_catalog.sum(t.last_block - t.first_block)::float8 AS blocks,
                  pg_catalog.sum(t.last_block - t.first_block) FILTER (WHERE t.state = 'done')::float8 AS done
             FROM migrate_tiers.copy_task AS t WHERE t.relation = r.id) AS c ON true
     CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM migrate_tiers.disarmed AS a WHERE a.relation = r.id) AS disarmed) AS d
     CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM migrate_tiers.uncaptured AS a WHERE a.relation = r.id) AS uncaptured) AS u
      LEFT JOIN LATERAL (
           SELECT coalesce(f.oldest, f.finished) AS oldest, f.verdict FROM migrate_tiers.verification AS f
            WHERE f.relation = r.id AND f.finished IS NOT NULL ORDER BY f.id DESC LIMIT 1) AS v ON true
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY m.name, r.tier DESC, r.relation::regclass::text;
GRANT SELECT ON migrate_tiers.tables TO PUBLIC;
COMMENT ON VIEW migrate_tiers.tables IS 'a line a tagged table: tier, state, and how far its copy is';
COMMENT ON COLUMN migrate_tiers.tables.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.tables.relation IS 'table on the source';
COMMENT ON COLUMN migrate_tiers.tables.target IS 'its name on the target';
COMMENT ON COLUMN migrate_tiers.tables.tier IS 'realtime, batch or ignored';
COMMENT ON COLUMN migrate_tiers.tables.state IS 'planned, copying, syncing, stopped or recopy; of batch tables waiting, pushing, fresh or stale';
COMMENT ON COLUMN migrate_tiers.tables.copied_rows IS 'rows that the initial copy has brought';
COMMENT ON COLUMN migrate_tiers.tables.estimated_rows IS 'rows that it will bring, as the statistics say';
COMMENT ON COLUMN migrate_tiers.tables.eta IS 'time that the rest of the copy takes at the rate so far';
COMMENT ON COLUMN migrate_tiers.tables.last_verified IS 'as of when the last verification that ended is true';
COMMENT ON COLUMN migrate_tiers.tables.last_verdict IS 'its outcome: equal, different or unknown';
COMMENT ON COLUMN migrate_tiers.tables.note IS 'why it is stopped or to be copied again, or null';
COMMENT ON COLUMN migrate_tiers.tables.copy_started IS 'when its copy began';
COMMENT ON COLUMN migrate_tiers.tables.copy_finished IS 'when it joined the sync';

CREATE VIEW migrate_tiers.progress WITH (security_barrier) AS
    SELECT m.name AS migration, r.relation::regclass AS relation, t.task, t.kind,
           CASE t.kind WHEN 'chunk' THEN pg_catalog.format('%s, blocks %s to %s', t.source_table::regclass, t.first_block, t.last_block - 1)
                       ELSE t.object END AS object,
           t.state, t.rows, t.bytes, t.started, t.finished
      FROM migrate_tiers.copy_task AS t
      JOIN migrate_tiers.relation AS r ON r.id = t.relation
      JOIN migrate_tiers.migration AS m ON m.id = r.migration
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY m.name, t.relation, t.task;
GRANT SELECT ON migrate_tiers.progress TO PUBLIC;
COMMENT ON VIEW migrate_tiers.progress IS 'a line a piece of the initial copy: a chunk of a table, an index to be built again, or a foreign key to be checked again';
COMMENT ON COLUMN migrate_tiers.progress.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.progress.relation IS 'table on the source';
COMMENT ON COLUMN migrate_tiers.progress.task IS 'number of the piece';
COMMENT ON COLUMN migrate_tiers.progress.kind IS 'chunk, index or foreign_key';
COMMENT ON COLUMN migrate_tiers.progress.object IS 'table or partition with its range of blocks; name of the index or foreign key on the target';
COMMENT ON COLUMN migrate_tiers.progress.state IS 'planned, running or done';
COMMENT ON COLUMN migrate_tiers.progress.rows IS 'rows that it brought';
COMMENT ON COLUMN migrate_tiers.progress.bytes IS 'bytes that it sent';
COMMENT ON COLUMN migrate_tiers.progress.started IS 'when it was last begun';
COMMENT ON COLUMN migrate_tiers.progress.finished IS 'when it was done';

CREATE VIEW migrate_tiers.pending WITH (security_barrier) AS
    SELECT m.name AS migration, p.relation, p.kind, p.key, p.xid, p.committed, p.application_name
      FROM migrate_tiers.migration AS m, migrate_tiers.pending_entries(m.id) AS p
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER');
GRANT SELECT ON migrate_tiers.pending TO PUBLIC;
COMMENT ON VIEW migrate_tiers.pending IS 'the queue, decoded: a line a change that the target does not have yet';
COMMENT ON COLUMN migrate_tiers.pending.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.pending.relation IS 'table on the source';
COMMENT ON COLUMN migrate_tiers.pending.kind IS 'key (of a changed row), truncate, or truncate where (a partition)';
COMMENT ON COLUMN migrate_tiers.pending.key IS 'key of the row, or condition of the partition';
COMMENT ON COLUMN migrate_tiers.pending.xid IS 'transaction that changed it';
COMMENT ON COLUMN migrate_tiers.pending.committed IS 'when it committed, or wrote this much early';
COMMENT ON COLUMN migrate_tiers.pending.application_name IS 'application_name of who changed it';

CREATE VIEW migrate_tiers.transitions WITH (security_barrier) AS
    SELECT t.id, m.name AS migration, t.from_phase, t.to_phase, t.started, t.finished, t.requested_by,
           t.outcome, t.steps, t.gates, t.error
      FROM migrate_tiers.transition AS t
      JOIN migrate_tiers.migration AS m ON m.id = t.migration
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY t.id;
GRANT SELECT ON migrate_tiers.transitions TO PUBLIC;
COMMENT ON VIEW migrate_tiers.transitions IS 'the journal: a line a transition, with its gates as they stood and the outcome of each step';
COMMENT ON COLUMN migrate_tiers.transitions.id IS 'number of the transition';
COMMENT ON COLUMN migrate_tiers.transitions.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.transitions.from_phase IS 'phase before';
COMMENT ON COLUMN migrate_tiers.transitions.to_phase IS 'phase that was asked for';
COMMENT ON COLUMN migrate_tiers.transitions.started IS 'when it began';
COMMENT ON COLUMN migrate_tiers.transitions.finished IS 'when it ended; null: under way, or cut off';
COMMENT ON COLUMN migrate_tiers.transitions.requested_by IS 'role that asked for it';
COMMENT ON COLUMN migrate_tiers.transitions.outcome IS 'done; undone: it failed, and all is as it was before; failed: it failed and could not be undone yet, so it stays open until advance or revert finishes or undoes it. null: under way, or cut off';
COMMENT ON COLUMN migrate_tiers.transitions.steps IS 'what was done, in order: step, object, finished, outcome';
COMMENT ON COLUMN migrate_tiers.transitions.gates IS 'gates as they stood: gate, passed, detail, hint';
COMMENT ON COLUMN migrate_tiers.transitions.error IS 'why it was not done';

