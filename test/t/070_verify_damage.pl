# Each kind of damage is found, exactly, and mended; contents that only look
# different are not, whatever the settings of either side.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('damage');
my $types = <<'SQL';
CREATE TABLE item (id int PRIMARY KEY, name text, other text, wide text);
ALTER TABLE item ALTER wide SET STORAGE EXTERNAL;
CREATE TABLE "Odd ""one""" ("k y" text, n int, r text, "N" numeric(20, 5), PRIMARY KEY ("k y", n));
CREATE TABLE part (id bigint, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE part_2 PARTITION OF part DEFAULT;
CREATE TABLE many (id int PRIMARY KEY, v int);
CREATE TABLE amount (n numeric PRIMARY KEY, v int);
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a int, b text);
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE kind (id int PRIMARY KEY, j json, jb jsonb, p point, f4 float4, f8 float8, m money, i interval,
    t timestamptz, d date, n numeric, c char(6), b bytea, x xml, bits bit varying, e mood, cp pair, a text[],
    nd text COLLATE nocase, u uuid, r numrange, ts tsvector, inet inet, box box, g int GENERATED ALWAYS AS (id + 1) STORED);
SQL
$pair->both_sql($types);
$pair->source_sql(<<'SQL');
INSERT INTO item SELECT i, 'name ' || i, CASE WHEN i % 7 > 0 THEN '' END, CASE WHEN i % 5000 = 0 THEN repeat(md5(i::text), 2000) END
  FROM generate_series(1, 100000) i;
INSERT INTO many SELECT i, i FROM generate_series(1, 1000000) i;
INSERT INTO "Odd ""one""" SELECT 'key "' || i % 50, i, 'r', i / 3.0 FROM generate_series(1, 3000) i;
INSERT INTO part SELECT i, date '2019-01-01' + i, 'v' FROM generate_series(1, 1000) i;
INSERT INTO amount SELECT i + 0.5, i FROM generate_series(1, 1000) i;
INSERT INTO kind (id, j, jb, p, f4, f8, m, i, t, d, n, c, b, x, bits, e, cp, a, nd, u, r, ts, inet, box)
SELECT k, '{"a": 1,  "a": 2}', '{"b": 1.00}', '(0.1,-0)', '0.1', 1 / 3.0, 12.34, '1 mon -2 days 03:04:05.6', '2020-02-03 04:05:06.789+01',
       '2020-12-13', 1.500, 'ab', '\x00ff5c', '<?xml version="1.0"?><a b="c"/>', B'0101', 'ok', ROW(1, 'a "b"')::pair, '[0:1]={"a,b",NULL}', 'Straße',
       '00112233-4455-6677-8899-aabbccddeeff', '[1.0,2)', 'a:1 b', '10.0.0.1/8', '(1,1),(0,0)'
  FROM generate_series(1, 20) k;
