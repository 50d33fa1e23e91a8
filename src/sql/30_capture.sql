-- Capture: the trigger function.  Whoever makes a partition of a captured table
-- makes its trigger by that and must be allowed to; so the function itself sees
-- to it that it works for the tables of a migration only.

CREATE FUNCTION migrate_tiers.capture() RETURNS trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'mt_capture';
COMMENT ON FUNCTION migrate_tiers.capture() IS
    'Notes which key changed, for the queue of a migration. Attached to tables by advance(), never by hand.';


CREATE FUNCTION migrate_tiers.fence() RETURNS trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'mt_fence';
REVOKE ALL ON FUNCTION migrate_tiers.fence() FROM PUBLIC;
COMMENT ON FUNCTION migrate_tiers.fence() IS
    'Refuses writes of the source while they belong on the target (SQLSTATE MT005). Attached to tables by advance(), never by hand.';
