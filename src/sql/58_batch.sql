-- The batch tier: derived tables follow as snapshots, pushed on a schedule.

-- How a batch table is pushed; one that has no row is pushed in mode diff, when somebody asks.
CREATE TABLE migrate_tiers.policy (
    relation integer PRIMARY KEY REFERENCES migrate_tiers.relation ON DELETE CASCADE,
    every interval CHECK (every > '0'),                        -- null: when asked only
    mode text NOT NULL DEFAULT 'diff' CHECK (mode IN ('diff', 'replace', 'append')),
    max_age interval CHECK (max_age > '0'),                    -- null: option max_age
    watermark name,                                            -- of append: the column
    cron_job text                                              -- name of the pg_cron job, or null
);

-- A push: written when it begins and when it ends, whatever becomes of it.
CREATE TABLE migrate_tiers.batch (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation integer NOT NULL REFERENCES migrate_tiers.relation ON DELETE CASCADE,
    direction text NOT NULL CHECK (direction IN ('forward', 'reverse')),
    target name[] NOT NULL,                                    -- schema and name of the target's table
    mode text NOT NULL CHECK (mode IN ('diff', 'replace', 'append', 'refresh')),
    scheduled boolean NOT NULL,                                -- by our own interval; else somebody asked for it
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    snapshot_time timestamptz,                                 -- when the snapshot was taken that was sent
    finished timestamptz,
    source_rows bigint,                                        -- present after it, in the snapshot
    target_rows bigint,
    inserted bigint,
    updated bigint,
    deleted bigint,
    bytes bigint,                                              -- of rows and digests, sent either way
    ranges integer,                                            -- of keys
    ranges_known integer,                                      -- those that nobody touched since they were equal
    ranges_sent integer,                                       -- those whose digests differed
    digest text,                                               -- of the sender's rows in the snapshot; null: not known
    shape text,                                                -- of what: a hash of the expression
    note text,
    error text                                                 -- null and finished: it was applied
);
CREATE INDEX ON migrate_tiers.batch (relation, started);
CREATE INDEX ON migrate_tiers.batch (relation, direction, started);

-- What a batch table looked like when both sides were last equal, range by range (batch/imprint.h); the
-- target has the like of it, without ranges.
CREATE TABLE migrate_tiers.imprint (
    migration uuid NOT NULL,
    relation integer NOT NULL REFERENCES migrate_tiers.relation ON DELETE CASCADE,
    token uuid NOT NULL,                                       -- the same on both sides, or it is of another push
    shape text NOT NULL,                                       -- which table, file and columns they were
    horizon bigint NOT NULL,                                   -- rows of transactions from there on are not known
    own bigint NOT NULL,                                       -- but for those of the push itself, 0: none
    ranges jsonb NOT NULL,                                     -- their bounds, and how many rows each has
    compared timestamptz NOT NULL,                             -- when all of them were compared in full
    PRIMARY KEY (migration, relation)
);

