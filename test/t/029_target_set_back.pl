# During the initial copy the target fails over to a standby that lacks the last
# of what was committed there: chunks and indexes that the source has noted as
# done, or that a table was emptied to be copied again.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $pair = MigrateTiers::Pair->new('back');
my $source = $pair->source;

# standby_of starts one of the target.
sub standby_of
{
	my ($target, $name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name, $ENV{MT_TARGET_INSTALL} ? (install_path => $ENV{MT_TARGET_INSTALL}) : ());
	$target->backup($name);
	$standby->init_from_backup($target, $name, has_streaming => 1);
	$standby->start;
	return $standby;
}

# cut_off ends the replication, when the standby has what is there now.
sub cut_off
{
	my ($standby) = @_;
	my $target = $pair->target;
	$target->wait_for_catchup($standby);
	$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
	$standby->reload;
	$pair->wait_until(target => 'SELECT count(*) = 0 FROM pg_stat_replication') or die 'the standby goes on to receive';
	return;
}

# fail_over makes the standby the target.
sub fail_over
{
	my ($standby) = @_;
	$pair->target->stop('immediate');
	$standby->promote;
	$pair->source_sql("ALTER SERVER new_db OPTIONS (SET port '" . $standby->port . "')");
	$pair->{target} = $standby;
	return;
}

my $indexes = q{SELECT string_agg(pg_get_indexdef(indexrelid), ';' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid IN ('big'::regclass, 'kept'::regclass)};

# The view keeps the key of its table from being set aside.
$pair->both_sql('CREATE TABLE big (id int PRIMARY KEY, v text); CREATE INDEX ON big (v); CREATE TABLE kept (id int PRIMARY KEY, v text)');
$pair->target_sql('CREATE VIEW keeps AS SELECT id, v FROM kept GROUP BY id');
$pair->source_sql("INSERT INTO $_ SELECT i, repeat('v', 200) || i FROM generate_series(1, 10000) i") for qw(big kept);
$pair->declare;
$pair->set_option('copy_rate', 500_000);
$pair->set_option('chunk_size', '128kB');

subtest 'chunks and indexes that the standby lacks' => sub {
	my $before = $pair->target_sql($indexes);
	my $standby = standby_of($pair->target, 'back_standby');
	$pair->advance;
	ok($pair->wait_until(source => q{SELECT copied_rows > 0 FROM migrate_tiers.tables WHERE relation = 'big'::regclass}), 'the copy is under way');
	cut_off($standby);
	# Nothing joins while this stands: all that is to be done for the copy is done, and not more.
	$pair->target_sql(q{BEGIN; LOCK TABLE migrate_tiers.joined IN SHARE MODE; PREPARE TRANSACTION 'hold'});
	$pair->set_option('copy_rate', 0);
	ok($pair->wait_until(source => q{SELECT bool_and(state = 'done') FROM migrate_tiers.copy_task}), 'every task is done');
	is($pair->source_sql(q{SELECT string_agg(DISTINCT state, ',') FROM migrate_tiers.tables}), 'copying', 'and no table has joined');
	my $there = $standby->safe_psql('shop', 'SELECT count(*) FROM big');
	cmp_ok($there, '>', 0, "$there rows are on the standby");
	cmp_ok($there, '<', 10000, 'which is not all');
	fail_over($standby);
	$pair->sync;
	$pair->equal('what it lacked was copied again');
	is($pair->target_sql($indexes), $before, 'with every index');
	is($pair->source_sql(q{SELECT string_agg(state || ' ' || copied_rows, ',') FROM migrate_tiers.tables}), 'syncing 10000,syncing 10000', 'each row is counted once');
};

subtest 'a copy that begins anew' => sub {
	my $standby = standby_of($pair->target, 'back_again');
	cut_off($standby);
	my $log = -s $source->logfile;
	$pair->set_option('copy_rate', 100_000);
	$pair->source_sql(q{SET migrate_tiers.allow_ddl = on; ALTER TABLE kept ALTER v TYPE text USING 'again ' || id});
	ok($pair->wait_until(source => q{SELECT state = 'copying' AND copied_rows > 0 FROM migrate_tiers.tables WHERE relation = 'kept'::regclass}), 'a table is copied again');
	is($standby->safe_psql('shop', q{SELECT count(*) FROM kept WHERE v LIKE 'again%'}), '0', 'the standby has what was copied first');
	fail_over($standby);
	$pair->set_option('copy_rate', 0);
	$pair->sync;
	$pair->equal('it has what was copied last');
	like(slurp_file($source->logfile, $log), qr/table public\.kept will be copied to the target again/, 'the log says so');
};

# What was sent is kept for queue_retention, and no rotation says that less is.
subtest 'a standby that was cut off before a rotation' => sub {
	my $standby = standby_of($pair->target, 'back_rotated');
	my $floor = q{SELECT coalesce(floor::text, '') FROM migrate_tiers.migration};
	my $id = 30000;
	my $write = sub { $id++; return $pair->source_sql("INSERT INTO big VALUES ($id, 'steady'); SELECT clock_timestamp()"); };
	my $rotated = sub {
		my $before = $pair->source_sql($floor);
		return MigrateTiers::wait_for(sub { $write->(); return $pair->source_sql($floor) ne $before; }, 60);
	};
	$pair->set_option('queue_retention', '6 s');
	# At first what is there from before goes; then a segment a period.
	ok($rotated->(), 'a segment is given back') for 1 .. 3;
	my $late = $pair->source_sql(q{SELECT clock_timestamp() + interval '3 s'});
	MigrateTiers::wait_for(sub { return $write->() gt $late; }, 20);
	cut_off($standby);
	ok($rotated->(), 'the next one after less than the period');
	fail_over($standby);
	$pair->sync;
	$pair->equal('what it lacked is still there to be sent');
	$pair->set_option('queue_retention', '5 min');
};

# Whoever asks meanwhile, a gate or a push, asks the new one.
subtest 'the server is pointed to another one while the old one runs on' => sub {
	my $old = $pair->target;
	my $standby = standby_of($old, 'back_planned');
	my $pid = q{SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1297370963};
	$old->wait_for_catchup($standby);
	my $session = $pair->target_sql($pid);
	$pair->source_sql(q{ALTER SERVER new_db OPTIONS (ADD fetch_size '50'); ALTER USER MAPPING FOR CURRENT_USER SERVER new_db OPTIONS (SET password 'another')});
	$pair->source_sql(q{INSERT INTO big VALUES (20001, 'before')});
	$pair->sync;
	$pair->source_sql(sprintf q{ALTER USER MAPPING FOR CURRENT_USER SERVER new_db OPTIONS (SET password '%s')}, MigrateTiers::secret());
	is($pair->target_sql($pid), $session, 'what does not lead elsewhere ends no session');
	$old->wait_for_catchup($standby);
	$standby->promote;
	$pair->source_sql("ALTER SERVER new_db OPTIONS (SET port '" . $standby->port . "')");
	$pair->source_sql(q{INSERT INTO big VALUES (20002, 'after')});
	$pair->sync;
	is($old->safe_psql('shop', 'SELECT count(*) FROM big WHERE id = 20002'), '0', 'the old one gets nothing any more');
	is($old->safe_psql('shop', $pid), '', '... and has no session of the worker');
	$pair->{target} = $standby;
	$pair->equal('the new one gets all');
	$old->stop;
};

$pair->finish;
done_testing();
