# Tables that are truncated many times a second, from before their copy begins
# until after it has ended: the copy ends all the same, nothing is lost and
# nothing of before stays.
use strict;
use warnings;

use IPC::Run ();
use MigrateTiers ();
use MigrateTiers::Pair;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $pair = MigrateTiers::Pair->new('truncate');
my $source = $pair->source;

$pair->both_sql(q{
	CREATE TABLE plain (id int PRIMARY KEY, v text UNIQUE);
	CREATE TABLE filled (id int PRIMARY KEY, v text);
	CREATE TABLE by_range (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE by_range_1 PARTITION OF by_range FOR VALUES FROM (MINVALUE) TO (5000);
	CREATE TABLE by_range_2 PARTITION OF by_range DEFAULT;
	CREATE TABLE by_hash (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
	CREATE TABLE by_hash_0 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE by_hash_1 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE calm (id int PRIMARY KEY, v text);
	CREATE TABLE rounds (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)});
my @tables = qw(plain filled by_range by_hash calm);
$pair->source_sql("INSERT INTO $_ SELECT i, repeat('old ', 40) || i FROM generate_series(1, 10000) i") for @tables;
$pair->declare;
$pair->set_option('chunk_size', '128kB');

# Each way to write after a TRUNCATE: in its transaction, after it, frozen, in one that is rolled back to before it.
my $script = PostgreSQL::Test::Utils::tempdir() . '/truncate.sql';
append_to_file($script, <<'SQL');
\set k random(10001, 1000000)
BEGIN; TRUNCATE plain; INSERT INTO plain VALUES (1, 'one'), (:k, 'new'); COMMIT;
INSERT INTO plain VALUES (2, 'two') ON CONFLICT DO NOTHING;
BEGIN; TRUNCATE filled; COPY filled FROM PROGRAM 'seq -f "%.0f	frozen" 9990 10010' (FREEZE); COMMIT;
BEGIN; SAVEPOINT s; TRUNCATE calm; INSERT INTO calm VALUES (:k, 'never was'); ROLLBACK TO s; UPDATE calm SET v = 'calm ' || :k WHERE id = :k % 10000; COMMIT;
BEGIN; TRUNCATE by_range_1; INSERT INTO by_range VALUES (3, 'three'), (:k, 'new') ON CONFLICT (id) DO UPDATE SET v = 'again'; COMMIT;
DELETE FROM by_range WHERE id BETWEEN 5000 AND 6000 AND id % 97 = :k % 97;
BEGIN; TRUNCATE by_hash_0; INSERT INTO by_hash VALUES (4, 'four'), (:k, 'new') ON CONFLICT (id) DO UPDATE SET v = 'again'; COMMIT;
INSERT INTO rounds DEFAULT VALUES;
SQL
my ($out, $err) = ('', '');
my $traffic = IPC::Run::start([ 'pgbench', '-n', '-c', 1, '-T', 600, '-f', $script, '-h', $source->host, '-p', $source->port, 'shop' ], '>', \$out, '2>', \$err);
sub rounds { return $pair->source_sql('SELECT count(*) FROM rounds'); }
ok($pair->wait_until(source => 'SELECT count(*) > 5 FROM rounds'), 'tables are truncated');

my ($start, $before) = (time, rounds());
$pair->advance;
ok($pair->wait_until(source => q{SELECT bool_and(state = 'syncing') FROM migrate_tiers.tables}, timeout => 60), 'every copy ends');
my ($took, $rounds) = (time - $start, rounds() - $before);
cmp_ok($rounds, '>', 2 * $took, sprintf('with %d rounds of TRUNCATE in %.1f s meanwhile', $rounds, $took));
is($pair->source_sql('SELECT stopped FROM migrate_tiers.status'), '', 'nothing is stopped');
$before = rounds();
ok($pair->wait_until(source => "SELECT count(*) > $before + 5 FROM rounds"), 'the traffic goes on in sync');
ok($traffic->pumpable, 'none of its statements has failed') or diag $err;
$traffic->signal('INT');
$traffic->finish;
$pair->sync;
$pair->equal('nothing is lost and nothing left over');
is($pair->target_sql(q{SELECT count(*) FROM plain WHERE v LIKE 'old%'}), '0', 'no row of before a TRUNCATE');
is($pair->target_sql(q{SELECT count(*) FROM calm}), '10000', 'one that was rolled back took nothing');

# What was rewritten as well as truncated has nothing to copy either; what was only rewritten is copied again.
$pair->revert;
$pair->target_sql('TRUNCATE ' . join ', ', @tables, 'rounds');
$pair->source_sql("TRUNCATE $_; INSERT INTO $_ SELECT i, repeat('old ', 40) || i FROM generate_series(1, 10000) i") for @tables;
$pair->set_option('copy_rate', 1_000_000);
$pair->advance;
ok($pair->wait_until(source => q{SELECT copied_rows > 0 AND state = 'copying' FROM migrate_tiers.tables WHERE relation = 'calm'::regclass}), 'a slow copy is under way');
$pair->source_sql(q{BEGIN; TRUNCATE plain; INSERT INTO plain VALUES (7, 'seven'); COMMIT});
$pair->source_sql("VACUUM FULL $_") for qw(plain by_range_1 calm);
$pair->source_sql('TRUNCATE by_range_2');
$pair->set_option('copy_rate', 0);
ok($pair->wait_until(source => q{SELECT bool_and(state = 'syncing') FROM migrate_tiers.tables}, timeout => 60), 'every copy ends');
$pair->sync;
$pair->equal('rewritten and truncated');
is($pair->target_sql('SELECT string_agg(id::text, $$,$$) FROM plain'), '7', 'the row of after');
$pair->finish;

done_testing();
