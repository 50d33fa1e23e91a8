# The roster of application servers: who is expected, what each reports, and
# what capture saw of it, kept across restarts and truncations of the queue.
use strict;
use warnings;

use MigrateTiers;
use PostgreSQL::Test::Utils;
use Test::More;

my ($source, $target) = pair();
sql($_, 'CREATE TABLE item (id int PRIMARY KEY, name text)') for $source, $target;
migration($source, 'item');
sql($source, q(CREATE ROLE app LOGIN; GRANT INSERT, SELECT ON item TO app));

my $roster = q(SELECT name, expected, reported_phase, reported_at IS NOT NULL, last_source_write IS NOT NULL,
	last_target_write IS NOT NULL FROM migrate_tiers.instances ORDER BY name);

sql($source, q(SELECT migrate_tiers.expect_instance('web1'), migrate_tiers.expect_instance('web2'), migrate_tiers.expect_instance('web2')));
sql($source, q(SELECT migrate_tiers.report_instance('web1', 'syncing')), as => 'app');
is(query($source, $roster), "web1|t|syncing|t|f|f\nweb2|t||f|f|f", 'any role may report, and the last report is shown');
sql_fails($source, q(SELECT migrate_tiers.report_instance('web3', 'syncing')), '42704', qr/expect_instance\('web3'\)/, 'one that was never expected');
sql_fails($source, q(SELECT migrate_tiers.report_instance('web1', 'sincing')), '22023', qr/Phases are/, 'no phase');
sql_fails($source, q(SELECT migrate_tiers.report_instance('web1', 'syncing', 'office')), '42704', qr/migration "office"/, 'no migration');
sql_fails($source, q(SELECT migrate_tiers.expect_instance('web3')), '42501', qr/driven by members/, 'only the owner has the roster', as => 'app');
sql_fails($source, q(SELECT migrate_tiers.expect_instance('')), '22023', qr/application_name/, 'a name');
sql_fails($source, q(SELECT migrate_tiers.expect_instance(repeat('x', 64))), '22023', qr/1 to 63 bytes/, 'no longer than an application_name');
is(query($source, 'SELECT count(*) FROM migrate_tiers.instances', as => 'app'), '0', 'others do not see it');
is(query($source, 'SELECT * FROM migrate_tiers.routing', as => 'app'), 'shop|planned|source|source', 'but everyone sees where to go');
sql($source, q(SELECT migrate_tiers.forget_instance('web2')));
sql_fails($source, q(SELECT migrate_tiers.forget_instance('web2')), '42704', qr/expects no instance/, 'forgotten once');

