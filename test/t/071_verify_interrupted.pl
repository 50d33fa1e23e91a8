# Verification and what gets into its way: it never says equal of what it did not
# read, says why it does not know, and goes on where it was cut off.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('interrupted', source_conf => "max_worker_processes = 16\n");
$pair->both_sql(<<'SQL');
CREATE TABLE big (id int PRIMARY KEY, v text);
CREATE TABLE small (id int PRIMARY KEY, v text);
CREATE TABLE cut (id int PRIMARY KEY, v text);
SQL
$pair->source_sql(<<'SQL');
INSERT INTO big SELECT i, md5(i::text) FROM generate_series(1, 60000) i;
INSERT INTO small SELECT i, 'v' FROM generate_series(1, 100) i;
INSERT INTO cut SELECT i, 'v' FROM generate_series(1, 100) i;
SQL
$pair->declare;
MigrateTiers::sql_fails($pair->source, 'SELECT * FROM migrate_tiers.verify()', 'MT003', qr/not in sync with its target in phase planned.*advance\('syncing'\)/s, 'nothing is verified before the sync');
$pair->set_option('copy_rate', '1');
$pair->advance;
my $row = 'SELECT concat_ws(\' \', verdict, source_rows, target_rows, different_rows, detail) FROM migrate_tiers.verify';
like($pair->source_sql("$row('big')"), qr/^unknown it does not follow yet: its state is (copying|planned)/, 'a table that is still copied is unknown');
$pair->set_option('copy_rate', '0');
$pair->sync;
MigrateTiers::sql_fails($pair->source, q{SELECT * FROM migrate_tiers.verify('pg_class')}, '42704', qr/not in migration "m"/, 'a table that is not tagged is refused');
is($pair->source_sql("$row('small')"), 'equal 100 100 0', 'a table that follows is equal');

# Seen as it is now, whatever the caller's transaction.
is($pair->source_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM small; INSERT INTO small VALUES (1000, 'not committed'); $row('small'); ROLLBACK"),
	"100\nequal 100 100 0", 'what the caller has not committed is no difference');
is($pair->source_sql(q{SELECT count(*) FROM migrate_tiers.verifications WHERE relation = 'small'::regclass AND verdict = 'equal'}), '2', 'and the verdict outlives its transaction');

# A pause, and a target that is away.
$pair->source_sql('SELECT migrate_tiers.pause()');
like($pair->source_sql("$row('small')"), qr/^unknown the migration is paused/, 'while paused');
$pair->source_sql('SELECT migrate_tiers.resume()');
$pair->sync;

# Columns and tables that one side only has.
$pair->target_sql('ALTER TABLE small ADD more int DEFAULT 1');
like($pair->source_sql("$row('small')"), qr/^unknown .*columns of its own: more \(option ignore_target_columns\)/, 'a column that only the target has');
$pair->set_option('ignore_target_columns', 'on');
is($pair->source_sql("$row('small')"), 'equal 100 100 0', 'unless it is to be ignored');
$pair->target_sql('ALTER TABLE small DROP more');
$pair->target_sql('ALTER TABLE small RENAME v TO w');
like($pair->source_sql("$row('small')"), qr/^unknown .*42703/, 'a column that only the source has');
$pair->target_sql('ALTER TABLE small RENAME w TO v');
$pair->target_sql('ALTER TABLE small RENAME TO gone');
like($pair->source_sql("$row('small')"), qr/^unknown .*42P01/, 'a table that is not there');
$pair->target_sql('ALTER TABLE gone RENAME TO small');
$pair->set_option('ignore_target_columns', 'off');

# A process that is ended: the next call goes on, and says how old the rest is.
$pair->set_option('verify_rate', '20000');
sub begin_big
{
	my $session = MigrateTiers::session($pair->source, on_error_stop => 0);
	$session->query_until(qr/begun/, "\\echo begun\nSELECT verdict FROM migrate_tiers.verify('big');\n");
	$pair->wait_until(source => q{SELECT count(*) > 0 FROM migrate_tiers.verification_range r JOIN migrate_tiers.verification v ON v.id = r.verification
		WHERE v.state = 'running' AND r.state = 'done' AND v.relation = (SELECT id FROM migrate_tiers.relation WHERE relation = 'big'::regclass)}) or die 'the verification does not begin';
	return $session;
}
# One that was cut off when a part was read: its number.
sub cut_big_off
{
	my $session = begin_big();
	my $id = $pair->source_sql('SELECT max(id) FROM migrate_tiers.verifications');
	$pair->source_sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers verify'});
	ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('migrate_tiers verify', 'migrate_tiers reader')}), 'with its keeper the readers end');
	is($pair->source_sql("SELECT verdict FROM migrate_tiers.verifications WHERE id = $id"), 'unknown', 'what was cut off is unknown');
	$session->quit;
	return $id;
}
# What was read of a server that is gone says nothing of the one that took over.
my $id = cut_big_off();
$pair->set_option('verify_rate', '0');
$pair->source_sql('INSERT INTO migrate_tiers.failover (migration) SELECT id FROM migrate_tiers.migration');
is($pair->source_sql("SELECT count(*) FROM migrate_tiers.verify('big')") . ' ' . $pair->source_sql("SELECT max(id) > $id FROM migrate_tiers.verifications"), '1 t', 'after a failover it begins anew');