-- How fresh the receiver of each batch table is: for the view tables, the schedule and the gates.
-- The side that was read until the direction turned has computed its tables itself until then: those that took part,
-- which a push before has shown. For a rehearsal no job moves to the target; and in phase planned that is emptied.
-- The schedule looks each second: of pushes, however many, the newest and the first are found by an index. What is of
-- the future, since the clock was set back, is no evidence.
CREATE VIEW migrate_tiers.freshness WITH (security_barrier) AS
    SELECT f.*, f.fresh_at + f.max_age > c.now AND f.fresh_at <= c.now AS fresh
      FROM (SELECT m.name AS migration, r.relation::regclass AS relation, d.direction, p.every, p.mode,
                   coalesce(p.max_age, o.value::interval, '24h') AS max_age,
                   greatest(b.snapshot_time, CASE WHEN j.joined < t.turned THEN t.turned END) AS fresh_at,
                   EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                            WHERE l.locktype = 'object' AND l.granted AND l.objid = r.id::text::oid AND l.objsubid = 1
                              AND l.classid = 'migrate_tiers.relation'::regclass
                              AND l.database = (SELECT oid FROM pg_catalog.pg_database
                                                 WHERE datname = pg_catalog.current_database())) AS pushing
              FROM migrate_tiers.relation AS r
              JOIN migrate_tiers.migration AS m ON m.id = r.migration
              LEFT JOIN migrate_tiers.policy AS p ON p.relation = r.id
              LEFT JOIN migrate_tiers.option_value AS o ON o.migration = m.id AND o.name = 'max_age'
             CROSS JOIN LATERAL (SELECT CASE WHEN m.phase IN ('planned', 'syncing', 'dual_write')
                                             THEN 'forward' ELSE 'reverse' END AS direction) AS d
             CROSS JOIN LATERAL (
                   SELECT max(x.started) FILTER (WHERE x.from_phase = 'planned') AS began,
                          max(x.finished) FILTER (WHERE x.outcome = 'done' AND CASE d.direction
                              WHEN 'reverse' THEN x.from_phase = 'dual_write' AND x.to_phase = 'read_target'
                              ELSE x.from_phase = 'read_target' AND x.to_phase = 'dual_write' AND NOT
                                   (SELECT o.rehearsal FROM migrate_tiers.transition AS o
                                     WHERE o.migration = m.id AND o.id < x.id AND o.outcome = 'done'
                                       AND o.from_phase = 'dual_write' AND o.to_phase = 'read_target'
                                     ORDER BY o.id DESC LIMIT 1) END) AS turned
                     FROM migrate_tiers.transition AS x WHERE x.migration = m.id) AS t
              LEFT JOIN LATERAL (
                   SELECT x.snapshot_time FROM migrate_tiers.batch AS x
                    WHERE x.relation = r.id AND x.direction = d.direction AND x.started > t.began AND x.finished IS NOT NULL
                      AND x.error IS NULL AND x.target = ARRAY[r.target_schema, r.target_name]
                      AND x.snapshot_time <= pg_catalog.clock_timestamp()
                    ORDER BY x.started DESC LIMIT 1) AS b ON true
              LEFT JOIN LATERAL (
                   SELECT x.finished AS joined FROM migrate_tiers.batch AS x
                    WHERE x.relation = r.id AND x.started > greatest(t.began, r.tagged) AND x.finished IS NOT NULL
                      AND x.error IS NULL AND x.target = ARRAY[r.target_schema, r.target_name] AND t.began IS NOT NULL
                    ORDER BY x.started LIMIT 1) AS j ON true
             WHERE r.tier = 'batch' AND pg_catalog.pg_has_role(m.owner, 'MEMBER')) AS f
     CROSS JOIN LATERAL (SELECT pg_catalog.clock_timestamp() AS now) AS c;
GRANT SELECT ON migrate_tiers.freshness TO PUBLIC;
COMMENT ON VIEW migrate_tiers.freshness IS 'how fresh the receiver of each batch table is; for the other views and the gates';
COMMENT ON COLUMN migrate_tiers.freshness.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.freshness.relation IS 'table on the source';
COMMENT ON COLUMN migrate_tiers.freshness.direction IS 'way of pushes in this phase';
COMMENT ON COLUMN migrate_tiers.freshness.every IS 'interval of batch_policy';
COMMENT ON COLUMN migrate_tiers.freshness.mode IS 'mode of batch_policy, null: diff';
COMMENT ON COLUMN migrate_tiers.freshness.max_age IS 'age above which it is stale';
COMMENT ON COLUMN migrate_tiers.freshness.fresh_at IS 'what the receiver shows is as of this moment; null: never pushed';
COMMENT ON COLUMN migrate_tiers.freshness.pushing IS 'whether a push is under way';
COMMENT ON COLUMN migrate_tiers.freshness.fresh IS 'whether it is younger than max_age; null: never pushed';

