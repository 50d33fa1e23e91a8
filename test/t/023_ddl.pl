# DDL on captured tables that is let pass (migrate_tiers.allow_ddl) and made on
# both sides: the migration follows, and both sides end equal.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('ddl');
my $allow = 'SET migrate_tiers.allow_ddl = on; SET client_min_messages = warning;';

$pair->both_sql(<<'SQL');
CREATE TYPE mood AS ENUM ('low', 'high');
CREATE TABLE item (id int PRIMARY KEY, code int NOT NULL, v text, mood mood);
CREATE TABLE log (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (100);
CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM (100) TO (200);
SQL
$pair->source_sql(<<'SQL');
INSERT INTO item SELECT i, -i, 'v' || i, 'low' FROM generate_series(1, 1000) i;
INSERT INTO log SELECT i, i % 200, 'v' || i FROM generate_series(1, 1000) i;
SQL
$pair->declare;
$pair->advance;
$pair->sync;
$pair->equal('in sync before');

# follows(name, source's DDL, target's DDL): makes both, with writes around them.
sub follows
{
	my ($name, $here, $there) = @_;
	$pair->target_sql("SET client_min_messages = warning; $there") if $there;
	$pair->source_sql(
		"$allow UPDATE item SET v = v || '!' WHERE code % 7 = 0; UPDATE log SET v = v || '!' WHERE id % 7 = 0; $here;"
		  . " UPDATE item SET v = v || '?' WHERE code % 5 = 0; UPDATE log SET v = v || '?' WHERE id % 5 = 0");
	$pair->forget_tables;
	$pair->sync(120);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$pair->equal($name);
	is($pair->status('stopped'), '', "$name: nothing is stopped");
	return;
}

subtest 'columns' => sub {
	follows('added', 'ALTER TABLE item ADD COLUMN more int DEFAULT 7', 'ALTER TABLE item ADD COLUMN more int');
	follows('type changed', 'ALTER TABLE item ALTER COLUMN code TYPE bigint', 'ALTER TABLE item ALTER COLUMN code TYPE bigint');
	follows('rewritten', 'ALTER TABLE item ALTER COLUMN code TYPE bigint USING code * 3');
	follows('renamed', 'ALTER TABLE item RENAME COLUMN v TO "V ö"; ALTER TABLE item RENAME COLUMN "V ö" TO v', '');
	follows('dropped', 'ALTER TABLE item DROP COLUMN more', 'ALTER TABLE item DROP COLUMN more');
};

subtest 'names' => sub {
	follows('of the table', 'ALTER TABLE item RENAME TO item_2; ALTER TABLE item_2 RENAME TO item');
	follows('of a column of the key', 'ALTER TABLE item RENAME COLUMN id TO "I d"', 'ALTER TABLE item RENAME COLUMN id TO "I d"');
	follows('and back', 'ALTER TABLE item RENAME COLUMN "I d" TO id', 'ALTER TABLE item RENAME COLUMN "I d" TO id');
};

subtest 'key' => sub {
	follows('another', 'ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (code)',
		'ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (code)');
	$pair->source_sql('UPDATE item SET id = id + 1 WHERE code < -2000; DELETE FROM item WHERE code > -100; INSERT INTO item VALUES (1, 1)');
	$pair->sync;
	$pair->equal('rows are told by the new key');
};

subtest 'types' => sub {
	$pair->target_sql(q{ALTER TYPE mood ADD VALUE 'middle'});
	$pair->source_sql("$allow ALTER TYPE mood ADD VALUE 'middle'");
	follows('a new label', q{UPDATE item SET mood = 'middle' WHERE id % 2 = 0});
};

subtest 'partitions' => sub {
	$pair->both_sql('CREATE TABLE log_3 PARTITION OF log FOR VALUES FROM (200) TO (300)');
	follows('a new one', 'INSERT INTO log SELECT i, 250 FROM generate_series(2000, 2100) i; INSERT INTO log_3 VALUES (1, 299)');
	follows('truncated', 'TRUNCATE log_3');
	$pair->both_sql('CREATE TABLE log_4 (LIKE log INCLUDING ALL)');
	$pair->source_sql('INSERT INTO log_4 SELECT i, 350 FROM generate_series(3000, 3100) i');
	follows('attached with rows', 'ALTER TABLE log ATTACH PARTITION log_4 FOR VALUES FROM (300) TO (400)',
		'ALTER TABLE log ATTACH PARTITION log_4 FOR VALUES FROM (300) TO (400)');
	follows('detached with rows', 'ALTER TABLE log DETACH PARTITION log_1; TRUNCATE log_1');
	cmp_ok($pair->source_sql('SELECT count(*) FROM log'), '>', 500, 'what the detached table does is its own affair');
	follows('dropped', 'DROP TABLE log_2');
	follows('attached again', 'ALTER TABLE log ATTACH PARTITION log_1 FOR VALUES FROM (0) TO (100); INSERT INTO log VALUES (1, 1)');
};

subtest 'a table dropped' => sub {
	$pair->source_sql("$allow DROP TABLE log");
	$pair->forget_tables;
	$pair->source_sql('INSERT INTO item VALUES (5000, 5000)');
	$pair->sync;
	$pair->equal('the others go on');
	is($pair->source_sql(q{SELECT string_agg(relation::text, ',') FROM migrate_tiers.tables WHERE tier = 'realtime'}), 'item', 'it is not part of the migration');
};

$pair->revert;
$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
is($pair->target_sql(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'migrate_tiers%'}), '0', 'no fence is left, not on the table that was dropped either');
is($pair->target_sql(q{SELECT count(*) FROM pg_index WHERE indrelid = 'log'::regclass}), '1', 'its key is there');

$pair->finish;
done_testing();
