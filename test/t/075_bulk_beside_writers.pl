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
for my $step (1 .. 3)
{
	$pair->target_sql("UPDATE item SET v = 'beside $step'");
	is($pair->target_sql(q{SELECT migrate_tiers.wait_for_sync(timeout => '60 s') IS NOT NULL}), 't', "many rows of a table come that is rewritten all the time ($step)");
}
is(end_writers(), 0, 'and it was all the time');
settle($pair);
$pair->equal('both sides are equal');
$pair->finish;
done_testing();
