# A target that stalls in the middle of a chunk, a tick or a push: a TRUNCATE of the source, and who queues behind it,
# does not wait for it. What was given up while its COMMIT was under way comes late, and both sides end equal.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('stalled');
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE later (id int PRIMARY KEY, v text); CREATE SCHEMA derived; CREATE TABLE derived.summary (id int PRIMARY KEY, v text)');
$pair->source_sql(q{INSERT INTO item SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i; INSERT INTO later SELECT i, repeat('y', 500) FROM generate_series(1, 2000) i; INSERT INTO derived.summary VALUES (1, 'one')});
$pair->declare;
$pair->source_sql(q{SELECT migrate_tiers.tag('derived.summary', 'batch')});

sub is_locked
{
	my ($table, $worker, %options) = @_;
	return $pair->wait_until(
		source => "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = '$table'::regclass AND backend_type = 'migrate_tiers $worker')",
		%options);
}

# Truncates a table that a worker of ours has locked.
sub truncates
{
	my ($table, $worker) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(is_locked($table, $worker), 'the table is locked by the worker');
	my ($went, undef, $error) = $pair->source_try("SET statement_timeout = '5 s'; TRUNCATE $table; INSERT INTO $table VALUES (1, 'new')");
	return ok($went, 'a TRUNCATE does not wait for the target') || diag $error;
}

# Has the target's commits wait for a standby that does not exist, or no longer.
sub standby
{
	my ($name) = @_;
	$pair->target_sql("ALTER SYSTEM SET synchronous_standby_names = '$name';\nSELECT pg_reload_conf()");
	return;
}

# Stops the target's server process of a chunk of the table while its COMMIT is under way.
sub stopped_in_commit
{
	my ($table) = @_;
	my $copying = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid IN (SELECT pid FROM pg_locks WHERE relation = '$table'::regclass)";
	standby('nobody');
	ok($pair->wait_until(target => "SELECT EXISTS (SELECT $copying)"), 'a chunk waits for the standby');
	my $pid = $pair->target_sql("SELECT pid $copying");
	kill 'STOP', $pid;
	standby('');
	return $pid;
}

subtest 'a chunk' => sub {
	# With its key in place a table could join before what is on its way is there.
	$pair->set_option('defer_indexes', 'off');
	$pair->set_option('copy_workers', '1');
	$pair->set_option('copy_rate', '150000');
	$pair->set_option('chunk_size', '64kB');
	$pair->advance;
	ok($pair->wait_until(target => 'SELECT EXISTS (SELECT FROM item)'), 'the copy has begun');
	my $pid = stopped_in_commit('item');
	truncates('item', 'copy');
	ok( $pair->wait_until(
			target => q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'migrate_tiers\.chunk .* FOR UPDATE')}),
		'the table does not join before the chunk is there or not');
	kill 'CONT', $pid;
};

# It waits for whoever has an older snapshot, whatever table that reads.
subtest 'a chunk, and an index that is built without stopping writers' => sub {
	ok($pair->wait_until(target => 'SELECT EXISTS (SELECT FROM later)'), 'the copy has come to the next table');
	my $pid = stopped_in_commit('later');
	my ($went, undef, $error) = $pair->source_try("SET statement_timeout = '5 s';\nCREATE INDEX CONCURRENTLY ON later (v);");
	ok($went, 'the index does not wait for the target') || diag $error;
	kill 'CONT', $pid;
	$pair->set_option('copy_rate', '0');
	$pair->sync;
	$pair->equal('equal after both chunks have come');
};

subtest 'a tick' => sub {
	my $pid;
	# A stop that comes between two ticks, while the worker asks something else, holds nothing: then the next one does.
	for my $try (1 .. 10)
	{
		$pid = $pair->target_sql(q{SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1297370963});
		kill 'STOP', $pid;
		$pair->source_sql(q{UPDATE item SET v = 'changed'});
		last if is_locked('item', 'sync', timeout => 3, quiet => 1);
		note $pair->source_sql(q{SELECT string_agg(backend_type || ' ' || coalesce(wait_event, '-'), ', ') FROM pg_stat_activity WHERE backend_type ~ 'migrate'});
		kill 'CONT', $pid;
		$pair->sync;
	}
	truncates('item', 'sync');
	kill 'CONT', $pid;
	$pair->sync;
	$pair->equal('equal after the tick was run again');
};

subtest 'a push' => sub {
	$pair->target_sql(q{
		CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
		CREATE TRIGGER stall BEFORE INSERT ON derived.summary FOR EACH ROW EXECUTE FUNCTION stall();
		ALTER TABLE derived.summary ENABLE ALWAYS TRIGGER stall});
	my $push = MigrateTiers::session($pair->source);
	$push->query_until(qr/begun/, "\\set ON_ERROR_STOP 0\n\\echo begun\nSELECT migrate_tiers.push_batch('derived.summary');\n");
	truncates('derived.summary', 'batch');
	$push->quit;
	like($pair->source_sql('SELECT error FROM migrate_tiers.batches'), qr/^55P03: the target is silent/, 'the push says why it ended');
	$pair->target_sql('DROP TRIGGER stall ON derived.summary');
	$pair->source_sql(q{SELECT migrate_tiers.push_batch('derived.summary')});
	is($pair->target_sql('SELECT v FROM derived.summary'), 'new', 'the next one passes');
};

# Sessions that began before that was said, and others.
subtest 'a synchronous standby that is down, of either side' => sub {
	my @sql = map { "ALTER SYSTEM SET synchronous_$_;\n" } q{standby_names = 'nobody'}, 'commit = local';
	$pair->both_sql(join '', reverse(@sql), "SELECT pg_reload_conf()");
	ok($pair->wait_until($_ => q{SELECT setting = 'local' FROM pg_settings WHERE name = 'synchronous_commit'}), 'applications do not wait for it') for qw(source target);
	$pair->source_sql(q{UPDATE item SET v = 'free'; UPDATE derived.summary SET v = 'free'; SELECT migrate_tiers.push_batch('derived.summary')});
	$pair->sync(10);
	$pair->equal('a tick comes, too');
	is($pair->target_sql('SELECT v FROM derived.summary'), 'free', 'and a push');
};

$pair->finish;
done_testing();
