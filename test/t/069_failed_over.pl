# A server that was promoted gives out again the transaction ids of what it lost; a copy of the source that was started
# takes itself for the source. Neither the source nor the target may take such ids for what was sent. And whatever a copy is
# told to do, it leaves the target of the source alone.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use PostgreSQL::Test::Cluster;
use Test::More;

# Rows that only the server knows that is gone, each a transaction of its own.
my @lost = (101 .. 150);

my $verified = q(SELECT detail FROM migrate_tiers.gates() WHERE gate = 'verified');

# A standby that falls behind beside other work is not to find its log recycled.
my $pair = MigrateTiers::Pair->new('over', map { ("${_}_conf" => "wal_keep_size = '512MB'\n") } qw(source target));
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE slow (id int PRIMARY KEY, v text, pad text); CREATE TABLE total (id int PRIMARY KEY)');
$pair->source_sql(q(INSERT INTO item SELECT i, 'old' FROM generate_series(1, 20) i;
	INSERT INTO slow SELECT i, 'old', repeat('x', 200) FROM generate_series(1, 1000) i));
$pair->declare;
$pair->source_sql(q(SELECT migrate_tiers.tag('total', 'batch')));
my $first_standby = standby('source');
subtest 'a standby of the source is read' => sub { standby_is_read($first_standby); };
subtest 'the source fails over' => sub { source_fails_over($first_standby); };
subtest 'the target fails over' => sub { target_fails_over(); };
subtest 'the target fails over under a worker that goes on' => sub { target_fails_over_again(); };
subtest 'a copy of the source leaves the target alone' => sub { copy_is_used(); };
subtest 'a copy of the source is started' => sub { copy_is_started(); };
$pair->finish(crashes => 1);
done_testing();

# standby gives a standby of a side.
sub standby
{
	my ($side) = @_;
	my $node = PostgreSQL::Test::Cluster->new('over_' . $pair->{$side}->name . '_standby', $side eq 'target' && $ENV{MT_TARGET_INSTALL} ? (install_path => $ENV{MT_TARGET_INSTALL}) : ());

	$pair->{$side}->backup('standby');
	$node->init_from_backup($pair->{$side}, 'standby', has_streaming => 1);
	$node->start;
	return $node;
}

# cut_off: what comes from here on, the standby does not get.
sub cut_off
{
	my ($side, $standby) = @_;

	$pair->{$side}->wait_for_catchup($standby);
	$standby->safe_psql('postgres', q(ALTER SYSTEM SET primary_conninfo = ''));
	$standby->reload;
	ok($pair->wait_until($side => 'SELECT count(*) = 0 FROM pg_stat_replication'), 'the standby is cut off');
	return;
}

# promote: the server is gone, and the standby takes its place.
sub promote
{
	my ($side, $standby) = @_;

	$pair->{$side}->stop('immediate');
	$standby->promote;
	$standby->safe_psql('postgres', 'ALTER SYSTEM RESET primary_conninfo');
	$pair->{$side} = $standby;
	ok($pair->wait_until($side => 'SELECT NOT pg_is_in_recovery()'), 'the standby is promoted');
	return;
}

sub insert_lost
{
	my ($side) = @_;
	$pair->_sql($side, join "\n", map { "INSERT INTO item VALUES ($_, 'lost');" } @lost);
	return;
}

# What shows or waits, and changes nothing, is there on a standby, too; it has neither the locks nor a worker of the primary.
sub standby_is_read
{
	my ($standby) = @_;
	my $open = MigrateTiers::session($pair->source);

	$pair->advance;
	$pair->sync;
	$open->query_safe('BEGIN; SELECT pg_current_xact_id()');
	$pair->source_sql(q(SELECT migrate_tiers.pause();
		DO $$ BEGIN FOR i IN 1 .. 500 LOOP UPDATE item SET v = 'often' WHERE id = 1; COMMIT; END LOOP; END $$));
	$pair->source->wait_for_catchup($standby);
	for my $what ((split /\n/, $standby->safe_psql('shop', q(SELECT format('migrate_tiers.%I', relname) FROM pg_class WHERE relnamespace = 'migrate_tiers'::regnamespace AND relkind = 'v'))),
		map { "migrate_tiers.$_" } 'gates()', q(plan('dual_write')), 'preflight()', 'suggest_tiers()', 'sync_token()')
	{
		my ($status, undef, $error) = $standby->psql('shop', "SELECT * FROM $what");
		is("$status $error", '0 ', "$what is read");
	}
	is($standby->safe_psql('shop', 'SELECT forward_pending FROM migrate_tiers.status'), 500, 'it counts what is pending');
	MigrateTiers::sql_fails($standby, q(SELECT migrate_tiers.wait_for_sync(timeout => '0 s')), 'MT006', qr/did not catch up in time/, 'who waits there is told at the timeout');
	my $token = $standby->safe_psql('shop', 'SELECT migrate_tiers.sync_token()');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->source->wait_for_catchup($standby);
	like($standby->safe_psql('shop', <<'SQL'), qr/Workers Launched: 1/, 'waiting there takes no worker of the server, which could not begin');
DO $$ BEGIN FOR i IN 1 .. 10 LOOP BEGIN PERFORM migrate_tiers.wait_for_sync('1000000000:1000000000:', '0 s'); EXCEPTION WHEN SQLSTATE 'MT006' THEN NULL; END; END LOOP; END $$;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 1;
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT count(*) FROM slow;
SQL
	$pair->sync;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->source->wait_for_catchup($standby);
	is($standby->psql('shop', "SELECT migrate_tiers.wait_for_sync('$token', '0 s')"), 0, 'it comes to its end, whatever transaction stays open on the primary');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$open->quit;
	$pair->revert;
	return;
}

