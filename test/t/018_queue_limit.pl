# The queue has a limit: past it changes are dropped, and never lost.  Tables
# whose changes were dropped are copied again before anything is said of them.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $limit = 1024 * 1024;
my $pair = MigrateTiers::Pair->new('limit', source_conf => "autovacuum_naptime = 1s\n");
my ($source, $target) = ($pair->source, $pair->target);

$pair->both_sql(<<'SQL');
CREATE TABLE busy (id int PRIMARY KEY, v text);
CREATE TABLE other (id int PRIMARY KEY, v text);
CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
CREATE TABLE calm (id int PRIMARY KEY, v text);
CREATE TABLE referring (id int PRIMARY KEY, other int CONSTRAINT to_other REFERENCES other);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY REFERENCES parent ON DELETE CASCADE);
SQL
$pair->source_sql(<<'SQL');
INSERT INTO busy SELECT i, 'v' FROM generate_series(1, 40000) i;
INSERT INTO other SELECT i, 'v' FROM generate_series(1, 5000) i;
INSERT INTO parts SELECT i, 'v' FROM generate_series(1, 3000) i;
INSERT INTO calm SELECT i, 'v' FROM generate_series(1, 100) i;
INSERT INTO referring SELECT i, i FROM generate_series(1, 100) i;
INSERT INTO parent SELECT i FROM generate_series(1, 6000) i;
INSERT INTO child SELECT i FROM generate_series(1, 6000) i;
SQL
$pair->declare;
$pair->set_option('queue_limit', '1MB');
$pair->set_option('queue_retention', '2 s');
$pair->advance;
$pair->sync;
$pair->equal('in sync');
my $calm_copied = started('calm');

sub started { my ($table) = @_; return $pair->source_sql("SELECT copy_started FROM migrate_tiers.tables WHERE relation = '$table'::regclass"); }
sub state_of { my ($table) = @_; return $pair->source_sql("SELECT state FROM migrate_tiers.tables WHERE relation = '$table'::regclass"); }
sub all_in_sync { return $pair->wait_until(source => q{SELECT bool_and(state = 'syncing') FROM migrate_tiers.tables}, timeout => 90); }

# fill writes until a table is disarmed; more and more, since one that is disarmed may leave much room to the other.
sub fill
{
	my ($table) = @_;
	for my $round (1 .. 100)
	{
		$pair->source_sql("UPDATE busy SET v = 'fill $round'");
		my $rows = 10 + 50 * ($round - 1);
		$pair->source_sql("UPDATE $table SET v = 'fill $round' WHERE id < $rows");
		return 1 if state_of($table) eq 'recopy' && state_of('busy') eq 'recopy';
	}
	return 0;
}

subtest 'while nobody sends' => sub {
	$pair->source_sql('SELECT migrate_tiers.pause()');
	ok(fill('other'), 'tables that change are disarmed');
	like($pair->status('stopped'), qr/queue_limit/, 'status says so');
	is($pair->source_sql(q{SELECT stopped_at > now() - interval '1 min' FROM migrate_tiers.status}), 't', 'and since when');
	is($pair->status('alarm'), '', 'nothing is above the limit for ever');
	like($pair->source_sql(q{SELECT note FROM migrate_tiers.tables WHERE relation = 'busy'::regclass}), qr/queue_limit/, 'and the table');
	is(state_of('calm'), 'syncing', 'a table that does not change stays');
	my $size = $pair->status('queue_bytes');
	cmp_ok($size, '<', $limit + 200_000, 'the queue stops at the limit');
	$pair->source_sql("UPDATE busy SET v = 'unseen $_'; UPDATE other SET v = 'unseen $_'") for 1 .. 10;
	$pair->source_sql("UPDATE other SET v = 'one by one' WHERE id = $_") for 1 .. 50;
	is($pair->status('queue_bytes'), $size, 'and grows no more');
	my ($good, $state) = $pair->source_try(q{SELECT migrate_tiers.wait_for_sync(timeout => '1 s')});
	is($state, 'MT006', 'nothing is said to be there that is not');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->sync;
	$pair->equal('copied again');
	is(started('calm'), $calm_copied, 'a table that did not change was not');
	ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'status is clean');
	$pair->source_sql(q{UPDATE busy SET v = 'after' WHERE id < 100; DELETE FROM other WHERE id > 4000; UPDATE calm SET v = 'x'});
	$pair->sync;
	$pair->equal('and captured again');
};

