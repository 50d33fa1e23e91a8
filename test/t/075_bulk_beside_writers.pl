# Many rows are written on one side while the applications of the other write some of them all the time: the tick
# finds others written whenever it is applied, and still comes to its end.
#
# MT_BULK_ROWS says how many.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use MigrateTiers::Writers;
use Test::More;

my $rows = $ENV{MT_BULK_ROWS} // 60000;

my $pair = MigrateTiers::Pair->new('bulk');
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, v text)');
$pair->source_sql("INSERT INTO item (id, v) SELECT i, repeat('x', 50) FROM generate_series(1, $rows) i; ANALYZE item");
$pair->declare;
$pair->advance;
$pair->sync;
ready($pair, 'dual_write');
$pair->advance('dual_write');

for my $way (['source', 'target'], ['target', 'source'])
{
	my ($bulk, $other) = @$way;
	writer($pair, $other, "\\set id random(1, $rows)\nUPDATE item SET n = n + 1 WHERE id = :id;\n\\sleep 5 ms");
	for my $step (1 .. 3)
	{
		$pair->_sql($bulk, "UPDATE item SET v = '$bulk $step'");
		$pair->source_sql(q{SELECT migrate_tiers.wait_for_sync(timeout => '90 s')});
	}
	ok($pair->wait_until('source', q{SELECT reverse_lag < '2 s' AND forward_lag < '2 s' FROM migrate_tiers.status}, timeout => 90), "from the $bulk all arrives beside writers");
	is($pair->status('stopped'), '', '... and nothing is stopped');
	is(end_writers(), 0, '... and no writer had ended');
}
settle($pair);

# A table of the target gets another file all the time, while many of its rows are on their way: a tick that has read it
# before and after that is taken again, and not for ever.
writer($pair, 'target', "CLUSTER item USING item_pkey;\n\\sleep 50 ms");
$pair->target_sql(q{UPDATE item SET v = 'beside'});
is($pair->target_sql(q{SELECT migrate_tiers.wait_for_sync(timeout => '60 s') IS NOT NULL}), 't', 'many rows of a table come that is rewritten all the time');
is(end_writers(), 0, 'and it was all the time');
settle($pair);
$pair->equal('both sides are equal');
written_by_both($_) for qw(source target);
$pair->finish;
done_testing();

# written_by_both(side): both sides have written the same thousands of rows, half of them alike, each side in one
# transaction; that side sends first.  What is found in the target's queue is not read for each of them.
sub written_by_both
{
	my ($first) = @_;
	my $node = $pair->$first;
	my $reads = q{SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE relname ~ '^queue_'};
	my $conflicts = 'SELECT count(*) FROM migrate_tiers.conflicts';
	my $kept = $pair->source_sql($conflicts);

	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->_sql($_, "UPDATE item SET v = CASE WHEN id % 2 = 0 THEN 'alike, $first' ELSE 'of the $_, $first' END WHERE id <= 3000")
	  for qw(source target);
	my $before = $pair->target_sql($reads);
	my $lock = MigrateTiers::session($node);
	$lock->query_safe('BEGIN; LOCK TABLE item IN EXCLUSIVE MODE');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	sent($pair, $first);
	$lock->query_safe('COMMIT');
	$lock->quit;
	settle($pair);
	$pair->equal("both sides are equal after the $first has sent first");
	is($pair->source_sql($conflicts) - $kept, 1500, '... and every row that was lost is kept');
	my $read;
	ok(MigrateTiers::wait_for(sub { ($read = $pair->target_sql($reads) - $before) >= 3000 }, 60), '... the queue was read');
	cmp_ok($read, '<', 1_000_000, '... and not for each row');
	return;
}
