# A server whose worker slots are all taken: nothing is lost, and status says why
# nothing happens.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

# One slot is the logical replication launcher's, one is for the sync worker.
my $pair = MigrateTiers::Pair->new('slots', source_conf => "max_worker_processes = 2\n");
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text)');
$pair->source_sql(q{INSERT INTO item SELECT i, 'v' FROM generate_series(1, 1000) i});
$pair->declare;
$pair->advance;
ok($pair->wait_until(source => q{SELECT stopped ~ 'copy: 53400: no background worker is free' FROM migrate_tiers.status}), 'status says why nothing is copied');
is($pair->status('workers_running'), 't', 'the sync worker runs');
$pair->source_sql(q{UPDATE item SET v = 'meanwhile' WHERE id < 10});
$pair->source_sql('ALTER SYSTEM SET max_worker_processes = 8');
$pair->source->restart;
$pair->source_sql(q{UPDATE item SET v = 'later' WHERE id = 5});
$pair->sync;
$pair->equal('with free slots it is copied');
ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'status is clean');

$pair->source_sql('ALTER SYSTEM SET max_worker_processes = 1');
$pair->source->restart;
$pair->source_sql(q{UPDATE item SET v = 'no worker' WHERE id < 100});
MigrateTiers::sql_fails($pair->source, 'SELECT migrate_tiers.start_workers()', '53400', qr/max_worker_processes/, 'who asks for a worker is told');
$pair->source_sql('ALTER SYSTEM SET max_worker_processes = 8');
$pair->source->restart;
is($pair->source_sql('SELECT migrate_tiers.start_workers()'), '1', 'and later gets it');
$pair->sync;
$pair->equal('nothing is lost');

$pair->finish;
done_testing();
