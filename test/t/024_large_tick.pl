# A large tick goes in pieces, of which the source reads one while the target applies
# the one before.  It is still one transaction, in the right order.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('large_tick');
$pair->both_sql(<<'SQL');
CREATE TABLE item (id int PRIMARY KEY, n int, v text);
CREATE TABLE seat (id int PRIMARY KEY, place int NOT NULL UNIQUE, v text);
CREATE TABLE turn (id int PRIMARY KEY, place int NOT NULL UNIQUE DEFERRABLE, v text);
CREATE TABLE wide (id int PRIMARY KEY, v text, n numeric);
ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;
CREATE TABLE always (id int PRIMARY KEY, serial int GENERATED ALWAYS AS IDENTITY, v text);
SQL
$pair->source_sql(<<'SQL');
INSERT INTO item SELECT i, 0, 'x' FROM generate_series(1, 130000) i;
INSERT INTO seat SELECT i, i, 'x' FROM generate_series(1, 120000) i;
INSERT INTO turn SELECT i, i, 'x' FROM generate_series(1, 120000) i;
INSERT INTO wide SELECT i, repeat('x', 700000), 1.0 FROM generate_series(1, 40) i;
INSERT INTO always (id, v) SELECT i, 'x' FROM generate_series(1, 60000) i;
SQL
$pair->declare;
$pair->advance;
$pair->sync;

# changed applies changes as one tick; nothing is sent while they are made.
sub changed
{
	my ($sql) = @_;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->source_sql("BEGIN; $sql; COMMIT");
	$pair->source_sql('SELECT migrate_tiers.resume()');
	return;
}

changed(<<'SQL');
UPDATE item SET n = n + 1 WHERE id % 10 <> 0;
DELETE FROM item WHERE id % 10 = 0;
INSERT INTO item SELECT i, 0, NULL FROM generate_series(130001, 260000) i;
UPDATE item SET id = -id WHERE id % 1000 = 1;
UPDATE always SET v = 'y';
DELETE FROM always WHERE id % 100 = 0
SQL
$pair->sync;
$pair->equal('rows that are set, that are new, that are gone: over several pieces');

# What is gone makes room for what is new: it goes first, and nothing is done twice.
my $deleted = $pair->target_sql(q{SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'seat'});
changed(<<'SQL');
DELETE FROM seat WHERE id % 2 = 0;
INSERT INTO seat SELECT id + 120001, id + 1, 'new' FROM seat;
UPDATE seat SET v = 'y' WHERE id <= 120000
SQL
$pair->sync;
$pair->equal('places that change hands with their rows');
ok($pair->wait_until(target => q{SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'seat'}, expected => $deleted + 60000),
	'each row that is gone was deleted once');

# No order of single rows can do this: every place changes hands, across all pieces.
changed('UPDATE turn SET place = place % 120000 + 1');
$pair->sync;
$pair->equal('rows that exchange values of another unique key');

# Few rows, many bytes; and values of one size that differ only in their last byte, or only in form.
$pair->small_tick(1);
changed(q{UPDATE wide SET v = left(v, -1) || 'y' WHERE id % 2 = 0; UPDATE wide SET n = 1.00 WHERE id % 2 = 1});
$pair->sync;
$pair->equal('wide rows');

# The whole tick or nothing, whichever piece is refused.
$pair->target_sql('ALTER TABLE item ADD CONSTRAINT agreeable CHECK (n < 100 OR id <> 70003)');
changed(q{UPDATE item SET n = 100; UPDATE seat SET v = 'z' WHERE id < 100});
ok($pair->wait_until(source => q{SELECT stopped ~ '23514.*"item"' FROM migrate_tiers.status}), 'a row that is refused stops the direction');
like($pair->status('stopped'), qr/agreeable/, 'status says what refused it');
is($pair->target_sql('SELECT count(*) FROM item WHERE n = 100'), 0, 'nothing of the tick is on the target');
is($pair->target_sql(q{SELECT count(*) FROM seat WHERE v = 'z'}), 0, 'in no table');
$pair->target_sql('ALTER TABLE item DROP CONSTRAINT agreeable');
$pair->sync;
$pair->equal('all of it is, when it may');
is($pair->status('stopped'), '', 'nothing is stopped');
$pair->finish;
done_testing();