$pair->set_option('verify_rate', '20000');
$id = cut_big_off();
$pair->set_option('verify_rate', '0');
my ($first, $done) = split /\|/, $pair->source_sql("SELECT oldest, (SELECT min(finished) FROM migrate_tiers.verification_range WHERE verification = $id) FROM migrate_tiers.verifications WHERE id = $id");
like($pair->source_sql("$row('big')"), qr/^equal 60000 60000 0 compared at 2 common points, the first of /, 'the next call goes on');
is($pair->source_sql("SELECT max(id) || ' ' || (max(oldest) = '$first') FROM migrate_tiers.verifications"), "$id true", 'with the same verification, whose age counts from its first point');
is($pair->source_sql("SELECT min(finished) FROM migrate_tiers.verification_range WHERE verification = $id"), $done, 'and does not read again what was read');

# What has found a difference and was ended then: the gate does not go by the verdict before.
my $gate = q{SELECT coalesce(substring(detail FROM 'public.big[^;]*'), 'nothing') FROM migrate_tiers.gates('dual_write') WHERE gate = 'verified'};
is($pair->source_sql($gate), 'nothing', 'the gate has nothing against a table that is equal');
my $token = $pair->source_sql('SELECT token FROM migrate_tiers.migration');
$pair->target_sql("SET migrate_tiers.session = '$token'; UPDATE big SET v = 'damaged' WHERE id = (SELECT min(id) FROM big)");
$pair->set_option('verify_rate', '20000');
my $session = begin_big();
ok($pair->wait_until(source => q{SELECT different_rows = 1 FROM migrate_tiers.verifications ORDER BY id DESC LIMIT 1}), 'a difference is found');
$pair->source_sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers verify'});
ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('migrate_tiers verify', 'migrate_tiers reader')}), 'its keeper is ended');
$session->quit;
is($pair->source_sql('SELECT verdict FROM migrate_tiers.verifications ORDER BY id DESC LIMIT 1'), 'different', 'it has said different already');
is($pair->source_sql($gate), 'public.big is not equal on both sides', 'and the gate goes by that');
$pair->set_option('verify_rate', '0');
like($pair->source_sql("$row('big')"), qr/^different 60000 60000 1\b/, 'gone on with, it says different');
is($pair->source_sql($gate), 'public.big is not equal on both sides (1 rows)', 'and the gate');
is($pair->source_sql(q{SELECT migrate_tiers.repair('big')}), '1', 'it is repaired');
$pair->sync;
like($pair->source_sql("$row('big')"), qr/^equal 60000 60000 0/, 'and equal');
is($pair->source_sql($gate), 'nothing', 'and the gate has nothing against it');

# What was compared before the tables were copied anew says nothing of that copy.
$pair->set_option('verify_rate', '20000');
$session = begin_big();
$id = $pair->source_sql('SELECT max(id) FROM migrate_tiers.verifications');
$pair->source_sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers verify'});
ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('migrate_tiers verify', 'migrate_tiers reader')}), 'cut off before the way back');
$session->quit;
$pair->set_option('verify_rate', '0');
$pair->source_sql(q{CALL migrate_tiers.revert('planned')});
$pair->advance;
$pair->sync;
$token = $pair->source_sql('SELECT token FROM migrate_tiers.migration');
$pair->target_sql("SET migrate_tiers.session = '$token'; UPDATE big SET v = 'damaged' WHERE id = (SELECT min(id) FROM big)");
like($pair->source_sql("$row('big')"), qr/^different 60000 60000 1$/, 'a new copy is compared from its beginning');
is($pair->source_sql("SELECT max(id) > $id FROM migrate_tiers.verifications"), 't', 'by a verification of its own');
is($pair->source_sql(q{SELECT migrate_tiers.repair('big')}), '1', 'its damage is repaired');
$pair->sync;

# The caller is cancelled.
$pair->set_option('verify_rate', '20000');
$session = begin_big();
$pair->source_sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%verify(''big'')%' AND pid <> pg_backend_pid()});
ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('migrate_tiers verify', 'migrate_tiers reader')}), 'cancel ends all of it');
$session->quit;
ok($pair->wait_until(target => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'}), 'and leaves nothing open on the target');

# A rate that is lower than the number of readers is a rate.
$pair->set_option('verify_workers', '2');
$pair->set_option('verify_rate', '1');
$session = begin_big();
my $outcome = q{SELECT CASE WHEN state <> 'running' THEN state WHEN EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'migrate_tiers reader' AND wait_event = 'Extension')
	AND NOT EXISTS (SELECT FROM migrate_tiers.verification_range AS r WHERE r.verification = v.id AND r.state = 'running') THEN 'throttled' ELSE '' END
	FROM migrate_tiers.verification AS v ORDER BY id DESC LIMIT 1};
my $seen = '';
MigrateTiers::wait_for(sub { $seen = $pair->source_sql($outcome); return $seen ne ''; });
is($seen, 'throttled', 'readers wait for their share of it');
$pair->source_sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%verify(''big'')%' AND pid <> pg_backend_pid()});
ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN ('migrate_tiers verify', 'migrate_tiers reader')}), 'and can be cancelled');
$session->quit;
$pair->set_option('verify_workers', '1');