subtest 'foreign keys after a copy within the same connection' => sub {
	my $worker = $pair->worker_pid;
	# While it waits for something to do, and so holds nothing that others need.
	ok($pair->wait_until(source => "SELECT wait_event = 'Extension' FROM pg_stat_activity WHERE pid = $worker"), 'the worker is idle');
	kill 'STOP', $worker;
	ok(fill('other'), 'full');
	kill 'CONT', $worker;
	$pair->sync;
	ok($pair->wait_until(target => q{SELECT convalidated FROM pg_constraint WHERE conname = 'to_other'}, timeout => 10),
		'a foreign key that rests on one of them is there again');
	is($pair->worker_pid, $worker, 'by the same worker');
	$pair->equal('copied again');
};

subtest 'levels of a transaction' => sub {
	$pair->source_sql('SELECT migrate_tiers.pause()');
	ok(fill('busy'), 'full');
	is(state_of('parts'), 'syncing', 'not changed yet');
	# Each of these is the first to change a table in a queue that is full.
	$pair->source_sql(q{BEGIN; SAVEPOINT a; UPDATE parts SET v = 'gone' WHERE id < 2000; ROLLBACK TO a; COMMIT});
	is(state_of('parts'), 'syncing', 'a rolled back change disarms nothing');
	$pair->source_sql(q{BEGIN; UPDATE parts SET v = 'gone'; ROLLBACK});
	is(state_of('parts'), 'syncing', 'nor does a transaction');
	$pair->source_sql(q{BEGIN; SAVEPOINT a; UPDATE parts SET v = 'gone'; ROLLBACK TO a; UPDATE parts SET v = 'outer' WHERE id < 2000; SAVEPOINT b; UPDATE parts SET v = 'inner' WHERE id < 500; ROLLBACK TO b; COMMIT});
	is(state_of('parts'), 'recopy', 'what is left of a transaction does');
	$pair->source_sql(q{BEGIN; UPDATE calm SET v = 'prepared'; PREPARE TRANSACTION 'p'});
	is(state_of('calm'), 'syncing', 'a prepared transaction does not yet');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ok($pair->wait_until(source => q{SELECT bool_and(state = 'syncing') FROM migrate_tiers.tables}), 'copied again around it');
	$pair->source_sql(q{COMMIT PREPARED 'p'});
	$pair->sync;
	$pair->equal('the prepared transaction counts when it is committed');
	isnt(started('calm'), $calm_copied, 'by a new copy');
};

# Notes of the two alternate.
subtest 'one transaction that changes two tables' => sub {
	my $added = q(SELECT count(*) FROM migrate_tiers.disarmed WHERE relation IN (SELECT id FROM migrate_tiers.relation WHERE relation IN ('parent'::regclass, 'child'::regclass)));

	$pair->source_sql('SELECT migrate_tiers.pause()');
	ok(fill('busy'), 'full');
	is($pair->source_sql("BEGIN; DELETE FROM parent WHERE id <= 2000; $added; ROLLBACK"), '2', 'each is disarmed once');
	is($pair->source_sql("BEGIN; SAVEPOINT a; DELETE FROM parent WHERE id <= 2000; ROLLBACK TO a; DELETE FROM parent WHERE id <= 2000; $added; ROLLBACK"), '2', '... again after a savepoint that was rolled back');
	is($pair->source_sql("BEGIN; DO \$\$BEGIN FOR i IN 1 .. 3000 LOOP BEGIN DELETE FROM parent WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END\$\$; $added; COMMIT"), '2', '... and once in a loop of subtransactions');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->sync;
	$pair->equal('copied again');
};

