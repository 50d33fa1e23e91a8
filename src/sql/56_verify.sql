
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
        CHECK (state IN ('running', 'cut', 'done')),           -- cut: not finished, the next verify() goes on with it
    verdict text CHECK (verdict IN ('equal', 'different', 'unknown')),
    detail text,                                               -- why it is unknown, or what else is to be known
    shape text,                                                -- the statement that reads a range, when it began
    next_key text[],                                           -- ranges from here on were not given out yet; null: none was
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

-- A range of keys of a table under comparison; kept until the table is verified again.
CREATE TABLE migrate_tiers.verification_range (
    verification bigint NOT NULL REFERENCES migrate_tiers.verification ON DELETE CASCADE,
    range integer NOT NULL,
    low text[],                                                -- first key, or null: from the beginning
    high text[],                                               -- first key that is not in it, or null: to the end
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done')),
    source_rows bigint,
    target_rows bigint,
    different_rows bigint,
    point timestamptz,                                         -- its common point
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished timestamptz,
    PRIMARY KEY (verification, range)
);

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
