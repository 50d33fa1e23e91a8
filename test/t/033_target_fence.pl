# The fence on the target: a flag that is flipped without a lock on any table,
# and that nobody writes past, whatever the role, the way or the snapshot.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('fence');
$pair->both_sql(<<'SQL');
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE line (item int REFERENCES item ON DELETE CASCADE, n int, PRIMARY KEY (item, n));
CREATE TABLE event (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (100);
INSERT INTO event VALUES (1, 1);
CREATE TABLE above (k int, v int);
CREATE TABLE below (PRIMARY KEY (k)) INHERITS (above);
CREATE TABLE part (id int, at int, n int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (50);
SQL
$pair->target_sql('CREATE TABLE whole (id int, at int, n int) PARTITION BY RANGE (at); ALTER TABLE whole ATTACH PARTITION part FOR VALUES FROM (0) TO (100)');
$pair->target_sql('TRUNCATE event; CREATE ROLE clerk; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO clerk');
$pair->source_sql(q{INSERT INTO item VALUES (1, 'a'), (2, 'b'); INSERT INTO line VALUES (1, 1); INSERT INTO below VALUES (1, 1); INSERT INTO part VALUES (1, 1, 1)});
$pair->declare;
$pair->source_sql(q{SELECT migrate_tiers.tag('above', 'ignored')});
$pair->advance;
$pair->sync;

my $ident = $pair->target_sql('SELECT left(ident::text, 8) FROM migrate_tiers.migration');
my $key = $pair->target_sql("SELECT ('x' || '$ident')::bit(32)::int");

sub flag { my ($value) = @_; $pair->target_sql("SELECT setval('migrate_tiers.fence_$ident', $value)"); return; }
sub writers_gone { return $pair->target_sql("SET lock_timeout = '100ms'; SELECT migrate_tiers.await_writers($key)") eq 't'; }

# refused(sql, name): one test, that the fence and nothing else refuses it.
sub refused
{
	my ($sql, $name) = @_;
	my ($out, $err) = ('', '');
	$pair->target->psql('shop', "\\set VERBOSITY verbose\n$sql", stdout => \$out, stderr => \$err, on_error_stop => 1);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($err, qr/ERROR:\s+MT005: writes of table public\.\w+ go to the source database while migration "m" is in phase syncing.*HINT:\s+Write to the source database/s, $name);
	return;
}

my %ways = (
	insert => q{INSERT INTO item VALUES (9, 'x')},
	'on conflict' => q{INSERT INTO item VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = 'x'},
	'update of nothing' => q{UPDATE item SET v = 'x' WHERE false},
	delete => q{DELETE FROM item},
	merge => q{MERGE INTO item USING (VALUES (1)) s(id) ON item.id = s.id WHEN MATCHED THEN DELETE},
	copy => qq{COPY item FROM STDIN;\n9\tx\n\\.\n},
	truncate => 'TRUNCATE line',
	'truncate cascade' => 'TRUNCATE item CASCADE',
	'a partition' => 'INSERT INTO event_1 VALUES (2, 2)',
	'truncate of a partition' => 'TRUNCATE event_1',
	'the partitioned table' => 'DELETE FROM event',
	'a parent' => 'UPDATE above SET v = 2',
	'a delete by a parent' => 'DELETE FROM above',
	'a partitioned table above' => 'INSERT INTO whole VALUES (2, 2, 2)',
	'a move by a partitioned table above' => 'UPDATE whole SET n = 2');

subtest 'closed from the start' => sub {
	refused($ways{$_}, $_) for sort keys %ways;
	refused("SET session_replication_role = replica; $ways{insert}", 'in replica role');
	refused("SET ROLE clerk; $ways{insert}", 'as a role without rights on our schema');
	refused("SELECT pg_advisory_xact_lock_shared(19796, $key)\\;$ways{insert}", 'with a lock as the fence takes it');
	refused("SET migrate_tiers.session = 'x'; $ways{insert}", 'with a token that is not ours');
	my @words = split /\n/, $pair->target_sql(q{SET ROLE clerk;
		SELECT DISTINCT m[1] FROM (SELECT prosrc FROM pg_proc UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger) t(code),
			regexp_matches(code, '''([0-9a-f-]{32,})''', 'g') m WHERE code LIKE '%migrate_tiers.session%'});
	cmp_ok(scalar @words, '>=', 2, 'everyone can read the functions of the fence');
	refused("SET ROLE clerk; SET migrate_tiers.session = '$_'; $ways{insert}", 'with what stands there') for @words;
};

subtest 'opened' => sub {
	my $old = MigrateTiers::session($pair->target, on_error_stop => 0);
	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
	flag(2);
	for my $role ('postgres', 'clerk')
	{
		for my $way (sort keys %ways)
		{
			my ($out, $err);
			is($pair->target->psql('shop', "SET ROLE $role; BEGIN; $ways{$way}; ROLLBACK", stderr => \$err, on_error_stop => 1), 0, "$way as $role") or diag($err);
		}
	}
	is($old->query_safe(q{UPDATE item SET v = v WHERE id = 1 RETURNING id}), 1, 'an older snapshot sees that it is open');
	is($pair->target_sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 19796 AND objid::text = '" . ($key < 0 ? $key + 2**32 : $key) . q{'}), '1', 'a writer holds the lock');
	ok(!writers_gone(), 'who closes the fence waits for it');
	$old->query_safe('ROLLBACK');
	ok(writers_gone(), 'until it has ended');
	$old->quit;
};

