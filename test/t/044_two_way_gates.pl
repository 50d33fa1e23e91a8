# The gates between two-way phases: each refuses for its own reason, names it
# with what to do, and passes when that is gone; forward and back.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
sql($_, q(CREATE TABLE item (id int PRIMARY KEY, name text); CREATE TABLE other (id int PRIMARY KEY); CREATE ROLE app LOGIN; GRANT ALL ON item, other TO app;
	CREATE TABLE daily (day date PRIMARY KEY, n int))) for $source, $target;
migration($source, 'item', 'other');
sql($source, q(SELECT migrate_tiers.tag('daily', 'batch')));
sql($source, q(INSERT INTO item SELECT i, 'item ' || i FROM generate_series(1, 20) i));

sub gate
{
	my ($to, $gate) = @_;
	return query($source, "SELECT CASE WHEN passed THEN 't' ELSE 'f: ' || detail END FROM migrate_tiers.gates('$to') WHERE gate = '$gate'");
}

sub gate_becomes
{
	my ($to, $gate, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(MigrateTiers::wait_for(sub { gate($to, $gate) =~ $expected }), $name) or diag(gate($to, $gate));
	return;
}

# To dual_write.
advance($source, 'syncing');
wait_synced($source);
like(gate('dual_write', 'verified'), qr/^f: public.item was never verified; public.other was never verified$/, 'verified: never');
sql($source, 'SELECT * FROM migrate_tiers.verify()');
is(gate('dual_write', 'verified'), 't', 'verified: just now');
sql($source, q(SELECT migrate_tiers.set_option('max_age', '1 ms')));
like(gate('dual_write', 'verified'), qr/^f: public.item was verified at .* longer than max_age \(1 ms\) ago$/, 'verified: evidence has an expiry');
sql($source, q(SELECT migrate_tiers.set_option('max_age', NULL)));
sql($source, 'SELECT migrate_tiers.pause(); UPDATE item SET name = name WHERE id = 1');
sql($source, q(SELECT migrate_tiers.set_option('max_lag', '10 ms')));
gate_becomes('dual_write', 'forward_lag', qr/^f: the target is .* behind, max_lag is 10 ms$/, 'forward_lag: behind');
is(gate('dual_write', 'running'), 'f: sending is paused', 'running: paused');
sql_fails($source, q(CALL migrate_tiers.advance('dual_write')), 'MT001', qr/Gate running:.*resume\(\).*Gate forward_lag:/s, 'both are named, with the call to make');
sql($source, q(SELECT migrate_tiers.resume(), migrate_tiers.set_option('max_lag', NULL)));
gate_becomes('dual_write', 'running', qr/^t$/, 'running: goes on');
# A table that was made after preflight.
sql($source, 'CREATE TABLE late (id int PRIMARY KEY)');
like(gate('dual_write', 'tables_tagged'), qr/^f: tables_tagged of public\.late: this table of schema public has no tier/, 'tables_tagged: a new table has none');
sql_fails($source, q(CALL migrate_tiers.advance('dual_write')), 'MT001', qr/Gate tables_tagged: .*migrate_tiers\.tag\(/, 'advance names it, with what to do');
sql($source, q(SELECT migrate_tiers.tag('late', 'ignored')));
is(gate('dual_write', 'tables_tagged'), 't', 'tables_tagged: it has one');
# A constraint that is checked at commit: for rows that are sent it would not be, so rows of the two sides could break it.
is(gate('dual_write', 'deferrable'), 't', 'deferrable: nothing is');
sql($target, 'ALTER TABLE item ADD CONSTRAINT once UNIQUE (name) DEFERRABLE INITIALLY DEFERRED');
like(gate('dual_write', 'deferrable'), qr/^f: deferrable of \S*item: unique constraint \S*once of the target is deferrable/, 'deferrable: a constraint there');
sql_fails($source, q(CALL migrate_tiers.advance('dual_write')), 'MT001', qr/Gate deferrable: .*NOT DEFERRABLE/, 'advance names it, with what to do');
sql($target, 'ALTER TABLE item DROP CONSTRAINT once, ADD CONSTRAINT once UNIQUE (name) NOT DEFERRABLE');
is(gate('dual_write', 'deferrable'), 't', 'deferrable: not any more');
sql($target, 'ALTER TABLE item DROP CONSTRAINT once');
# A rule of the source: what is upserted there is refused by one for UPDATE, also when it is disabled, as on the target.
is(gate('dual_write', 'source_rules'), 't', 'source_rules: there is none');
sql($source, 'CREATE RULE quiet AS ON UPDATE TO item DO ALSO NOTHING; ALTER TABLE item DISABLE RULE quiet;
	CREATE RULE noted AS ON INSERT TO item DO ALSO NOTHING; ALTER TABLE item ENABLE ALWAYS RULE noted;
	CREATE RULE own AS ON INSERT TO item DO ALSO NOTHING; CREATE RULE own_delete AS ON DELETE TO item DO ALSO NOTHING');
like(gate('dual_write', 'source_rules'), qr/^f: source_rules of \S*item: rule noted .*rule quiet of table \S*item here (?!.*rule own)/s, 'source_rules: those that are in the way');
sql_fails($source, q(CALL migrate_tiers.advance('dual_write')), 'MT001', qr/Gate source_rules: .*DROP RULE/s, 'advance names it, with what to do');
sql($source, 'DROP RULE quiet ON item; ALTER TABLE item ENABLE RULE noted');
is(gate('dual_write', 'source_rules'), 't', 'source_rules: what acts for applications only is not in the way');
# A clock that is minutes off: the target's own function says so.
sql($target, q(SET allow_system_table_mods = on; ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO right_clock;
	CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT pg_catalog.right_clock() + interval '5 min' $$));
like(gate('dual_write', 'clocks'), qr/^f: the clock of the target is (299|300)\.\d s ahead$/, 'clocks: minutes off');
sql_fails($source, q(CALL migrate_tiers.advance('dual_write')), 'MT001', qr/Gate clocks: .*\n.*NTP/, 'advance names it, with what to do');
is(query($source, 'SELECT phase, transition IS NULL FROM migrate_tiers.status'), 'syncing|t', 'the phase is the one it was');
like(query($source, q(SELECT status || ': ' || detail FROM migrate_tiers.preflight() WHERE check_name = 'clock')), qr/^failure/, 'preflight sees it, too');
sql($target, q(SET allow_system_table_mods = on; DROP FUNCTION pg_catalog.clock_timestamp(); ALTER FUNCTION pg_catalog.right_clock() RENAME TO clock_timestamp));
is(gate('dual_write', 'clocks'), 't', 'clocks: right again');
sql($source, q(SELECT migrate_tiers.set_option('quiet_period', '1 hour')));
advance($source, 'dual_write');

# To read_target.
gate_becomes('read_target', 'reverse_lag', qr/^t$/, 'reverse_lag: none');
like(gate('read_target', 'rehearsed'), qr/^f: the way back/, 'rehearsed: not yet');
is(gate('read_target', 'instances'), 't', 'instances: none is expected');
sql($source, q(SELECT migrate_tiers.expect_instance('web1'), migrate_tiers.expect_instance('web2'), migrate_tiers.expect_instance('web3')));
sql($source, q(SELECT migrate_tiers.report_instance('web2', 'syncing'), migrate_tiers.report_instance('web3', 'target_only')));
is(gate('read_target', 'instances'), 'f: web1 has not reported; web2 reports syncing', 'instances: who has not moved, by name; later is as good');
sql($source, q(SELECT migrate_tiers.report_instance('web1', 'dual_write')));
sql($target, q(SELECT migrate_tiers.report_instance('web2', 'dual_write')), as => 'app');
is(gate('read_target', 'instances'), 't', 'instances: a report on the target counts at once');
sql($source, q(SELECT migrate_tiers.report_instance('web2', 'syncing')));
is(gate('read_target', 'instances'), 'f: web2 reports syncing', 'instances: the last report counts, wherever it was made');
sql($source, q(SELECT migrate_tiers.report_instance('web2', 'dual_write')));

is(gate('read_target', 'batch_fresh'), 'f: public.daily was never pushed', 'batch_fresh: not yet');
sql($source, q(SELECT * FROM migrate_tiers.push_batch('daily')));
is(gate('read_target', 'batch_fresh'), 't', 'batch_fresh: pushed');

# Back to syncing.  What a repair has the target send is written by no application.
my $token = query($source, 'SELECT token FROM migrate_tiers.migration');
sql($target, "SET migrate_tiers.session = '$token'; SET session_replication_role = replica; UPDATE item SET name = 'damaged' WHERE id = 9");
is(sql($source, q(SELECT different_rows FROM migrate_tiers.verify('item'); SELECT migrate_tiers.repair('item', side => 'target'))), "1\n1", 'a row is repaired from the target');
ok(wait_until($source, 'SELECT name FROM item WHERE id = 9', 'damaged'), 'which sends it');
is(gate('syncing', 'target_quiet'), 't', 'target_quiet: nobody has written it');
is(query($source, q(SELECT count(*) FROM migrate_tiers.instances WHERE last_target_write IS NOT NULL)), '0', 'the roster has nobody, either');
sql($target, q(SET application_name = 'web1'; UPDATE item SET name = 'by web1' WHERE id = 3), as => 'app');
like(gate('syncing', 'target_quiet'), qr/^f: web1 wrote the target 00:0\d:\d\d ago$/, 'target_quiet: who wrote when, at once');
sql_fails($source, q(CALL migrate_tiers.revert('syncing')), 'MT001', qr/Gate target_quiet: web1 wrote/, 'revert names it');
is(query($source, 'SELECT phase, transition IS NULL FROM migrate_tiers.status'), 'dual_write|t', 'and nothing has changed');
ok(wait_until($source, q(SELECT last_target_write > now() - interval '1 min' FROM migrate_tiers.instances WHERE name = 'web1')), 'the roster shows it');
# Rules of the source that act for applications only are not in the way of what comes back.
sql($target, q(INSERT INTO item VALUES (50, 'there'); UPDATE item SET name = 'there' WHERE id = 2; DELETE FROM item WHERE id = 4));
ok(wait_until($source, q(SELECT count(*) = 2 AND NOT EXISTS (SELECT FROM item WHERE id = 4) FROM item WHERE name = 'there')), 'rules of applications let rows come back');
sql($source, q(SELECT migrate_tiers.set_option('quiet_period', '0 s')));
gate_becomes('syncing', 'reverse_drained', qr/^t$/, 'reverse_drained');
revert($source, 'syncing');
sql($source, q(SELECT migrate_tiers.report_instance('web1', 'dual_write')));
sql($source, 'SELECT * FROM migrate_tiers.verify()');
sql($source, q(CALL migrate_tiers.rehearse('dual_write')));
advance($source, 'dual_write');
is(gate('read_target', 'rehearsed'), 't', 'rehearsed: a real revert is as good');
like(gate('read_target', 'instances'), qr/^f: web2 has not reported since the way back of 20[-0-9]+ [:0-9]+\S*; web3 has not reported since the way back of \S+ \S+$/, 'instances: a report from before a way back counts no more, one from before a rehearsal does');
sql($_->[0], "SELECT migrate_tiers.report_instance('$_->[1]', 'dual_write')") for [ $source, 'web2' ], [ $target, 'web3' ];
is(gate('read_target', 'instances'), 't', 'instances: until each has reported again, on either side');

# A row that both sides change, while neither has the other's: the reading side wins, and a person looks at it.
sql($source, 'SELECT migrate_tiers.pause(); UPDATE item SET name = \'source\' WHERE id = 5');
sql($target, q(UPDATE item SET name = 'target' WHERE id = 5));
sql($source, 'SELECT migrate_tiers.resume()');
gate_becomes('read_target', 'conflicts', qr/^f: 1 conflicts are open$/, 'conflicts: one is open');
sql($source, q(SELECT migrate_tiers.resolve_conflict(id, 'source') FROM migrate_tiers.conflicts WHERE resolved IS NULL));
gate_becomes('read_target', 'conflicts', qr/^t$/, 'conflicts: resolved');
wait_synced($source);
sql($source, 'SELECT * FROM migrate_tiers.verify()');
gate_becomes('read_target', 'reverse_lag', qr/^t$/, 'reverse_lag');
advance($source, 'read_target');

# A target that does not tell what it has: what it said last grows old, and nobody goes back on the strength of it.
my $holder = MigrateTiers::session($target);
my $queue = query($source, q(SELECT id FROM migrate_tiers.relation WHERE relation = 'item'::regclass));
$queue = query($target, "SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relname ~ '^queue_.*_$queue\$'");
sql($source, q(SELECT migrate_tiers.set_option('max_lag', '1 s')));
gate_becomes('dual_write', 'reverse_lag', qr/^t$/, 'reverse_lag: none');
$holder->query_safe("BEGIN; LOCK TABLE $queue IN ACCESS EXCLUSIVE MODE");
sql($target, 'INSERT INTO other VALUES (1)', as => 'app');
gate_becomes('dual_write', 'reverse_lag', qr/^f: the source is .* behind, max_lag is 1 s$/, 'reverse_lag: not known any more');
ok(wait_until($source, 'SELECT reverse_pending IS NULL FROM migrate_tiers.status'), 'and that nothing waits is not said');
sql_fails($source, q(CALL migrate_tiers.revert('dual_write')), 'MT001', qr/Gate reverse_lag:/, 'revert names it');
$holder->query_safe('ROLLBACK');
$holder->quit;
gate_becomes('dual_write', 'reverse_lag', qr/^t$/, 'reverse_lag: it tells again');
is(query($source, 'SELECT count(*) FROM other'), '1', 'and the source has it');
sql($source, q(SELECT migrate_tiers.set_option('max_lag', NULL)));

# To target_only.
sql($source, q(SELECT migrate_tiers.report_instance(n, 'read_target') FROM unnest('{web1,web3}'::text[]) n));
is(gate('target_only', 'instances'), 'f: web2 reports dual_write', 'instances: each phase asks for its own');
sql($source, q(SELECT migrate_tiers.forget_instance('web2')));
is(gate('target_only', 'instances'), 't', 'instances: who is off the roster is not waited for');
revert($source, 'dual_write');
is(gate('read_target', 'instances'), 't', 'instances: a way back from a later phase is no matter');
advance($source, 'read_target');
like(gate('target_only', 'instances'), qr/^f: web1 has not reported since the way back of .*; web3 has/, 'instances: from this one it is');
sql($source, q(SELECT migrate_tiers.report_instance(n, 'read_target') FROM unnest('{web1,web3}'::text[]) n));
is(gate('target_only', 'instances'), 't', 'instances: as before');
sql($source, q(SELECT migrate_tiers.set_option('quiet_period', '1 hour')));
sql($source, q(SET application_name = 'web3'; UPDATE item SET name = 'late' WHERE id = 7), as => 'app');
my $quiet = gate('target_only', 'source_quiet');
like($quiet, qr/web3 wrote the source 00:00:\d\d ago/, 'source_quiet: who wrote when, at once');
unlike($quiet, qr/web1/, 'source_quiet: not who has only written the target');
sql_fails($source, q(CALL migrate_tiers.advance('target_only')), 'MT001', qr/Gate source_quiet: .*web3/, 'advance names it');

# A subscription as it looks that writes a table; nobody is there to connect to.
is(gate('target_only', 'source_subscriptions'), 't', 'source_subscriptions: none');
sql($source, q(SET client_min_messages = error; SET allow_system_table_mods = on;
	CREATE SUBSCRIPTION feed CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, enabled = false, create_slot = false);
	INSERT INTO pg_subscription_rel SELECT oid, 'item'::regclass, 'r', NULL FROM pg_subscription));
is(gate('target_only', 'source_subscriptions'), 't', 'source_subscriptions: one that is disabled writes nothing');
sql($source, 'ALTER SUBSCRIPTION feed ENABLE');
is(gate('target_only', 'source_subscriptions'), 'f: subscription feed writes table public.item', 'source_subscriptions: one that is enabled');
sql_fails($source, q(CALL migrate_tiers.advance('target_only')), 'MT001', qr/Gate source_subscriptions: .*DISABLE/s, 'the fence would refuse it');
sql($source, 'ALTER SUBSCRIPTION feed DISABLE; ALTER SUBSCRIPTION feed SET (slot_name = NONE)');
sql($source, 'DROP SUBSCRIPTION feed');

# What a gate cannot find out it has not passed.
$target->stop('fast');
like(gate('target_only', 'instances'), qr/^f: 08/, 'a target that is away: a gate that asks it does not pass');
sql_fails($source, q(CALL migrate_tiers.advance('target_only')), 'MT001', qr/Gate instances: 08.*Gate source_quiet/s, 'and the others are told, too');
is(query($source, 'SELECT phase, transition IS NULL FROM migrate_tiers.status'), 'read_target|t', 'the phase is the one it was');
sql($source, q(INSERT INTO item VALUES (1000, 'meanwhile')), as => 'app');
$target->start;
wait_synced($source);
ok(wait_until($target, 'SELECT count(*) FROM item WHERE id = 1000', '1'), 'and sync goes on');

finish($source, $target);
done_testing();
