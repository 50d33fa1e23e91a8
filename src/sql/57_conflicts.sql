-- Rows that both sides changed.

CREATE VIEW migrate_tiers.conflicts WITH (security_barrier) AS
    SELECT c.id, m.name AS migration, r.relation::regclass AS relation, c.key, c.winner, c.policy,
           c.source_row, c.target_row, c.source_written, c.target_written, c.resolved, c.resolution, c.found
      FROM migrate_tiers.conflict AS c
      JOIN migrate_tiers.relation AS r ON r.id = c.relation
      JOIN migrate_tiers.migration AS m ON m.id = c.migration
     WHERE pg_catalog.pg_has_role(m.owner, 'MEMBER')
     ORDER BY c.id;
GRANT SELECT ON migrate_tiers.conflicts TO PUBLIC;
COMMENT ON VIEW migrate_tiers.conflicts IS 'rows that both sides changed before they knew of each other: which one won, and the other, whole';
COMMENT ON COLUMN migrate_tiers.conflicts.id IS 'number of the conflict, for resolve_conflict';
COMMENT ON COLUMN migrate_tiers.conflicts.migration IS 'name of the migration';
COMMENT ON COLUMN migrate_tiers.conflicts.relation IS 'table on the source';
COMMENT ON COLUMN migrate_tiers.conflicts.key IS 'key of the row';
COMMENT ON COLUMN migrate_tiers.conflicts.winner IS 'side whose row was taken: source or target';
COMMENT ON COLUMN migrate_tiers.conflicts.policy IS 'conflict_policy that decided';
COMMENT ON COLUMN migrate_tiers.conflicts.source_row IS 'row as the source had it; null: it was deleted there. What jsonb cannot hold exactly (json, arrays, floating point, hstore and most other types) is kept as its text; a jsonb that is NULL is left out';
COMMENT ON COLUMN migrate_tiers.conflicts.target_row IS 'row as the target had it; null: it was deleted there';
COMMENT ON COLUMN migrate_tiers.conflicts.source_written IS 'when the source committed it';
COMMENT ON COLUMN migrate_tiers.conflicts.target_written IS 'when the target committed it, by its own clock';
COMMENT ON COLUMN migrate_tiers.conflicts.resolved IS 'when resolve_conflict was called for it, or null';
COMMENT ON COLUMN migrate_tiers.conflicts.resolution IS 'side that was chosen then';
COMMENT ON COLUMN migrate_tiers.conflicts.found IS 'when it was found';

CREATE FUNCTION migrate_tiers.resolve_conflict(id bigint, winner text, migration name DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mt_resolve_conflict';
COMMENT ON FUNCTION migrate_tiers.resolve_conflict(bigint, text, name) IS
'settles a conflict: with the side that won, it stays as it is; with the other, source or target, the kept row of that side is put into the source''s table and sent on to the target like any change. Errors: 42704 no such conflict of a migration of yours, 55000 settled before, 22023 not a side, MT003 the row that lost, in phase finished, since nothing is sent any more; those of writing the row';
