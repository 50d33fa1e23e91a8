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

# A tick whose snapshot is older than a TRUNCATE that it waits for: the rows that the snapshot has are gone for whoever
# reads the table now. Each commit of the receiver is looked at.
my $truncated = MigrateTiers::Pair->new('truncated', source_conf => "migrate_tiers.lock_timeout = '20s'\n");
$truncated->both_sql(<<'SQL');
CREATE SCHEMA seen;
CREATE TABLE seen.state (balance bigint, entries bigint);
CREATE FUNCTION seen.look() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO seen.state SELECT (SELECT sum(balance) FROM public.account), (SELECT coalesce(sum(amount), 0) FROM public.entry); RETURN NULL; END';
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE entry (id int, part int, amount bigint, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE entry_1 PARTITION OF entry FOR VALUES IN (1);
CREATE TABLE entry_2 PARTITION OF entry FOR VALUES IN (2);
SQL
$truncated->source_sql('INSERT INTO account VALUES (1, 200); INSERT INTO entry SELECT i, 1 + i % 2, 1 FROM generate_series(1, 200) i');
$truncated->declare;
$truncated->set_option('quiet_period', '0');
$truncated->small_tick(100);
$truncated->advance;
$truncated->sync;

# A row is noted, then the table is written anew while a tick is at it: by TRUNCATE of all, or of a partition.
sub truncated_meanwhile
{
	my ($sender, $receiver, $rows, $emptied) = @_;
	my $name = "TRUNCATE of $emptied on the $sender, $rows rows";
	my $run = { source => sub { $truncated->source_sql(@_) }, target => sub { $truncated->target_sql(@_) } };

	$run->{$receiver}->('TRUNCATE seen.state');
	my $holder = MigrateTiers::session($truncated->$receiver);
	$holder->query_safe('BEGIN; LOCK TABLE account IN EXCLUSIVE MODE');
	$run->{$sender}->('UPDATE account SET balance = balance');
	ok($truncated->wait_until($receiver => q{SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)}), "a tick is under way: $name");
	$run->{$sender}->("BEGIN; INSERT INTO entry SELECT max(id) + i, 1, 1 FROM entry, generate_series(1, $rows) i GROUP BY i; UPDATE account SET balance = balance + $rows; COMMIT");
	my $session = MigrateTiers::session($truncated->$sender);
	$session->query_safe("BEGIN; CREATE TEMP TABLE kept ON COMMIT DROP AS TABLE $emptied; TRUNCATE $emptied; INSERT INTO $emptied TABLE kept");
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	ok($truncated->wait_until($sender => q{SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)}), '... the next one waits');
	$session->query_safe('COMMIT');
	$session->quit;
	$sender eq 'source' ? $truncated->sync : $truncated->sync_back;
	cmp_ok($run->{$receiver}->('SELECT count(*) FROM seen.state WHERE balance = entries'), '>', 0, "... commits were looked at: $name");
	is($run->{$receiver}->('SELECT count(*) FROM seen.state WHERE balance <> entries'), '0', "... and none showed a state that the sender never had: $name");
	$truncated->equal('... and both are equal');
	return;
}

sub look_at_commits
{
	return 'CREATE CONSTRAINT TRIGGER look AFTER INSERT OR UPDATE OR DELETE ON account DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION seen.look();
ALTER TABLE account ENABLE ALWAYS TRIGGER look';
}

$truncated->target_sql(look_at_commits());
truncated_meanwhile('source', 'target', @$_) for [ 1, 'entry' ], [ 1, 'entry_1' ], [ 400, 'entry' ];
$truncated->target_sql('DROP TRIGGER look ON account');
$truncated->dual_write;
$truncated->source_sql(look_at_commits());
truncated_meanwhile('target', 'source', @$_) for [ 1, 'entry' ], [ 1, 'entry_1' ], [ 400, 'entry' ];
unlike(slurp_file($truncated->source->logfile), qr/sync.* stopped/, 'no tick failed for it');
$truncated->finish;
done_testing();
