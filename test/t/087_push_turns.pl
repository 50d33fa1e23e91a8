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

# What moves no job makes no side fresher: a turn before a table was tagged, and a rehearsal.
$pair->both_sql('CREATE TABLE rollup (id int PRIMARY KEY)');
$pair->target_sql('CREATE TABLE elsewhere (id int PRIMARY KEY)');
$pair->source_sql(q{INSERT INTO rollup VALUES (1); SELECT migrate_tiers.tag('rollup', 'batch')});
is(state_of('rollup'), 'waiting', 'a table that was tagged after the turn was never pushed');
like({ open_gates($pair, 'read_target') }->{batch_fresh}, qr/rollup was never pushed/, 'and is not read from the target');
$pair->source_sql(q{SELECT migrate_tiers.push_batch('rollup')});
$pair->source_sql('INSERT INTO rollup VALUES (2)');
ready($pair, 'read_target');
cut_rehearsal(sub {
	is(state_of('rollup'), 'pushing', 'in the middle of a rehearsal nobody else can push');
	MigrateTiers::sql_fails($pair->source, q{SELECT migrate_tiers.push_batch('rollup')}, '55006', qr/rehearsal/, 'which would bring old rows');
	is($pair->source_sql('SELECT count(*) FROM rollup'), '2', 'over those that the source still computes');
});
is(state_of('rollup'), 'fresh', 'whoever cuts it off lets pushes go on');
$pair->revert('dual_write');
is(fresher(), '', 'the way back from it by hand makes nothing fresher');
ready($pair, 'read_target');
$pair->source_sql(q{CALL migrate_tiers.rehearse('read_target')});
is(fresher(), '', 'nor does a rehearsal');
ready($pair, 'read_target');
$pair->advance('read_target');
is(fresher(), 'daily,rollup', 'in earnest the source has computed its tables until the turn');
$pair->revert('dual_write');
is(fresher(), 'daily,rollup', 'and the target has on the way back');
$pair->source_sql(q{SELECT migrate_tiers.tag('rollup', 'ignored'), migrate_tiers.tag('rollup', 'batch')});
is(fresher(), 'daily', 'not that of which nobody says that it was moved');
$pair->source_sql(q{SELECT migrate_tiers.tag('rollup', 'batch', target => 'public.elsewhere')});
is(state_of('rollup'), 'waiting', 'into another table of the target nothing was pushed');
$pair->source_sql(q{SELECT migrate_tiers.untag('rollup'), migrate_tiers.tag('rollup', 'ignored')});

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
is($pair->source_sql(q{SET quote_all_identifiers = on; SELECT state FROM migrate_tiers.tables WHERE relation = 'daily'::regclass}), 'fresh', 'a push is known as that, however names are quoted');

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

sub state_of { return $pair->source_sql("SELECT state FROM migrate_tiers.tables WHERE relation = '$_[0]'::regclass"); }

# fresher names the tables that are fresher than the last push of them.
sub fresher
{
	return $pair->source_sql(<<'SQL');
SELECT string_agg(f.relation::text, ',' ORDER BY f.relation::text) FROM migrate_tiers.freshness AS f
 WHERE f.fresh_at > (SELECT max(b.snapshot_time) FROM migrate_tiers.batches AS b WHERE b.relation = f.relation)
SQL
}

# cut_rehearsal has a look in the middle of a rehearsal of read_target, which it cuts off there.
sub cut_rehearsal
{
	my ($look) = @_;
	my ($gate, $session) = map { MigrateTiers::session($pair->source, on_error_stop => 0) } 1, 2;
	$pair->source_sql(<<'SQL');
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS
 $$BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(87); RETURN NEW; END$$;
CREATE TRIGGER hold BEFORE INSERT ON migrate_tiers.transition FOR EACH ROW WHEN (NEW.from_phase = 'read_target') EXECUTE FUNCTION hold();
SQL
	$gate->query_safe('SELECT pg_advisory_lock(87)');
	$session->query_until(qr/begun/, "\\echo begun\nCALL migrate_tiers.rehearse('read_target');\n");
	my $held = q{FROM pg_locks WHERE locktype = 'advisory' AND objid = 87 AND NOT granted};
	ok($pair->wait_until(source => "SELECT count(*) = 1 $held"), 'a rehearsal is half-way');
	$look->();
	$pair->source_sql("SELECT pg_cancel_backend(pid) $held");
	$session->query('SELECT 1');
	$_->quit for $session, $gate;
	$pair->source_sql('DROP TRIGGER hold ON migrate_tiers.transition; DROP FUNCTION hold()');
	is(phase($pair), 'read_target', 'cut off, it stays there');
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
