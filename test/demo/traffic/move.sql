-- Moves a row from one partition to another.  The lock keeps two clients from moving one row.
\set id random(1, :packages)
BEGIN;
SELECT pg_advisory_xact_lock(:id);
UPDATE event SET at = CASE WHEN at < '2025-01-01' THEN at + interval '2 years' ELSE at - interval '2 years' END
	WHERE id = :id AND kind = 'listed';
COMMIT;