subtest 'a transaction that is open while its tables are armed again' => sub {
	$pair->source_sql('SELECT migrate_tiers.pause()');
	ok(fill('other'), 'full');
	my $open = MigrateTiers::session($source);
	$open->query_safe(q{BEGIN; UPDATE other SET v = 'open' WHERE id < 3000; UPDATE parts SET v = 'open'});
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ok($pair->wait_until(source => q{SELECT state = 'syncing' FROM migrate_tiers.tables WHERE relation = 'busy'::regclass}), 'other tables need not wait');
	$open->query_safe(q{UPDATE busy SET v = 'open' WHERE id < 100; UPDATE other SET v = 'open' WHERE id >= 3000; COMMIT});
	$open->quit;
	$pair->sync;
	$pair->equal('nothing is lost');
};

subtest 'while writers write' => sub {
	my $script = PostgreSQL::Test::Utils::tempdir() . '/write.sql';
	append_to_file($script, <<'SQL');
\set id random(1, 38000)
\set small random(1, 3900)
\set late random(1, 4)
BEGIN;
UPDATE busy SET v = 'w' || :id WHERE id BETWEEN :id AND :id + 200;
SAVEPOINT s;
UPDATE parts SET v = 'w' || :id WHERE id = :small;
\if :late = 1
ROLLBACK TO s;
\endif
INSERT INTO other VALUES (:id + 10000, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v || :id;
UPDATE other SET v = 'w' WHERE id = :small;
COMMIT;
SQL
	my $writers = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-R', 200, '-T', 22, '-f', $script, '-h', $source->host, '-p', $source->port, 'shop' ], '>', \my $out, '2>', \my $err);
	my $recopied = 0;
	my $end = time + 20;
	while (time < $end)
	{
		$pair->source_sql('SELECT migrate_tiers.pause()');
		$recopied++ if $pair->wait_until(source => q{SELECT bool_or(state = 'recopy') FROM migrate_tiers.tables}, timeout => 4, quiet => 1);
		$pair->source_sql('SELECT migrate_tiers.resume()');
		sleep rand 2;
	}
	ok($writers->finish, 'no transaction failed') or diag($err);
	cmp_ok($recopied, '>', 1, "disarmed $recopied times");
	ok(all_in_sync(), 'all tables are back');
	$pair->sync;
	$pair->equal('nothing is lost');
};

subtest 'the target away, and a crash' => sub {
	$target->stop('fast');
	ok(fill('other'), 'full');
	like($pair->status('stopped'), qr/forward: 08/, 'status has the cause first');
	$source->stop('immediate');
	$source->start;
	is(state_of('other'), 'recopy', 'a crash does not forget');
	$pair->source_sql(q{UPDATE other SET v = 'after the crash' WHERE id < 50});
	$target->start;
	$pair->source_sql(q{SELECT migrate_tiers.start_workers()});
	$pair->sync;
	$pair->equal('nothing is lost');
};

subtest 'a limit that is lifted, and a way back' => sub {
	$pair->source_sql('SELECT migrate_tiers.pause()');
	ok(fill('other'), 'full');
	$pair->set_option('queue_limit', '0');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->sync;
	$pair->equal('copied again');
	$pair->set_option('queue_limit', '1MB');
	$pair->source_sql('SELECT migrate_tiers.pause()');
	ok(fill('other'), 'full');
	$pair->revert;
	is($pair->source_sql('SELECT count(*) FROM migrate_tiers.disarmed'), '0', 'nothing is left of it');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->advance;
	$pair->sync;
	$pair->equal('forward again');
};

MigrateTiers::finish({ crashes => 1 }, $source, $target);
done_testing();
