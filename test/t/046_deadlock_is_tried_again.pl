# A transition takes locks on a partition and then on its table; a reader of the target has the table and asks
# for the partition. The server ends this deadlock at our expense: it is one more way of not getting a lock, tried
# again as all are, and no reason to undo the transition. (A worker's tick can be the other one as well.)
use strict;
use warnings;

use MigrateTiers;
use PostgreSQL::Test::Utils;
use Test::More;

my ($source, $target) = pair();
sql($_, q(CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100)))
  for $source, $target;
migration($source, 'part');
sql($source, q(INSERT INTO part VALUES (1); SELECT migrate_tiers.set_option('quiet_period', '0 s')));
advance($source, 'syncing');
wait_synced($source);
sql($source, 'SELECT * FROM migrate_tiers.verify()');

# Who has the table, and reads its partition as soon as somebody waits for the table.
my $reads = <<'SQL';
BEGIN;
LOCK TABLE ONLY part IN ACCESS SHARE MODE;
\echo reading
DO $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'part'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted) LOOP
		PERFORM pg_sleep(0.001);
	END LOOP;
	PERFORM count(*) FROM part_1;
END $$;
COMMIT;
\echo read
SQL

advance($source, 'dual_write');
my $reader = session($target);
my $log = -s $target->logfile;
$reader->query_until(qr/reading/, $reads);
my ($status, $out, $err) = $source->psql('shop', q(CALL migrate_tiers.revert('syncing')));
is($status, 0, 'the transition goes on') or diag($err);
unlike($err, qr/a step failed/, 'and nothing is undone');
$reader->query_until(qr/read\n/, "\n");
pass('nor did the reader fail');
like(slurp_file($target->logfile, $log), qr/ERROR:  deadlock detected.*STATEMENT:.*DROP TRIGGER/s, 'there was a deadlock');
is(query($source, 'SELECT phase, transition IS NULL FROM migrate_tiers.status'), 'syncing|t', 'it has arrived');

$reader->quit;
finish($source, $target);
done_testing();
