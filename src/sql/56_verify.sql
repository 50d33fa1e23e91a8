
-- Verification: what was compared, what came out, and which rows differ.

-- The comparison of one table.  Evidence for a gate is the newest row of a relation whose verdict is
-- not unknown; it counts from "oldest", the common point of what was compared first.
CREATE TABLE migrate_tiers.verification (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    relation integer NOT NULL REFERENCES migrate_tiers.relation ON DELETE CASCADE,
    run bigint NOT NULL,                                       -- call of verify() that began it, or went on with it
    scheduled boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'running'
        CHECK (state IN ('running', 'cut', 'done')),           -- cut: not finished, the next verify() may go on with it
    verdict text CHECK (verdict IN ('equal', 'different', 'unknown')),     -- different as soon as one row is
    detail text,                                               -- why it is unknown, or what else is to be known
    shape text,                                                -- the statement that reads a range, when it began
    next_key text[],                                           -- ranges from here on were not given out yet; null: none was
    ranges integer NOT NULL DEFAULT 0,                         -- that were given out
    given_out boolean NOT NULL DEFAULT false,                  -- all of them were
    range_rows bigint NOT NULL DEFAULT 10000,                  -- rows of the next range
    source_rows bigint,
    target_rows bigint,
    different_rows bigint,
    at_mark pg_snapshot,                                       -- the newest common point
    oldest timestamptz,                                        -- when the oldest was
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished timestamptz
);
CREATE INDEX ON migrate_tiers.verification (relation, id);
CREATE INDEX ON migrate_tiers.verification (migration, run);

CREATE SEQUENCE migrate_tiers.verification_run;                -- a number for each call of verify()

-- A range of keys of a table under comparison; kept until the table is verified again.
CREATE TABLE migrate_tiers.verification_range (
    verification bigint NOT NULL REFERENCES migrate_tiers.verification ON DELETE CASCADE,
    range integer NOT NULL,
    low text[],                                                -- first key, or null: from the beginning
    high text[],                                               -- first key that is not in it, or null: to the end
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('free', 'running', 'doubtful', 'done')),  -- doubtful: has suspects
    source_rows bigint,
    target_rows bigint,
    different_rows bigint,
    point timestamptz,                                         -- its common point
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished timestamptz,
    PRIMARY KEY (verification, range)
);

-- A row that was not the same on both sides while a change of it was on its way from the target: it is looked at
-- again at other common points, until it is the same, or is not with nothing on its way.
CREATE TABLE migrate_tiers.suspect (
    verification bigint NOT NULL,
    range integer NOT NULL,
    key text[] NOT NULL,
    FOREIGN KEY (verification, range) REFERENCES migrate_tiers.verification_range ON DELETE CASCADE
);
CREATE INDEX ON migrate_tiers.suspect (verification, range);
ALTER TABLE migrate_tiers.suspect REPLICA IDENTITY FULL;        -- keys may be too long for an index

-- A row that was not the same on both sides.
CREATE TABLE migrate_tiers.discrepancy (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    verification bigint NOT NULL REFERENCES migrate_tiers.verification ON DELETE CASCADE,
    migration integer NOT NULL,
    relation integer NOT NULL,
    range integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('missing', 'extra', 'changed')),    -- as the target has it
    key text[] NOT NULL,
    columns name[],                                            -- of a changed row: what differs
    source_row jsonb,                                          -- null: the row is absent
    target_row jsonb,
    found timestamptz NOT NULL,                                -- the common point at which it was found
    repaired timestamptz                                       -- when repair() asked for the row to be sent again
);
CREATE INDEX ON migrate_tiers.discrepancy (verification, range);
CREATE INDEX ON migrate_tiers.discrepancy (relation);

