# What nobody has touched since a push left it equal is not compared again; and whatever is
# touched, in whatever way, on whichever side, is found.
#
# MT_SEED repeats the choices of a run, MT_ROUNDS says how many rounds of random changes there are.
use strict;
use warnings;

use MigrateTiers;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{MT_SEED} // (time ^ $$) % 1_000_000;
my $rounds = $ENV{MT_ROUNDS} // 20;
srand $seed;
diag "MT_SEED=$seed MT_ROUNDS=$rounds";

# Autovacuum writes, too.
my ($source, $target) = pair(map { ("${_}_conf" => "autovacuum = off\n") } qw(source target));
my $rows = 50000;
for my $node ($source, $target)
{
	sql($node, <<'SQL');
CREATE TABLE item (id int PRIMARY KEY);
CREATE TABLE sales (id bigint PRIMARY KEY, day date, amount numeric, note text);
CREATE TABLE region (name text, number numeric, v int, PRIMARY KEY (name, number));
CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (25000);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (25000) TO (50001);
CREATE TABLE named (n int, total int, k0 int, PRIMARY KEY (total, n));
CREATE TABLE tree (path int[] PRIMARY KEY, v int);
CREATE TYPE color AS ENUM ('red', 'green');
CREATE TABLE paint (id int PRIMARY KEY, color color);
SQL
}
migration($source, 'item');
sql($source, "SELECT migrate_tiers.tag('$_', 'batch')") for qw(sales region part named tree paint);
advance($source, 'syncing');
sql($source, <<SQL);
INSERT INTO sales SELECT i, '2020-01-01'::date + i % 100, i, 'note ' || i FROM generate_series(1, $rows) i;
INSERT INTO region SELECT 'r' || i % 3, i, i FROM generate_series(1, $rows) i;
INSERT INTO part SELECT i, i FROM generate_series(1, $rows) i;
INSERT INTO named SELECT i, i % 7, 0 FROM generate_series(1, $rows) i;
INSERT INTO tree SELECT CASE WHEN i % 2 = 0 THEN ARRAY[i / 100, i] ELSE ARRAY[i / 100, i, NULL, i] END, i FROM generate_series(1, $rows) i;
INSERT INTO paint SELECT i, CASE WHEN i % 3 = 0 THEN 'red' ELSE 'green' END::color FROM generate_series(1, $rows) i;
ANALYZE sales, region, part, named, tree, paint;
SQL