sub source_fails_over
{
	my ($standby) = @_;

	$pair->set_option('chunk_size', '8192');
	$pair->set_option('copy_rate', '16000');
	$pair->advance;
	ok($pair->wait_until(source => q(SELECT state = 'syncing' FROM migrate_tiers.tables WHERE relation = 'item'::regclass)), 'one table is in sync');
	is($pair->source_sql(q(SELECT state FROM migrate_tiers.tables WHERE relation = 'slow'::regclass)), 'copying', 'another one is being copied');
	$pair->source_sql(q(UPDATE item SET v = 'sent' WHERE id <= 3));
	is($pair->source_sql(q(SELECT verdict FROM migrate_tiers.verify('item'))), 'equal', 'it is verified');
	cut_off('source', $standby);
	$pair->source_sql(q(DELETE FROM slow WHERE id = 999; UPDATE slow SET v = 'lost' WHERE id = 1000));
	$pair->set_option('copy_rate', '0');
	insert_lost('source');
	$pair->sync;
	is($pair->target_sql('SELECT count(*) FROM item'), 20 + @lost, 'the target has what the standby lacks');

	promote('source', $standby);
	$pair->set_option('copy_rate', '0');
	$pair->source_sql(q(INSERT INTO item VALUES (1000, 'new'); UPDATE item SET v = 'new' WHERE id = 4; SELECT migrate_tiers.start_workers()));
	$pair->sync;
	is($pair->target_sql(q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM item WHERE v = 'new')), '4 1000', 'what it writes with ids of before arrives');
	is($pair->target_sql(q(SELECT string_agg(v, ' ' ORDER BY id) FROM slow WHERE id >= 999)), 'old old', 'a copy under way has no state that is no more');
	like($pair->source_sql($verified), qr/item was verified before a server failed over/, 'what was verified before does not count');
	is($pair->source_sql(q(SELECT verdict || ' ' || different_rows FROM migrate_tiers.verify('item'))), 'different ' . @lost, 'a verification finds what was lost');
	$pair->source_sql(q(SELECT migrate_tiers.repair('item')));
	$pair->sync;
	$pair->equal('... and a repair takes it away');
	return;
}

sub target_fails_over
{
	my $standby = standby('target');

	ready($pair, 'dual_write');
	$pair->advance('dual_write');
	$pair->target_sql(q(UPDATE item SET v = 'sent back' WHERE id <= 3));
	$pair->sync_back;
	cut_off('target', $standby);
	insert_lost('target');
	$pair->sync_back;
	is($pair->source_sql('SELECT count(*) FROM item'), 21 + @lost, 'the source has what the standby lacks');

	promote('target', $standby);
	$pair->source_sql('ALTER SERVER new_db OPTIONS (SET port ' . "'" . $standby->port . "')");
	$pair->target_sql(q(INSERT INTO item VALUES (2000, 'new'); UPDATE item SET v = 'new' WHERE id = 5));
	$pair->source_sql(q(SELECT migrate_tiers.pause(); SELECT migrate_tiers.resume()));
	$pair->sync_back;
	is($pair->source_sql(q(SELECT string_agg(id::text, ' ' ORDER BY id) FROM item WHERE v = 'new' AND id IN (5, 2000))), '5 2000', 'what it writes with ids of before arrives');
	is($pair->source_sql('SELECT count(*) FROM migrate_tiers.conflicts'), '0', 'and is no conflict');
	like($pair->source_sql($verified), qr/item was verified before a server failed over/, 'nor does what was verified of the server that is gone count');
	$pair->source_sql('SELECT * FROM migrate_tiers.verify()');
	unlike($pair->source_sql($verified), qr/failed over/, 'but what is verified now does');

	# Nobody who drains may take them for sent either.
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->target_sql(q(INSERT INTO item VALUES (2001, 'new')));
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->source_sql(q(SELECT migrate_tiers.set_option('quiet_period', '0 s')));
	# Before the worker has asked the target, a gate says that nothing is known.
	ok(MigrateTiers::wait_for(sub { my ($went) = $pair->source_try(q(CALL migrate_tiers.revert('syncing'))); return $went; }, 60), 'the way back goes');
	is($pair->source_sql('SELECT v FROM item WHERE id = 2001'), 'new', 'the way back loses nothing');
	$pair->source_sql('DELETE FROM item WHERE id BETWEEN 101 AND 150');
	$pair->sync;
	$pair->equal('both sides are equal');
	return;
}

