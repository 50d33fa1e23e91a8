-- Capture: the trigger function.  Only the extension attaches it.

CREATE FUNCTION migrate_tiers.capture() RETURNS trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'mt_capture';
REVOKE ALL ON FUNCTION migrate_tiers.capture() FROM PUBLIC;
COMMENT ON FUNCTION migrate_tiers.capture() IS
    'Notes which key changed, for the queue of a migration. Attached to tables by advance(), never by hand.';