UPDATE kind SET f8 = 'NaN', n = 'NaN', t = 'infinity', d = '-infinity' WHERE id = 2;
UPDATE kind SET f8 = '-0', f4 = '-0', i = '-1 mon +1 day', jb = NULL, a = '{}' WHERE id = 3;
UPDATE kind SET f8 = '-infinity', r = 'empty', a = NULL, cp = ROW(NULL, '') WHERE id = 4;
SQL
# Settings that change what values look like, and a function that must not be taken for the system's.
for my $side ('source_sql', 'target_sql')
{
	my $first = $side eq 'source_sql';
	$pair->$side(sprintf q{ALTER DATABASE shop SET DateStyle = '%s'}, $first ? 'SQL, DMY' : 'German');
	$pair->$side(sprintf q{ALTER DATABASE shop SET IntervalStyle = '%s'}, $first ? 'sql_standard' : 'iso_8601');
	$pair->$side(sprintf q{ALTER DATABASE shop SET extra_float_digits = %d}, $first ? -15 : 0);
	$pair->$side(sprintf q{ALTER DATABASE shop SET bytea_output = '%s'}, $first ? 'escape' : 'hex');
	$pair->$side(sprintf q{ALTER DATABASE shop SET TimeZone = '%s'}, $first ? 'Asia/Kolkata' : 'America/St_Johns');
	$pair->$side(q{ALTER DATABASE shop SET xmloption = 'document'});
	$pair->$side(q{CREATE FUNCTION public.hashtextextended(text, int) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'});
	$pair->$side(q{ALTER DATABASE shop SET search_path = public, pg_catalog});
}
$pair->declare;
$pair->advance;
$pair->sync;

# verdict($table) verifies one table: "verdict source target different".
sub verdict
{
	my ($table) = @_;
	return $pair->source_sql("SELECT concat_ws(' ', verdict, source_rows, target_rows, different_rows, detail) FROM migrate_tiers.verify('$table')");
}

# damage($sql) writes to the target past the fence, and its triggers.
sub damage
{
	my ($sql) = @_;
	my $token = $pair->source_sql('SELECT token FROM migrate_tiers.migration');
	$pair->target_sql("SET migrate_tiers.session = '$token'; SET session_replication_role = replica; $sql");
	return;
}

my %rows = (item => 100000, many => 1000000, '"Odd ""one"""' => 3000, part => 1000, amount => 1000, kind => 20);
is($pair->source_sql(q{SELECT string_agg(concat_ws(' ', relation, verdict, source_rows, target_rows, different_rows), ', ' ORDER BY relation::text COLLATE "C") FROM migrate_tiers.verify()}),
	join(', ', map { "$_ equal $rows{$_} $rows{$_} 0" } sort keys %rows), 'all tables are equal after the copy');
is($pair->source_sql('SELECT count(*) FROM migrate_tiers.discrepancies'), '0', 'and there is no discrepancy');

# Each kind by itself: SQL on the target, and what is to be found.
my @kinds = (
	[ 'a missing row', 'item', 'DELETE FROM item WHERE id = 5', -1, 'missing {5}' ],
	[ 'an extra row', 'item', q{INSERT INTO item VALUES (200000, 'x')}, 1, 'extra {200000}' ],
	[ 'an extra row before all others', 'item', q{INSERT INTO item VALUES (-1)}, 1, 'extra {-1}' ],
	[ 'one changed column', 'item', q{UPDATE item SET name = name || ' ' WHERE id = 50000}, 0, 'changed {50000} {name}' ],
	[ 'one row in a million', 'many', 'UPDATE many SET v = v + 1 WHERE id = 777777', 0, 'changed {777777} {v}' ],
	[ 'empty instead of NULL', 'item', q{UPDATE item SET other = '' WHERE id = 14}, 0, 'changed {14} {other}' ],
	[ 'NULL instead of empty', 'item', q{UPDATE item SET other = NULL WHERE id = 15}, 0, 'changed {15} {other}' ],
	[ 'a value in another column', 'item', q{UPDATE item SET other = name, name = other WHERE id = 15}, 0, 'changed {15} {name,other}' ],
	[ 'swapped rows', 'item', q{UPDATE item SET name = 'name ' || CASE id WHEN 10 THEN 99990 ELSE 10 END WHERE id IN (10, 99990)}, 0, 'changed {10} {name}, changed {99990} {name}' ],
	[ 'a changed key', 'item', 'UPDATE item SET id = 300000 WHERE id = 77', 0, 'extra {300000}, missing {77}' ],
	[ 'a changed TOAST value', 'item', q{UPDATE item SET wide = overlay(wide placing 'x' from 60000) WHERE id = 90000}, 0, 'changed {90000} {wide}' ],
	[ 'a key of two columns that needs quotes', '"Odd ""one"""', q{UPDATE "Odd ""one""" SET n = n + 10000 WHERE n = 100}, 0, 'extra {"key \"0",10100}, missing {"key \"0",100}' ],
	[ 'rows of two partitions', 'part', q{DELETE FROM part WHERE id IN (1, 999); UPDATE part SET at = '2020-06-06' WHERE id = 2}, -2, 'extra {2,2020-06-06}, missing {1,2019-01-02}, missing {2,2019-01-03}, missing {999,2021-09-26}' ],
	[ 'the scale of a numeric key', 'amount', 'UPDATE amount SET n = 7.50 WHERE n = 7.5', 0, 'changed {7.5} {n}' ],
	[ 'white space in json', 'kind', q{UPDATE kind SET j = '{"a": 1, "a": 2}' WHERE id = 5}, 0, 'changed {5} {j}' ],
	[ 'the scale inside of jsonb', 'kind', q{UPDATE kind SET jb = '{"b": 1.0}' WHERE id = 5}, 0, 'changed {5} {jb}' ],
	[ '-0 in a float', 'kind', q{UPDATE kind SET f8 = 0 WHERE id = 3}, 0, 'changed {3} {f8}' ],
	[ '-0 in a point', 'kind', q{UPDATE kind SET p = '(0.1,0)' WHERE id = 1}, 0, 'changed {1} {p}' ],
	[ 'the last bit of a float', 'kind', q{UPDATE kind SET f8 = 0.33333333333333337 WHERE id = 1}, 0, 'changed {1} {f8}' ],
	[ 'the scale of a numeric', 'kind', q{UPDATE kind SET n = 1.50 WHERE id = 1}, 0, 'changed {1} {n}' ],
	[ 'case under a collation that ignores it', 'kind', q{UPDATE kind SET nd = 'STRASSE' WHERE id = 1}, 0, 'changed {1} {nd}' ],
	[ '30 days for a month', 'kind', q{UPDATE kind SET i = '28 days 03:04:05.6' WHERE id = 1}, 0, 'changed {1} {i}' ],
	[ 'a microsecond', 'kind', q{UPDATE kind SET t = t + interval '1 microsecond' WHERE id = 1}, 0, 'changed {1} {t}' ],
	[ 'a cent', 'kind', q{UPDATE kind SET m = 12.35 WHERE id = 1}, 0, 'changed {1} {m}' ],
	[ 'the bounds of an array', 'kind', q{UPDATE kind SET a = '{"a,b",NULL}' WHERE id = 1}, 0, 'changed {1} {a}' ],
	[ 'NULL and an empty array', 'kind', q{UPDATE kind SET a = '{}' WHERE id = 4}, 0, 'changed {4} {a}' ],
	[ 'a byte', 'kind', q{UPDATE kind SET b = '\x00fe5c' WHERE id = 1}, 0, 'changed {1} {b}' ],
	[ 'a finite date', 'kind', q{UPDATE kind SET d = '4714-11-24 BC' WHERE id = 2}, 0, 'changed {2} {d}' ],
	[ 'NaN', 'kind', q{UPDATE kind SET n = 0, f8 = 0 WHERE id = 2}, 0, 'changed {2} {f8,n}' ],
);
foreach my $case (@kinds)
{
	my ($name, $table, $sql, $more, $expected) = @$case;
	my $count = () = $expected =~ /(missing|extra|changed)/g;
	subtest $name => sub {
		damage($sql);
		is(verdict($table), "different $rows{$table} " . ($rows{$table} + $more) . " $count", 'counted');
		is($pair->source_sql(q{SELECT string_agg(concat_ws(' ', kind, key, columns), ', ' ORDER BY kind, key) FROM migrate_tiers.discrepancies
			WHERE verification = (SELECT max(id) FROM migrate_tiers.verifications)}), $expected, 'and found, no more and no less');
		is($pair->source_sql(q{SELECT bool_and((source_row IS NULL) = (kind = 'extra') AND (target_row IS NULL) = (kind = 'missing'))
			FROM migrate_tiers.discrepancies}), 't', 'both images are kept');
		is($pair->source_sql("SELECT migrate_tiers.repair('$table')"), $count, 'repair asks for as many');
		$pair->sync;
		is(verdict($table), "equal $rows{$table} $rows{$table} 0", 'and mends them');
	};
}
is($pair->source_sql(q{SELECT bool_and(source_row->>'f8' = '-0' AND target_row->>'f8' = '0') FROM migrate_tiers.discrepancies WHERE key = '{3}' AND columns = '{f8}'}), 't', 'an image tells -0 from 0');
is($pair->source_sql(q{SELECT migrate_tiers.repair('item')}), '0', 'nothing is left to repair');

# Many rows at once: more than are compared in one go, and more than are kept.
damage('UPDATE item SET name = upper(name); DELETE FROM item WHERE id % 10 = 0; INSERT INTO item SELECT i FROM generate_series(500001, 500100) i');
like(verdict('item'), qr/^different 100000 90100 100100\b/, 'a table that is all damage is counted to the last row');
is($pair->source_sql(q{SELECT count(*) FROM migrate_tiers.discrepancies WHERE verification = (SELECT max(id) FROM migrate_tiers.verifications)}), '10000', 'and 10,000 of them are kept');
damage('TRUNCATE item');
is($pair->source_sql(q{SELECT concat_ws(' ', verdict, source_rows, target_rows, different_rows) FROM migrate_tiers.verify('item')}), 'different 100000 0 100000', 'an empty target is no equal one');
is($pair->source_sql(q{SELECT count(*) FROM migrate_tiers.discrepancies WHERE relation = 'item'::regclass AND repaired IS NULL}), '10000', 'and what the verification before has found is forgotten');

is($pair->source_sql(q{SELECT last_verdict || ' ' || (last_verified > now() - interval '1 minute') FROM migrate_tiers.tables WHERE relation = 'item'::regclass}), 'different true', 'the view tables tells the last verdict');
is($pair->source_sql(q{SELECT count(*) > 50 AND bool_and(finished >= started AND at_mark IS NOT NULL) FROM migrate_tiers.verifications}), 't', 'the history is kept');
$pair->finish;
done_testing();