# push(table): ranges, those not compared, those sent, rows inserted, updated, deleted.
sub push_table
{
	my ($table, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %push;
	@push{qw(ranges known sent inserted updated deleted)} =
	  split /\|/, sql($source, "SELECT ranges, ranges_known, ranges_sent, inserted, updated, deleted FROM migrate_tiers.push_batch('$table')");
	is(image($target, $table), image($source, $table), $name);
	return \%push;
}

sub image
{
	my ($node, $table) = @_;
	return sql($node, "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM $table t");
}

# Each table in steps that are counted.
for my $table (qw(sales region part))
{
	my ($key, $value) = $table eq 'sales' ? qw(id amount) : $table eq 'region' ? qw(number v) : qw(id v);
	my $push = push_table($table, "$table: first push");
	cmp_ok($push->{ranges}, '>', 3, "$table: several ranges");
	is($push->{known}, 0, "$table: nothing is known");
	$push = push_table($table, "$table: nothing changed");
	is("$push->{known} $push->{sent}", "$push->{ranges} 0", "$table: everything is known");
	sql($source, "UPDATE $table SET $value = -1 WHERE $key BETWEEN 100 AND 110");
	$push = push_table($table, "$table: some rows of the source");
	cmp_ok($push->{known}, '>', 0, "$table: some ranges are not compared");
	is($push->{updated}, 11, "$table: eleven rows are updated");
	$push = push_table($table, "$table: nothing changed again");
	is($push->{known}, $push->{ranges}, "$table: what the push itself wrote is known");
	sql($target, "UPDATE $table SET $value = -2 WHERE $key = 20000");
	$push = push_table($table, "$table: a row of the target");
	is($push->{updated}, 1, "$table: is put right");
	sql($source, "DELETE FROM $table WHERE $key BETWEEN 30000 AND 30009");
	$push = push_table($table, "$table: rows are deleted, and no new one tells");
	is("$push->{deleted} " . ($push->{known} > 0 ? 'some' : 'none'), '10 some', "$table: they are found by counts");
	sql($target, "DELETE FROM $table WHERE $key = 40000");
	$push = push_table($table, "$table: and on the target");
	is($push->{inserted}, 1, "$table: the row is back");
	sql($source, "DELETE FROM $table WHERE $key = 10; INSERT INTO $table ($key" . ($table eq 'region' ? ', name' : '') . ") VALUES (45000.5" . ($table eq 'region' ? ", 'r0'" : '::int') . ") ON CONFLICT DO NOTHING; DELETE FROM $table WHERE $key = 20");
	push_table($table, "$table: as many rows as before, in other ranges");
	sql($source, "BEGIN; SAVEPOINT a; UPDATE $table SET $value = 7 WHERE $key = 500; RELEASE a; SAVEPOINT b; UPDATE $table SET $value = 8 WHERE $key = 600; ROLLBACK TO b; COMMIT");
	$push = push_table($table, "$table: in a subtransaction");
	is($push->{updated}, 1, "$table: one of two");
}

# A key whose columns have names that our statements use, too; and one that is an array.
for my $key ('total, n', 'n')
{
	sql($_, "ALTER TABLE named DROP CONSTRAINT named_pkey; ALTER TABLE named ADD PRIMARY KEY ($key)") for $source, $target;
	my $push = push_table('named', "key ($key)");
	cmp_ok($push->{ranges}, '>', 3, "key ($key): several ranges");
	sql($source, 'UPDATE named SET k0 = k0 + 1 WHERE n BETWEEN 100 AND 102');
	is(push_table('named', "key ($key): rows changed")->{updated}, 3, "key ($key): three rows are updated");
}
my $tree = push_table('tree', 'an array as key');
cmp_ok($tree->{ranges}, '>', 3, 'an array as key: several ranges');
sql($source, 'UPDATE tree SET v = -1 WHERE path[2] IN (7, 8, 30000); DELETE FROM tree WHERE path[2] = 9');
$tree = push_table('tree', 'an array as key: rows changed');
is("$tree->{updated}|$tree->{deleted}", '3|1', 'an array as key: they are found');
cmp_ok($tree->{known}, '>', 0, 'an array as key: others are known');
is(push_table('tree', 'an array as key: nothing changed')->{known}, $tree->{ranges}, 'an array as key: everything is known');

# A transaction that is open while a push goes on, and writes after it.
my $job = session($source);
$job->query_safe(q{BEGIN; UPDATE sales SET amount = 17 WHERE id = 700});
push_table('sales', 'a transaction is open');
$job->query_safe(q{UPDATE sales SET amount = 18 WHERE id = 30500; COMMIT});
is(push_table('sales', 'and commits')->{updated}, 2, 'what it wrote before the push and after is found');
$job->query_safe(q{BEGIN; UPDATE sales SET amount = 19 WHERE id = 700; PREPARE TRANSACTION 'p'});
push_table('sales', 'one is prepared');
sql($source, q{COMMIT PREPARED 'p'});
is(push_table('sales', 'and committed')->{updated}, 1, 'it is found');
$job->quit;

# What leaves no trace on a row.
sql($source, 'VACUUM (FREEZE) sales');
is(push_table('sales', 'frozen rows')->{updated}, 0, 'are the same');
sql($source, 'VACUUM FULL sales');
is(push_table('sales', 'a table that was written anew')->{known}, 0, 'is compared in full');
sql($source, q{UPDATE sales SET note = 'x' WHERE id = 1});
push_table('sales', 'and known again');
for my $node ($source, $target) { sql($node, q{ALTER TABLE sales DROP note; ALTER TABLE sales ADD note text DEFAULT 'other ' || current_setting('port')}) }
is(push_table('sales', 'a column that came with a default')->{known}, 0, 'is compared in full');
push_table('paint', 'an enum');
is(push_table('paint', 'an enum, nothing changed')->{sent}, 0, 'its rows are known');
sql($source, q{ALTER TYPE color RENAME VALUE 'red' TO 'other'; ALTER TYPE color RENAME VALUE 'green' TO 'red'; ALTER TYPE color RENAME VALUE 'other' TO 'green'});
is(push_table('paint', 'its labels are exchanged')->{updated}, $rows, 'each row has another one');
sql($source, <<SQL);
CREATE TABLE sales_new (LIKE sales INCLUDING ALL);
INSERT INTO sales_new SELECT * FROM sales;
UPDATE sales SET amount = amount + 1 WHERE id = 2;
UPDATE sales_new SET amount = 0 WHERE id BETWEEN 5 AND 9;
CREATE TABLE part_x (LIKE part INCLUDING ALL);
INSERT INTO part_x SELECT id, -id FROM part_1;
SQL
push_table($_, 'before the exchange') for qw(sales part);
sql($source, 'UPDATE part SET v = 0 WHERE id = 26000');
push_table('part', 'before it, too');
sql($source, 'BEGIN; ALTER TABLE part DETACH PARTITION part_1; ALTER TABLE part ATTACH PARTITION part_x FOR VALUES FROM (0) TO (25000); COMMIT');
my $exchanged = push_table('part', 'a partition is exchanged for one as large, filled before');
cmp_ok($exchanged->{updated}, '>', 24000, 'its rows are found');
sql($target, 'BEGIN; ALTER TABLE sales RENAME TO sales_old; CREATE TABLE sales (LIKE sales_old INCLUDING ALL); INSERT INTO sales SELECT * FROM sales_old; UPDATE sales SET amount = -3 WHERE id = 3; COMMIT');
is(push_table('sales', 'another table took the place of the receiver')->{updated}, 1, 'it is compared in full');
sql($source, 'TRUNCATE part; INSERT INTO part SELECT i, 5 FROM generate_series(1, 50000) i');
push_table('part', 'a table that is filled anew');
sql($source, q{UPDATE migrate_tiers.imprint SET compared = now() - interval '25 hours'; UPDATE sales SET amount = -4 WHERE id = 4});
is(push_table('sales', 'a day later')->{known}, 0, 'everything is compared in full');
cmp_ok(push_table('sales', 'and after that')->{known}, '>', 0, 'not again');

# The receiver writes nothing when nothing has changed.
my $lsn = sql($target, 'CHECKPOINT; SELECT pg_current_wal_insert_lsn()');
push_table('sales', 'nothing changed');
my $wal = $target->data_dir . '/pg_wal';
my $files = join ' ', split /\n/, sql($target, q{SELECT format('%s/%s/%s', 1663, (SELECT oid FROM pg_database WHERE datname = current_database()), pg_relation_filenode(c.oid)) FROM pg_class c WHERE relname IN ('sales', 'sales_pkey', 'imprint')});
my $end = sql($target, 'SELECT pg_current_wal_insert_lsn()');
my $dump = $lsn eq $end ? '' : `pg_waldump -p $wal -s $lsn -e $end 2>&1`;
my $written = join '|', 'COMMIT', 'INSERT', map { quotemeta } split / /, $files;
unlike($dump, qr/$written/, 'no row, no transaction in the WAL of the receiver') or diag $dump;

# Rounds of whatever comes.
for my $round (1 .. $rounds)
{
	change($_, int(rand 4)) for ($source) x (1 + int rand 3), ($target) x (rand() < 0.3);
	sql($source, (qw(VACUUM ANALYZE CHECKPOINT))[ int rand 3 ]) if rand() < 0.3;
	sql($source, q{SELECT migrate_tiers.batch_policy('region', mode => '} . (rand() < 0.15 ? 'replace' : 'diff') . q{')});
	push_table('region', "round $round") or last;
}

tables_equal($source, $target, $_) for qw(sales region part);
finish($source, $target);
done_testing();

sub change
{
	my ($node, $kind) = @_;
	my $low = int rand $rows;
	my $high = $low + int rand(rand() < 0.2 ? 20000 : 50);
	sql($node, $kind == 0 ? "UPDATE region SET v = v + 1 WHERE number BETWEEN $low AND $high" :
		  $kind == 1 ? "DELETE FROM region WHERE number BETWEEN $low AND $high" :
		  $kind == 2 ? "INSERT INTO region SELECT 'r' || i % 4, i, 0 FROM generate_series($low, $high) i ON CONFLICT DO NOTHING" :
		  "UPDATE region SET number = number + 0.5, name = name || 'x' WHERE number BETWEEN $low AND $low + 20");
	return;
}
