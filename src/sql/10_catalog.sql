-- Tables of ours.  Nobody but the extension's owner reads or writes them
-- directly: the views show to each role what is its own.
--
-- Each from which rows are deleted has a primary key or REPLICA IDENTITY FULL: under a publication
-- FOR ALL TABLES nothing could be deleted otherwise.  With FULL, types need an operator =.

CREATE TABLE migrate_tiers.migration (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name name NOT NULL UNIQUE,
    ident uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),      -- its name on the target
    token uuid NOT NULL DEFAULT gen_random_uuid(),             -- tells the target's fence that a session is ours
    owner oid NOT NULL,                                        -- role
    server oid NOT NULL,                                       -- foreign server
    phase text NOT NULL DEFAULT 'planned'
        CHECK (phase IN ('planned', 'syncing', 'dual_write', 'read_target', 'target_only', 'finished')),
    transition text,                                           -- the step under way
    syncing boolean NOT NULL DEFAULT false,                    -- a worker is wanted (but for paused)
    paused boolean NOT NULL DEFAULT false,
    fenced boolean NOT NULL DEFAULT false,                     -- the source's fence is closed
    queue oid[] NOT NULL DEFAULT '{}',                         -- segments of the queue
    queue_retention interval NOT NULL DEFAULT '5 min',         -- period of a segment (copied from the option)
    queue_limit bigint NOT NULL DEFAULT 0,                     -- bytes, 0 is none (copied from the option)
    worker_pid integer NOT NULL DEFAULT 0,
    worker_shared bigint NOT NULL DEFAULT 0,                   -- dynamic shared memory of the worker
    mark pg_snapshot,                                          -- the target's mark as last seen; the target's counts
    mark_time timestamptz,                                     -- when the snapshot of that mark was taken
    reversing boolean NOT NULL DEFAULT false,                  -- changes of the target are sent here, and conflicts are looked for
    reverse_stopped text,                                      -- why sending from the target stopped, or null
    reverse_stopped_at timestamptz,
    floor pg_snapshot,                                         -- a mark of the target must not be older: what it needs is truncated
    stopped text,                                              -- why sending stopped, or null
    stopped_at timestamptz,
    copy_error text,                                           -- why a copy worker failed last, until one succeeds
    copy_error_at timestamptz,                                 -- when the first of them failed
    created timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE migrate_tiers.relation (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    relation oid NOT NULL UNIQUE,
    target_schema name NOT NULL,
    target_name name NOT NULL,
    tier text NOT NULL CHECK (tier IN ('realtime', 'batch', 'ignored')),
    tagged timestamptz NOT NULL DEFAULT clock_timestamp(),      -- since when it has that tier
    state text NOT NULL DEFAULT 'planned'
        CHECK (state IN ('planned', 'copying', 'syncing', 'stopped', 'recopy', 'waiting', 'pushing', 'fresh', 'stale')),
    key_columns name[] NOT NULL DEFAULT '{}',                  -- of realtime tables, in the key's order
    key_operators text[] NOT NULL DEFAULT '{}',                -- equality of each, schema-qualified: OPERATOR(pg_catalog.=)
    captured boolean NOT NULL DEFAULT false,                   -- the triggers are there
    captured_from pg_snapshot,                                 -- S0: every later change of the table is in the queue
    incarnation integer NOT NULL DEFAULT 0,                    -- how often it was captured: which copy it is
    files jsonb NOT NULL DEFAULT '{}',                         -- of S0: the file of each table that holds its rows
    fingerprint text,                                          -- structure as it was when capture began (ddl guard)
    partitions oid[] NOT NULL DEFAULT '{}',                    -- leaf partitions known to the guard
    fenced boolean NOT NULL DEFAULT false,                     -- the triggers of the source's fence are there
    note text,                                                 -- why it is to be copied again
    uncaptured timestamptz,                                    -- up to then changes of the target may not have been noted
    filled name[],                                             -- the target's table, where sync has filled it before it became batch
    estimated_rows bigint NOT NULL DEFAULT 0,
    copy_started timestamptz,
    copy_finished timestamptz
);
CREATE INDEX ON migrate_tiers.relation (migration);

-- Tables whose changes are not noted any more (catalog/disarmed.h): rows are added
-- past the check of the foreign keys, which are there for what they delete.
CREATE TABLE migrate_tiers.disarmed (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    relation integer NOT NULL REFERENCES migrate_tiers.relation ON DELETE CASCADE,
    at timestamptz NOT NULL
);
ALTER TABLE migrate_tiers.disarmed REPLICA IDENTITY FULL;       -- an index would not be kept up

