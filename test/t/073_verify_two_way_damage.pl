# Damage where both sides are written, and where applications read the target: found exactly, also in
# the midst of rows that are being written, mended from the side that is right, and never without a copy of
# what is overwritten. The gates do not open before.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use MigrateTiers::Writers;
use Test::More;

my $pair = MigrateTiers::Pair->new('two_way_damage', source_conf => "max_worker_processes = 16\n");
$pair->both_sql(<<'SQL');
CREATE TABLE item (id int PRIMARY KEY, name text, other text, wide text);
ALTER TABLE item ALTER wide SET STORAGE EXTERNAL;
CREATE TABLE code (code text PRIMARY KEY, n int CHECK (n < 1000000));
SQL
$pair->target_sql('ALTER TABLE code DROP CONSTRAINT code_n_check');
$pair->source_sql(<<'SQL');
INSERT INTO item SELECT i, 'name ' || i, CASE WHEN i % 7 > 0 THEN '' END, CASE WHEN i % 5000 = 0 THEN repeat(md5(i::text), 2000) END
  FROM generate_series(1, 40000) i;
INSERT INTO code SELECT 'c' || i, i FROM generate_series(1, 200) i;
SQL
$pair->declare;
$pair->advance;
$pair->sync;

# verdict($table) verifies one table: "verdict different".
sub verdict
{
	my ($table) = @_;
	return $pair->source_sql("SELECT concat_ws(' ', verdict, different_rows) FROM migrate_tiers.verify('$table')");
}

# found() tells what the last verification found.
sub found
{
	return $pair->source_sql(q{SELECT string_agg(concat_ws(' ', kind, key, columns), ', ' ORDER BY kind, key) FROM migrate_tiers.discrepancies
		WHERE verification = (SELECT max(id) FROM migrate_tiers.verifications)});
}

# damage($sql) writes to the target past fence and capture, as nobody should.
sub damage
{
	my ($sql) = @_;
	my $token = $pair->source_sql('SELECT token FROM migrate_tiers.migration');
	$pair->target_sql("SET migrate_tiers.session = '$token'; SET session_replication_role = replica; $sql");
	return;
}

# The gate to dual_write.
$pair->source_sql('SELECT * FROM migrate_tiers.verify()');
ready($pair, 'dual_write');
damage(q{UPDATE item SET name = 'damaged' WHERE id = 4711});
is($pair->source_sql(q{SELECT passed FROM migrate_tiers.gates('dual_write') WHERE gate = 'verified'}), 't', 'what nobody has looked at is not known');
is(verdict('item'), 'different 1', 'one row in 40,000');
my ($passed, $state, $error) = $pair->source_try(q{CALL migrate_tiers.advance('dual_write')});
is($state, 'MT001', 'the gate to dual_write is closed');
like($error, qr/Gate verified: public.item is not equal on both sides \(1 rows\).*repair/s, 'and says what to do');
is($pair->source_sql(q{SELECT migrate_tiers.repair('item')}), '1', 'repair');
$pair->sync;
($passed, $state) = $pair->source_try(q{CALL migrate_tiers.advance('dual_write')});
is($state, 'MT001', 'does not open it');
is(verdict('item'), 'equal 0', 'a verification');
$pair->advance('dual_write');
pass('does');

# All kinds at once, in the range that applications of both sides are writing: even rows.
writer($pair, 'source', "\\set k random(0, 9999)\nUPDATE item SET other = 'source ' || clock_timestamp() WHERE id = 4 * :k;\n\\sleep 2 ms");
writer($pair, 'target', "\\set k random(0, 9999)\nUPDATE item SET other = 'target ' || clock_timestamp() WHERE id = 4 * :k + 2;\n\\sleep 2 ms");
my $kinds = <<'SQL';
DELETE FROM item WHERE id = 5;
INSERT INTO item VALUES (200001, 'x'), (-1, NULL);
UPDATE item SET name = name || ' ' WHERE id = 20001;
UPDATE item SET other = '' WHERE id = 77;
UPDATE item SET other = NULL WHERE id = 15;
UPDATE item SET name = 'name ' || CASE id WHEN 11 THEN 39999 ELSE 11 END WHERE id IN (11, 39999);
UPDATE item SET id = 300001 WHERE id = 79;
UPDATE item SET wide = overlay(wide placing 'x' from 60000) WHERE id = 25;
SQL
$pair->source_sql(q{UPDATE item SET wide = repeat(md5('25'), 2000) WHERE id = 25});
$pair->sync;
damage($kinds);
my @expected = ('changed {11} {name}', 'changed {15} {other}', 'changed {20001} {name}', 'changed {25} {wide}', 'changed {39999} {name}', 'changed {77} {other}',
	'extra {-1}', 'extra {200001}', 'extra {300001}', 'missing {5}', 'missing {79}');
is(verdict('item'), 'different ' . @expected, 'damage among rows that are being written is counted');
is(found(), join(', ', @expected), 'and found, no more and no less');
is($pair->source_sql(q{SELECT migrate_tiers.repair('item')}), scalar(@expected), 'in dual_write the source is right');
sent($pair, 'source');
is(verdict('item'), 'equal 0', 'and the target mended, while both are written');
is($pair->target_sql('SELECT name FROM item WHERE id = 11'), 'name 11', 'with what the source has');