subtest 'closed again' => sub {
	my $reader = MigrateTiers::session($pair->target, on_error_stop => 0);
	$reader->query_safe('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM pg_class');
	my $writer = MigrateTiers::session($pair->target, on_error_stop => 0);
	$writer->query_safe(q{BEGIN; SAVEPOINT a; UPDATE item SET v = v WHERE id = 1; ROLLBACK TO a});
	ok(writers_gone(), 'a writer that was rolled back to a savepoint is none');
	$writer->query_safe(q{UPDATE item SET v = v WHERE id = 1});
	flag(1);
	ok(!writers_gone(), 'a writer is waited for');
	refused($ways{insert}, 'while new ones are refused');
	$writer->query_safe(q{PREPARE TRANSACTION 'p'});
	ok(!writers_gone(), 'also when its transaction is prepared');
	$pair->target_sql(q{COMMIT PREPARED 'p'});
	ok(writers_gone(), 'until it commits');
	my ($out, $err) = $reader->query('DELETE FROM item');
	like($reader->{stderr}, qr/go to the source database/, 'an older snapshot sees that it is closed');
	$_->quit for $writer, $reader;
	refused($ways{$_}, $_) for sort keys %ways;
};

$pair->source_sql(q{UPDATE item SET v = v || '!'; UPDATE below SET v = 3; UPDATE part SET n = 3});
$pair->sync;
$pair->equal('our own sessions pass');

# The fence closes while somebody writes by way of a parent: he is waited for, and what he wrote arrives.
subtest 'closed under who writes a parent' => sub {
	$pair->set_option('quiet_period', '0 s');
	$pair->dual_write;
	my $writer = MigrateTiers::session($pair->target);
	$writer->query_safe(q{SET application_name = 'above all'; BEGIN; UPDATE above SET v = 9; UPDATE whole SET n = 9});
	my $revert = MigrateTiers::session($pair->source);
	$revert->query_safe('SET client_min_messages = warning');
	$revert->query_until(qr/begun/, "\\echo begun\nCALL migrate_tiers.revert('syncing');\n");
	ok($pair->wait_until(target => "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND classid = 19796 AND NOT granted"), 'it is waited for');
	$writer->query_safe('COMMIT');
	$revert->query_safe('SELECT 1');
	$_->quit for $writer, $revert;
	is($pair->status('phase'), 'syncing', 'then it goes on');
	is($pair->source_sql('SELECT v FROM below UNION ALL SELECT n FROM part'), "9\n9", 'with what was written');
	$pair->equal('both sides are equal');
	refused($ways{$_}, $_) for 'a parent', 'a partitioned table above';
};
$pair->revert;
$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
is($pair->target_sql(q{SELECT (SELECT count(*) FROM pg_trigger WHERE tgname ~ '^migrate_tiers') + (SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_tiers')}), '0', 'nothing is left');
$pair->finish;
done_testing();
