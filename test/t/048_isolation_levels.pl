# Whatever default_transaction_isolation a database or a role has: transitions go there and back, and what waits or
# steers inside of a transaction of such a level sees what others have done since it began.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
sql($_, 'CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text); CREATE TABLE daily (id int PRIMARY KEY)') for $source, $target;
migration($source, 'item');
sql($source, q(INSERT INTO item (v) SELECT 'x' FROM generate_series(1, 100);
	SELECT migrate_tiers.tag('daily', 'batch'), migrate_tiers.set_option('quiet_period', '0 s')));

for my $level ('repeatable read', 'serializable')
{
	sql($_, "ALTER DATABASE shop SET default_transaction_isolation = '$level'") for $source, $target;
	sql($source, "ALTER ROLE postgres SET default_transaction_isolation = '$level'");
	is(query($source, 'SHOW transaction_isolation'), $level, "level $level");
	advance($source, 'syncing');
	wait_synced($source);

	# The worker comes and goes after the transaction's snapshot was taken, and says another mark.
	my $session = session($source, on_error_stop => 0);
	$session->query("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM item");
	sql($source, q(SELECT migrate_tiers.pause()));
	sql($source, q(SELECT migrate_tiers.resume(); INSERT INTO item (v) VALUES ('later')));
	is($session->query(q(SELECT migrate_tiers.wait_for_sync(timeout => '20 s') IS NOT NULL)), 't', '... wait_for_sync');
	# SERIALIZABLE tells of the other session that has paused, and is to be tried again.
	$session->query("COMMIT; BEGIN ISOLATION LEVEL $level") if $level eq 'serializable';
	is($session->query(q(SELECT migrate_tiers.pause() IS NOT NULL)), 't', '... pause');
	is($session->query(q(SELECT migrate_tiers.resume() IS NOT NULL)), 't', '... resume');
	$session->query('COMMIT');

	# The worker, which is READ COMMITTED, writes the same row: who waits for that gets no error.
	my $other = session($source);
	$other->query_safe('BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE migrate_tiers.migration SET mark_time = mark_time');
	$session->query_until(qr/going/, "\\echo going\nSELECT migrate_tiers.pause();\n\\echo paused :ERROR\n");
	ok(wait_until($source, 'SELECT count(*) > 0 FROM pg_locks WHERE NOT granted'), '... pause waits for another update');
	$other->query_safe('COMMIT');
	$other->quit;
	like($session->query_until(qr/paused \w+\n/, ''), qr/paused false/, '... and goes on');
	$session->query('SELECT migrate_tiers.resume()');
	wait_synced($source);
	is(query($source, q(SELECT string_agg(verdict, ' ') FROM migrate_tiers.verify() WHERE relation = 'item'::regclass)), 'equal', '... verify');
	is(query($source, q(SELECT error IS NULL FROM migrate_tiers.push_batch('daily'))), 't', '... push_batch');

	# Transitions wait for what the worker writes into rows that they change themselves.
	sql($source, q(CALL migrate_tiers.rehearse('dual_write')));
	my @way = qw(syncing dual_write read_target target_only);
	for my $to (@way[ 1 .. 3 ])
	{
		gates($to);
		advance($source, $to);
		sql($target, q(INSERT INTO item (v) VALUES ('there')));
	}
	gates($_), revert($source, $_) for reverse @way[ 0 .. 2 ];
	is(query($source, 'SELECT phase FROM migrate_tiers.status'), 'syncing', '... there and back');
	tables_equal($source, $target, 'item', '... and nothing is lost');
	revert($source, 'planned');
	$session->quit;
}
# While all of it runs, both ways.
advance($source, 'syncing');
wait_synced($source);
sql($source, 'SELECT * FROM migrate_tiers.verify()');
sql($source, q(CALL migrate_tiers.rehearse('dual_write')));
sql($source, q(INSERT INTO item (v) VALUES ('last')));
sql($source, 'SELECT migrate_tiers.drop_migration()');
is(query($source, q(SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)), '0', 'drop_migration while it is in sync');

finish($source, $target);
done_testing();

sub gates
{
	my ($to) = @_;
	wait_synced($source);
	wait_until($source, "SELECT bool_and(passed) IS NOT FALSE FROM migrate_tiers.gates('$to')") or die "the gates to $to stay closed";
	return;
}
