# The source's fence closes by a flag: who was writing is waited for and may go
# on, who comes meanwhile is refused, nobody waits for a lock, and what was let
# through arrives.  Two who ask at once, and a target that goes away meanwhile.
use strict;
use warnings;

use MigrateTiers;
use PostgreSQL::Test::Utils ();
use Test::More;

my ($source, $target) = pair();
sql($_, q(CREATE TABLE item (id int PRIMARY KEY, name text);
	CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
	CREATE TABLE above (id int, v int); CREATE TABLE below (PRIMARY KEY (id)) INHERITS (above))) for $source, $target;
migration($source, 'item', 'part', 'below');
sql($source, q(SELECT migrate_tiers.tag('above', 'ignored'); INSERT INTO below VALUES (1, 1)));
sql($source, q(INSERT INTO item SELECT i, 'item ' || i FROM generate_series(1, 20) i;
	SELECT migrate_tiers.set_option('quiet_period', '0 s')));
advance($source, 'syncing');
wait_synced($source);
sql($source, 'SELECT * FROM migrate_tiers.verify()');
sql($source, q(CALL migrate_tiers.rehearse('dual_write')));
advance($source, $_) for 'dual_write', 'read_target';

# Runs a call in the background; $wait->() returns its outcome.
sub background
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	my $handle = IPC::Run::start([ 'psql', '-XAtq', '-d', $source->connstr('shop'), '-c', $sql ], '>', \$out, '2>', \$err);
	return sub { $handle->finish; return $err; };
}

