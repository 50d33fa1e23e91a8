# Values of every type arrive as they were: by the copy, by small and by large
# ticks, whatever the defaults of roles and databases on either side.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $name63 = 'c' x 61 . 'é';    # 63 bytes

# Extensions and types are created in another order on the target, so that no OID fits by chance.
my @types = (
	'CREATE EXTENSION hstore', 'CREATE EXTENSION citext', 'CREATE EXTENSION ltree', 'CREATE EXTENSION cube',
	q{CREATE TYPE mood AS ENUM ('low', 'mid', 'it''s "high"', 'größer')},
	'CREATE TYPE pair AS (a int, "json" text)',
	'CREATE DOMAIN positive AS int CHECK (VALUE > 0)',
	'CREATE DOMAIN word AS varchar(20) COLLATE "C" NOT NULL',
	'CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi)',
	'CREATE TYPE letters AS RANGE (subtype = text, collation = "C")');
my @types_after = (
	'CREATE TYPE deep AS (m mood[], p pair[], d positive, r span)',
	'CREATE DOMAIN moods AS mood[]',
	'CREATE DOMAIN deeper AS deep',
	'CREATE TYPE moodspan AS RANGE (subtype = mood)');

# Column type => values, the first two of which fill most of the rows.
my @columns = (
	bool => [qw(true false)],
	int2 => [ "'-32768'", 32767 ],
	int4 => [ "'-2147483648'", 2147483647 ],
	int8 => [ "'-9223372036854775808'", 9223372036854775807 ],
	numeric => [ "'1.0'", "'1.00'", "'NaN'", "'Infinity'", "'-Infinity'", "'-0.000'", "repeat('9', 2000)::numeric", "'1e-200'", "'123456789012345678901234567890.123456789'" ],
	'numeric(10,2)' => [ 1.005, -99999999.99 ],
	float4 => [ "'3.4028235e38'", "'1e-45'", "'NaN'", "'-Infinity'", "'-0'", "'0.1'", "'16777217'" ],
	float8 => [ "'1.7976931348623157e308'", "'5e-324'", "'NaN'", "'Infinity'", "'-0'", "0.1::float8 + 0.2::float8", "'2.2250738585072011e-308'", 'pi()' ],
	money => [ "'12.34'", "'-92233720368547758.08'" ],
	text => [ q{E'tab\\there\\nline\\\\back\\r "quote" ''single''  '}, "''", q{'\\N'}, q{'\\.'}, q{'NULL'}, q{E'\\u0001\\u007f ßΩ漢😀'}, q{repeat('abc', 100000)} ],
	'varchar(20)' => [ "'abc  '", "''" ],
	'char(10)' => [ "'abc'", "''" ],
	'"char"' => [ "'x'", "''", "'\\377'", "'\\200'" ],
	name => [ "'$name63'", "''" ],
	bytea => [ q{'\\x0001ff5c27'}, q{''}, q{decode(repeat('00ff5c', 100000), 'hex')} ],
	date => [ "'2024-02-29'", "'0044-03-15 BC'", "'infinity'", "'-infinity'", "'5874897-12-31'", "'4713-01-01 BC'" ],
	time => [ "'24:00:00'", "'00:00:00.000001'" ],
	timetz => [ "'12:00:00.5+15:59'", "'00:00-15:59:59'" ],
	timestamp => [ "'2024-02-29 23:59:59.999999'", "'0044-03-15 01:02:03 BC'", "'infinity'", "'-infinity'", "'294276-12-31 23:59:59.999999'" ],
	timestamptz => [ "'2024-03-31 02:30:00 Europe/Berlin'", "'0044-03-15 01:02:03+00 BC'", "'infinity'", "'-infinity'", "'4713-01-01 00:00:00+00 BC'" ],
	'timestamp(0)' => [ "'2024-02-29 23:59:59.5'", "'epoch'" ],
	interval => [ "'1 mon -1 day 23:59:59.999999'", "'-178000000 years'", "'1 day -24:00:00'", "'0'" ],
	uuid => [ 'gen_random_uuid()', "'00000000-0000-0000-0000-000000000000'" ],
	xml => [ q{'<a b="c">ä &amp; <![CDATA[x]]></a>'}, q{XMLPARSE(CONTENT 'just text <b/>')}, q{'<?xml version="1.0"?><r/>'} ],
	json => [ q{'{"a": 1,  "a": 2, "b" : [1.0, 1.00, null]}'}, q{'"\\u00e9\\u0001"'} ],
	jsonb => [ q{'{"a": 1, "b": [1.0, 1.00, null, {"x": ""}]}'}, q{'null'} ],
	jsonpath => [ q{'$.a[*] ? (@ > 1)'}, q{'strict $'} ],
	'bit(5)' => [ "B'10101'", "B'00000'" ],
	'bit varying' => [ "B'101'", "B''" ],
	inet => [ "'10.1.2.3/8'", "'::ffff:1.2.3.4'" ],
	cidr => [ "'10.0.0.0/8'", "'2001:db8::/32'" ],
	macaddr => [ "'08:00:2b:01:02:03'", "'ff:ff:ff:ff:ff:ff'" ],
	macaddr8 => [ "'08:00:2b:01:02:03:04:05'", "'00:00:00:00:00:00:00:00'" ],
	point => [ "'(0.1,-0)'", "'(NaN,Infinity)'" ],
	line => [ "'{1,2.5,3}'", "'{0,1,0}'" ],
	lseg => [ "'[(0.1,0.2),(3,4)]'", "'[(0,0),(0,0)]'" ],
	box => [ "'(3,4),(0.1,0.2)'", "'(0,0),(0,0)'" ],
	path => [ "'[(0,0),(1,1),(2,0.3)]'", "'((0,0),(1,1))'" ],
	polygon => [ "'((0,0),(1,1),(2,0))'", "'((0.1,0.2))'" ],
	circle => [ "'<(0.1,0.2),3>'", "'<(0,0),0>'" ],
	tsvector => [ q{'''it''''s'':1A,3 fat:2B'}, "''" ],
	tsquery => [ q{'fat & !rat:ab | ''x y'' <-> z'}, "''" ],
	pg_lsn => [ "'16/B374D848'", "'0/0'" ],
	pg_snapshot => [ "'10:20:10,14,15'", "'1:1:'" ],
	oid => [ "'4294967295'", 0 ],
	xid8 => [ "'18446744073709551615'", "'0'" ],
	tid => [ "'(4294967294,65535)'", "'(0,1)'" ],
	int4range => [ "'[1,5)'", "'empty'", "'(,)'" ],
	numrange => [ "'(1.0,1.00]'", "'[,5]'" ],
	tstzrange => [ "'[2024-01-01 00:00+00,infinity)'", "'[infinity,]'" ],
	int4multirange => [ "'{[1,3),[5,9)}'", "'{}'" ],
	mood => [ "'low'", "'größer'", q{'it''s "high"'} ],
	'mood[]' => [ q{ARRAY['mid', NULL, 'it''s "high"']::mood[]}, "'{}'" ],
	pair => [ q{ROW(1, 'a "b", (c) \\ '',')}, 'ROW(NULL, NULL)', "ROW(NULL, '')" ],
	'pair[]' => [ q{ARRAY[ROW(1, 'x,"y"')::pair, NULL, ROW(NULL, '')::pair]}, "'{}'" ],
	deep => [ q{ROW(ARRAY['low']::mood[], ARRAY[ROW(1, 'é')::pair], 5, '[0.1,NaN)')}, 'ROW(NULL, NULL, NULL, NULL)' ],
	deeper => [ q{ROW('{low}', NULL, 1, 'empty')::deep}, 'NULL' ],
	positive => [ 1, 2147483647 ],
	'positive[]' => [ 'ARRAY[1, NULL, 3]', "'{}'" ],
	word => [ "'  '", "''" ],
	moods => [ "ARRAY['low', 'mid']::mood[]", 'NULL' ],
	span => [ "'[0.1,0.30000000000000004)'", "'(-Infinity,NaN]'" ],
	spanmulti => [ "'{[0.1,0.2),[5,)}'", "'{}'" ],
	letters => [ q{'["a,b","z\\"y"]'}, q{'["",)'} ],
	moodspan => [ "'[low,größer)'", "'empty'" ],
	hstore => [ q{'a=>1, "b c"=>NULL, "q\\"q"=>"=>"'}, "''" ],
	'hstore[]' => [ q{ARRAY['a=>1'::hstore, NULL]}, "'{}'" ],
	citext => [ "'MiXed'", "''" ],
	'citext[]' => [ "ARRAY['A', 'a', NULL]", "'{}'" ],
	ltree => [ "'Top.Science.Astro'", "''" ],
	cube => [ "'(0.1,0.2),(3,4)'", "'(0)'" ],
	'text[]' => [ q{ARRAY['NULL', NULL, '', '"', '\\', ',', '{}', ' x ']}, "'[0:1]={a,b}'" ],
	'int[]' => [ "'[-1:0][5:6]={{1,NULL},{3,4}}'", "'{{{1}}}'", "'{}'" ],
	'timestamptz[]' => [ "ARRAY['infinity', '2024-06-01 00:00+02', NULL]::timestamptz[]", "'{}'" ],
	'bytea[]' => [ q{ARRAY['\\x00ff'::bytea, '', NULL]}, "'{}'" ],
	'numeric[]' => [ "ARRAY['NaN', 1.10, NULL]::numeric[]", "'{}'" ],
	'json[]' => [ q{ARRAY['{"a":1,"a":2}'::json, 'null', NULL]}, "'{}'" ],
	'int4range[]' => [ "ARRAY['[1,2]'::int4range, 'empty']", "'{}'" ],
	'xml[]' => [ "ARRAY['<a/>'::xml]", "'{}'" ]);