# What capture saw.
advance($source, 'syncing');
wait_synced($source);
is(query($source, 'SELECT phase, reads, writes FROM migrate_tiers.routing'), 'syncing|source|source', 'routing follows the phase');
sql($source, q(SET application_name = 'web1'; INSERT INTO item VALUES (1, 'a')));
sql($source, q(SET application_name = 'un"expected ''app'''; INSERT INTO item VALUES (2, 'b')));
sql($source, q(SET application_name = ''; INSERT INTO item VALUES (3, 'c')));
sql($source, q(SET application_name = 'reader'; SELECT count(*) FROM item));
ok(wait_until($source, q(SELECT string_agg(format('%s %s', name, expected), ', ' ORDER BY name)
		FROM migrate_tiers.instances WHERE last_source_write > '2020-01-01'),
	q( f, un"expected 'app' f, web1 t)), 'who wrote, whether expected or not, and nobody else');

# Nothing is forgotten with the queue: segments are given back a second after they were sent.
sql($source, q(SELECT migrate_tiers.set_option('queue_retention', '1 s')));
sql($source, q(SET application_name = 'brief'; INSERT INTO item VALUES (4, 'd')));
my $worker = (worker_pids($source, 'sync'))[0];
my $rows = join ' UNION ALL ', map { "SELECT application FROM migrate_tiers.queue_1_$_" } 0 .. 2;
ok(wait_until($source, "SELECT count(*) FROM ($rows) q WHERE application = 'brief'", '0'), 'the queue has given it back');
is(query($source, q(SELECT count(*) FROM migrate_tiers.instances WHERE name = 'brief' AND last_source_write IS NOT NULL)), '1',
	'what it held is kept');

# Whoever keeps a call about the roster open stops neither sync, nor what is saved of others, nor the queue's being given back.
my ($reporter, $expecter, $forgetter) = map { session($source) } 1 .. 3;
$reporter->query_safe(q(SET SESSION AUTHORIZATION app; BEGIN; SELECT migrate_tiers.report_instance('web1', 'dual_write')));
$expecter->query_safe(q(BEGIN; SELECT migrate_tiers.expect_instance('web4')));
sql($source, q(SELECT migrate_tiers.expect_instance('web5')));
$forgetter->query_safe(q(BEGIN; SELECT migrate_tiers.forget_instance('web5')));
my $held = query($source, 'SELECT clock_timestamp()');
sql($source, "SET application_name = '$_->[0]'; UPDATE item SET name = 'held' WHERE id = $_->[1]") for ['web1', 1], ['web4', 2], ['web5', 3];
ok(wait_until($source, "SELECT count(*) FROM migrate_tiers.instances WHERE name ~ '^web[145]' AND last_source_write > '$held'", '3', 30),
	'what they wrote is saved meanwhile');
ok(wait_until($source, "SELECT count(*) FROM ($rows) q WHERE application ~ '^web'", '0', 30), 'and the queue has given it back');
sql($source, q(SELECT migrate_tiers.wait_for_sync(timeout => '10 s')));
is(query($source, 'SELECT stopped, stopped_at FROM migrate_tiers.status'), '|', 'nothing stopped');
is(query($source, $roster . " LIMIT 4"), "|f||f|t|f\nbrief|f||f|t|f\nun\"expected 'app'|f||f|t|f\nweb1|t|syncing|t|t|f", 'the report is not there yet');
$_->query_safe('COMMIT') for $reporter, $expecter, $forgetter;
$_->quit for $reporter, $expecter, $forgetter;
is(query($source, $roster), "|f||f|t|f\nbrief|f||f|t|f\nun\"expected 'app'|f||f|t|f\nweb1|t|dual_write|t|t|f\nweb4|t||f|t|f\nweb5|f||f|t|f",
	'and then the roster has all of it');

# The same for a call that has changed the migration itself: what the worker notes there has time.
($worker) = worker_pids($source, 'sync');
my $chooser = session($source);
my $logged = -s $source->logfile;
$chooser->query_safe(q(BEGIN; SELECT migrate_tiers.set_option('queue_limit', '1 GB')));
for my $turn (1 .. 4)
{
	sql($source, "SET application_name = 'turn$turn'; UPDATE item SET name = 'turn' WHERE id = 1");
	wait_until($source, "SELECT last_source_write IS NOT NULL FROM migrate_tiers.instances WHERE name = 'turn$turn'", 't', 30)
		or fail("turn $turn is saved");
}
sql($source, q(SELECT migrate_tiers.wait_for_sync(timeout => '10 s')));
is(query($source, 'SELECT stopped FROM migrate_tiers.status'), '', 'nothing stopped');
is((worker_pids($source, 'sync'))[0], $worker, 'the worker is the same');
unlike(slurp_file($source->logfile, $logged), qr/forward sync stopped/, 'nor for a moment');
$chooser->query_safe('COMMIT');
$chooser->quit;
ok(wait_until($source, "SELECT count(*) FROM ($rows) q WHERE application ~ '^turn'", '0', 30), 'and then the queue is given back');

# Nor with the worker: what was sent and not yet saved is still in the queue.
sql($source, q(SELECT migrate_tiers.set_option('queue_retention', '10 min')));
wait_synced($source);
my $before = query($source, q(SET application_name = 'late'; INSERT INTO item VALUES (5, 'e') RETURNING now()));
wait_synced($source);
($worker) = worker_pids($source, 'sync');
kill 'KILL', $worker;
ok(wait_until($source, q(SELECT workers_running FROM migrate_tiers.status), 'f'), 'the worker was killed');
wait_until($source, 'SELECT migrate_tiers.start_workers() >= 0');
ok(wait_until($source, "SELECT last_source_write >= '$before' FROM migrate_tiers.instances WHERE name = 'late'"), 'the next one finds it');

# Any role can report on the target, under any name: there is a limit, and what is read of it is less; who is expected is among it.
my $target_roster = q(SELECT migrate_tiers.report_instance(format('%s %s', 'nobody', i), 'syncing') FROM generate_series);
sql($target, q(CREATE ROLE anybody LOGIN));
sql($target, q(SELECT migrate_tiers.report_instance('web4', 'syncing')), as => 'anybody');
sql($target, "$target_roster(1, 9999) i", as => 'anybody');
sql_fails($target, "$target_roster(10000, 20000) i", '54000', qr/too many instances.*HINT:\s+Call migrate_tiers\.report_instance on the source/s,
	'not any number of names', as => 'anybody');
sql($target, q(SELECT migrate_tiers.report_instance('nobody 1', 'dual_write')), as => 'anybody');
# Names that got in otherwise, as by those who reported at the same time.
sql($target, q(INSERT INTO migrate_tiers.instance_report SELECT ident, 'other ' || i, 'planned' FROM migrate_tiers.migration, generate_series(1, 10000) i));
sql($source, q(DELETE FROM migrate_tiers.instance_seen WHERE name ~ '^(nobody|other)'));
ok(wait_until($source, q(SELECT reported_phase FROM migrate_tiers.instances WHERE name = 'web4'), 'syncing'), 'who is expected is seen');
ok(wait_until($source, q(SELECT count(*) BETWEEN 500 AND 1002 FROM migrate_tiers.instance_seen WHERE name ~ '^other')), 'of others those that reported last');
sql($source, q(SELECT migrate_tiers.wait_for_sync(timeout => '10 s')));
is(query($source, 'SELECT stopped FROM migrate_tiers.status'), '', 'nothing stopped');

# Nor does the queue wait for what the target cannot tell.
sql($target, q(ALTER TABLE migrate_tiers.instance_report RENAME COLUMN phase TO other));
sql($source, q(SELECT migrate_tiers.set_option('queue_retention', '1 s')));
sql($source, q(SET application_name = 'meanwhile'; UPDATE item SET name = 'meanwhile' WHERE id = 1));
ok(wait_until($source, q(SELECT stopped LIKE '%phase%' FROM migrate_tiers.status)), 'the target cannot tell');
ok(wait_until($source, "SELECT count(*) FROM ($rows) q WHERE application = 'meanwhile'", '0', 30), 'the queue is given back');
sql($target, q(ALTER TABLE migrate_tiers.instance_report RENAME COLUMN other TO phase));
wait_synced($source);

# Gone with the migration.
revert($source, 'planned');
sql($source, 'SELECT migrate_tiers.drop_migration()');
is(query($source, "SELECT (SELECT count(*) FROM migrate_tiers.$_)"), '0', "nothing is left in $_") for 'instance', 'instance_seen';
finish({ crashes => 1 }, $source, $target);
done_testing();
