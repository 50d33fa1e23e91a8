# Readers of the receiver see whole snapshots only, while pushes go on and
# processes of either side are killed at random moments; the next push succeeds.
#
# MT_SEED repeats the choices of a run (not its timing), MT_KILLS says how many kills there are.
use strict;
use warnings;

use MigrateTiers;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{MT_SEED} // (time ^ $$) % 1_000_000;
my $kills = $ENV{MT_KILLS} // 30;
srand $seed;
diag "MT_SEED=$seed MT_KILLS=$kills";

my ($source, $target) = pair(name => 'push_kill');
sql($_, 'CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE seen (generation int, rows bigint, total bigint); '
	  . 'CREATE TABLE board (id int PRIMARY KEY, generation int, v bigint, pad text)') for $source, $target;
migration($source, 'item');
sql($source, q{SELECT migrate_tiers.tag('board', 'batch'), migrate_tiers.tag('seen', 'ignored')});
advance($source, 'syncing');
sql($source, q{INSERT INTO board SELECT i, 0, i, repeat('x', 100) FROM generate_series(1, 60000) i; ANALYZE board; INSERT INTO seen SELECT 0, count(*), sum(v) FROM board});
my $generation = 0;

# Fifty pushes under the eyes of a reader, in both modes that rewrite.
sql($source, q{SELECT migrate_tiers.push_batch('board')});
my $reader = start_reader();
for my $n (1 .. 50)
{
	sql($source, "SELECT migrate_tiers.batch_policy('board', mode => '" . ($n % 5 ? 'diff' : 'replace') . "')");
	next_generation();
	sql($source, q{SELECT migrate_tiers.push_batch('board')});
}
my ($reads, $different) = stop_reader($reader);
cmp_ok($reads, '>', 50, "a reader looked $reads times");
cmp_ok($different, '>', 5, "and saw $different snapshots");
is(unknown(), '', 'each of them one that the source had');

# Kills.
my %done;
$reader = start_reader();
for my $n (1 .. $kills)
{
	my $mode = rand() < 0.5 ? 'diff' : 'replace';
	sql($source, "SELECT migrate_tiers.batch_policy('board', mode => '$mode')");
	next_generation();
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		exec 'psql', '-Xq', '-h', $source->host, '-p', $source->port, 'shop', '-c', q{SELECT migrate_tiers.push_batch('board')};
	}
	sleep rand(1.2);
	my $what = ('worker', 'session', 'target')[int rand 3];
	if ($n % 10 == 0)
	{
		$what = $n % 20 ? 'target server' : 'source server';
		my $node = $n % 20 ? $target : $source;
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		my ($node, $condition) = $what eq 'worker' ? ($source, q{backend_type = 'migrate_tiers batch'}) :
		  $what eq 'session' ? ($source, q{query ~ 'push_batch' AND pid <> pg_backend_pid()}) :
		  ($target, q{application_name = 'migrate_tiers' AND pid <> pg_backend_pid()});
		$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $condition");
	}
	$done{$what}++;
	waitpid $pid, 0;
	ok(wait_for(sub { snapshot($target) =~ /^\d/ && known(snapshot($target)) }, 30), "after kill $n ($what) the receiver holds one whole snapshot")
	  or diag snapshot($target);
}
stop_reader($reader);
is(unknown(), '', 'no reader saw another');
ok(wait_for(sub { my ($status) = $source->psql('shop', q{SELECT migrate_tiers.push_batch('board')}); return $status == 0; }, 60), 'the next push succeeds');
tables_equal($source, $target, 'board');
cmp_ok(sql($source, q{SELECT count(*) FROM migrate_tiers.batches WHERE error IS NOT NULL}), '>', 0, 'pushes were cut off: ' . join ', ', map { "$_ $done{$_}" } sort keys %done);
is(sql($source, q{SELECT count(*) FROM migrate_tiers.batches WHERE finished IS NULL}), '0', 'each is noted to its end');
is(sql($target, q{SELECT count(*) FROM pg_class WHERE relname LIKE 'stage%'}), '0', 'no stage is left');