my $multirange = 'span_multirange';    # the name that CREATE TYPE ... RANGE gives
my (@definition, @names);
my $rows = 0;
for (my $i = 0; $i < @columns; $i += 2)
{
	$columns[$i] = $multirange if $columns[$i] eq 'spanmulti';
	my $name = sprintf '"%02d %s"', $i / 2, $columns[$i] =~ s/"/""/gr;
	push @names, $name;
	push @definition, "$name $columns[$i]";
	$rows = @{ $columns[ $i + 1 ] } if @{ $columns[ $i + 1 ] } > $rows;
}

# insert_rows is the statements that fill the table: each value of each type, a row of nulls but for the domain that has none.
sub insert_rows
{
	my ($first) = @_;
	my @statements;
	for my $row (0 .. $rows - 1)
	{
		my @values = ($first + $row);
		for (my $i = 0; $i < @columns; $i += 2)
		{
			my @of = @{ $columns[ $i + 1 ] };
			my $value = $row < @of ? $of[$row] : $of[ $row % 2 ];
			push @values, "($value)::$columns[$i]";
		}
		push @statements, 'INSERT INTO every_type VALUES (' . join(', ', @values) . ')';
	}
	push @statements, 'INSERT INTO every_type (id, ' . (grep { / word"/ } @names)[0] . ") VALUES ($first + $rows, 'only')";
	return join ";\n", @statements;
}

# Each row takes the values of the next; a null becomes a value and back.
my $rotate = 'UPDATE every_type t SET ' . join(', ', map { "$_ = o.$_" } @names)
  . ' FROM (SELECT id AS key, lead(id, 1, 1) OVER (ORDER BY id) AS next FROM every_type) n JOIN every_type o ON o.id = n.next WHERE n.key = t.id';

my $evil = <<'SQL';
CREATE SCHEMA evil;
CREATE FUNCTION evil.never(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.never);
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
CREATE FUNCTION evil.stop() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'evil was called'; END$$;
CREATE FUNCTION evil.count() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'evil was called'; END$$;
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'evil was called'; END$$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'evil was called'; END$$;
CREATE FUNCTION evil.pg_current_snapshot() RETURNS pg_snapshot LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'evil was called'; END$$;
CREATE FUNCTION evil.format(text, VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_format';
CREATE FUNCTION evil.quote_ident(text) RETURNS text LANGUAGE sql AS $$SELECT 'evil'::text$$;
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'evil was called'; END$$;
CREATE FUNCTION evil.unnest(int[]) RETURNS SETOF int LANGUAGE sql AS 'SELECT 666';
CREATE TABLE evil.pg_class (oid oid);
CREATE TABLE evil.migration (id int);
SQL

# Set for the database and once more for the role in it.
my @hostile = (
	"DateStyle = 'German, DMY'", "TimeZone = 'Pacific/Chatham'", "IntervalStyle = 'sql_standard'", 'extra_float_digits = -15',
	"bytea_output = 'escape'", 'search_path = evil, pg_catalog, public', "client_encoding = 'LATIN1'", "statement_timeout = '1s'",
	"idle_in_transaction_session_timeout = '1s'", "idle_session_timeout = '1s'", "lock_timeout = '50ms'", 'row_security = on',
	'standard_conforming_strings = off', "backslash_quote = 'on'", 'array_nulls = off', 'transform_null_equals = on',
	'xmloption = document', 'quote_all_identifiers = on', "default_transaction_isolation = 'serializable'",
	'default_transaction_read_only = on', 'default_transaction_deferrable = on', "client_min_messages = 'debug1'",
	"default_tablespace = ''", 'enable_seqscan = off', "plan_cache_mode = 'force_generic_plan'", "application_name = 'hostile'");

sub hostile
{
	my ($pair) = @_;
	for my $what ('DATABASE shop', 'ROLE postgres IN DATABASE shop')
	{
		my $sql = join ";\n", map { "ALTER $what SET $_" } @hostile;
		$pair->source_sql($sql, db => 'postgres');
		$pair->target_sql($sql, db => 'postgres');
	}
	$pair->{options} = $pair->pinned;
	return;
}

# changes makes ticks of each size out of one set of changes.
sub changes
{
	my ($pair) = @_;
	my $first = 1000;
	for my $path ([ small => 100000 ], [ large => 1 ])
	{
		my ($name, $keys) = @$path;
		$pair->small_tick($keys);
		$pair->source_sql($rotate);
		$pair->sync;
		$pair->equal("every row updated, $name tick");
		$pair->source_sql(insert_rows($first += 100));
		$pair->sync;
		$pair->equal("rows inserted, $name tick");
		$pair->source_sql("UPDATE every_type SET id = id + 5000 WHERE id > $first + 2; DELETE FROM every_type WHERE id IN (2, $first)");
		$pair->sync;
		$pair->equal("keys changed and rows deleted, $name tick");
	}
	return;
}

subtest 'every type, hostile defaults' => sub {
	my $pair = MigrateTiers::Pair->new('types');
	my $table = 'CREATE TABLE every_type (id int PRIMARY KEY, ' . join(', ', @definition) . ')';
	$pair->source_sql(join ";\n", @types, @types_after, $table, $evil);
	$pair->target_sql(join ";\n", 'CREATE TABLE junk (a int)', reverse(@types), reverse(grep { !/moods|deeper/ } @types_after), grep({ /moods|deeper/ } @types_after), $table, $evil);
	isnt($pair->target_sql("SELECT 'mood'::regtype::oid"), $pair->source_sql("SELECT 'mood'::regtype::oid"), 'OIDs of types differ');
	$pair->source_sql(insert_rows(1));
	hostile($pair);
	$pair->declare;
	$pair->advance;
	$pair->sync;
	is($pair->source_sql('SELECT count(*) FROM every_type'), $rows + 1, 'there is what to compare');
	$pair->equal('the copy');
	changes($pair);
	$pair->dual_write;
	$pair->target_sql($rotate);
	$pair->sync_back;
	$pair->equal('every row updated on the target');
	is($pair->status('stopped'), '', 'nothing is stopped');
	$pair->finish;
};

subtest 'a worker that stops, and one that takes its time' => sub {
	my $pair = MigrateTiers::Pair->new('stops');
	my $source = $pair->source;
	my $columns = join ', ', map { '"' . 'ä' x 29 . "$_\" text" } 1 .. 9;
	# The text of the statement is cut at one place; the name of the first column shifts what stands there.
	my %tables = (t => 'x', tt => 'xx');
	$pair->both_sql("CREATE TABLE $_ (id int PRIMARY KEY, $tables{$_} int, $columns)") for keys %tables;
	$pair->declare;
	$pair->advance;
	$pair->sync;
	$pair->small_tick(1);
	for my $table (sort keys %tables)
	{
		$pair->target_sql("ALTER TABLE $table ADD CHECK (id < 100)");
		$pair->source_sql("INSERT INTO $table SELECT generate_series(100, 105)");
		$pair->wait_until(source => q{SELECT stopped LIKE '%23514%' FROM migrate_tiers.status});
		my ($good, $state, $err, $out) = $pair->source_try('SET client_encoding = LATIN1; SELECT stopped FROM migrate_tiers.status');
		ok($good && $out =~ /statement on the target/, "why $table stopped can be read in another encoding") or diag($err);
		$pair->source_sql("DELETE FROM $table");
		$pair->sync;
		ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'status is clean');
	}
	# Settings that only newer servers have are left out on others.
	if ($pair->source_sql(q{SELECT current_setting('transaction_timeout', true) IS NOT NULL}) eq 't')
	{
		my $worker = $pair->worker_pid;
		$pair->source_sql(qq{ALTER DATABASE shop SET transaction_timeout = '1s'; SELECT pg_terminate_backend($worker)});
		$pair->wait_until(source => "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $worker");
		$pair->source_sql('SELECT migrate_tiers.start_workers()');
		MigrateTiers::wait_for(sub { $worker = $pair->worker_pid });
		$pair->target_sql(q{CREATE FUNCTION slow() RETURNS boolean LANGUAGE sql AS 'SELECT pg_catalog.pg_sleep(2) IS NOT NULL';
			ALTER TABLE t ADD CHECK (slow())});
		$pair->source_sql('INSERT INTO t VALUES (1)');
		$pair->wait_until(target => 'SELECT count(*) = 1 FROM t');
		$pair->equal('a tick that takes longer than transactions may');
		is($pair->worker_pid, $worker, 'is not cut off');
	}
	$pair->finish;
};

subtest 'SQL_ASCII' => sub {
	my $pair = MigrateTiers::Pair->new('ascii', encoding => 'SQL_ASCII');
	$pair->both_sql(qq{CREATE TABLE "t\xe9" (id int PRIMARY KEY, "v\xff" text)});
	my $rows = sub { my ($i) = @_; return qq{INSERT INTO "t\xe9" VALUES ($i, E'\\xff\\x80 mixed'), ($i + 1, E'\\xc3\\xa9'), ($i + 2, '\xfe')} };
	$pair->source_sql($rows->(1));
	$pair->declare;
	$pair->advance;
	$pair->sync;
	$pair->equal('the copy');
	for my $keys (100000, 1)
	{
		$pair->small_tick($keys);
		$pair->source_sql($rows->(10 + $keys));
		$pair->source_sql(qq{UPDATE "t\xe9" SET "v\xff" = "v\xff" || E'\\xaa'; DELETE FROM "t\xe9" WHERE id = 2});
		$pair->sync;
		$pair->equal("a tick of up to $keys keys by rows");
	}
	$pair->finish;
};

done_testing();
