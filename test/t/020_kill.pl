# Processes are killed at random moments of copy and of sync, under traffic; both
# sides end equal.
#
# MT_SEED repeats the choices of a run (not its timing), MT_KILLS says how many
# kills there are.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{MT_SEED} // (time ^ $$) % 1_000_000;
my $kills = $ENV{MT_KILLS} // 32;
srand $seed;
diag "MT_SEED=$seed MT_KILLS=$kills";

my $pair = MigrateTiers::Pair->new('kill', source_conf => 'restart_after_crash = on');
my ($source, $target) = ($pair->source, $pair->target);
my $rows = 20000;

$pair->both_sql(<<'SQL');
CREATE TABLE account (id int PRIMARY KEY, v int NOT NULL, n int UNIQUE, pad text);
CREATE TABLE entry (id bigint, at int, account int, v int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE entry_1 PARTITION OF entry FOR VALUES FROM (0) TO (500);
CREATE TABLE entry_2 PARTITION OF entry FOR VALUES FROM (500) TO (1000);
CREATE TABLE scratch (id int PRIMARY KEY, v text);
CREATE TABLE child (id int PRIMARY KEY, account int REFERENCES account ON DELETE CASCADE ON UPDATE CASCADE);
SQL
$pair->source_sql(<<"SQL");
CREATE SEQUENCE entry_id;
INSERT INTO account SELECT i, 0, i, repeat(md5(i::text), 8) FROM generate_series(1, $rows) i;
INSERT INTO entry SELECT nextval('entry_id'), i % 1000, i, 0 FROM generate_series(1, $rows) i;
INSERT INTO scratch SELECT i, 'first' FROM generate_series(1, 1000) i;
INSERT INTO child SELECT i, i FROM generate_series(1, $rows / 2) i;
SQL
$pair->declare;
$pair->set_option('chunk_size', '256kB');
$pair->set_option('copy_rate', '250000');

my $script = PostgreSQL::Test::Utils::tempdir() . '/traffic.sql';
append_to_file($script, <<"SQL");
\\set id random(1, $rows)
\\set other random(1, $rows)
\\set what random(1, 12)
\\set at random(0, 999)
SET lock_timeout = '2s';
BEGIN;
UPDATE account SET v = v + 1 WHERE id = :id;
INSERT INTO entry VALUES (nextval('entry_id'), :at, :id, 1);
\\if :what = 1
SAVEPOINT a;
UPDATE account SET v = v + 100 WHERE id BETWEEN :other AND :other + 1000;
ROLLBACK TO a;
\\elif :what = 2
DELETE FROM account WHERE id = :other;
\\elif :what = 3
INSERT INTO account SELECT :other, 1, :other, repeat('new', 80) WHERE NOT EXISTS (SELECT FROM account WHERE id = :other OR n = :other);
\\elif :what = 4 and :other % 20 = 0
TRUNCATE scratch;
INSERT INTO scratch SELECT i, :id FROM generate_series(1, 50) i;
\\elif :what = 5
UPDATE entry SET at = (at + 500) % 1000 WHERE id = :other;
\\elif :what = 6
UPDATE account SET n = -n WHERE id IN (:id, :other);
\\elif :what = 7
UPDATE account SET id = id + 100000 WHERE id = :other AND id <= $rows;
\\endif
\\if :what = 8
PREPARE TRANSACTION 'p:id:other:at';
COMMIT PREPARED 'p:id:other:at';
\\else
COMMIT;
\\endif
SQL

my $stop_file = PostgreSQL::Test::Utils::tempdir() . '/stop';
my $traffic = start_traffic();
END { local $?; kill 'TERM', $traffic if defined $traffic && $traffic > 0; }

$pair->advance;
$pair->wait_until(source => q{SELECT bool_or(state = 'copying') FROM migrate_tiers.tables}) or die 'the copy does not begin';

my %done;
my $in_copy = kill_while(sub { $pair->source_pinned(q{SELECT bool_or(state IN ('copying', 'recopy')) FROM migrate_tiers.tables}) eq 't' }, $kills / 2);
cmp_ok($in_copy, '>=', $kills / 4, "kills in mid-copy: $in_copy");
$pair->set_option('copy_rate', '0');
ok($pair->wait_until(source => q{SELECT bool_and(state = 'syncing') FROM migrate_tiers.tables}, timeout => 60), 'the copy ends');
my $in_sync = kill_while(sub { 1 }, $kills - $in_copy);
is($in_copy + $in_sync, $kills, "kills in all: $kills (" . join(', ', map { "$_ $done{$_}" } sort keys %done) . ')');

append_to_file($stop_file, 'stop');
waitpid $traffic, 0;
$traffic = 0;
is($?, 0, 'traffic ran to the end');
for my $id (split /\n/, $pair->source_pinned('SELECT gid FROM pg_prepared_xacts'))
{
	$pair->source_pinned("COMMIT PREPARED '$id'");
}
$pair->source_pinned('SELECT migrate_tiers.start_workers()');
$pair->sync(60);
cmp_ok($pair->source_pinned('SELECT sum(v) FROM account'), '>', 100, 'there was traffic');
$pair->equal("equal after $kills kills (MT_SEED=$seed)");
ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'nothing is stopped');
is($pair->source_pinned(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers sync'}), '1', 'one worker');
ok($pair->wait_until(target => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'}), 'no transaction was left open on the target');
$pair->finish(crashes => 1);
done_testing();

# start_traffic is a process that writes until it is told to stop, whatever fails.
sub start_traffic
{
	my @pgbench = ('pgbench', '-n', '-c', 3, '-R', 60, '-T', 2, '-f', $script, '-h', $source->host, '-p', $source->port, 'shop');
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	open STDOUT, '>', '/dev/null';
	open STDERR, '>', '/dev/null';
	while (!-e $stop_file)
	{
		system @pgbench;
		sleep 0.1;
	}
	POSIX::_exit(0);
}

# kill_while kills one after the other while the condition holds; how many.
sub kill_while
{
	my ($condition, $most) = @_;
	my $n = 0;
	while ($n < $most)
	{
		sleep 0.05 + rand 0.7;
		my @victims = ('sync', 'sync', 'copy', 'backend', 'target backend', 'source', 'target');
		my $victim = $victims[ rand @victims ];
		my $still = eval { $condition->() };
		last if defined $still && !$still;
		if (my $killed = kill_one($victim))
		{
			$done{$killed}++;
			$n++;
			note "kill $n: $killed";
		}
		recover();
	}
	return $n;
}

sub kill_one
{
	my ($victim) = @_;
	if ($victim eq 'source' || $victim eq 'target')
	{
		my $node = $pair->{$victim};
		kill_postmaster($node);
		return "postmaster of the $victim";
	}
	my $pid = pid_of($victim) or return;
	kill 'KILL', $pid or return;
	return $victim;
}

sub pid_of
{
	my ($victim) = @_;
	return $pair->worker_pid($victim) if $victim eq 'sync' || $victim eq 'copy';
	my $side = $victim eq 'backend' ? 'source' : 'target';
	my (undef, $pid) = MigrateTiers::Psql::ask($pair->{$side}, 'shop', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'test' ORDER BY random() LIMIT 1});
	return $pid;
}

# kill_postmaster kills it with none of its children told, waits until they saw it, starts it again.
sub kill_postmaster
{
	my ($node) = @_;
	my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my @children = split ' ', slurp_file("/proc/$pid/task/$pid/children");
	die "no children of $pid" if !@children;
	$node->kill9;
	MigrateTiers::wait_for(sub { !grep { kill 0, $_ } $pid, @children }, 30);
	# A start that fails leaves behind the process that it took for the server.
	MigrateTiers::wait_for(sub { $node->{_pid} = undef; return $node->start(fail_ok => 1) }, 30) or BAIL_OUT('server does not start again: ' . $node->name);
	return;
}

# recover waits until both sides accept connections, new ones, and the worker is back.
sub recover
{
	MigrateTiers::Psql::forget($pair->{$_}) for qw(source target);
	$pair->wait_until($_ => 'SELECT true', timeout => 30) or BAIL_OUT("the $_ does not come back") for qw(source target);
	$pair->wait_until(source => q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers sync' AND datname = 'shop'}, timeout => 30)
	  or do { fail('the worker comes back'); diag $pair->status('to_jsonb(status)'); };
	return;
}