sub phase_is
{
	my ($phase, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(query($source, 'SELECT phase, transition IS NULL FROM migrate_tiers.status'), "$phase|t", $name);
	return;
}

# A trigger that only has the name keeps no table open: one of another function is refused and stays, one that is less than ours is made anew.
sql($source, q(CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE TRIGGER migrate_tiers_fence BEFORE TRUNCATE ON item EXECUTE FUNCTION nothing();
	CREATE TRIGGER migrate_tiers_fence BEFORE TRUNCATE ON part_1 EXECUTE FUNCTION migrate_tiers.fence('1', '1')));
sql_fails($source, q(CALL migrate_tiers.advance('target_only')), '42710', qr/"migrate_tiers_fence" of table public\.item.*HINT:\s+Drop it or rename it/s, 'a trigger of that name is refused');
phase_is('read_target', 'nothing has begun');
is(query($source, q(SELECT status, hint FROM migrate_tiers.preflight() WHERE check_name = 'source_triggers')),
	'failure|Run ALTER TRIGGER migrate_tiers_fence ON public.item RENAME TO ..., or drop it.', 'preflight finds it, too');
sql($source, q(DROP TRIGGER migrate_tiers_fence ON item));

# The triggers are put on when nobody writes; then a transaction writes, and one is prepared.
my $writer = session($source);
my $blocker = session($source);
sql($source, q(CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN IF NEW.fenced AND NOT OLD.fenced THEN PERFORM pg_advisory_lock_shared(77); END IF; RETURN NEW; END $$;
	CREATE TRIGGER stop_here BEFORE UPDATE ON migrate_tiers.migration FOR EACH ROW EXECUTE FUNCTION stop_here()));
$blocker->query_safe('SELECT pg_advisory_lock(77)');
my $advance = background(q(CALL migrate_tiers.advance('target_only')));
ok(wait_until($source, q(SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted)), 'the fence is on, and about to close');
is(query($source, q(SELECT count(*) FROM pg_trigger WHERE tgname = 'migrate_tiers_fence' AND tgenabled = 'A')), '4', 'on each table and partition');
$writer->query_safe(q(BEGIN; INSERT INTO item VALUES (100, 'was writing')));
my $above = session($source);
$above->query_safe(q(BEGIN; UPDATE above SET v = 9 WHERE id = 1));
sql($source, q(BEGIN; INSERT INTO item VALUES (101, 'was prepared'); PREPARE TRANSACTION 'was'));
sql_fails($source, q(CALL migrate_tiers.advance('target_only')), '55P03', qr/somebody else is changing/, 'the second of two who ask is refused');
sql_fails($source, q(CALL migrate_tiers.revert('dual_write')), '55P03', qr/somebody else is changing/, 'whatever he asks');
$blocker->query_safe('SELECT pg_advisory_unlock(77)');
ok(wait_until($source, q(SELECT fenced FROM migrate_tiers.migration)), 'it closes');
sql_fails($source, q(INSERT INTO item VALUES (102, 'late')), 'MT005', qr/target database.*server "new_db", host 127\.0\.0\.1, port \d+, dbname shop/s, 'who comes now is refused, and told where to go');
sql_fails($source, q(INSERT INTO part_1 VALUES (1)), 'MT005', qr/table public\.part_1/, 'at a partition, too');
sql_fails($source, q(BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; TRUNCATE part), 'MT005', qr/table public\.part /, 'in any transaction');
$writer->query_safe(q(SAVEPOINT s; INSERT INTO item VALUES (103, 'x'); ROLLBACK TO s; UPDATE item SET name = 'goes on' WHERE id = 100));
like(query($source, 'SELECT transition FROM migrate_tiers.status'), qr/^close_source/, 'they are waited for');
$writer->query_safe('COMMIT');
sql($source, q(COMMIT PREPARED 'was'));
is(query($source, q(SELECT string_agg(pid::text, ',') FROM pg_locks WHERE locktype = 'object' AND classid = 'migrate_tiers.relation'::regclass AND mode = 'ShareLock')),
	$above->query_safe('SELECT pg_backend_pid()'), 'and so is who writes a table by its parent');
$above->query_safe(q(UPDATE above SET v = 10 WHERE id = 1; COMMIT));
$above->quit;
is($advance->() =~ s/^NOTICE.*\n|^DETAIL.*\n|^HINT.*\n//mgr, '', 'then it goes on');
phase_is('target_only', 'and arrives');
is(query($target, q(SELECT string_agg(name, ', ' ORDER BY id) FROM item WHERE id > 99)), 'goes on, was prepared', 'with all that was let through');
is(query($target, 'SELECT v FROM below'), '10', 'also by the parent');
sql_fails($source, q(CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200); INSERT INTO part_2 VALUES (100)), 'MT005', qr/part_2/, 'a partition that comes later has the fence');

sql_fails($source, $_, 'MT005', qr/table public\.below/, 'nor is a table written by its parent') for 'UPDATE above SET v = 2', 'DELETE FROM above';

# Nobody takes the fence off unseen.
foreach my $table ('item', 'part_1')
{
	sql_fails($source, "ALTER TABLE $table DISABLE TRIGGER migrate_tiers_fence", 'MT004', qr/the fence of public\.$table was/, "the fence of $table is not disabled");
	sql_fails($source, "SET ROLE postgres; DROP TRIGGER migrate_tiers_fence ON $table", 'MT004', qr/the fence of public\.$table was.*HINT/s, '... nor dropped');
	sql_fails($source, "ALTER TRIGGER migrate_tiers_fence ON $table RENAME TO other", 'MT004', qr/the fence of public\.$table was/, '... nor renamed');
}
sql_fails($source, 'ALTER TABLE item DISABLE TRIGGER ALL', 'MT004', qr/capture trigger.*fence/s, 'and not all triggers at once');
sql($source, q(BEGIN; SET LOCAL migrate_tiers.allow_ddl = on; ALTER TABLE item DISABLE TRIGGER migrate_tiers_fence; INSERT INTO item VALUES (150, 'past it');
	ALTER TABLE item ENABLE ALWAYS TRIGGER migrate_tiers_fence; ROLLBACK));
pass('unless somebody says that he means it');
# A copy would empty the target, which has changes of its own.
sql_fails($source, q(SET migrate_tiers.allow_ddl = on; ALTER TABLE item ADD COLUMN more int), 'MT004',
	qr/cannot be while applications write the target\. Go back first: CALL migrate_tiers\.revert\('read_target'\), then CALL migrate_tiers\.revert\('dual_write'\), then CALL migrate_tiers\.revert\('syncing'\)\./, 'nobody may mean what has a table copied again');

# The worker's own writes pass, and are not sent back.
sql($target, q(CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200); INSERT INTO part VALUES (100); UPDATE item SET name = 'from the target' WHERE id = 1));
ok(wait_until($source, q(SELECT name FROM item WHERE id = 1), 'from the target'), 'what the target writes passes the fence');
ok(wait_until($source, q(SELECT count(*) FROM part_2), '1'), 'also into a new partition');
is(query($source, q(SELECT count(*) FROM migrate_tiers.pending)), '0', 'and does not come back');
revert($source, 'read_target');
is(query($source, q(SELECT count(*) FROM pg_trigger WHERE tgname = 'migrate_tiers_fence')), '0', 'the fence is taken off');
sql($source, q(INSERT INTO part_2 VALUES (101)));