# A push that is cut off goes on at the last range that it brought.
sql($source, q{SELECT migrate_tiers.batch_policy('board', mode => 'diff')});
sql($source, q{SELECT migrate_tiers.set_option('copy_rate', '1000000')});
next_generation();
my $push = fork // die "fork: $!";
if (!$push)
{
	open STDERR, '>', '/dev/null';
	exec 'psql', '-XqAt', '-o', '/dev/null', '-h', $source->host, '-p', $source->port, 'shop', '-c', q{SELECT migrate_tiers.push_batch('board')};
}
ok(wait_until($target, q{SELECT xpath('/table/row/n/text()', query_to_xml((SELECT 'SELECT count(*) >= 30000 AS n FROM ' || oid::regclass FROM pg_class WHERE relkind = 'r' AND relname LIKE 'stage%'), true, false, ''))::text}, '{true}'), 'half of the ranges are there');
$source->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers batch'});
waitpid $push, 0;
isnt($?, 0, 'who asked for it is told');
sql($source, q{SELECT migrate_tiers.set_option('copy_rate', NULL), migrate_tiers.push_batch('board')});
cmp_ok(sql($source, q{SELECT bytes FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1}), '<', 60000 * 134 * 0.6, 'the rest is sent, no more');
tables_equal($source, $target, 'board', 'and all is there');

finish({ crashes => 1 }, $source, $target);
done_testing();

# Another state of the source: every row changes, some come, some go; what it is is kept on both sides.
sub next_generation
{
	$generation++;
	my $drop = 1 + int rand 60000;
	sql($source, "BEGIN; UPDATE board SET generation = $generation, v = v + id % 7; DELETE FROM board WHERE id = $drop; "
		  . "INSERT INTO seen SELECT $generation, count(*), sum(v) FROM board; COMMIT");
	return;
}

sub snapshot
{
	my ($node) = @_;
	my ($status, $out) = $node->psql('shop', q{SELECT min(generation), max(generation), count(*), sum(v) FROM board});
	return $status == 0 ? $out : '';
}

sub known
{
	my ($low, $high, $rows, $total) = split /\|/, $_[0];
	return $low eq $high && sql($source, "SELECT count(*) FROM seen WHERE generation = $low AND rows = $rows AND total = $total") eq '1';
}

# A process that notes what it sees on the target, again and again.
sub start_reader
{
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	open STDERR, '>', '/dev/null';
	$SIG{TERM} = sub { POSIX::_exit(0) };
	while (1)
	{
		open my $log, '>>', "$ENV{MT_READER}" or die;
		open my $psql, '-|', 'psql', '-XqAt', '-h', $target->host, '-p', $target->port, 'shop', '-c', 'SELECT min(generation), max(generation), count(*), sum(v) FROM board' or die;
		my $line = <$psql>;
		close $psql;
		print $log $line if defined $line && $line =~ /\|.*\n/;
		close $log;
	}
}

BEGIN { $ENV{MT_READER} = "/tmp/migrate_tiers_reader.$$"; }
END { unlink $ENV{MT_READER} if $ENV{MT_READER} =~ /\.\Q$$\E$/; }

sub stop_reader
{
	my ($pid) = @_;
	kill 'TERM', $pid;
	waitpid $pid, 0;
	open my $log, '<', $ENV{MT_READER} or die;
	my @lines = <$log>;
	my %different = map { $_ => 1 } @lines;
	return (scalar @lines, scalar keys %different);
}

# What the readers saw and the source never had.
sub unknown
{
	open my $log, '<', $ENV{MT_READER} or die;
	my %lines = map { chomp; ($_ => 1) } <$log>;
	return join ' ; ', grep { !known($_) } sort keys %lines;
}