# The target is right, if somebody says so.
damage(q{UPDATE item SET name = 'better' WHERE id = 101; DELETE FROM item WHERE id = 103; INSERT INTO item VALUES (400001, 'new')});
is(verdict('item'), 'different 3', 'three rows differ');
is($pair->source_sql(q{SELECT migrate_tiers.repair('item', side => 'target')}), '3', 'repair with side target');
sent($pair, 'target');
is($pair->source_sql(q{SELECT string_agg(id || ' ' || name, ', ' ORDER BY id) FROM item WHERE id IN (101, 103, 400001)}), '101 better, 400001 new', 'takes all of them over');
is($pair->source_sql(q{SELECT string_agg(coalesce(source_row->>'name', '-') || ' ' || coalesce(target_row->>'name', '-'), ', ' ORDER BY key)
	FROM migrate_tiers.discrepancies WHERE verification = (SELECT max(id) FROM migrate_tiers.verifications)}), 'name 101 better, name 103 -, - new', 'and what was overwritten is kept');
is(verdict('item'), 'equal 0', 'both sides are equal again');
is(end_writers(), 0, 'no writer had ended');
settle($pair);

# The gate to read_target.
ready($pair, 'read_target');
damage(q{DELETE FROM code WHERE code = 'c7'});
is(verdict('code'), 'different 1', 'a missing row');
($passed, $state, $error) = $pair->source_try(q{CALL migrate_tiers.advance('read_target')});
is($state, 'MT001', 'the gate to read_target is closed');
like($error, qr/Gate verified: public.code is not equal/, 'for that');
is($pair->source_sql(q{SELECT migrate_tiers.repair('code')}), '1', 'repair');
sent($pair, 'source');
is(verdict('code'), 'equal 0', 'and a verification');
$pair->advance('read_target');
pass('open it');

# Where the target is read, it is right.
damage(q{UPDATE code SET n = -7 WHERE code = 'c7'; DELETE FROM code WHERE code = 'c8'});
is(verdict('code'), 'different 2', 'in read_target');
is($pair->source_sql(q{SELECT migrate_tiers.repair('code')}), '2', 'repair');
sent($pair, 'target');
is($pair->source_sql(q{SELECT string_agg(code || ' ' || n, ', ') FROM code WHERE code IN ('c7', 'c8')}), 'c7 -7', 'takes the target for right');
is($pair->source_sql(q{SELECT string_agg(key::text || ' ' || (source_row->>'n'), ', ' ORDER BY key) FROM migrate_tiers.discrepancies
	WHERE verification = (SELECT max(id) FROM migrate_tiers.verifications)}), '{c7} 7, {c8} 8', 'and the rows of the source are kept');
is(verdict('code'), 'equal 0', 'both sides are equal');
damage(q{UPDATE code SET n = -9 WHERE code = 'c9'});
is(verdict('code'), 'different 1', 'one more');
is($pair->source_sql(q{SELECT migrate_tiers.repair('code', side => 'source')}), '1', 'the source, if somebody says so');
sent($pair, 'source');
is($pair->target_sql(q{SELECT n FROM code WHERE code = 'c9'}), '9', 'mends the target');

# Sync from the target stops: what waits there is no damage, and what is damage is found.
$pair->target_sql(q{UPDATE code SET n = 5000000 WHERE code = 'c1'});
ok($pair->wait_until(source => q{SELECT stopped LIKE '%code_n_check%' FROM migrate_tiers.status}), 'a change that the source refuses stops the way back');
like($pair->source_sql(q{SELECT concat_ws(' ', verdict, detail) FROM migrate_tiers.verify('code')}), qr/^unknown 1 rows differ, .*\{c1\}; sync from there is stopped: 23514/, 'the row that waits is unknown, with the reason');
is($pair->source_sql(q{SELECT verdict FROM migrate_tiers.verify('item')}), 'equal', 'another table is not concerned');
damage(q{UPDATE code SET n = -2 WHERE code = 'c2'});
like($pair->source_sql(q{SELECT concat_ws(' ', verdict, different_rows, detail) FROM migrate_tiers.verify('code')}), qr/^different 1 1 rows differ, .*\{c1\}; sync from there is stopped/, 'damage beside it is a difference');
is(found(), 'changed {c2} {n}', 'and found');
$pair->target_sql(q{UPDATE code SET n = 1 WHERE code = 'c1'});
sent($pair, 'target');
is($pair->source_sql(q{SELECT migrate_tiers.repair('code', side => 'source')}), '1', 'it is mended');
sent($pair, 'source');
is(verdict('code'), 'equal 0', 'and all is well');
$pair->equal('as the oracle says');

# A row that has no key is in no range: so nothing is said of a table that may have some.
$pair->target_sql('ALTER TABLE code DROP CONSTRAINT code_pkey, ADD UNIQUE (code), ALTER code DROP NOT NULL');
damage('INSERT INTO code VALUES (NULL, 1)');
is($pair->source_sql(q{SELECT concat_ws(' ', verdict, detail) FROM migrate_tiers.verify('code')}), 'unknown 0A000: columns of the key can be null on the target: code; set NOT NULL there', 'a key that can be null on the target');
is($pair->source_sql(q{SELECT string_agg(status || ' ' || object, ' ') FROM migrate_tiers.preflight() WHERE check_name = 'not_null'}), 'failure public.code', 'preflight names it');
damage('DELETE FROM code WHERE code IS NULL');
$pair->target_sql('ALTER TABLE code ADD PRIMARY KEY (code)');
is(verdict('code'), 'equal 0', 'and one that cannot any more');
$pair->finish(crashes => 1);
done_testing();
