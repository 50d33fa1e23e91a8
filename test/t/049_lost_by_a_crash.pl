# What is committed with synchronous_commit = off is seen by others before it is on disk, and a crash takes it back. The
# target is not to have been told anything that rests on it: neither by the copy, nor by a change of phase.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $pair = MigrateTiers::Pair->new('lost', source_conf => "synchronous_commit = off\nmigrate_tiers.lock_timeout = '60 s'");
my $source = $pair->source;
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text)');
$pair->source_sql(q{INSERT INTO item SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i});
$pair->declare;
$pair->set_option(@$_) for [ copy_workers => 1 ], [ copy_rate => 150000 ], [ chunk_size => '64kB' ];

# stopped: processes of the source that do nothing from here on; first of all who writes the log behind other backs.
sub stopped
{
	my @types = map { "'$_'" } 'walwriter', @_;
	my @pids = split /\n/, $pair->source_sql('SELECT pid FROM pg_stat_activity WHERE backend_type IN (' . join(', ', @types) . ')');
	kill 'STOP', @pids;
	return @pids;
}

# crash: the source loses what is in memory only, and comes back.
sub crash
{
	my $log = -s $source->logfile;
	kill 'KILL', @_;
	ok(MigrateTiers::wait_for(sub { slurp_file($source->logfile, $log) =~ /ready to accept connections/ }), 'the source comes back');
	$pair->source_sql('SELECT migrate_tiers.start_workers()');
	return;
}

sub standby
{
	my ($name) = @_;
	$pair->target_sql("ALTER SYSTEM SET synchronous_standby_names = '$name';\nSELECT pg_reload_conf()");
	return;
}

subtest 'a row that a chunk did not see' => sub {
	$pair->advance;
	ok($pair->wait_until(target => 'SELECT EXISTS (SELECT FROM item)'), 'the copy has begun');
	my $application = MigrateTiers::session($source);
	$application->query_safe(q{BEGIN; LOCK TABLE item; UPDATE item SET v = 'lost' WHERE id % 10 = 0});
	ok($pair->wait_until(source => q{SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE backend_type = 'migrate_tiers copy' AND NOT granted)}), 'the next chunk comes after it');
	# The target's commit is done there, and then waits.
	standby('nobody');
	my @pids = stopped('migrate_tiers sync');
	$application->query_safe('COMMIT');
	ok($pair->wait_until(target => q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')}), 'the target has the chunk');
	crash(@pids);
	eval { $application->quit };
	standby('');
	$pair->set_option('copy_rate', '0');
	$pair->sync;
	$pair->equal('both sides are equal');
};

subtest 'a change of phase' => sub {
	$pair->source_sql('SELECT count(*) FROM migrate_tiers.verify()');
	my @pids = stopped();
	$pair->advance('dual_write');
	crash(@pids);
	is($pair->source_sql('SELECT phase, reversing, transition IS NULL FROM migrate_tiers.migration'), 'dual_write|t|t', 'is not taken back');
};

# What a failover to a standby that lags takes back all the same.
subtest 'a target that is open already' => sub {
	$pair->target_sql(q{INSERT INTO item VALUES (5000, 'meanwhile')});
	$pair->sync_back;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->target_sql(q{INSERT INTO item VALUES (5001, 'not sent')});
	$pair->source_sql(q{UPDATE migrate_tiers.migration SET phase = 'syncing', reversing = false; DELETE FROM migrate_tiers.reverse_mark; SELECT migrate_tiers.resume()});
	# To empty the table late would take what forward sync has brought there since, as here after a step that failed.
	$pair->target_sql('TRUNCATE item');
	$pair->source_sql(q{INSERT INTO item VALUES (5002, 'forward'); SELECT migrate_tiers.wait_for_sync()});
	$pair->target_sql(q{INSERT INTO item VALUES (5001, 'not sent')});
	$pair->advance('dual_write');
	$pair->sync_back;
	is($pair->source_sql('SELECT string_agg(id::text, chr(32) ORDER BY id) FROM item WHERE id > 5000'), '5001 5002', 'what was written there is sent back, and what came from here stays');
	is($pair->source_sql('SELECT string_agg(name, chr(32)) FROM migrate_tiers.uncaptured'), 'item', 'what that leaves is for a verification');
};

$pair->finish(crashes => 1);
done_testing();
