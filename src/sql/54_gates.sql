
-- Gates: what an engineer confirms, and gates of one's own.

CREATE TABLE migrate_tiers.confirmation (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    gate text NOT NULL,
    note text NOT NULL,
    confirmed_by name NOT NULL,
    confirmed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON migrate_tiers.confirmation (migration, gate);

CREATE TABLE migrate_tiers.own_gate (
    migration integer NOT NULL REFERENCES migrate_tiers.migration ON DELETE CASCADE,
    to_phase text NOT NULL,
    gate text NOT NULL,
    query text,                                                -- null: it is confirmed by hand
    role oid NOT NULL,                                         -- whose rights the query runs with: who added it
    added timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (migration, to_phase, gate)
);

CREATE FUNCTION migrate_tiers.confirm(gate text, note text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_confirm';
COMMENT ON FUNCTION migrate_tiers.confirm(text, text, name) IS
'an engineer''s word for a gate that is confirmed by hand, kept with name and time; it holds until the phase changes. Errors: 42704 no such gate between here and a next phase, 22023 a gate that a query decides, or an empty note, 42501 not the owner of the migration';

CREATE FUNCTION migrate_tiers.add_gate(to_phase text, gate text, query text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_add_gate';
COMMENT ON FUNCTION migrate_tiers.add_gate(text, text, text, name) IS
'adds a gate of your own to every way to that phase, forward and back, or changes it. query is a SELECT whose first column, a boolean, says in its first row whether the gate passes; a second column is shown as detail. It runs with your rights, read only, with search_path pg_catalog and for 30 s at most. query null: the gate is confirmed by hand. Errors: 22023 unknown phase, no name or no such query, 42710 a gate of ours has that name, those of the query, 42501 not the owner of the migration';

CREATE FUNCTION migrate_tiers.drop_gate(to_phase text, gate text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_drop_gate';
COMMENT ON FUNCTION migrate_tiers.drop_gate(text, text, name) IS
'takes a gate away that add_gate added. Errors: 42704 no such gate, 42501 not the owner of the migration';
