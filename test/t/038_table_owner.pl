# Code that the owner of a table has tied to it (triggers, checks, casts) runs with his rights, not with those of the
# migration's owner, who is a superuser here: whatever we write on the source, and whatever we read. What a superuser
# himself does with the table is his own affair, so the test writes it as its owner.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use PostgreSQL::Test::Utils;
use Test::More;

my $pair = MigrateTiers::Pair->new('owner');
my $schema = <<'SQL';
CREATE ROLE app LOGIN;
GRANT CREATE ON SCHEMA public TO app;
SET ROLE app;
CREATE TABLE public.ran (role text, place text);
CREATE FUNCTION grab(place text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE LOG 'code of the table''s owner runs in a % as %', place, current_user;
	EXECUTE 'ALTER ROLE app SUPERUSER';
EXCEPTION WHEN insufficient_privilege OR read_only_sql_transaction THEN
	NULL;
END $$;
CREATE TYPE mood AS ENUM ('high', 'low');
CREATE FUNCTION name_of(m mood) RETURNS text LANGUAGE plpgsql SET search_path = public AS
$$ BEGIN PERFORM grab('cast'); RETURN CASE WHEN m = 'high' THEN 'high' ELSE 'low' END; END $$;
CREATE CAST (mood AS text) WITH FUNCTION name_of(mood);
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE mood_key (m mood PRIMARY KEY, v text);
CREATE TABLE mood_sum (m mood PRIMARY KEY, n int);
CREATE FUNCTION apart(a float8, b float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE SET search_path = public AS
$$ BEGIN PERFORM grab('subtype_diff'); RETURN a - b; END $$;
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = apart);
CREATE TABLE span_sum (id int PRIMARY KEY, s span);
CREATE FUNCTION seen(v int) RETURNS bool LANGUAGE plpgsql SET search_path = public AS
$$ BEGIN PERFORM grab('domain'); RETURN true; END $$;
CREATE DOMAIN checked AS int CHECK (public.seen(VALUE));
CREATE TYPE holds AS (c checked);
CREATE TABLE checked_item (id checked PRIMARY KEY, v checked, h holds, a checked[], t text);
CREATE TABLE counted (id serial PRIMARY KEY, n serial);
CREATE TABLE turned (loid oid PRIMARY KEY);
CREATE TABLE turned_sum (n bigint);
CREATE FUNCTION grab_number(place text) RETURNS bigint LANGUAGE plpgsql SET search_path = public AS
$$ BEGIN PERFORM grab(place); RETURN 1; END $$;
SQL
$pair->both_sql($schema);
# Only on the source: what fires there for our own writes.
$pair->source_sql(<<'SQL');
SET ROLE app;
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
	PERFORM grab('trigger');
	PERFORM set_config('work_mem', '64kB', false);
	INSERT INTO ran VALUES (current_user, TG_OP);
	RETURN NULL;
END $$;
CREATE TRIGGER spy AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION spy();
ALTER TABLE item ENABLE ALWAYS TRIGGER spy;
INSERT INTO item SELECT i, 'old' FROM generate_series(1, 5000) i;
INSERT INTO checked_item SELECT i, i, ROW(i::checked)::holds, ARRAY[i::checked], 'old' FROM generate_series(1, 20) i;
INSERT INTO mood_key VALUES ('high', 'a'), ('low', 'b');
INSERT INTO mood_sum VALUES ('high', 1), ('low', 2);
INSERT INTO counted VALUES (DEFAULT, DEFAULT);
INSERT INTO span_sum SELECT i, span(i, i + 1) FROM generate_series(1, 100) i;
SQL
$pair->declare;
$pair->source_sql(q{SELECT migrate_tiers.untag('mood_sum'), migrate_tiers.untag('span_sum')});
$pair->source_sql(q{SELECT migrate_tiers.tag('ran', 'ignored'), migrate_tiers.tag('mood_sum', 'batch'), migrate_tiers.tag('span_sum', 'batch'), migrate_tiers.tag('turned_sum', 'batch')});

# What he makes of a table, too: up to PostgreSQL 15 a rule turns an empty one into a view.
my $turns = $pair->source->pg_version < 16;
if ($turns)
{
	turn_into_view('turned', q{grab_number('rule')::oid AS loid});
	$pair->source_sql('SELECT lo_create(4711); SELECT FROM migrate_tiers.preflight(); SELECT lo_unlink(4711)');
	nobody_rose('preflight');
}
$pair->source_sql(q{SELECT migrate_tiers.untag('turned')});
$pair->source_sql('DROP ' . ($turns ? 'VIEW' : 'TABLE') . ' turned');

$pair->advance;
$pair->sync;
nobody_rose('the copy');
$pair->source_sql(q{SELECT migrate_tiers.push_batch('mood_sum'); UPDATE mood_sum SET n = 3; SELECT migrate_tiers.push_batch('mood_sum')});
nobody_rose('pushes');
ready($pair, 'dual_write');
nobody_rose('a verification');

SKIP:
{
	skip 'no table becomes a view', 1 unless $turns;
	turn_into_view('turned_sum', q{grab_number('rule') AS n});
	my (undef, $state) = $pair->source_try(q{SELECT migrate_tiers.push_batch('turned_sum')});
	is($state, '42809', 'what has become a view is not pushed');
}
$pair->source_sql(q{SELECT migrate_tiers.untag('turned_sum')});
$pair->source_sql('DROP ' . ($turns ? 'VIEW' : 'TABLE') . ' turned_sum');

# The furthest row is read, and where each sequence is. While that waits for others, the names are given to views.
my ($change, $drawn, $call) = map { MigrateTiers::session($pair->$_) } qw(source target source);
$change->query_safe('SET ROLE app; SET migrate_tiers.allow_ddl = on');
$change->query_safe(q{BEGIN; ALTER TABLE counted RENAME TO other; CREATE VIEW counted AS SELECT grab_number('table') AS id});
$drawn->query_safe(q{BEGIN; SELECT nextval('counted_id_seq')});
$call->query_until(qr/going/, "\\echo going\nSET migrate_tiers.lock_timeout = '30 s';\nCALL migrate_tiers.advance('dual_write');\n");
ok($pair->wait_until(source => q{SELECT count(*) > 0 FROM pg_locks WHERE relation = 'counted'::regclass AND NOT granted}), 'advance looks at the table');
$change->query_safe('COMMIT');
ok($pair->wait_until(target => q{SELECT count(*) > 0 FROM pg_locks WHERE relation = 'counted_id_seq'::regclass AND NOT granted}), 'and at its sequences');
$change->query_safe(q{ALTER SEQUENCE counted_n_seq RENAME TO other_seq; CREATE VIEW counted_n_seq AS SELECT grab_number('sequence') AS last_value, true AS is_called});
$drawn->query_safe('COMMIT');
$call->query_until(qr/ended/, "\\echo ended\n");
nobody_rose('sequences');
$change->query_safe('DROP VIEW counted, counted_n_seq; ALTER TABLE other RENAME TO counted; ALTER SEQUENCE other_seq RENAME TO counted_n_seq');
$_->quit for $change, $drawn, $call;
is($pair->source_sql('SELECT phase FROM migrate_tiers.status'), 'dual_write', 'it goes on all the same');
$pair->source_sql('TRUNCATE ran');

my $log = -s $pair->source->logfile;
$pair->target_sql(q{INSERT INTO checked_item VALUES (9001, 1, ROW(1::checked)::holds, ARRAY[1::checked], 'new'); UPDATE checked_item SET t = 'changed' WHERE id = 1; DELETE FROM checked_item WHERE id = 2});
$pair->sync_back;
like(slurp_file($pair->source->logfile, $log), qr/in a domain as app/, 'a small tick runs the checks of a domain as the table\'s owner');
nobody_rose('values of domains in a small tick back');

$pair->target_sql(q{INSERT INTO item VALUES (9001, 'new'); UPDATE item SET v = 'changed' WHERE id = 1; DELETE FROM item WHERE id = 2});
$pair->sync_back;
is(roles(), 'app', 'a small tick runs the trigger as the table\'s owner');
nobody_rose('a small tick back');
$pair->source_sql('TRUNCATE ran');
$pair->target_sql(q{UPDATE item SET v = 'all'; UPDATE checked_item SET t = 'all'});
$pair->sync_back;
is(roles(), 'app', 'a large tick, too');
nobody_rose('a large tick back');

$pair->source_sql('SELECT migrate_tiers.pause()');
for my $table (qw(item checked_item))
{
	my $column = $table eq 'item' ? 'v' : 't';
	$pair->source_sql(qq{SET ROLE app; UPDATE $table SET $column = 's' WHERE id = 10});
	$pair->target_sql(qq{UPDATE $table SET $column = 't' WHERE id = 10});
}
$pair->source_sql('SELECT migrate_tiers.resume()');
ok($pair->wait_until(source => 'SELECT count(*) = 2 FROM migrate_tiers.conflicts'), 'a conflict');
$pair->source_sql('TRUNCATE ran');
$pair->source_sql(q{SELECT migrate_tiers.resolve_conflict(id, CASE winner WHEN 'source' THEN 'target' ELSE 'source' END) FROM migrate_tiers.conflicts});
is(roles(), 'app', 'and what settles it');
nobody_rose('resolve_conflict');

# A push back: what it stages here is analyzed.
$pair->source_sql(q{SELECT migrate_tiers.push_batch(t) FROM unnest('{mood_sum,span_sum}'::regclass[]) t});
ready($pair, 'read_target');
$pair->advance('read_target');
$pair->target_sql(q{UPDATE span_sum SET s = span(id, id + 2)});
$log = -s $pair->source->logfile;
is($pair->source_sql(q{SELECT direction, updated FROM migrate_tiers.push_batch('span_sum')}), 'reverse|100', 'a push back');
like(slurp_file($pair->source->logfile, $log), qr/in a subtype_diff as app/, 'runs the code of a type as the table\'s owner');
nobody_rose('a push back');

$pair->finish;
done_testing();

sub turn_into_view
{
	my ($table, $columns) = @_;
	$pair->source_sql(qq{SET ROLE app; ALTER TABLE $table DROP CONSTRAINT IF EXISTS ${table}_pkey;
		SELECT format('ALTER TABLE %s ALTER %I DROP NOT NULL', attrelid::regclass, attname) FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnotnull AND attnum > 0 \\gexec
		VACUUM $table;
		CREATE RULE "_RETURN" AS ON SELECT TO $table DO INSTEAD SELECT $columns;});
	return;
}

sub roles { return $pair->source_sql(q{SELECT string_agg(DISTINCT role, ',') FROM ran}); }

sub nobody_rose
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($pair->source_sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'app'}), 'f', "$what: nobody has become a superuser");
	my %as = map { $_ => 1 } slurp_file($pair->source->logfile) =~ /LOG:  code of the table's owner runs in a \w+ as (\w+)/g;
	is(join(',', grep { $_ ne 'app' } sort keys %as), '', 'his code had no rights but his');
	return;
}