# One snapshot is not held for longer than is wanted.
$pair->set_option('verify_rate', '15000');
$pair->set_option('verify_snapshot_limit', '1 s');
like($pair->source_sql("$row('big')"), qr/^equal 60000 60000 0 compared at [2-9] common points/, 'a long run goes on at new common points');

# The caller is cancelled while the keeper waits for a common point that does not come: no session notices.
$pair->target_sql('ALTER TABLE cut ADD CONSTRAINT low CHECK (id <= 100)');
$pair->source_sql(q{INSERT INTO cut VALUES (101, 'refused')});
ok($pair->wait_until(source => 'SELECT stopped IS NOT NULL FROM migrate_tiers.status'), 'sync is stopped');
my $other = MigrateTiers::session($pair->source);
$other->query_safe('BEGIN; SELECT 1');
$session = MigrateTiers::session($pair->source, on_error_stop => 0);
$session->query_until(qr/begun/, "\\echo begun\nSELECT verdict FROM migrate_tiers.verify('cut');\n");
ok($pair->wait_until(source => q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers verify' AND wait_event = 'Extension' AND xact_start IS NULL}), 'the keeper waits for a point');
$pair->source_sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%verify(''cut'')%' AND pid <> pg_backend_pid()});
ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers verify'}), 'cancel ends it');
is(eval { $other->query_safe('SELECT 2') }, '2', 'another session goes on');
$_->quit for $session, $other;
$pair->target_sql('ALTER TABLE cut DROP CONSTRAINT low');
$pair->source_sql('SELECT migrate_tiers.pause(); SELECT migrate_tiers.resume()');
$pair->sync;
is($pair->source_sql("$row('cut')"), 'equal 101 101 0', 'and the next verification has its point');

# The target goes away in the middle, and comes back.
$pair->source_sql(q{UPDATE big SET v = 'new' WHERE id = 1});
$session = begin_big();
$pair->target->restart;
$pair->set_option('verify_rate', '0');
my $came = $pair->wait_until(source => q{SELECT verdict = 'equal' AND finished IS NOT NULL FROM migrate_tiers.verifications ORDER BY id DESC LIMIT 1}, timeout => 60);
ok($came, 'a target that was away for a while is no end');
$session->quit;

# A TRUNCATE shows every snapshot an empty table.
$pair->set_option('verify_snapshot_limit', '10 min');
$pair->set_option('verify_rate', '20000');
$session = begin_big();
$pair->source_sql(q{TRUNCATE big; INSERT INTO big VALUES (1, 'one')});
ok($pair->wait_until(source => q{SELECT finished IS NOT NULL FROM migrate_tiers.verifications ORDER BY id DESC LIMIT 1}), 'a run over a TRUNCATE ends');
is($pair->source_sql('SELECT verdict FROM migrate_tiers.verifications ORDER BY id DESC LIMIT 1'), 'equal', 'and finds no difference in it');
$session->quit;
$pair->set_option('verify_rate', '0');
is($pair->source_sql("$row('big')"), 'equal 1 1 0', 'nor does the next one');

# A table that applications hold for long, and DDL that is not kept waiting.
my $holder = MigrateTiers::session($pair->source);
$holder->query_safe('BEGIN; LOCK TABLE small IN ACCESS EXCLUSIVE MODE');
my $asker = MigrateTiers::session($pair->source);
$asker->query_until(qr/begun/, "\\echo begun\nSELECT verdict FROM migrate_tiers.verify('small');\n");
ok($pair->wait_until(source => q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers verify'}), 'a verification of a locked table begins');
ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_locks WHERE NOT granted}), 'and does not stay in the queue of the lock');
$holder->query_safe('COMMIT');
ok($pair->wait_until(source => q{SELECT verdict = 'equal' FROM migrate_tiers.verifications ORDER BY id DESC LIMIT 1}), 'and is verified when it can be had');
$asker->quit;
$holder->quit;

# By itself.
my $before = $pair->source_sql('SELECT max(id) FROM migrate_tiers.verifications');
$pair->set_option('verify_every', '1 s');
ok($pair->wait_until(source => "SELECT count(*) = 3 AND bool_and(verdict = 'equal') FROM (SELECT verdict FROM migrate_tiers.verifications WHERE id > $before AND scheduled ORDER BY id LIMIT 3) s"), 'verify_every verifies every table by itself');
$pair->set_option('verify_every', '0');

$pair->finish;
done_testing();