# A writer that does not end: the transition gives up, and the source is open again.
sql($source, q(SELECT migrate_tiers.set_option('attach_timeout', '1 s'); DROP TRIGGER stop_here ON migrate_tiers.migration;
	CREATE TRIGGER stop_here BEFORE UPDATE ON migrate_tiers.migration FOR EACH ROW EXECUTE FUNCTION stop_here()));
$blocker->query_safe('SELECT pg_advisory_lock(77)');
$advance = background(q(CALL migrate_tiers.advance('target_only')));
wait_until($source, q(SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted));
$writer->query_safe(q(SET application_name = 'patient'; BEGIN; UPDATE item SET name = 'still' WHERE id = 2));
$blocker->query_safe('SELECT pg_advisory_unlock(77)');
like($advance->(), qr/ERROR:  transactions that write the source have not ended.*DETAIL:  They are: pid \d+ \(patient, idle in transaction/s, 'who does not end is named');
sql($source, q(UPDATE item SET name = 'open' WHERE id = 3));
is(query($source, 'SELECT fenced, phase FROM migrate_tiers.migration'), 'f|read_target', 'and the source is open as it was');
$writer->query_safe('COMMIT');
sql($source, q(CALL migrate_tiers.revert('read_target'))) if query($source, 'SELECT transition IS NULL FROM migrate_tiers.status') ne 't';
phase_is('read_target', 'once the writer has ended, so are its triggers');

# A target that goes away when the source has just been closed.
$blocker->query_safe('SELECT pg_advisory_lock(77)');
$advance = background(q(CALL migrate_tiers.advance('target_only')));
wait_until($source, q(SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted));
sql($source, q(INSERT INTO item VALUES (200, 'on the way')));
$target->stop('immediate');
$blocker->query_safe('SELECT pg_advisory_unlock(77)');
my $err = $advance->();
like($err, qr/ERROR: /, 'the transition fails');
like($err, qr/WARNING:  the target of migration "shop" could not be told of phase read_target/, 'it is undone all the same, and says so');
phase_is('read_target', 'it is undone');
sql($source, q(INSERT INTO item VALUES (202, 'alone')));
pass('and the source is written as before');
$target->start;
sql($source, 'SELECT migrate_tiers.start_workers()');
sql($source, q(INSERT INTO item VALUES (201, 'and on')));
ok(wait_until($target, q(SELECT count(*) FROM item WHERE id IN (200, 201, 202)), '3'), 'nothing is lost');
wait_synced($source);
sql($source, q(SELECT migrate_tiers.set_option('attach_timeout', NULL)));
ok(wait_until($source, q(SELECT bool_and(passed) FROM migrate_tiers.gates('target_only'))), 'the gates pass again');
advance($source, 'target_only');

# A target that is gone does not keep the source closed, whatever it had not sent: as far as dual_write.
sql($source, q(SELECT migrate_tiers.set_option('max_lag', '1 s')));
$target->stop('immediate');
sql_fails($source, q(INSERT INTO item VALUES (210, 'x')), 'MT005', qr/revert\('read_target'\)/, 'the source is closed, and says how it opens');
ok(wait_until($source, q(SELECT reverse_lag > '1 s' FROM migrate_tiers.status)), 'what the target has not sent is not known');
like(query($source, q(SELECT passed, detail FROM migrate_tiers.gates('read_target') WHERE gate = 'reverse_lag')), qr/^t\|the target cannot be reached/, 'that does not bar the way back');
my ($status, $out, $told) = $source->psql('shop', q(CALL migrate_tiers.revert('read_target')));
like($told, qr/WARNING:  the target.*DETAIL:  The source has what was committed there until 20\d\d-.*lost with it otherwise/s, 'it warns of what may be lost');
phase_is('read_target', 'and goes back');
sql($source, q(INSERT INTO item VALUES (211, 'without a target')));
is(query($source, q(SELECT count(*) FROM pg_trigger WHERE tgname = 'migrate_tiers_fence')), '0', 'the source is open for good');
($status, $out, $told) = $source->psql('shop', q(CALL migrate_tiers.revert('dual_write')));
phase_is('dual_write', 'reads go back to it, too');
$target->start;
sql($source, 'SELECT migrate_tiers.start_workers()');
ok(wait_until($target, q(SELECT count(*) FROM item WHERE id = 211), '1'), 'a target that comes back is in sync again');
ok(wait_until($source, q(SELECT bool_and(passed) FROM migrate_tiers.gates('read_target') WHERE gate <> 'verified')), 'and lets it go on');
sql($source, q(SELECT migrate_tiers.set_option('max_lag', NULL); SELECT * FROM migrate_tiers.verify()));
for my $to ('read_target', 'target_only')
{
	ok(wait_until($source, "SELECT bool_and(passed) FROM migrate_tiers.gates('$to')"), "the gates to $to pass");
	advance($source, $to);
	is(query($target, 'SELECT phase FROM migrate_tiers.migration'), $to, 'the target is told again');
}

# A dump that is taken meanwhile holds the triggers, but no migration: what is restored from it is a database like any other.
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$_->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template0') for $source, $target;
PostgreSQL::Test::Utils::system_or_bail('pg_dump', '-f', $dump, $source->connstr('shop'));
PostgreSQL::Test::Utils::system_or_bail('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', $dump, $source->connstr('copy'));
is(query($source, q(SELECT count(*) > 5 FROM pg_trigger WHERE tgname LIKE 'migrate%'), dbname => 'copy'), 't', 'a restored database has the triggers');
my $there = session($source, dbname => 'copy');
$there->query_safe('INSERT INTO item VALUES (500, 1); UPDATE item SET id = 501 WHERE id = 500; DELETE FROM below;
	INSERT INTO part VALUES (50); TRUNCATE part');
is($there->query_safe('SELECT id FROM item WHERE id > 490'), '501', '... and is written all the same');
# A migration of it is captured, also from a session that knew of none, and by triggers that were there.
sql($target, 'CREATE TABLE item (id int PRIMARY KEY, name text)', dbname => 'copy');
sql($source, q(ALTER SERVER new_db OPTIONS (SET dbname 'copy'); SELECT migrate_tiers.create_migration('again', 'new_db');
	SELECT * FROM migrate_tiers.tag_schema('public', 'ignored'); SELECT migrate_tiers.tag('item', 'realtime')), dbname => 'copy');
$there->query_safe('INSERT INTO item VALUES (502, 2); INSERT INTO part VALUES (51)');
sql($source, q(CALL migrate_tiers.advance('syncing')), dbname => 'copy');
$there->query_safe('INSERT INTO item VALUES (503, 3)');
sql($source, 'SELECT migrate_tiers.wait_for_sync()', dbname => 'copy');
is(query($target, q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM item WHERE id > 490), dbname => 'copy'), '501 502 503', 'a migration of it works');
$there->query_safe('INSERT INTO part VALUES (52); TRUNCATE part');
sql($source, q(INSERT INTO part VALUES (53); DELETE FROM below; SELECT migrate_tiers.wait_for_sync()), dbname => 'copy');
is(query($source, q(SELECT (SELECT count(*) FROM part), (SELECT stopped FROM migrate_tiers.status)), dbname => 'copy'), '1|',
	'tables that it does not capture are written, whatever triggers are left on them');
sql($source, q(CALL migrate_tiers.revert('planned'); SELECT migrate_tiers.drop_migration()), dbname => 'copy');
$there->query_safe('INSERT INTO part VALUES (54)');
$there->quit;
sql($source, 'SET client_min_messages = warning; DROP EXTENSION migrate_tiers CASCADE', dbname => 'copy');
is(query($source, q(SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'migrate%'), dbname => 'copy'), '0', 'without the extension nothing is left there');

# What cannot be dropped, and how it can.
sql_fails($source, 'SELECT migrate_tiers.drop_migration()', 'MT003', qr/advance\('finished'\).*forget_target/s, 'target_only is not dropped by the way');
sql($source, q(SELECT migrate_tiers.set_option('forget_target', 'on')));
MigrateTiers::give_up($source, $target);
is(query($_, q(SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'migrate%')), '0', 'unless it is said so') for $source, $target;
is(query($target, q(SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_tiers')), '0', 'and nothing is left');
sql($source, q(INSERT INTO item VALUES (300, 'free')));

$_->quit for $writer, $blocker;
finish($source, $target);
done_testing();
