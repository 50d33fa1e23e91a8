# A migration with no superuser on either side: the owner owns its tables, the
# role on the target owns the tables there and may set session_replication_role.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use PostgreSQL::Test::Utils;
use Test::More;

my $pair = MigrateTiers::Pair->new('roles');
my ($source, $target) = ($pair->source, $pair->target);
my $password = 'qu0te\'s & spaces "x"';
(my $literal = $password) =~ s/'/''/g;

my $tables = <<'SQL';
CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int UNIQUE, v text);
CREATE TABLE line (item int REFERENCES item ON DELETE CASCADE, n int, v text, PRIMARY KEY (item, n));
CREATE TABLE event (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE event_1 PARTITION OF event DEFAULT;
CREATE INDEX ON item (v);
SQL
$pair->source_sql("CREATE ROLE keeper LOGIN; GRANT CREATE ON SCHEMA public TO keeper; SET ROLE keeper; $tables");
$pair->target_sql("CREATE ROLE mover LOGIN PASSWORD '$literal'; GRANT CREATE ON SCHEMA public TO mover; GRANT CREATE ON DATABASE shop TO mover; GRANT SET ON PARAMETER session_replication_role TO mover; SET ROLE mover; $tables");
# A superuser has put an index where the mapping's role can put none.
$pair->target_sql("SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''; CREATE INDEX item_elsewhere ON item (v) TABLESPACE elsewhere");
$pair->source_sql('CREATE ROLE writer; GRANT INSERT, UPDATE, DELETE, SELECT, TRUNCATE ON ALL TABLES IN SCHEMA public TO writer');
$pair->source_sql(q{INSERT INTO item (n, v) SELECT i, 'v' || i FROM generate_series(1, 3000) i; INSERT INTO line SELECT i, 1, 'l' FROM generate_series(1, 1000) i; INSERT INTO event SELECT i, i FROM generate_series(1, 1000) i});
$pair->source_sql('CREATE EXTENSION postgres_fdw; CREATE EXTENSION migrate_tiers');
MigrateTiers::server($source, $target);
$pair->source_sql("GRANT USAGE ON FOREIGN SERVER new_db TO keeper; CREATE USER MAPPING FOR keeper SERVER new_db OPTIONS (user 'mover', password '$literal')");

sub as_keeper { my ($sql) = @_; return $pair->source_sql("SET SESSION AUTHORIZATION keeper;\n$sql"); }

as_keeper(q{SELECT migrate_tiers.create_migration('m', 'new_db'); SELECT migrate_tiers.tag_schema('public', 'realtime')});
is(as_keeper(q{SELECT string_agg(check_name || ': ' || object || ': ' || coalesce(detail, ''), '; ') FROM migrate_tiers.preflight() WHERE status = 'failure'}), '', 'preflight has nothing against it');
# A partition may be another's, though its root is not: it is read, and gets its triggers, by itself.
sub failures { return as_keeper(q{SELECT string_agg(check_name || ' of ' || object || ': ' || detail, '; ' ORDER BY check_name, detail) FROM migrate_tiers.preflight() WHERE status = 'failure'}); }
$pair->both_sql('ALTER TABLE event_1 OWNER TO postgres');
like(failures(), qr/^source_privileges of public\.event_1: .*does not own the partition; target_privileges of public\.event: .*mover does not own partition public\.event_1 on the target[^;]*$/, 'a partition of another owner, on either side');
$pair->both_sql('CREATE ROLE other');
$pair->source_sql('GRANT other TO keeper');
$pair->target_sql('GRANT other TO mover');
$pair->both_sql('ALTER TABLE event_1 OWNER TO other; ALTER TABLE event_1 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY');
like(failures(), qr/^row_security of public\.event_1 of source: [^;]*; row_security of public\.event_1 of target: [^;]*$/, 'one whose row security hides rows');
$pair->both_sql('ALTER TABLE event_1 DISABLE ROW LEVEL SECURITY');
is(failures(), '', 'that of a role that they are members of is as good as their own');
$pair->source_sql('ALTER TABLE event_1 OWNER TO keeper');
$pair->target_sql('ALTER TABLE event_1 OWNER TO mover');
$pair->both_sql('DROP ROLE other');
as_keeper(q{CALL migrate_tiers.advance('syncing')});
as_keeper('SELECT migrate_tiers.wait_for_sync()');
$pair->equal('the copy');
is($pair->target_sql(q{SELECT count(*) FROM pg_indexes WHERE tablespace = 'elsewhere'}), '1', 'an index that could not be built again was left in place');
is($target->safe_psql('shop', q{SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'test'}), 'mover', 'and the mapping\'s role there');

for my $keys (100000, 1)
{
	$pair->small_tick($keys);
	$pair->source_sql(qq{SET ROLE writer; INSERT INTO item (n, v) OVERRIDING SYSTEM VALUE VALUES ($keys + 10000, 'new'); UPDATE item SET v = v || '!' WHERE id % 10 = 0; DELETE FROM item WHERE id % 50 = $keys % 50;
		BEGIN; UPDATE item SET n = -n WHERE id < 20; UPDATE item SET n = 20 + n WHERE n < 0; COMMIT; TRUNCATE event; INSERT INTO event VALUES ($keys, 2)});
	as_keeper('SELECT migrate_tiers.wait_for_sync()');
	$pair->equal("ticks of up to $keys keys by rows");
}
my ($out, $err);
isnt($target->psql('shop', q{SET ROLE mover; INSERT INTO item (n) VALUES (-1)}, stderr => \$err), 0, 'the fence refuses even the role itself');

# Anybody may wait for sync, but what it stumbled over is shown to those only who may see the migration.
$pair->target_sql(q{CREATE UNIQUE INDEX only_one ON item (v) WHERE v LIKE 'secret%'});
$pair->source_sql(q{INSERT INTO item (n, v) VALUES (66661, 'secret word'), (66662, 'secret word')});
ok($pair->wait_until(source => q{SELECT stopped LIKE '%secret word%' FROM migrate_tiers.status}), 'a row that the target refuses stops it, and is shown');
like(waits_in_vain('keeper'), qr/MT006.*DETAIL:.*secret word.*HINT:.*migrate_tiers\.status/s, 'to the owner also when his wait ends');
my $writers = waits_in_vain('writer');
unlike($writers, qr/secret/, 'but not to others');
like($writers, qr/MT006.*DETAIL:  sending is stopped\nHINT:.*role "keeper"/s, '... who are told that it is stopped, and whom to ask');
as_keeper('SELECT migrate_tiers.pause()');
like(waits_in_vain('writer'), qr/DETAIL:  sending is paused\n/, '... or paused');
$pair->target_sql('DROP INDEX only_one');
as_keeper(q{SELECT migrate_tiers.resume(); SELECT migrate_tiers.wait_for_sync(timeout => '30 s')});
$pair->equal('it goes on when the target takes the rows');

$pair->target_sql(q{ALTER ROLE mover PASSWORD 'changed'});
$pair->target_sql('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = \'mover\'');
$pair->source_sql(q{INSERT INTO item (n) VALUES (77777)});
ok($pair->wait_until(source => q{SELECT stopped LIKE '%28P01%' OR stopped ~ 'password authentication failed' FROM migrate_tiers.status}), 'a wrong password stops it, and is called that');
my $shown = as_keeper('SELECT string_agg(s::text, chr(10)) FROM migrate_tiers.status s');
unlike($shown . slurp_file($source->logfile), qr/qu0te/, 'the password is nowhere');
$pair->target_sql("ALTER ROLE mover PASSWORD '$literal'");
as_keeper(q{SELECT migrate_tiers.wait_for_sync(timeout => '90 s')});
$pair->equal('it goes on with the right one');

# Code of the owner that waits for the commit of our worker, which is a superuser's.
subtest 'nobody rises at a commit of the worker' => sub {
	as_keeper(q{SELECT count(*) FROM migrate_tiers.verify(); SELECT migrate_tiers.set_option('quiet_period', '0 s')});
	as_keeper(q{CALL migrate_tiers.advance('dual_write')});
	as_keeper(<<'SQL');
CREATE FUNCTION rise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE keeper SUPERUSER'; RETURN NULL; END $$;
CREATE FUNCTION risen() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE keeper SUPERUSER'; RETURN 1; END $$;
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DECLARE risen CURSOR WITH HOLD FOR SELECT public.risen()'; RETURN NULL; END $$;
SQL
	my $n = 90000;
	for my $trigger ('CREATE CONSTRAINT TRIGGER late AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rise()',
		'CREATE TRIGGER late AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION hold()')
	{
		as_keeper("$trigger; ALTER TABLE item ENABLE ALWAYS TRIGGER late");
		for my $rows (1, 3000)
		{
			$n += 5000;
			$pair->target_sql("SET ROLE mover; INSERT INTO item (n) SELECT $n + i FROM generate_series(1, $rows) i");
			ok($pair->wait_until(source => q{SELECT coalesce(stopped ~ 'security-restricted operation', false) FROM migrate_tiers.status}), "it stops, with $rows rows");
			is($pair->source_sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'keeper'}), 'f', 'and nobody rose');
		}
		as_keeper('DROP TRIGGER late ON item');
		ok($pair->wait_until(source => "SELECT count(*) = 1 FROM item WHERE n = $n + 1"), 'without the trigger it goes on');
	}
	as_keeper(q{DROP FUNCTION rise, hold, risen; CALL migrate_tiers.revert('syncing')});
	as_keeper(q{SELECT migrate_tiers.set_option('quiet_period', NULL); SELECT migrate_tiers.wait_for_sync(timeout => '90 s')});
	$pair->equal('back');
};

