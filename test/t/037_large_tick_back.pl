# Ticks from the target of more than is held in memory at once: as few large rows, as many
# small ones, with what was truncated and what exchanges values; and a statement that the target plans no more.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use Test::More;

my $pair = MigrateTiers::Pair->new('large_back');
$pair->both_sql('CREATE TABLE wide (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY, n int UNIQUE, v text)');
$pair->source_sql(q{INSERT INTO wide SELECT i, 'source' FROM generate_series(1, 50) i; INSERT INTO other SELECT i, i FROM generate_series(1, 6000) i});
$pair->declare;
$pair->source_sql(q{SELECT migrate_tiers.set_option('quiet_period', '0')});
$pair->advance;
$pair->sync;
$pair->dual_write;

# Rows that do not compress: each of 64 kB.
my $large = q{(SELECT string_agg(md5(concat(i, ' ', n)), '') FROM generate_series(1, 2048) n)};

# in_one_tick(sql, name): what the target commits while nothing is sent is on both sides afterwards.
sub in_one_tick
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->target_sql($sql);
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->sync_back;
	$pair->equal($name);
	return;
}

# rotated gives each of some rows the value of the next one, in one tick.
sub rotated
{
	my ($rows, $size, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	in_one_tick(qq{BEGIN; CREATE TEMP TABLE turn AS SELECT id, coalesce(lead(n) OVER w, first_value(n) OVER w) AS n FROM other WHERE $rows WINDOW w AS (ORDER BY n);
		UPDATE other SET n = -n, v = repeat('x', $size) WHERE $rows;
		UPDATE other SET n = turn.n FROM turn WHERE turn.id = other.id; COMMIT}, "values of another unique key exchanged $name");
	return;
}

in_one_tick(qq{INSERT INTO wide SELECT i, $large FROM generate_series(51, 450) i; UPDATE other SET v = 'small' WHERE id <= 100; DELETE FROM wide WHERE id <= 10},
	'few keys, 26 MB of rows');
in_one_tick(qq{UPDATE wide SET v = $large FROM generate_series(1, 450) i WHERE i = id AND id % 2 = 0; UPDATE other SET v = 'many'; DELETE FROM other WHERE id % 5 = 0},
	'many keys, and large rows');
in_one_tick(qq{TRUNCATE wide; INSERT INTO wide SELECT i, $large FROM generate_series(400, 700) i; INSERT INTO other SELECT i, i FROM generate_series(7001, 7100) i},
	'truncated and filled again');
in_one_tick(q{UPDATE other SET n = -n; UPDATE other SET n = CASE WHEN id % 2 = 1 THEN -n + 1 ELSE -n - 1 END WHERE id BETWEEN 7001 AND 7100; UPDATE other SET n = -n WHERE n < 0},
	'values of another unique key exchanged');
# Rows that are refused while more than is held in memory is still to come.
rotated('id > 0', 3000, 'in many large rows');
rotated('id <= 1000', 12000, 'in few large rows');
in_one_tick(q{UPDATE other SET v = 'small'}, 'all small again');
is($pair->source_sql('SELECT count(*) FROM migrate_tiers.conflicts'), '0', 'no conflict');
in_the_way();

$pair->target_sql(q{ALTER TABLE other ALTER v TYPE varchar(20)});
in_one_tick(q{UPDATE other SET v = 'after' WHERE id < 10}, 'a column of another type than when the statement was prepared');
beside_an_open_transaction();

# What was sent goes, some thousand rows at a time.
my $queue = $pair->target_sql(q{SELECT string_agg(format('SELECT count(*) AS n FROM %s', oid::regclass), ' UNION ALL ') FROM pg_class WHERE relname ~ '^(queue|writer)_' AND relkind = 'r'});
cmp_ok($pair->target_sql("SELECT sum(n) FROM ($queue) q"), '>', 15000, 'what was sent is kept for a while');
$pair->source_sql(q{SELECT migrate_tiers.set_option('queue_retention', '1 s')});
my $snapshot = MigrateTiers::session($pair->target);
$snapshot->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
ok($pair->wait_until(target => "SELECT sum(n) FROM ($queue) q", expected => '0'), 'and then deleted');
# While VACUUM cannot take it away, the next rounds do not pass it again.
reads(0, 'sweeping');
reads(5, 'once more');
cmp_ok(reads(15, 'with nothing to sweep'), '<', 10000, 'what was deleted is not read again');
$snapshot->quit;
$pair->finish;
done_testing();

# reads waits until the sessions of the target have told of more than some scans of the queues since it was called before,
# and returns how many entries these have read.
my ($scans_before, $reads_before) = (0, 0);
sub reads
{
	my ($more, $name) = @_;
	my ($scans, $reads);
	my $told = MigrateTiers::wait_for(
		sub {
			($scans, $reads) = split /\|/, $pair->target_sql(q{SELECT sum(idx_scan), sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname ~ '^(queue|writer)_'});
			return $scans > $scans_before + $more;
		}, 60);
	ok($told, "$name: the queues were looked into");
	my $read = $reads - $reads_before;
	($scans_before, $reads_before) = ($scans, $reads);
	return $read;
}

# A transaction of the target that has an id and stays open: what was sent since it began is not read at each look.
sub beside_an_open_transaction
{
	my $session = MigrateTiers::session($pair->target);
	$session->query_safe('BEGIN; SELECT pg_current_xact_id()');
	in_one_tick(q{UPDATE other SET v = 'beside'}, 'many rows beside a transaction that stays open');
	reads(0, 'a large tick');
	foreach my $n (1 .. 20)
	{
		$pair->target_sql("UPDATE other SET v = 'beside $n' WHERE id = $n");
		$pair->sync_back;
	}
	my $many = $pair->target_sql('SELECT count(*) FROM other');
	cmp_ok(reads(20, 'small ticks'), '<', 8 * $many, "twenty small ticks beside it do not each read the $many entries of the large one");
	$session->quit;
	# The mark of this tick is not held back any more.
	$pair->target_sql(q{UPDATE other SET v = 'after it' WHERE id = 1});
	$pair->sync_back;
	$pair->equal('equal after it');
	return;
}

# One row of thousands that one side has unsent is in the way of one of thousands of the other side, whichever sends
# first: to find it, each is taken away a few times, and not at every halving.
sub in_the_way
{
	my $deleted = q{SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'other'};
	my $many = $pair->target_sql('SELECT count(*) FROM other WHERE id % 2 = 1');
	my %before = (source => $pair->source_sql($deleted), target => $pair->target_sql($deleted));
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->source_sql(q{UPDATE other SET v = 'of the source' WHERE id % 2 = 0; INSERT INTO other VALUES (90001, 777777, 'of the source')});
	$pair->target_sql(q{UPDATE other SET v = 'of the target' WHERE id % 2 = 1; INSERT INTO other VALUES (90002, 777777, 'of the target')});
	$pair->source_sql('SELECT migrate_tiers.resume()');
	settle($pair);
	$pair->equal('one row in the way of another');
	is($pair->source_sql('SELECT count(*) FROM other WHERE n = 777777'), '1', 'one of the two is left');
	my $sum = sub { return $pair->source_sql($deleted) - $before{source} + $pair->target_sql($deleted) - $before{target}; };
	ok(MigrateTiers::wait_for(sub { $sum->() >= $many }, 60), 'by trial');
	cmp_ok($sum->(), '<', 8 * $many, 'of few deletions');
	return;
}