CREATE FUNCTION migrate_tiers.verify(relation regclass DEFAULT NULL, migration name DEFAULT NULL)
    RETURNS TABLE (relation regclass, verdict text, source_rows bigint, target_rows bigint, different_rows bigint,
                   at_mark pg_snapshot, started timestamptz, finished timestamptz, detail text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_verify';
COMMENT ON FUNCTION migrate_tiers.verify(regclass, name) IS
'compares a table, or all, on both sides while both are in use; a row a table: equal, different or unknown (not compared to the end; detail says why, and the next call goes on). Realtime tables are compared at a common point, batch tables with the snapshot that their last push sent. Sees and keeps what is committed, whatever becomes of the caller''s transaction. Rows that differ are in discrepancies. Errors: 42704 not tagged, MT003 not in sync in this phase, 53400 no background worker is free';

CREATE FUNCTION migrate_tiers.repair(relation regclass, side text DEFAULT NULL, migration name DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_repair';
COMMENT ON FUNCTION migrate_tiers.repair(regclass, text, name) IS
'has the rows sent again that the last verification of a table found different: their keys are noted in the queue of the side that is right, and sync mends the other side; both rows stay in discrepancies. Where more differ than are kept there, verify and repair again. side: source or target, the one that applications read if not given. A batch table is mended by push_batch. Returns the number of rows. Errors: 42704 not tagged, 55000 not a realtime table, MT003 not in sync in this phase or nothing is sent from that side, MT008 another server sends to the target, 22023 unknown side';

CREATE VIEW migrate_tiers.verifications WITH (security_barrier) AS
    SELECT v.id, m.name AS migration, r.relation::regclass AS relation, coalesce(v.verdict, 'unknown') AS verdict,
           coalesce(v.source_rows, n.source_rows) AS source_rows, coalesce(v.target_rows, n.target_rows) AS target_rows,
           coalesce(v.different_rows, n.different_rows) AS different_rows,
           v.at_mark, v.started, v.finished, v.oldest, v.scheduled, v.state,
           coalesce(v.detail, CASE WHEN v.state = 'running' THEN 'not finished' END) AS detail
      FROM migrate_tiers.verification AS v
      JOIN migrate_tiers.relation AS r ON r.id = v.relation
      JOIN migrate_tiers.migration AS m ON m.id = v.migration
      LEFT JOIN LATERAL (
           SELECT pg_catalog.sum(g.source_rows)::bigint AS source_rows, pg_catalog.sum(g.target_rows)::bigint AS target_rows,
                  pg_catalog.sum(g.different_rows)::bigint AS different_rows
             FROM migrate_tiers.verification_range AS g WHERE g.verification = v.id AND g.state = 'done') AS n ON v.state <> 'done'
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY v.id;
GRANT SELECT ON migrate_tiers.verifications TO PUBLIC;
COMMENT ON VIEW migrate_tiers.verifications IS 'the history of verifications: a line a table and run, those that are under way too';
COMMENT ON COLUMN migrate_tiers.verifications.id IS 'number of the verification';
COMMENT ON COLUMN migrate_tiers.verifications.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.verifications.relation IS 'table on the source';
COMMENT ON COLUMN migrate_tiers.verifications.verdict IS 'equal, different, or unknown: not compared to the end';
COMMENT ON COLUMN migrate_tiers.verifications.source_rows IS 'rows of the source that were compared';
COMMENT ON COLUMN migrate_tiers.verifications.target_rows IS 'rows of the target that were compared';
COMMENT ON COLUMN migrate_tiers.verifications.different_rows IS 'rows that are missing on the target, extra there, or not the same';
COMMENT ON COLUMN migrate_tiers.verifications.at_mark IS 'snapshot of the source at the newest common point';
COMMENT ON COLUMN migrate_tiers.verifications.started IS 'when it began';
COMMENT ON COLUMN migrate_tiers.verifications.finished IS 'when it ended; null: under way, or its process is gone';
COMMENT ON COLUMN migrate_tiers.verifications.oldest IS 'the oldest common point: all of it is true as of this moment or later, and its age counts from here';
COMMENT ON COLUMN migrate_tiers.verifications.scheduled IS 'whether option verify_every asked for it';
COMMENT ON COLUMN migrate_tiers.verifications.state IS 'running, cut (the next verify goes on with it) or done';
COMMENT ON COLUMN migrate_tiers.verifications.detail IS 'why it is unknown, or what else is to be known';

CREATE VIEW migrate_tiers.discrepancies WITH (security_barrier) AS
    SELECT d.id, m.name AS migration, r.relation::regclass AS relation, d.verification, d.kind, d.key, d.columns,
           d.source_row, d.target_row, d.found, d.repaired
      FROM migrate_tiers.discrepancy AS d
      JOIN migrate_tiers.relation AS r ON r.id = d.relation
      JOIN migrate_tiers.migration AS m ON m.id = d.migration
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY d.id;
GRANT SELECT ON migrate_tiers.discrepancies TO PUBLIC;
COMMENT ON VIEW migrate_tiers.discrepancies IS 'rows that a verification found not the same on both sides, as they were there: at most 10,000 of one verification; those that were not repaired until a newer one has ended';
COMMENT ON COLUMN migrate_tiers.discrepancies.id IS 'number of the discrepancy';
COMMENT ON COLUMN migrate_tiers.discrepancies.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.discrepancies.relation IS 'table on the source';
COMMENT ON COLUMN migrate_tiers.discrepancies.verification IS 'number of the verification that found it';
COMMENT ON COLUMN migrate_tiers.discrepancies.kind IS 'missing or extra on the target, or changed';
COMMENT ON COLUMN migrate_tiers.discrepancies.key IS 'values of the key''s columns, as text';
COMMENT ON COLUMN migrate_tiers.discrepancies.columns IS 'columns of a changed row that differ';
COMMENT ON COLUMN migrate_tiers.discrepancies.source_row IS 'the row on the source, or null if it is absent';
COMMENT ON COLUMN migrate_tiers.discrepancies.target_row IS 'the row on the target, or null if it is absent';
COMMENT ON COLUMN migrate_tiers.discrepancies.found IS 'the common point at which both were so';
COMMENT ON COLUMN migrate_tiers.discrepancies.repaired IS 'when repair asked for it to be mended, or null';