subtest 'the owner leaves' => sub {
	$pair->source_sql("CREATE ROLE heir LOGIN; CREATE ROLE stranger LOGIN; GRANT CREATE ON SCHEMA public TO heir; GRANT keeper TO stranger");
	my ($done, $state, $error) = $pair->source_try('BEGIN; REASSIGN OWNED BY keeper TO heir; DROP OWNED BY keeper');
	like($error, qr/2BP01.*user mapping for keeper.*set_option\('owner'/s, 'his user mapping cannot be dropped');
	(undef, undef, $error) = $pair->source_try(q{SELECT migrate_tiers.set_option('owner', 'heir')});
	like($error, qr/42501.*GRANT USAGE ON FOREIGN SERVER new_db TO heir/s, 'an heir needs the server');
	$pair->source_sql('GRANT USAGE ON FOREIGN SERVER new_db TO heir');
	(undef, undef, $error) = $pair->source_try(q{SELECT migrate_tiers.set_option('owner', 'heir')});
	like($error, qr/42704.*CREATE USER MAPPING FOR heir/s, 'and a user mapping');
	$pair->source_sql("CREATE USER MAPPING FOR heir SERVER new_db OPTIONS (user 'mover', password '$literal')");
	(undef, undef, $error) = $pair->source_try(q{SET SESSION AUTHORIZATION stranger; SELECT migrate_tiers.set_option('owner', 'heir')});
	like($error, qr/42501.*rights of role "heir"/s, 'nobody gives it to whom he is not');

	if ($pair->source_sql('SHOW server_version_num') >= 160000)
	{
		$pair->source_sql('GRANT heir TO keeper WITH INHERIT TRUE, SET FALSE');
		(undef, undef, $error) = $pair->source_try(q{SET SESSION AUTHORIZATION keeper; SELECT migrate_tiers.set_option('owner', 'heir')});
		like($error, qr/42501.*rights of role "heir"/s, 'nor to whom he may not become');
		$pair->source_sql('REVOKE heir FROM keeper');
	}

	# Gone nevertheless, as where the mapping is one of PUBLIC.
	$pair->source_sql('ALTER EVENT TRIGGER migrate_tiers_guard_drop DISABLE; REASSIGN OWNED BY keeper TO heir; DROP OWNED BY keeper; DROP ROLE keeper; ALTER EVENT TRIGGER migrate_tiers_guard_drop ENABLE ALWAYS');
	$pair->source_sql(q{INSERT INTO item (n) VALUES (88888)});
	ok($pair->wait_until(source => q{SELECT coalesce(stopped ~ 'does not exist any more', false) FROM migrate_tiers.status}), 'status says that he is gone');
	(undef, undef, $error) = $pair->source_try('SET SESSION AUTHORIZATION heir; SELECT migrate_tiers.pause()');
	like($error, qr/42501.*its owner was dropped.*set_option\('owner'/s, 'and who may help');
	$pair->source_sql(q{SELECT migrate_tiers.set_option('owner', 'heir')});
	is($pair->source_sql(q{SET SESSION AUTHORIZATION heir; SELECT value FROM migrate_tiers.options WHERE name = 'owner'}), 'heir', 'the heir has it');
	$pair->source_sql(q{SET SESSION AUTHORIZATION heir; SELECT migrate_tiers.wait_for_sync(timeout => '90 s')});
	$pair->equal('it goes on');
	is($pair->status('stopped'), '', 'nothing is stopped');
};

sub as_heir { my ($sql) = @_; return $pair->source_sql("SET SESSION AUTHORIZATION heir;\n$sql"); }

as_heir(q{CALL migrate_tiers.revert('planned')});
as_heir(q{SELECT migrate_tiers.drop_migration('m')});
is($pair->target_sql('SELECT (SELECT count(*) FROM item) + (SELECT count(*) FROM line) + (SELECT count(*) FROM event)'), '0', 'reverted');
is($pair->target_sql(q{SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_tiers'}), '0', 'nothing is left there');
$pair->finish;
done_testing();

sub waits_in_vain
{
	my ($role) = @_;
	my (undef, undef, $error) = $pair->source_try("SET SESSION AUTHORIZATION $role; SELECT migrate_tiers.wait_for_sync(timeout => '100 ms')");
	return $error;
}