# What the new target writes has ids of what was sent of the old one, and swept there long ago.
sub target_fails_over_again
{
	my $writer = $pair->target_sql(q(SELECT 'migrate_tiers.writer_' || left(ident::text, 8) FROM migrate_tiers.migration));
	my $gate = MigrateTiers::session($pair->source);
	my $standby = standby('target');

	$pair->source_sql(<<'SQL');
CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
	WHILE NOT pg_try_advisory_xact_lock(1) LOOP PERFORM pg_sleep(0.02); END LOOP;
	RETURN NEW;
END$$;
CREATE TRIGGER pass_gate BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION pass_gate();
ALTER TABLE item ENABLE ALWAYS TRIGGER pass_gate;
SQL
	ready($pair, 'dual_write');
	$pair->advance('dual_write');
	$pair->set_option('queue_retention', '2 s');
	my $worker = $pair->worker_pid;
	cut_off('target', $standby);
	$pair->target_sql(join "\n", (map { 'SELECT pg_current_xact_id();' } 1 .. 1000), q(INSERT INTO item VALUES (4000, 'lost')));
	$pair->sync_back;
	ok($pair->wait_until(target => "SELECT count(*) = 0 FROM $writer"), 'what was sent is swept');
	my $since = $pair->source_sql('SELECT clock_timestamp()');

	promote('target', $standby);
	$pair->source_sql('ALTER SERVER new_db OPTIONS (SET port ' . "'" . $standby->port . "')");
	$gate->query_safe('SELECT pg_advisory_lock(1)');
	$pair->target_sql(q(INSERT INTO item VALUES (4001, 'new')));
	ok($pair->wait_until(source => "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $worker"), 'the same worker applies what the new target wrote');
	$pair->target_sql(q(INSERT INTO item VALUES (4002, 'new')));
	ok($pair->wait_until(source => "SELECT clock_timestamp() > '$since'::timestamptz + interval '2 s'"), 'and it is time to sweep');
	$gate->quit;
	$pair->sync_back;
	is($pair->source_sql('SELECT string_agg(id::text, chr(32) ORDER BY id) FROM item WHERE id > 4000'), '4001 4002', 'what it wrote meanwhile arrives, too');
	ok($pair->wait_until(target => "SELECT count(*) = 0 FROM $writer"), '... and is swept');

	$pair->source_sql('DROP TRIGGER pass_gate ON item');
	$pair->revert('syncing');
	$pair->source_sql('DELETE FROM item WHERE id >= 4000');
	$pair->sync;
	$pair->equal('both sides are equal');
	return;
}

# A copy on which nobody has written starts no worker, but a person or a schedule may do there what the source may.
sub copy_is_used
{
	my $copy = PostgreSQL::Test::Cluster->new('over_used');
	my $restored = standby('source');

	$pair->source_sql(q(INSERT INTO total VALUES (1); SELECT migrate_tiers.push_batch('total')));
	$pair->sync;
	$pair->source->backup('used');
	$copy->init_from_backup($pair->source, 'used');
	$copy->start;
	$pair->source->wait_for_catchup($restored);
	$restored->promote;
	my $busy = qr/another server sends to the target.*forget_target.*pause/s;
	is_refused($copy, 'a copy', $busy);
	is_refused($restored, 'one that was promoted, or restored to a point in time', $busy);

	# A worker of the source connects again: it is known as another server now.
	$pair->source_sql('SELECT migrate_tiers.pause(); SELECT migrate_tiers.resume()');
	$pair->sync;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	is_refused($copy, 'a copy that has seen an earlier session', qr/is a copy of this one.*forget_target.*take_target/s);
	is_refused($restored, 'the other one that has', qr/has not taken over the target.*start_workers.*forget_target.*take_target/s);
	for my $node ($copy, $restored)
	{
		my ($status, $out, $err) = $node->psql('shop', q(SELECT migrate_tiers.set_option('forget_target', 'on'); SELECT migrate_tiers.drop_migration()));
		is($status, 0, 'a copy can forget the target');
		like($err, qr/WARNING.*was left as it is.*If no other server uses it/s, '... and says that it leaves it');
		is($node->safe_psql('shop', 'SELECT count(*) FROM migrate_tiers.migration'), '0', '... and has no migration any more');
		$node->stop;
	}
	$pair->source_sql(q(SELECT migrate_tiers.resume(); INSERT INTO item VALUES (2900, 'of the source')));
	$pair->sync;
	$pair->equal('the source goes on as if nothing had been');
	$pair->source_sql('DELETE FROM item WHERE id = 2900');
	return;
}

