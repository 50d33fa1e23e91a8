# The whole way, forward and back: in each phase the sides that may be written
# are, everything arrives on the other, and what may not be written is refused.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
sql($_, q(CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
	CREATE TABLE part (id int, at date, v int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
	CREATE TABLE part_old PARTITION OF part FOR VALUES FROM ('2000-01-01') TO ('2020-01-01');
	CREATE TABLE part_new PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2040-01-01');
	CREATE ROLE app LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO app))
  for $source, $target;
migration($source, 'item', 'part');
sql($source, q(INSERT INTO item (name) SELECT 'item ' || i FROM generate_series(1, 100) i;
	INSERT INTO part SELECT i, date '2010-01-01' + i * 30, i FROM generate_series(1, 300) i;
	SELECT migrate_tiers.set_option('quiet_period', '0 s')));

my %node = (source => $source, target => $target);
my $step = 0;

# writes($side): an insert, an update, a delete, and one directly into a partition.
sub writes
{
	my ($side) = @_;
	$step++;
	sql($node{$side}, "SET application_name = 'on $side'; INSERT INTO item (name) VALUES ('$side $step');
		UPDATE item SET name = name || '.' WHERE id = (SELECT max(id) FROM item);
		UPDATE part_old SET v = v + 1 WHERE id = $step; DELETE FROM part WHERE id = 300 - $step;
		INSERT INTO part_new VALUES (1000 + $step, '2030-01-01', $step)", as => 'app');
	return;
}

# The reverse way has no wait_for_sync on the source: what the target has is waited for there.
sub equal
{
	my ($phase) = @_;
	wait_synced($source) if query($source, q(SELECT phase FROM migrate_tiers.status)) ne 'finished';
	wait_until($source, q(SELECT coalesce(reverse_pending, 0) = 0 AND coalesce(reverse_lag, '0') = '0' FROM migrate_tiers.status));
	my %columns = (item => 'id, name', part => 'id, at, v');
	foreach my $table ('item', 'part')
	{
		ok(MigrateTiers::wait_for(sub {
				table_image($source, $table, $columns{$table}) eq table_image($target, $table, $columns{$table});
			}, 20), "$table is equal in $phase") or tables_equal($source, $target, $table);
	}
	return;
}

sub refused
{
	my ($side, $phase) = @_;
	my $other = $side eq 'source' ? 'target' : 'source';
	foreach my $write ("INSERT INTO item (name) VALUES ('x')", 'UPDATE item SET name = name', 'DELETE FROM item WHERE false',
		'TRUNCATE part_old', 'UPDATE part_new SET v = 1', "COPY item (name) FROM stdin;\nx\n\\.",
		"INSERT INTO item (id, name) OVERRIDING SYSTEM VALUE VALUES (1, 'x') ON CONFLICT DO NOTHING")
	{
		sql_fails($node{$side}, $write, 'MT005', qr/go to the $other database while migration "shop" is in phase $phase.*HINT/s,
			"$phase: the $side refuses " . substr($write, 0, 12), as => 'app');
	}
	sql_fails($node{$side}, 'SET session_replication_role = replica; DELETE FROM item', 'MT005', qr/phase $phase/, "$phase: from everybody");
	return;
}

sub at
{
	my ($phase, $reads, $writes) = @_;
	is(query($source, 'SELECT phase, reads, writes FROM migrate_tiers.routing'), "$phase|$reads|$writes", "the source says $phase");
	is(query($target, 'SELECT phase FROM migrate_tiers.migration'), $phase, 'and so does the target');
	is(query($target, 'SELECT phase, reads, writes FROM migrate_tiers.routing', as => 'app'), "$phase|$reads|$writes", 'for everybody')
	  if query($target, q(SELECT to_regclass('migrate_tiers.routing') IS NOT NULL)) eq 't';
	is(query($source, 'SELECT transition FROM migrate_tiers.status'), '', 'nothing is under way');
	return;
}

advance($source, 'syncing');
equal('syncing');
at('syncing', 'source', 'source');
refused('target', 'syncing');
writes('source');
equal('syncing');
sql($source, 'SELECT * FROM migrate_tiers.verify()') if query($source, q(SELECT count(*) FROM pg_proc WHERE proname = 'verify' AND pronamespace = 'migrate_tiers'::regnamespace));

# plan() is the same table.
like(query($source, q(SELECT string_agg(step, ' ') FROM (SELECT DISTINCT step, min(number) OVER (PARTITION BY step) n FROM migrate_tiers.plan('dual_write') ORDER BY n) p)),
	qr/install_reverse.*attach_reverse.*interleave.*begin_reverse.*open_target$/, 'the plan of the way to dual_write');
sql_fails($source, q(CALL migrate_tiers.advance('read_target')), 'MT003', qr/advance\('dual_write'\)/, 'a phase that is not next');
sql_fails($source, q(BEGIN; CALL migrate_tiers.advance('dual_write'); COMMIT), '25001', qr/outside of a transaction/, 'in a transaction block');

sql($source, q(CALL migrate_tiers.rehearse('dual_write')));
at('syncing', 'source', 'source');
is(query($source, q(SELECT string_agg(from_phase || ' ' || to_phase || ' ' || outcome, ', ' ORDER BY id) FROM migrate_tiers.transitions WHERE id > 1)),
	'syncing dual_write done, dual_write syncing done', 'a rehearsal goes there and back, and is in the journal');
refused('target', 'syncing');

for my $round (1, 2)
{
	sql($source, 'SELECT * FROM migrate_tiers.verify()') if query($source, q(SELECT count(*) FROM pg_proc WHERE proname = 'verify' AND pronamespace = 'migrate_tiers'::regnamespace));
	advance($source, 'dual_write');
	at('dual_write', 'source', 'either');
	writes($_) for 'source', 'target', 'source';
	equal('dual_write');
	advance($source, 'read_target');
	at('read_target', 'target', 'either');
	writes($_) for 'target', 'source', 'target';
	equal('read_target');
	advance($source, 'target_only');
	at('target_only', 'target', 'target');
	refused('source', 'target_only');
	writes('target');
	equal('target_only');
	last if $round == 2;
	revert($source, 'read_target');
	at('read_target', 'target', 'either');
	writes($_) for 'source', 'target';
	equal('read_target');
	revert($source, 'dual_write');
	at('dual_write', 'source', 'either');
	writes($_) for 'target', 'source';
	equal('dual_write');
	revert($source, 'syncing');
	at('syncing', 'source', 'source');
	refused('target', 'syncing');
	writes('source');
	equal('syncing');
}

# The end is asked for twice.
sql_fails($source, q(CALL migrate_tiers.advance('finished')), 'MT001', qr/Gate finished: nobody has confirmed.*confirm\('finished'/s, 'the end wants a word');
sql_fails($source, q(CALL migrate_tiers.rehearse('finished')), 'MT003', qr/no way back/, 'and is not rehearsed');
# The source is closed as the README says: procedures begin transactions of their own.
sql($source, 'ALTER DATABASE shop SET default_transaction_read_only = on');
sql($source, q(SET default_transaction_read_only = off; SELECT migrate_tiers.confirm('finished', 'all servers have moved')));
advance($source, 'finished');
sql_fails($source, 'DELETE FROM item', '25006', qr/read-only transaction/, 'the source is closed all the while', as => 'app');
sql($source, 'SET default_transaction_read_only = off; ALTER DATABASE shop RESET default_transaction_read_only');
is(query($source, 'SELECT phase, reads, writes FROM migrate_tiers.routing'), 'finished|target|target', 'finished');
sql($target, "INSERT INTO item (name) VALUES ('alone')", as => 'app');
sql($source, "UPDATE item SET name = 'alone, too' WHERE id = 1", as => 'app');
sql_fails($source, q(CALL migrate_tiers.revert('target_only')), 'MT003', qr/is the end/, 'no way back');
is(query($target, q(SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_tiers')), '0', 'no schema is left on the target');
is(query($_, q(SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)), '0', 'no trigger is left') for $source, $target;
is(scalar(worker_pids($source)), 0, 'no worker is left');
is(query($source, q(SELECT count(*) FROM pg_class WHERE relname LIKE 'queue\_%' AND relnamespace = 'migrate_tiers'::regnamespace)), '0', 'no queue is left');
sql($source, 'SELECT migrate_tiers.drop_migration()');
is(query($source, 'SELECT count(*) FROM migrate_tiers.migration'), '0', 'and it can be forgotten');

finish($source, $target);
done_testing();
