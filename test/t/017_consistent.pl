# Whatever moment the target is read, it shows a state that the source had: sums
# that every transaction keeps are kept there, across tables, while ticks go on.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $pair = MigrateTiers::Pair->new('consistent');
my $source = $pair->source;
$pair->both_sql(<<'SQL');
CREATE TABLE giver (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE taker (id int, region int, balance bigint NOT NULL, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE taker_0 PARTITION OF taker FOR VALUES IN (0);
CREATE TABLE taker_1 PARTITION OF taker FOR VALUES IN (1);
CREATE TABLE transfer (id bigint PRIMARY KEY, giver int, taker int, amount bigint);
SQL
$pair->source_sql(<<'SQL');
INSERT INTO giver SELECT i, 0 FROM generate_series(1, 500) i;
INSERT INTO taker SELECT i, i % 2, 0 FROM generate_series(1, 500) i;
CREATE SEQUENCE transfer_id;
SQL
my $script = PostgreSQL::Test::Utils::tempdir() . '/transfer.sql';
append_to_file($script, <<'SQL');
\set a random(1, 500)
\set b random(1, 500)
\set amount random(-1000, 1000)
\set n random(1, 30)
BEGIN;
UPDATE giver SET balance = balance - :amount WHERE id = :a;
INSERT INTO transfer VALUES (nextval('transfer_id'), :a, :b, :amount);
UPDATE taker SET balance = balance + :amount WHERE id = :b AND region = :b % 2;
\if :n = 1
SAVEPOINT a;
INSERT INTO transfer SELECT nextval('transfer_id'), 1, 1, 7 FROM generate_series(1, 1500);
ROLLBACK TO a;
\endif
\if :n = 2
ROLLBACK;
\else
COMMIT;
\endif
SQL

my $invariant = q{SELECT (SELECT sum(balance) FROM giver) + (SELECT sum(balance) FROM taker), (SELECT sum(balance) FROM taker) - (SELECT coalesce(sum(amount), 0) FROM transfer), (SELECT count(*) FROM transfer)};

$pair->declare;
# The copy itself is not one state; the first tick makes it one.
$pair->advance;
$pair->sync;
for my $keys (256, 1)
{
	$pair->small_tick($keys);
	my $traffic = fork // die "fork: $!";
	if (!$traffic)
	{
		open STDOUT, '>', '/dev/null';
		my $status = system 'pgbench', '-n', '-c', 4, '-R', 200, '-T', 7, '-f', $script, '-h', $source->host, '-p', $source->port, 'shop';
		POSIX::_exit($status ? 1 : 0);
	}
	my $session = MigrateTiers::session($pair->target);
	my (%counts, @bad);
	my $reads = 0;
	while (waitpid($traffic, POSIX::WNOHANG()) == 0)
	{
		my ($sum, $difference, $count) = split /\|/, $session->query_safe($invariant);
		$reads++;
		$counts{$count}++;
		push @bad, "$sum, $difference at $count" if $sum != 0 || $difference != 0;
		sleep 0.01;
	}
	is($?, 0, 'no transaction of the traffic failed');
	$session->quit;
	is(join('; ', @bad), '', "$reads reads in ticks of up to $keys keys by rows: sums hold");
	cmp_ok(scalar keys %counts, '>', 15, 'over many states: ' . scalar keys %counts);
	$pair->sync;
	$pair->equal('equal at the end');
}
cmp_ok($pair->source_sql('SELECT count(*) FROM transfer'), '>', 1000, 'there was traffic');
$pair->finish;
done_testing();
