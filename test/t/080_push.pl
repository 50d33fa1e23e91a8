# A push forward in each mode: what arrives, what is counted, what is refused.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
my $tables = <<'SQL';
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE small (id int PRIMARY KEY, v text);
CREATE TABLE report (region text, day date, total numeric, ratio float8, data jsonb, raw bytea, at timestamptz,
	double numeric GENERATED ALWAYS AS (total * 2) STORED, note char(5), tags text[], number bigint,
	PRIMARY KEY (region, day));
CREATE TABLE pair (id int PRIMARY KEY, place int UNIQUE, number bigint GENERATED ALWAYS AS IDENTITY);
CREATE TABLE heap (v int, w text);
CREATE TABLE journal ("system_user" bigint, at timestamp, v text);
CREATE TABLE code ("json_value" text PRIMARY KEY, "system_user" int);
CREATE TABLE scaled (id int PRIMARY KEY, a numeric(12,4), b numeric(12,4));
CREATE TABLE price (id int PRIMARY KEY, v numeric(10,2));
SQL
sql($_, $tables) for $source, $target;
sql($source, 'CREATE TABLE part (id int PRIMARY KEY, v text)');
sql($target, <<'SQL');
CREATE TABLE part (v text, id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (3000);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (3000) TO (100000);
CREATE TABLE touched (name text);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO touched VALUES (TG_TABLE_NAME); RETURN NULL; END$$;
CREATE TRIGGER touch AFTER INSERT OR UPDATE OR DELETE ON report FOR EACH ROW EXECUTE FUNCTION touch();
SQL
migration($source, 'item');
sql($source, "SELECT migrate_tiers.tag('$_', 'batch')") for qw(small report pair heap journal part code scaled price);
sql_fails($source, "SELECT migrate_tiers.push_batch('small')", 'MT003', qr/advance\('syncing'\)/, 'nothing is pushed in phase planned');
advance($source, 'syncing');
is(state_of('report'), 'waiting', 'a table that was never pushed waits');

# push(table): inserted, updated, deleted of a push, and a test that both sides are equal after it.
sub push_table
{
	my ($table, $name, %options) = @_;
	my $counts = sql($source, "SELECT inserted, updated, deleted FROM migrate_tiers.push_batch('$table')");
	tables_equal($source, $target, $table, $name, %options);
	is(sql($source, "SELECT source_rows = target_rows AND error IS NULL AND finished IS NOT NULL AND direction = 'forward' FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1"), 't', "$name: it says so");
	return $counts;
}

sub last_push { return sql($source, "SELECT $_[0] FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1"); }
sub state_of { return sql($source, "SELECT state FROM migrate_tiers.tables WHERE relation = '$_[0]'::regclass"); }

# Mode diff.
sql($source, <<'SQL');
INSERT INTO report (region, day, total, ratio, data, raw, at, note, tags) SELECT 'region ' || i % 7, '2020-01-01'::date + i, i / 3.0, i / 7.0, jsonb_build_object('i', i), decode(md5(i::text), 'hex'),
	'2020-01-01'::timestamptz + i * interval '1 second', 'a' || i % 3, ARRAY['x', NULL, i::text] FROM generate_series(1, 60000) i;
ANALYZE report;
SQL
is(push_table('report', 'first push'), '60000|0|0', 'all rows are inserted');
is(state_of('report'), 'fresh', 'it is fresh');
cmp_ok(last_push('ranges'), '>', 3, 'in several ranges');
is(push_table('report', 'nothing changed'), '0|0|0', 'nothing is written');
is(last_push('ranges_sent'), '0', 'no range is sent');
cmp_ok(last_push('bytes'), '<', 1000, 'only digests are');
sql($source, <<'SQL');
UPDATE report SET total = total + 1 WHERE region = 'region 3' AND day < '2021-01-01';
UPDATE report SET data = NULL, raw = NULL, note = NULL, tags = NULL WHERE region = 'region 3' AND day BETWEEN '2021-01-01' AND '2021-02-01';
DELETE FROM report WHERE region = 'region 3' AND day BETWEEN '2022-01-01' AND '2022-03-01';
INSERT INTO report (region, day) VALUES ('region 3', '1999-12-31'), ('region 3', 'infinity'), ('region 3', '-infinity');
SQL
like(push_table('report', 'some rows changed'), qr/^3\|5[67]\|[89]$/, 'only they are changed');
cmp_ok(last_push('ranges_sent'), '<', 4, 'only their ranges are sent');
sql($source, q{UPDATE report SET total = total * 1.00 WHERE region = 'region 1' AND total = 2});
sql($source, q{UPDATE report SET ratio = '-0' WHERE region = 'region 0' AND day = '2020-01-08'});
like(push_table('report', 'another form of the same value is pushed, too'), qr/^0\|[12]\|0$/, 'as an update');
# Values whose hashes are the same in the server's own hash functions.
sql($source, q{UPDATE report SET total = -total, number = 4294967296 WHERE region = 'region 1' AND day = '2020-01-09'; UPDATE report SET total = 'NaN', number = -1 WHERE region = 'region 1' AND day = '2020-01-16'});
push_table('report', 'a sign, a half of a number');
sql($source, q{UPDATE report SET number = 1 WHERE region = 'region 1' AND day = '2020-01-09'; UPDATE report SET total = 'Infinity' WHERE region = 'region 1' AND day = '2020-01-16'});
is(push_table('report', 'and back'), '0|2|0', 'are pushed');
sql($source, q{UPDATE report SET total = '-Infinity', number = 4294967295 WHERE region = 'region 1' AND day = '2020-01-16'; UPDATE report SET total = -total WHERE region = 'region 1' AND day = '2020-01-09'});
is(push_table('report', 'infinities'), '0|2|0', 'are pushed, too');
sql($source, q{UPDATE report SET at = '2000-01-01 00:00:00+00' WHERE region = 'region 1' AND day = '2020-01-09'});
push_table('report', 'a moment');
is(sql($source, q{SELECT hash_record_extended(ROW('2000-01-01 00:00:00+00'::timestamptz), 1) = hash_record_extended(ROW('2000-01-01 01:11:34.967297+00'::timestamptz), 1)}),
	't', 'and another of the same hash');
sql($source, q{UPDATE report SET at = '2000-01-01 01:11:34.967297+00' WHERE region = 'region 1' AND day = '2020-01-09'});
is(push_table('report', 'another moment'), '0|1|0', 'is pushed');
# The hash of a numeric is but an exclusive-or away from that of another one, by the power of 10000.
sql($source, 'INSERT INTO scaled VALUES (1, 1, 2)');
push_table('scaled', 'two numbers');
for my $numbers ('10000, 20000', '0.0001, 0.0002', '3, 5', '0.0003, 0.0005', '1, 10000', '10000, 1', '10000, NULL', 'NULL, 10000', "'NaN', 0", "0, 'NaN'", '0, 0', '0, NULL', 'NULL, NULL')
{
	sql($source, "UPDATE scaled SET (a, b) = ROW($numbers)");
	is(push_table('scaled', "($numbers)"), '0|1|0', "($numbers) is another row than before");
}
# What is known of tables that nobody has analyzed must not lead to a join of each row with each.
sql($target, <<'SQL');
CREATE TABLE planned (v text);
CREATE FUNCTION note_plan() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.planned VALUES (current_setting('enable_nestloop')); RETURN NULL; END$$;
CREATE TRIGGER note_plan AFTER INSERT OR UPDATE OR DELETE ON part FOR EACH STATEMENT EXECUTE FUNCTION note_plan();
ALTER TABLE part ENABLE ALWAYS TRIGGER note_plan;
SQL
sql($source, q{INSERT INTO part VALUES (1, 'a'), (2, 'b')});
push_table('part', 'two rows');
sql($source, q{UPDATE part SET v = 'c' WHERE id = 1});
push_table('part', 'one of them');
is(sql($target, 'SELECT count(*) > 1 AND bool_and(v = \'off\') FROM planned'), 't', 'and no plan of them was one of loops');
sql($source, 'DELETE FROM part');
push_table('part', 'none');
sql($target, 'DROP TRIGGER note_plan ON part; DROP TABLE planned');
# Rows whose columns together hash to numbers that the server's hash of 64 bits, which folds them into 32, takes for the same.
my ($one, $other) = split /\|/, sql($source, <<'SQL');
SELECT min(v), max(v) FROM (SELECT i::text AS v, hashtextextended(i::text COLLATE "C", 2) AS h FROM generate_series(1, 300000) i) t
GROUP BY h < 0, ((h >> 32) # h) & 4294967295 HAVING count(*) > 1 ORDER BY 1 LIMIT 1
SQL
sql($source, "INSERT INTO small VALUES (7, '$one')");
push_table('small', 'a row');
is(sql($source, qq{SELECT count(DISTINCT hashint8extended(hashint4extended(7, 1) # hashtextextended(v COLLATE "C", 2), 0)) FROM (VALUES ('$one'), ('$other')) AS t(v)}),
	'1', "and another of the same hash ($one and $other)");
sql($source, "UPDATE small SET v = '$other' WHERE id = 7");
is(push_table('small', 'another row'), '0|1|0', 'is pushed');
sql($source, 'DELETE FROM small');
push_table('small', 'emptied again');
sql($target, q{DELETE FROM report WHERE region = 'region 2'; INSERT INTO report (region, day) VALUES ('stranger', '2000-01-01'), ('', '2000-01-01'); UPDATE report SET note = 'x' WHERE region = 'region 6'});
push_table('report', 'what somebody wrote on the receiver is undone');
is(sql($target, 'SELECT count(*) > 0 FROM touched'), 't', 'the receiver has its triggers');
sql($target, 'TRUNCATE touched');
sql($source, 'DELETE FROM report WHERE day > current_date');
push_table('report', 'rows are deleted');
is(sql($target, 'SELECT count(*) FROM touched'), '0', 'triggers of the receiver do not act');
sql($source, 'TRUNCATE report');
like(push_table('report', 'an emptied table'), qr/^0\|0\|\d+$/, 'is pushed as empty');
like(last_push('note'), qr/empty in the snapshot; \d+ rows were deleted/, 'which is noted');
is(sql($target, q{SELECT count(*) FROM pg_class WHERE relname LIKE 'stage%'}), '0', 'no stage is left');

# A second unique index whose values are exchanged; an identity that is always generated.
sql($source, 'INSERT INTO pair SELECT i, i FROM generate_series(1, 100) i');
is(push_table('pair', 'a table with two keys'), '100|0|0', 'is inserted');
sql($source, 'UPDATE pair SET place = -place; UPDATE pair SET place = 101 + place; DELETE FROM pair WHERE id = 50');
is(push_table('pair', 'values of a second unique index are exchanged'), '0|99|1', 'rows are counted as updated');

# The stage of a push that failed is of no use when the columns have another type.
sql($source, 'INSERT INTO price SELECT i, i FROM generate_series(1, 100) i');
push_table('price', 'prices');
sql($target, 'ALTER TABLE price ADD CHECK (v < 1000)');
sql($source, 'UPDATE price SET v = v + 1000 WHERE id = 1');
sql_fails($source, "SELECT migrate_tiers.push_batch('price')", '23514', qr/violates check constraint/, 'a row that the receiver refuses');
is(sql($target, q{SELECT count(*) FROM pg_class WHERE relname LIKE 'stage%' AND relkind = 'r'}), '1', 'its stage is left');
sql($target, 'ALTER TABLE price DROP CONSTRAINT price_v_check');
sql($_, 'ALTER TABLE price ALTER v TYPE numeric(10,4)') for $source, $target;
sql($source, 'UPDATE price SET v = 0.1234 WHERE id = 1');
is(push_table('price', 'with more digits by now'), '0|1|0', 'the row is pushed as it is');

# Another shape on the target.
sql($source, q{INSERT INTO part SELECT i, 'v' || i FROM generate_series(1, 5000) i});
is(push_table('part', 'a table that is partitioned on the target'), '5000|0|0', 'columns in another order');
sql($source, q{UPDATE part SET v = 'new' WHERE id BETWEEN 2990 AND 3010; DELETE FROM part WHERE id % 100 = 0});
is(push_table('part', 'and its changes'), '0|20|50', 'across partitions');

# A table without a key.
sql_fails($source, "SELECT migrate_tiers.push_batch('heap')", '55000', qr/no key, which mode diff needs.*mode => 'replace'/s, 'mode diff needs a key');
like(last_push('error'), qr/^55000: /, 'the failure is noted');
sql($source, q{SELECT migrate_tiers.batch_policy('heap', mode => 'replace'); INSERT INTO heap SELECT i % 10, 'x' FROM generate_series(1, 1000) i; INSERT INTO heap VALUES (NULL, NULL)});
is(push_table('heap', 'mode replace'), '1001|0|0', 'replaces nothing');
sql($source, 'DELETE FROM heap WHERE v = 3');
is(push_table('heap', 'again'), '901|0|1001', 'replaces all');

# Mode append.
sql($source, q{SELECT migrate_tiers.batch_policy('journal', mode => 'append', watermark => 'system_user'); INSERT INTO journal SELECT i, '2020-01-01', 'x' FROM generate_series(1, 1000) i});
is(push_table('journal', 'mode append'), '1000|0|0', 'begins with all rows');
is(push_table('journal', 'nothing new'), '0|0|0', 'appends nothing');
sql($source, q{INSERT INTO journal SELECT i, '2020-01-01', 'x' FROM generate_series(1001, 1500) i});
is(push_table('journal', 'new rows'), '500|0|0', 'are appended');
sql($source, 'INSERT INTO journal VALUES (700, now(), NULL), (1600, now(), NULL)');
sql_fails($source, "SELECT migrate_tiers.push_batch('journal')", '55000', qr/have changed.*1501 rows up to watermark 1500, the receiver 1500/s, 'a row that comes late is not lost in silence');
sql($source, 'DELETE FROM journal WHERE "system_user" = 5');
sql_fails($source, "SELECT migrate_tiers.push_batch('journal')", '55000', qr/have changed.*Both sides have 1500 rows up to watermark 1500, but not the same/s, 'nor when another one went');
sql($source, 'DELETE FROM journal WHERE "system_user" > 1400');
sql_fails($source, "SELECT migrate_tiers.push_batch('journal')", '55000', qr/went backwards.*up to 1500, the sender up to 1400/s, 'a watermark that goes backwards');
sql($source, 'TRUNCATE journal');
sql_fails($source, "SELECT migrate_tiers.push_batch('journal')", '55000', qr/went backwards.*up to none/s, 'an emptied table does not only grow');
is(sql($target, 'SELECT count(*) FROM journal'), '1500', 'the receiver keeps what it had');
sql($source, 'INSERT INTO journal VALUES (NULL, now(), NULL)');
sql_fails($source, "SELECT migrate_tiers.push_batch('journal')", '22004', qr/1 rows of table public.journal have no watermark/, 'a row without a watermark');

# Sides that sort a key in different ways, though not the few keys that are looked at: K stands among the k's there.
# The names are keywords of some versions only.
sql($source, "INSERT INTO code SELECT 'k' || lpad(i::text, 6, '0'), i FROM generate_series(1, 40000) i; ANALYZE code");
push_table('code', 'a key of text that both sides sort alike');
cmp_ok(last_push('ranges'), '>', 2, 'in several ranges');
sql($target, 'ALTER TABLE code ALTER "json_value" TYPE text COLLATE "und-x-icu"');
sql($source, q(INSERT INTO code VALUES ('K020000', 1), ('K030000', 2)));
is(push_table('code', 'the receiver sorts it in another way by now'), '2|0|0', 'what came is inserted');
is(last_push('ranges'), '1', 'and the table is one range');
sql($source, q(UPDATE code SET "system_user" = -1 WHERE "json_value" IN ('K020000', 'k000007')));
is(push_table('code', 'and changed'), '0|2|0', 'what changed is updated');
sql($source, q(SELECT migrate_tiers.batch_policy('code', mode => 'replace')));
sql($source, q(UPDATE code SET "system_user" = -2 WHERE "json_value" IN ('K030000', 'k000007')));
is(push_table('code', 'in mode replace'), '0|2|0', 'the same');
sql($_, 'ALTER TABLE code ALTER "json_value" TYPE text COLLATE "de-x-icu"') for $source, $target;
sql($source, q(UPDATE code SET "system_user" = -3 WHERE "json_value" = 'K030000'));
is(push_table('code', 'both sides sort it by one collation'), '0|1|0', 'what changed is updated');
# The libraries of two servers may be of different versions, and sort in different ways then.
my ($here, $there) = map { sql($_, q(SELECT pg_collation_actual_version(oid) FROM pg_collation WHERE collname = 'de-x-icu')) } $source, $target;
cmp_ok(last_push('ranges'), $here eq $there ? '>' : '<', 2, 'in several ranges again, where both have one version of it');

# Who else is at the table.
my $job = session($source);
$job->query_safe('BEGIN; LOCK TABLE small');
sql_fails($source, "SELECT migrate_tiers.push_batch('small')", '55P03', qr/postponed: somebody holds a lock/, 'a table that is locked exclusively');
cmp_ok(last_push('extract(epoch FROM duration)'), '<', 5, 'is not waited for');
$job->query_safe('COMMIT');
push_table('small', 'after it');
$job->quit;
sql($target, 'ALTER TABLE small ALTER v TYPE varchar(5)');
sql_fails($source, "SELECT migrate_tiers.push_batch('small')", '42804', qr/text on the source, character varying\(5\) on the target/, 'a column of another type');
sql($target, 'DROP TABLE small');
sql_fails($source, "SELECT migrate_tiers.push_batch('small')", '42P01', qr/the target has no table public.small/, 'a table that is not there');
sql_fails($source, "SELECT migrate_tiers.push_batch('item')", '55000', qr/tagged realtime and not batch/, 'a realtime table');
is(sql($source, q{SELECT count(*) FROM migrate_tiers.batches WHERE finished IS NULL}), '0', 'every push is noted to its end');

finish($source, $target);
done_testing();
