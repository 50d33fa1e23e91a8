# Pushes turn with the phase: one that is under way does not bring old rows over those that the side that is read
# from then on has computed since. Who comes a second time through the phases begins anew.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use Test::More;

my $pair = MigrateTiers::Pair->new('turns');
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE daily (id int PRIMARY KEY, v text)');
# The table that is pushed has the number of the migration, which no lock may mix up.
$pair->declare(schemas => []);
$pair->source_sql(q{SELECT migrate_tiers.tag('daily', 'batch'), migrate_tiers.tag('item', 'realtime'), migrate_tiers.set_option('quiet_period', '0 s')});
is($pair->source_sql('SELECT array_agg(id) FROM migrate_tiers.migration'), $pair->source_sql(q{SELECT array_agg(id) FROM migrate_tiers.relation WHERE tier = 'batch'}), 'a table has the number of its migration');
$pair->source_sql(q{INSERT INTO item VALUES (1); INSERT INTO daily SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i; ANALYZE daily});
$pair->advance('syncing');
$pair->sync;
ready($pair, 'dual_write');
$pair->advance('dual_write');
push_daily();
ready($pair, 'read_target');

# Forward, while the target takes over.
my $push = slow_push('source', q{UPDATE daily SET v = 'of the source'});
$pair->advance('read_target');
cut_off($push, 'forward');
$pair->target_sql(q{UPDATE daily SET v = 'of the target'});
push_daily();
is(daily('source'), 'of the target|20000', 'which the next push brings to the source');
is(daily('target'), 'of the target|20000', 'and which stays');

# Back, while the source does.
ready($pair, 'dual_write');
$push = slow_push('target', q{UPDATE daily SET v = 'of the target, later'});
$pair->revert('dual_write');
cut_off($push, 'reverse');
$pair->source_sql(q{UPDATE daily SET v = 'of the source'});
push_daily();
is(daily($_), 'of the source|20000', "as the source computes it then: $_") for qw(source target);

# Once more from the beginning: what was pushed before is gone from the target.
$pair->source_sql(q{SELECT migrate_tiers.set_option('batch_digest', 'on')});
push_daily();
for my $phase (qw(syncing planned)) { ready($pair, $phase); $pair->revert($phase); }
is(daily('target'), '', 'in phase planned the target is emptied');
$pair->advance('syncing');
$pair->target_sql(q{INSERT INTO daily VALUES (0, 'of a person')});
$pair->revert('planned');
is(daily('target'), 'of a person|1', 'but not of what no push has brought since');
$pair->target_sql('DELETE FROM daily');
$pair->advance('syncing');
$pair->sync;
ready($pair, 'dual_write');
$pair->advance('dual_write');
like({ open_gates($pair, 'read_target') }->{batch_fresh}, qr/daily was never pushed/, 'pushes of the time before count for nothing');
is($pair->source_sql(q{SELECT state FROM migrate_tiers.tables WHERE relation = 'daily'::regclass}), 'waiting', 'the table waits');
is(verdict(), 'unknown|it was never pushed', 'it is not held to them, either');
$pair->source_sql(q{SELECT migrate_tiers.batch_policy('daily', every => '1 day')});
ok($pair->wait_until(source => q{SELECT state = 'fresh' FROM migrate_tiers.tables WHERE relation = 'daily'::regclass}), 'and is pushed at once');
is(daily('target'), 'of the source|20000', 'whole');

# Who computes it from then on is not held to what was sent there before.
ready($pair, 'read_target');
$pair->source_sql(q{SELECT migrate_tiers.batch_policy('daily', every => NULL)});
cut_off_turn();
$pair->advance('read_target');
$pair->target_sql(q{UPDATE daily SET v = 'of the target'});
is(verdict(), 'unknown|the target computes it since phase read_target began, and no push from there was applied yet', 'after the turn, nothing is known before the first push');
push_daily();
like(verdict(), qr/^equal\|as the push of/, 'and everything after it');

$pair->finish;
done_testing();

sub push_daily { return $pair->source_sql(q{SELECT migrate_tiers.push_batch('daily')}); }
sub verdict { return $pair->source_sql(q{SELECT verdict, detail FROM migrate_tiers.verify('daily')}); }
sub daily { my ($side) = @_; my $sql = $side eq 'source' ? 'source_sql' : 'target_sql'; return $pair->$sql('SELECT v, count(*) FROM daily GROUP BY v'); }

# cut_off_turn ends the session that turns the direction before the target was told: then it is open who pushes.
sub cut_off_turn
{
	my $holder = MigrateTiers::session($pair->target);
	$holder->query_safe('BEGIN; LOCK TABLE migrate_tiers.migration IN EXCLUSIVE MODE');
	my $mover = MigrateTiers::session($pair->source);
	$mover->query_until(qr/begun/, "\\set ON_ERROR_STOP 0\n\\echo begun\nCALL migrate_tiers.advance('read_target');\n");
	ok($pair->wait_until(target => q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'migrate_tiers.migration'::regclass}), 'a transition has come to the target');
	$pair->source_sql(q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE query LIKE 'CALL migrate_tiers.advance%'});
	$mover->{run}->finish;
	$holder->quit;
	my ($went, $state, $error) = $pair->source_try(q{SELECT migrate_tiers.push_batch('daily')});
	ok(!$went && $state eq 'MT003', 'after a turn that was cut off nothing is pushed') or diag($state);
	like($error, qr/transition from dual_write to read_target has not ended.*advance\('read_target'\) goes on with it, revert\('dual_write'\) undoes it/s, '... which says how to go on');
	return;
}

# slow_push changes a table where it is sent from, and returns when a push of it has begun to send rows.
sub slow_push
{
	my ($side, $change) = @_;
	my $sql = $side eq 'source' ? 'source_sql' : 'target_sql';
	$pair->$sql($change);
	$pair->source_sql(q{SELECT migrate_tiers.set_option('copy_rate', '10000')});
	my $session = MigrateTiers::session($pair->source);
	$session->query_until(qr/begun/, "\\set ON_ERROR_STOP 0\n\\echo begun\nSELECT migrate_tiers.push_batch('daily');\n");
	my $receiver = $side eq 'source' ? 'target' : 'source';
	ok($pair->wait_until($receiver => q{SELECT count(*) = 1 FROM pg_class WHERE relname LIKE 'stage%' AND relkind = 'r'}), "a push from the $side is under way");
	return $session;
}

# cut_off checks what is noted of the push.
sub cut_off
{
	my ($session, $direction) = @_;
	$pair->source_sql(q{SELECT migrate_tiers.set_option('copy_rate', '0')});
	like($pair->source_sql('SELECT direction, error FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1'), qr/^$direction\|57P01: the push was cut off/, 'it ends with the turn, and that is noted');
	is($pair->source_sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers batch'}), '0', 'nobody pushes any more');
	$session->quit;
	return;
}
