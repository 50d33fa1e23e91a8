# Verification by a role that is no superuser on either side, with settings of its own that change what values look
# like: row security is never taken for missing rows, and no more processes read than copy_workers.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('verify_roles', source_conf => "max_worker_processes = 16\n");
my $tables = <<'SQL';
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE line (id int PRIMARY KEY, v text);
CREATE TABLE kind (id int PRIMARY KEY, f float8, i interval, t timestamptz, m money, b bytea, p bpchar, c char(6), r daterange);
SQL
$pair->source_sql("CREATE ROLE keeper LOGIN; GRANT CREATE ON SCHEMA public TO keeper; SET ROLE keeper; $tables");
$pair->target_sql("CREATE ROLE mover LOGIN PASSWORD 'secret'; GRANT CREATE ON SCHEMA public TO mover; GRANT CREATE ON DATABASE shop TO mover; GRANT SET ON PARAMETER session_replication_role TO mover; SET ROLE mover; $tables");
$pair->source_sql(<<'SQL');
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, 60000) i;
INSERT INTO line SELECT i, 'v' FROM generate_series(1, 100) i;
INSERT INTO kind SELECT i, 1 / (i + 2.0), '1 mon -2 days 03:04:05.6', '2020-02-03 04:05:06.789+01', 12.34, '\x00ff', 'ab ', 'ab', '[2020-02-03,2020-03-04)' FROM generate_series(1, 10) i;
ALTER ROLE keeper SET DateStyle = 'SQL, DMY'; ALTER ROLE keeper SET extra_float_digits = -15; ALTER ROLE keeper SET IntervalStyle = 'iso_8601';
ALTER ROLE keeper SET bytea_output = 'escape'; ALTER ROLE keeper SET TimeZone = 'Asia/Kolkata'; ALTER ROLE keeper SET row_security = on;
SQL
$pair->target_sql(<<'SQL');
ALTER ROLE mover SET DateStyle = 'German'; ALTER ROLE mover SET extra_float_digits = 0; ALTER ROLE mover SET IntervalStyle = 'sql_standard';
ALTER ROLE mover SET bytea_output = 'hex'; ALTER ROLE mover SET TimeZone = 'America/St_Johns'; ALTER ROLE mover SET row_security = on;
SQL
$pair->source_sql('CREATE EXTENSION postgres_fdw; CREATE EXTENSION migrate_tiers');
MigrateTiers::server($pair->source, $pair->target);
$pair->source_sql("GRANT USAGE ON FOREIGN SERVER new_db TO keeper; CREATE USER MAPPING FOR keeper SERVER new_db OPTIONS (user 'mover', password 'secret')");

sub as_keeper { my ($sql) = @_; return $pair->source_sql("SET SESSION AUTHORIZATION keeper;\n$sql"); }
sub verdict { my ($table) = @_; return as_keeper("SELECT concat_ws(' ', verdict, source_rows, target_rows, different_rows, detail) FROM migrate_tiers.verify('$table')"); }

as_keeper(q{SELECT migrate_tiers.create_migration('m', 'new_db'); SELECT migrate_tiers.tag_schema('public', 'realtime')});
as_keeper(q{CALL migrate_tiers.advance('syncing')});
as_keeper('SELECT migrate_tiers.wait_for_sync()');
is(verdict('kind'), 'equal 10 10 0', 'settings of the roles do not matter');
my $token = $pair->source_sql('SELECT token FROM migrate_tiers.migration');
$pair->target_sql(qq{SET migrate_tiers.session = '$token'; SET session_replication_role = replica; UPDATE kind SET p = 'ab' WHERE id = 3; UPDATE kind SET f = f + 1e-16 WHERE id = 4});
is(verdict('kind'), 'different 10 10 2', 'a blank at the end of a bpchar and the last bits of a float do');
is(as_keeper(q{SELECT string_agg(key::text || ' ' || columns::text, ', ' ORDER BY key) FROM migrate_tiers.discrepancies}), '{3} {p}, {4} {f}', 'and are found');
is(as_keeper(q{SELECT migrate_tiers.repair('kind')}), '2', 'repaired');
as_keeper('SELECT migrate_tiers.wait_for_sync()');
is(verdict('kind'), 'equal 10 10 0', 'by a plain role');

# Row security that hides rows from the roles themselves.
my $hide = 'ALTER TABLE line ENABLE ROW LEVEL SECURITY; ALTER TABLE line FORCE ROW LEVEL SECURITY; CREATE POLICY upper_half ON line USING (id > 50)';
my $show = 'DROP POLICY upper_half ON line; ALTER TABLE line NO FORCE ROW LEVEL SECURITY; ALTER TABLE line DISABLE ROW LEVEL SECURITY';
for my $side ('source', 'target')
{
	my $sql = "${side}_sql";
	$pair->$sql($hide);
	like(verdict('line'), qr/^unknown .*42501.*row-level security/, "row security on the $side leaves the table unknown");
	is(as_keeper(q{SELECT count(*) FROM migrate_tiers.discrepancies WHERE relation = 'line'::regclass}), '0', 'and makes no difference up');
	$pair->$sql($show);
	is(verdict('line'), 'equal 100 100 0', 'without it all is well');
}

# Not more readers than copy_workers, whatever verify_workers says.
as_keeper(q{SELECT migrate_tiers.set_option('verify_workers', '8'), migrate_tiers.set_option('copy_workers', '2'), migrate_tiers.set_option('verify_rate', '20000')});
my $session = MigrateTiers::session($pair->source);
$session->query_until(qr/begun/, "\\echo begun\nSET SESSION AUTHORIZATION keeper;\nSELECT verdict FROM migrate_tiers.verify('item');\n");
my ($most, $ended) = (0, 0);
MigrateTiers::wait_for(sub {
		my ($readers, $verdict) = split /\|/, $pair->source_sql(q{SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers reader'), (SELECT verdict FROM migrate_tiers.verifications WHERE relation = 'item'::regclass AND state = 'done')});
		$most = $readers if $readers > $most;
		return $ended = ($verdict // '') eq 'equal';
	}, 60);
ok($ended, 'a verification with many workers');
is($most, 2, 'is read by copy_workers processes');
$session->quit;
as_keeper(q{SELECT migrate_tiers.set_option('verify_rate', '0'), migrate_tiers.set_option('verify_workers', '1')});

# Sync that is stopped.
$pair->target_sql(q{ALTER TABLE line ADD CONSTRAINT good CHECK (v <> 'bad')});
$pair->source_sql(q{UPDATE line SET v = 'bad' WHERE id = 1});
ok($pair->wait_until(source => q{SELECT stopped LIKE '%23514%' FROM migrate_tiers.status}), 'a change that the target refuses stops sync');
like(verdict('line'), qr/^unknown sync is stopped: 23514/, 'and leaves a verification without an answer, and says why');
$pair->target_sql('ALTER TABLE line DROP CONSTRAINT good');
as_keeper('SELECT migrate_tiers.wait_for_sync()');
is(verdict('line'), 'equal 100 100 0', 'until it goes on');
$pair->finish;
done_testing();