CREATE VIEW migrate_tiers.batches WITH (security_barrier) AS
    SELECT b.id, m.name AS migration, r.relation::regclass AS relation, b.direction, b.mode,
           b.source_rows, b.target_rows, b.inserted, b.updated, b.deleted, b.bytes, b.started, b.finished, b.error,
           b.finished - b.started AS duration, b.snapshot_time, b.ranges, b.ranges_sent, b.scheduled, b.note, b.ranges_known
      FROM migrate_tiers.batch AS b
      JOIN migrate_tiers.relation AS r ON r.id = b.relation
      JOIN migrate_tiers.migration AS m ON m.id = r.migration
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY b.id;
GRANT SELECT ON migrate_tiers.batches TO PUBLIC;
COMMENT ON VIEW migrate_tiers.batches IS 'a line a push of a batch table';
COMMENT ON COLUMN migrate_tiers.batches.id IS 'number of the push';
COMMENT ON COLUMN migrate_tiers.batches.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.batches.relation IS 'table on the source';
COMMENT ON COLUMN migrate_tiers.batches.direction IS 'forward (from the source), or reverse';
COMMENT ON COLUMN migrate_tiers.batches.mode IS 'diff, replace or append; refresh: a materialized view of the receiver was refreshed';
COMMENT ON COLUMN migrate_tiers.batches.source_rows IS 'rows of the source after the push, in its snapshot';
COMMENT ON COLUMN migrate_tiers.batches.target_rows IS 'rows of the target after the push';
COMMENT ON COLUMN migrate_tiers.batches.inserted IS 'rows that the push inserted';
COMMENT ON COLUMN migrate_tiers.batches.updated IS 'rows that it updated';
COMMENT ON COLUMN migrate_tiers.batches.deleted IS 'rows that it deleted';
COMMENT ON COLUMN migrate_tiers.batches.bytes IS 'bytes of rows and digests that went over the network';
COMMENT ON COLUMN migrate_tiers.batches.started IS 'when it began';
COMMENT ON COLUMN migrate_tiers.batches.finished IS 'when it ended; null: under way, or cut off';
COMMENT ON COLUMN migrate_tiers.batches.error IS 'why it was not applied: SQLSTATE, message, detail; the snapshot before it stays, unless it says that this is not known';
COMMENT ON COLUMN migrate_tiers.batches.duration IS 'how long it took';
COMMENT ON COLUMN migrate_tiers.batches.snapshot_time IS 'when the snapshot was taken that it sent';
COMMENT ON COLUMN migrate_tiers.batches.ranges IS 'ranges of keys that the table was cut into';
COMMENT ON COLUMN migrate_tiers.batches.ranges_sent IS 'ranges whose digests differed, whose rows were sent';
COMMENT ON COLUMN migrate_tiers.batches.ranges_known IS 'ranges that nobody touched, on either side, since a push left them equal: they were not compared';
COMMENT ON COLUMN migrate_tiers.batches.scheduled IS 'whether the interval of batch_policy was the reason';
COMMENT ON COLUMN migrate_tiers.batches.note IS 'what else is to be known of it: an empty source, a postponement, or what failed when it was applied already';

CREATE FUNCTION migrate_tiers.batch_policy(relation regclass, every interval DEFAULT NULL, mode text DEFAULT 'diff',
        max_age interval DEFAULT NULL, watermark name DEFAULT NULL, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_batch_policy';
COMMENT ON FUNCTION migrate_tiers.batch_policy(regclass, interval, text, interval, name, name) IS
'says how a batch table is pushed: every so often by our workers (null: when push_batch is called, or by schedule); in mode diff (only what differs, needs a key), replace (all rows) or append (rows above the column watermark); and how old the receiver may be, max_age (null: the option max_age). Errors: 22023 unknown mode, an interval that is not positive, no watermark for append, 55000 not a batch table, or no key for diff, 42703 no such column';

CREATE FUNCTION migrate_tiers.push_batch(relation regclass, migration name DEFAULT NULL) RETURNS migrate_tiers.batches
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_push_batch';
COMMENT ON FUNCTION migrate_tiers.push_batch(regclass, name) IS
'pushes a batch table now, as batch_policy says, and returns its row of batches when the receiver has it: from the source up to phase dual_write, from the target after. A worker does it; that the row stays does not depend on the caller''s transaction. Errors: 55000 not a batch table, the first push into a table of the target that has rows, no key for diff, no watermark for append or one that went backwards, MT003 nothing is pushed in this phase, MT008 another server sends to the target, 55006 it is being pushed, or a transition or a rehearsal keeps pushes off, 55P03 a lock was not to be had in lock_timeout, 53400 no background worker is free, those of either side';

CREATE FUNCTION migrate_tiers.schedule(relation regclass, cron text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_schedule';
COMMENT ON FUNCTION migrate_tiers.schedule(regclass, text, name) IS
'has pg_cron push a batch table, by a job of the calling role; cron is a schedule as of pg_cron: minute, hour, day of month, month, day of week. Calling it again changes the schedule. Errors: 55000 not a batch table, or pg_cron is not in this database (then batch_policy with every does it), those of pg_cron';

CREATE FUNCTION migrate_tiers.unschedule(relation regclass, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_unschedule';
COMMENT ON FUNCTION migrate_tiers.unschedule(regclass, name) IS
'removes the job that schedule made. Errors: 42704 there is none, 55000 not a batch table';
