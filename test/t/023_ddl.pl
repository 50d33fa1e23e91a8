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
CREATE SCHEMA extensions;
CREATE EXTENSION citext;
CREATE DOMAIN term AS citext;
CREATE TABLE word (word citext PRIMARY KEY, n int);
CREATE TABLE glossary (term term PRIMARY KEY, n int);
CREATE TABLE place (name text PRIMARY KEY) PARTITION BY LIST (name);
CREATE TABLE place_1 PARTITION OF place FOR VALUES IN ('a\b');
CREATE TABLE place_2 PARTITION OF place DEFAULT;
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

subtest 'extensions' => sub {
	my $move = 'ALTER EXTENSION citext SET SCHEMA extensions';
	$pair->source_sql(q{INSERT INTO word VALUES ('One', 1), ('Two', 2); INSERT INTO glossary VALUES ('One', 1), ('Two', 2)});
	like(($pair->source_try($move))[2], qr/cannot change table public\.(word|glossary).*type public\.citext was changed.*allow_ddl/s, 'one whose type a table has is not moved');
	$pair->source_sql('CREATE EXTENSION pg_trgm; ALTER EXTENSION pg_trgm SET SCHEMA extensions; ALTER EXTENSION migrate_tiers UPDATE; ALTER EXTENSION citext UPDATE');
	pass('others are, and what changes nothing passes');
	follows('moved', "$move; SET search_path = public, extensions; UPDATE word SET n = 7 WHERE word = 'one'; DELETE FROM word WHERE word = 'TWO';"
		  . q{UPDATE glossary SET n = 7 WHERE term = 'one'; DELETE FROM glossary WHERE term = 'TWO'}, $move);
	is($pair->source_sql(q{SELECT string_agg(DISTINCT key_operators::text, ' ') FROM migrate_tiers.relation WHERE relation IN ('word'::regclass, 'glossary'::regclass)}),
		'{OPERATOR(extensions.=)}', 'rows are told by operators that are elsewhere now');
	$pair->source_sql('ALTER TABLE word ADD CHECK (n > 0)');
	pass('and the tables may be altered as before');
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

subtest 'old strings' => sub {
	$pair->source_sql(q{INSERT INTO place VALUES ('a\b'), ('ab')});
	$pair->sync;
	follows('in the bound of a partition', 'SET standard_conforming_strings = off; TRUNCATE place_1');
	is($pair->target_sql('SELECT string_agg(name, chr(32)) FROM place'), 'ab', 'only its rows are gone');
};

subtest 'writes while a partition is being detached' => sub {
	my $reader = MigrateTiers::session($pair->source);
	$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM log');
	my $mover = $pair->source->background_psql('shop');
	$mover->query_until(qr/going/, "\\echo going\n$allow\nALTER TABLE log DETACH PARTITION log_3 CONCURRENTLY;\n\\echo gone\n");
	ok($pair->wait_until(source => 'SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)'), 'it waits for who reads the table');
	is(($pair->source_try('INSERT INTO log_3 VALUES (5000, 260)'))[1], '', 'who writes the partition may');
	is($reader->query('INSERT INTO log VALUES (5001, 261) RETURNING at; COMMIT'), '261', 'and who writes it through the table, which has it yet');
	$mover->query_until(qr/gone/, '');
	$_->quit for $reader, $mover;
	$pair->source_sql('TRUNCATE log_3');
	$pair->forget_tables;
	$pair->sync(120);
	$pair->equal('afterwards');
};

subtest 'a parent' => sub {
	$pair->source_sql('CREATE SCHEMA above; CREATE TABLE above.item (LIKE item) PARTITION BY RANGE (code); CREATE TABLE above.log (LIKE log) PARTITION BY HASH (id)');
	$pair->source_sql("$allow ALTER TABLE above.item ATTACH PARTITION item DEFAULT; INSERT INTO above.item (id, code) VALUES (7000, 7000), (7001, 7001);"
		  . q{UPDATE above.item SET v = 'through the parent' WHERE code = 7000; INSERT INTO item (id, code) VALUES (7002, 7002)});
	$pair->sync;
	is($pair->target_sql('SELECT count(v) || chr(32) || count(*) FROM item WHERE code BETWEEN 7000 AND 7002'), '1 3', 'what is written through it arrives');
	$pair->source_sql('TRUNCATE above.item; INSERT INTO above.item (id, code) VALUES (7003, 7003)');
	$pair->sync;
	is($pair->target_sql('SELECT string_agg(id::text, chr(32)) FROM item'), '7003', 'and that it was emptied');
	follows('lost again', 'ALTER TABLE above.item DETACH PARTITION item; INSERT INTO item (id, code) VALUES (7004, 7004)');

	$pair->both_sql('CREATE TABLE log_5 (LIKE log INCLUDING ALL)');
	$pair->target_sql('ALTER TABLE log ATTACH PARTITION log_5 FOR VALUES FROM (500) TO (600)');
	$pair->source_sql("$allow ALTER TABLE above.log ATTACH PARTITION log FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
		  . 'ALTER TABLE log ATTACH PARTITION log_5 FOR VALUES FROM (500) TO (600); INSERT INTO above.log VALUES (1, 501), (2, 502); INSERT INTO log_5 VALUES (3, 503)');
	$pair->sync(120);
	is($pair->target_sql('SELECT count(*) FROM log_5'), '3', 'a partition of a partitioned table that has a parent is covered');
	$pair->source_sql('TRUNCATE log_5; INSERT INTO log_5 VALUES (4, 504)');
	$pair->sync;
	is($pair->target_sql('SELECT string_agg(id::text, chr(32)) FROM log_5'), '4', 'also when it is emptied');
	follows('lost by a partitioned table', 'ALTER TABLE above.log DETACH PARTITION log; DROP SCHEMA above CASCADE');
};

# A transaction whose snapshot is from before the table was tagged.
subtest 'an old snapshot' => sub {
	$pair->both_sql('CREATE TABLE young (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE young_1 PARTITION OF young FOR VALUES FROM (0) TO (10)');
	$pair->target_sql('CREATE TABLE young_2 PARTITION OF young FOR VALUES FROM (10) TO (20)');
	my $old = MigrateTiers::session($pair->source);
	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM young');
	$pair->source_sql(q{SELECT migrate_tiers.tag('young', 'realtime')});
	ok($pair->wait_until(source => q{SELECT state = 'syncing' FROM migrate_tiers.tables WHERE relation = 'young'::regclass}), 'the table joins');
	$old->query_safe('CREATE TABLE young_2 PARTITION OF young FOR VALUES FROM (10) TO (20); INSERT INTO young_2 VALUES (11)');
	$old->query_safe('SAVEPOINT s');
	for my $dropped ('young_1', 'young')
	{
		my $said = $old->query(qq{DO \$\$ BEGIN DROP TABLE $dropped; EXCEPTION WHEN SQLSTATE 'MT004' THEN NULL; END \$\$; SELECT '$dropped is ' || coalesce(to_regclass('$dropped')::text, 'gone')});
		like($said, qr/^$dropped is $dropped$/m, "$dropped is not dropped");
	}
	$old->query_safe('COMMIT');
	$old->quit;
	$pair->forget_tables;
	$pair->sync;
	$pair->equal('its new partition is sent');
	$pair->source_sql("$allow DROP TABLE young");
	$pair->target_sql('DROP TABLE young');
	$pair->forget_tables;
};

subtest 'a table dropped' => sub {
	$pair->source_sql("$allow DROP TABLE log");
	$pair->forget_tables;
	$pair->source_sql('INSERT INTO item VALUES (5000, 5000)');
	$pair->sync;
	$pair->equal('the others go on');
	is($pair->source_sql(q{SELECT string_agg(relation::text, ',') FROM migrate_tiers.tables WHERE tier = 'realtime'}), 'glossary,item,place,word', 'it is not part of the migration');
};

$pair->revert;
$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
is($pair->target_sql(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'migrate_tiers%'}), '0', 'no fence is left, not on the table that was dropped either');
is($pair->target_sql(q{SELECT count(*) FROM pg_index WHERE indrelid = 'log'::regclass}), '1', 'its key is there');

$pair->finish;
done_testing();