# is_refused: nothing that a copy is told to do changes the target.
sub is_refused
{
	my ($node, $name, $why) = @_;
	my $there = q(SELECT (SELECT count(*) FROM item), (SELECT string_agg(id::text, ' ') FROM total),
		(SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'migrate_tiers%'), (SELECT string_agg(phase, ' ') FROM migrate_tiers.migration));
	my $before = $pair->target_sql($there);

	$node->safe_psql('shop', 'DELETE FROM total');
	for my $sql ('SELECT migrate_tiers.drop_migration()', q(CALL migrate_tiers.revert('planned')), q(SELECT migrate_tiers.push_batch('total')))
	{
		MigrateTiers::sql_fails($node, $sql, 'MT008', $why, "$name: $sql");
	}
	is($node->safe_psql('shop', q(SELECT phase || coalesce(transition, '') FROM migrate_tiers.status)), 'syncing', '... and is in its phase');
	is($pair->target_sql($there), $before, '... and the target is as it was');
	return;
}

sub copy_is_started
{
	my $source = $pair->source;
	my $copy = PostgreSQL::Test::Cluster->new('over_copy');
	my $stopped = q(SELECT coalesce(stopped, '') LIKE '%%%s%%' FROM migrate_tiers.status);

	$source->backup('copy');
	$copy->init_from_backup($source, 'copy');
	insert_lost('source');
	$pair->sync;
	$copy->start;
	$copy->safe_psql('shop', q(INSERT INTO item VALUES (3000, 'of a copy')));
	ok(MigrateTiers::wait_until($copy, sprintf $stopped, 'never made on this server'), 'a copy that lacks what was sent says so');
	is($pair->target_sql('SELECT count(*) FROM item WHERE id = 3000'), '0', '... and sends nothing');
	$pair->source_sql(q(INSERT INTO item VALUES (3001, 'of the source')));
	$pair->sync;
	is($pair->status('stopped'), '', 'the source goes on');

	# One that has given out as many ids cannot be told from the source; but only one of the two goes on.
	$copy->safe_psql('shop', join "\n", 'SELECT migrate_tiers.pause();', map { 'SELECT pg_current_xact_id();' } 1 .. 200);
	$copy->safe_psql('shop', q(SELECT migrate_tiers.resume(); INSERT INTO item VALUES (3002, 'of a copy'); SELECT migrate_tiers.wait_for_sync()));
	is($pair->target_sql('SELECT count(*) FROM item WHERE id = 3002'), '1', 'a copy that is ahead sends');
	$pair->source_sql(q(INSERT INTO item VALUES (3003, 'of the source')));
	ok($pair->wait_until(source => sprintf $stopped, 'another server that is a copy of this one'), 'the source says so');
	$copy->safe_psql('shop', q(INSERT INTO item VALUES (3004, 'of a copy'); SELECT migrate_tiers.wait_for_sync()));
	is($pair->target_sql('SELECT string_agg(id::text, chr(32) ORDER BY id) FROM item WHERE id >= 3000'), '3001 3002 3004', '... and they do not take turns');

	# Which of them is the source, a person has to say.
	$copy->safe_psql('shop', 'SELECT migrate_tiers.pause()');
	my (undef, $state, $error) = $pair->source_try(q(CALL migrate_tiers.revert('planned')));
	is($state, 'MT008', 'the source leaves a target alone that it takes for that of another one');
	my ($token) = $error =~ /take_target', '([-0-9a-f]{36})'/;
	ok($token, '... and says how it is told otherwise') or diag($error);
	$pair->set_option('take_target', $token);
	$pair->revert('planned');
	$pair->advance;
	$pair->sync;
	$pair->source_sql(q(SELECT migrate_tiers.push_batch('total')));
	$pair->equal('with the copy paused, the source copies anew');
	$copy->stop;
	return;
}
