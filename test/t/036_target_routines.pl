# What applications call on the target: exact also for a transaction that
# commits late, and for every role.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('routines');
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text)');
$pair->target_sql('CREATE ROLE clerk; GRANT SELECT, INSERT, UPDATE ON item TO clerk');
$pair->declare;
$pair->advance;
$pair->sync;

sub as_clerk { my ($sql) = @_; return $pair->target_sql("SET SESSION AUTHORIZATION clerk;\n$sql"); }

# fails(sql, state, pattern, name): one test, as any role on the target.
sub fails
{
	my ($sql, $state, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return MigrateTiers::sql_fails($pair->target, $sql, $state, $pattern, $name, as => 'clerk');
}

is(as_clerk('SELECT * FROM migrate_tiers.routing'), 'm|syncing|source|source', 'routing in syncing');
as_clerk(q{SELECT migrate_tiers.wait_for_sync()});
pass('nothing to wait for while nobody may write');
$pair->dual_write;
is(as_clerk('SELECT * FROM migrate_tiers.routing'), 'm|dual_write|source|either', 'routing in dual_write');

subtest 'waiting' => sub {
	as_clerk(q{INSERT INTO item VALUES (1, 'a'); SELECT migrate_tiers.wait_for_sync(migration => 'm')});
	is($pair->source_sql('SELECT v FROM item WHERE id = 1'), 'a', 'what was written is on the source');

	my $late = MigrateTiers::session($pair->target);
	$late->query_safe(q{BEGIN; INSERT INTO item VALUES (2, 'late')});
	as_clerk(q{INSERT INTO item VALUES (3, 'early')});
	my $before = as_clerk('SELECT migrate_tiers.sync_token()');
	as_clerk("SELECT migrate_tiers.wait_for_sync('$before')");
	is($pair->source_sql('SELECT string_agg(id::text, $$,$$ ORDER BY id) FROM item'), '1,3', 'nobody waits for a transaction that was under way');
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$late->query_safe('COMMIT');
	$late->quit;
	my $after = as_clerk('SELECT migrate_tiers.sync_token()');
	as_clerk("SELECT migrate_tiers.wait_for_sync('$before', '1 s')");
	pass('the token of before does not mean it');
	fails("SELECT migrate_tiers.wait_for_sync('$after', '0.2 s')", 'MT006', qr/source of migration "m" did not catch up in time.*HINT.*status/s, 'that of after does');
	fails("SELECT migrate_tiers.wait_for_sync(timeout => '0.2 s')", 'MT006', qr/did not catch up/, 'so does none');
	fails("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT migrate_tiers.wait_for_sync(timeout => '0.2 s')", '25001', qr/READ COMMITTED/, 'a snapshot that is kept cannot see the end of it');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	as_clerk("SELECT migrate_tiers.wait_for_sync('$after')");
	is($pair->source_sql('SELECT v FROM item WHERE id = 2'), 'late', 'and it comes');
	as_clerk(q{BEGIN; UPDATE item SET v = 'mine' WHERE id = 1; SELECT migrate_tiers.wait_for_sync(timeout => '5 s'); COMMIT});
	pass('a transaction does not wait for itself');
	as_clerk(q{SELECT migrate_tiers.wait_for_sync(timeout => NULL)});
	is($pair->source_sql('SELECT v FROM item WHERE id = 1'), 'mine', 'without a limit');
};

subtest 'bad input' => sub {
	fails("SELECT migrate_tiers.wait_for_sync('$_')", '22P02', qr/invalid sync token: "\Q$_\E".*sync_token\(\)/s, "token \"$_\"") for '', 'x', '5', '9:1:';
	fails(q{SELECT migrate_tiers.sync_token('other')}, '42704', qr/migration "other" does not lead to this database.*routing/s, 'another migration');
	fails(q{SELECT migrate_tiers.report_instance('shop 1', 'dual')}, '22023', qr/unknown phase "dual"/, 'no phase');
	fails(q{SELECT migrate_tiers.report_instance('', 'dual_write')}, '22023', qr/invalid name/, 'no name');
	fails(q{TABLE migrate_tiers.migration}, '42501', qr/permission denied/, 'our tables are not for everybody');
	fails(q{SELECT migrate_tiers.find_migration(NULL)}, '42501', qr/permission denied/, 'nor what only serves the others');
};

# Each source names its own migrations, so two to one database may be called alike.
subtest 'another source' => sub {
	my $namesake = sub { $pair->target_sql("INSERT INTO migrate_tiers.migration (ident, name, token, phase) SELECT gen_random_uuid(), '$_[0]', gen_random_uuid(), 'syncing'") };
	my $gone = sub { $pair->target_sql("DELETE FROM migrate_tiers.migration WHERE ident NOT IN ('" . $pair->source_sql('SELECT string_agg(ident::text, $$\',\'$$) FROM migrate_tiers.migration') . "')") };
	$namesake->('m');
	fails($_, '42P08', qr/more than one migration to this database is called "m"/, $_)
	  for q{SELECT migrate_tiers.sync_token('m')}, q{SELECT migrate_tiers.wait_for_sync(migration => 'm')}, q{SELECT migrate_tiers.report_instance('x', 'syncing', 'm')};
	$gone->();
	$namesake->('second');
	$pair->both_sql('CREATE TABLE late (id int PRIMARY KEY)');
	$pair->source_sql(q{SELECT migrate_tiers.create_migration('second', 'new_db'); SELECT migrate_tiers.tag('late', 'realtime', migration => 'second')});
	MigrateTiers::sql_fails($pair->source, q{CALL migrate_tiers.advance('syncing', 'second')}, '42710', qr/another migration to this database has the name second.*another name/s, 'a name that is there already is refused');
	$gone->();
	$pair->source_sql(q{CALL migrate_tiers.advance('syncing', 'second')});
	$pair->source_sql(q{CALL migrate_tiers.revert('planned', 'second'); SELECT migrate_tiers.drop_migration('second')});
};

$pair->source_sql(q{SELECT migrate_tiers.expect_instance('shop 1')});
as_clerk(q{SELECT migrate_tiers.report_instance('shop 1', 'syncing'); SELECT migrate_tiers.report_instance('shop 1', 'dual_write')});
ok($pair->wait_until(source => q{SELECT reported_phase = 'dual_write' FROM migrate_tiers.instances WHERE name = 'shop 1'}), 'a report is seen on the source');
is($pair->target_sql(q{SELECT count(*) FROM pg_class c WHERE relnamespace = 'migrate_tiers'::regnamespace AND relkind = 'v' AND obj_description(oid) IS NULL}), '0', 'the view has a comment');
is($pair->target_sql(q{SELECT string_agg(proname, ',' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'migrate_tiers'::regnamespace AND obj_description(oid) IS NOT NULL}), 'report_instance,sync_token,wait_for_sync', 'so have the functions');
$pair->finish;
done_testing();