-- A piece of work of the initial copy: a range of blocks, an index that is built
-- again when all ranges of its table are there, or a foreign key that is checked
-- again when all tables are.
CREATE TABLE migrate_tiers.copy_task (
    relation integer NOT NULL REFERENCES migrate_tiers.relation ON DELETE CASCADE,
    task integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('chunk', 'index', 'foreign_key')),
    source_table oid NOT NULL,                                 -- of a chunk: the table or leaf partition; else 0
    filenode oid NOT NULL DEFAULT 0,                           -- of source_table when the ranges were cut
    first_block bigint NOT NULL DEFAULT 0,
    last_block bigint NOT NULL DEFAULT 0,                      -- exclusive
    object text,                                               -- an index or foreign key: its name on the target
    noted bigint NOT NULL DEFAULT 0,                           -- a chunk: frozen rows of ids below are noted (copy/chunk.c)
    state text NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'running', 'done')),
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    started timestamptz,
    finished timestamptz,
    PRIMARY KEY (relation, task)
);
CREATE INDEX copy_task_open ON migrate_tiers.copy_task (relation, kind) WHERE state <> 'done';
CREATE INDEX copy_task_planned ON migrate_tiers.copy_task (kind, relation, task) WHERE state = 'planned';
CREATE INDEX copy_task_running ON migrate_tiers.copy_task (started) WHERE state = 'running';

CREATE TABLE migrate_tiers.option_value (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    name text NOT NULL,
    value text NOT NULL,
    PRIMARY KEY (migration, name)
);

CREATE TABLE migrate_tiers.transition (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    from_phase text NOT NULL,
    to_phase text NOT NULL,
    requested_by name NOT NULL,
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished timestamptz,
    outcome text CHECK (outcome IN ('done', 'failed', 'undone')),
    steps jsonb NOT NULL DEFAULT '[]',                         -- [{step, object, started, finished, outcome}]
    gates jsonb NOT NULL DEFAULT '[]',
    error text,
    rehearsal boolean NOT NULL DEFAULT false                   -- at its end: it was gone for practice, no job moved with it
);
CREATE INDEX ON migrate_tiers.transition (migration);

-- When the worker met another timeline of a server's log than before: what was verified earlier says nothing of that server.
CREATE TABLE migrate_tiers.failover (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    noticed timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, noticed)
);

-- The target's snapshots up to which the source has everything: the newest counts (catalog/reverse.h).
CREATE TABLE migrate_tiers.reverse_mark (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    tick bigint NOT NULL,
    mark pg_snapshot NOT NULL,
    mark_time timestamptz NOT NULL,                            -- when that snapshot was taken
    timeline bigint NOT NULL,                                  -- of the target's log, when it was
    PRIMARY KEY (migration, tick)
);

-- Sessions in which this server has sent, the newest last: the target holds the token of the last one (catalog/session.h).
CREATE TABLE migrate_tiers.session (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    number bigint NOT NULL,
    token uuid NOT NULL,
    PRIMARY KEY (migration, number)
);

-- Rows that both sides changed: what became of them, and the one that lost, whole.
CREATE TABLE migrate_tiers.conflict (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    relation integer NOT NULL REFERENCES migrate_tiers.relation ON DELETE CASCADE,
    key jsonb NOT NULL,
    winner text NOT NULL CHECK (winner IN ('source', 'target')),
    policy text NOT NULL,
    source_row jsonb,                                          -- null: the row was absent
    target_row jsonb,
    source_written timestamptz,
    target_written timestamptz,
    found timestamptz NOT NULL DEFAULT clock_timestamp(),
    target_id uuid,                                            -- its name on the target, where it was found there
    resolved timestamptz,
    resolution text,                                           -- the side whose row was taken by resolve_conflict
    UNIQUE (migration, target_id)
);
CREATE INDEX ON migrate_tiers.conflict (relation);

-- Entries of the queue that are void, since the target's row of the key has won: those of
-- transactions that the snapshot sees.
CREATE TABLE migrate_tiers.cancelled (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation integer NOT NULL REFERENCES migrate_tiers.relation ON DELETE CASCADE,
    key bytea NOT NULL,
    seen pg_snapshot NOT NULL
);
CREATE INDEX ON migrate_tiers.cancelled (relation, (pg_snapshot_xmax(seen)));

-- Sequences that take turns with those of the target, as they were before (endpoint/sequence.h).
CREATE TABLE migrate_tiers.sequence (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    sequence oid PRIMARY KEY,
    relation integer NOT NULL,                                 -- the table whose step altered it
    source oid NOT NULL,                                       -- itself; on the target the one it takes turns with
    start bigint NOT NULL,
    increment bigint NOT NULL,
    minimum bigint NOT NULL,
    maximum bigint NOT NULL,
    cache bigint NOT NULL,
    cycle boolean NOT NULL,
    last_value bigint NOT NULL,
    is_called boolean NOT NULL,
    begun bigint NOT NULL,                                     -- the first value of its turn
    restored boolean NOT NULL DEFAULT false,                   -- it is what it was
    handed bigint,                                             -- the furthest value of its turn, when it is restored
    lapped boolean                                             -- it cycled in its turn
);

-- Where a sequence is, read by its OID: its name may be another relation's by now.  Nulls where it is none any more.
CREATE FUNCTION migrate_tiers.sequence_position(sequence oid, OUT last_value bigint, OUT is_called boolean)
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'mt_sequence_position';
REVOKE ALL ON FUNCTION migrate_tiers.sequence_position(oid) FROM PUBLIC;
