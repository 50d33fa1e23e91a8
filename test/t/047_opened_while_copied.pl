# The target is not opened while a table is being copied again, whenever that began: between a call that was cut
# off and the next, during the call, or by a transaction that found the queue full and ended late.
use strict;
use warnings;

use IPC::Run;
use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
sql($_, q(CREATE TABLE item (id int PRIMARY KEY, v text); CREATE ROLE app LOGIN; GRANT ALL ON item TO app)) for $source, $target;
migration($source, 'item');
sql($source, q(INSERT INTO item SELECT i, repeat('x', 500) FROM generate_series(1, 6000) i;
	SELECT migrate_tiers.set_option('quiet_period', '0 s'), migrate_tiers.set_option('max_age', '1 day')));
advance($source, 'syncing');
ready();

# A call that is cut off, and one that goes on: both wait for a lock on the target meanwhile.
for my $cut (1, 0)
{
	my $advance = held_up();
	if ($cut)
	{
		sql($source, q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^CALL migrate_tiers.advance'));
		like($advance->(), qr/terminating connection/, 'advance is cut off');
	}
	fill();
	free();
	like($advance->(), qr/ERROR:  migration "shop" cannot go to phase dual_write yet.*Changes of table public.item were not noted/s, 'it ends before the target is open') if !$cut;
	sql($source, q(SELECT migrate_tiers.set_option('queue_limit', NULL), migrate_tiers.set_option('copy_rate', '300kB'), migrate_tiers.resume()));
	if ($cut)
	{
		ok(wait_until($source, q(SELECT state FROM migrate_tiers.tables), 'copying'), 'the table is copied again');
		sql_fails($source, q(CALL migrate_tiers.advance('dual_write')), 'MT001', qr/Gate copied: public\.item is in state copying/, 'the next call examines the gates');
		isnt(query($source, 'SELECT transition FROM migrate_tiers.status'), '', 'and stays as it was');
		revert($source, 'syncing');
	}
	closed();
	sql($source, q(SELECT migrate_tiers.set_option('copy_rate', NULL)));
	ready();
}

# A transaction that has dropped its notes, and says so when the call is past its gates.
sql($source, q(SELECT migrate_tiers.pause(); UPDATE item SET v = 'sent'; SELECT migrate_tiers.set_option('queue_limit', '16kB')));
my $writer = session($source);
$writer->query_safe(q(BEGIN; UPDATE item SET v = 'late'));
is($writer->query_safe(q(SELECT count(*) FROM migrate_tiers.disarmed)), '1', 'a transaction finds the queue full');
sql($source, q(SELECT migrate_tiers.set_option('queue_limit', NULL), migrate_tiers.resume()));
ready();
my $advance = background();
ok(wait_until($source, q(SELECT transition ~ '^await_both_ways' FROM migrate_tiers.status)), 'the target is about to be opened');
$writer->query_safe('COMMIT');
like($advance->(), qr/ERROR:  migration "shop" cannot go to phase dual_write yet.*Changes of table public.item were not noted/s, 'who ends late is waited for');
closed();
ready();

# From the moment when the worker looks for conflicts, nothing is dropped any more.
sql($source, q(CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN IF NEW.steps -> -1 ->> 'step' = 'await_both_ways' THEN PERFORM pg_advisory_lock_shared(47); END IF; RETURN NEW; END $$;
	CREATE TRIGGER stop_here BEFORE UPDATE ON migrate_tiers.transition FOR EACH ROW EXECUTE FUNCTION stop_here();
	SELECT migrate_tiers.set_option('queue_limit', '64kB')));
my $blocker = session($source);
$blocker->query_safe('SELECT pg_advisory_lock(47)');
$advance = background();
ok(wait_until($source, q(SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 47 AND NOT granted)), 'both ways, and still closed');
sql($source, "UPDATE item SET v = 'kept $_'") for 1 .. 5;
is(query($source, q(SELECT state, (SELECT count(*) FROM migrate_tiers.disarmed) FROM migrate_tiers.tables)), 'syncing|0', 'a queue past its limit drops nothing');
$blocker->query_safe('SELECT pg_advisory_unlock(47)');
unlike($advance->(), qr/ERROR/, 'the target is opened');
wait_synced($source);
sql($target, q(UPDATE item SET v = 'there' WHERE id = 7), as => 'app');
ok(wait_until($source, q(SELECT v FROM item WHERE id = 7), 'there'), 'what is written there arrives');
tables_equal($source, $target, 'item');

$_->quit for $writer, $blocker;
finish($source, $target);
done_testing();

sub ready
{
	wait_synced($source);
	sql($source, 'SELECT * FROM migrate_tiers.verify()');
	wait_until($source, q(SELECT bool_and(passed) FROM migrate_tiers.gates('dual_write'))) or die 'the gates stay closed';
	return;
}

# background begins to advance; the function returned waits, and gives what it said.
sub background
{
	my ($out, $err) = ('', '');
	my $handle = IPC::Run::start([ 'psql', '-XAtq', '-d', $source->connstr('shop'), '-c', q(CALL migrate_tiers.advance('dual_write')) ], '>', \$out, '2>', \$err);
	return sub { $handle->finish; return $err; };
}

# held_up begins to advance, and has it wait in the middle until free().
my $holder;

sub held_up
{
	$holder = session($target);
	$holder->query_safe('BEGIN; LOCK TABLE item IN ROW EXCLUSIVE MODE');
	my $begun = background();
	ok(wait_until($source, q(SELECT transition ~ '^install_reverse' FROM migrate_tiers.status)), 'advance waits for a lock on the target');
	return $begun;
}

sub free { $holder->query_safe('COMMIT'); $holder->quit; return; }

# fill writes until changes are not noted any more; nobody sends meanwhile.
sub fill
{
	sql($source, q(UPDATE migrate_tiers.migration SET paused = true; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers sync'));
	sql($source, q(UPDATE migrate_tiers.migration SET queue_limit = 65536));
	for (1 .. 20)
	{
		sql($source, 'UPDATE item SET v = v');
		last if query($source, 'SELECT count(*) FROM migrate_tiers.disarmed') > 0;
	}
	return;
}

sub closed
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(query($source, 'SELECT phase, transition IS NULL, (SELECT reversing FROM migrate_tiers.migration) FROM migrate_tiers.status'), 'syncing|t|f', 'the phase is the one it was');
	return sql_fails($target, 'UPDATE item SET v = 1', 'MT005', qr/source database/, 'and the target is closed', as => 'app');
}
