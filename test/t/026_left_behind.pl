# A copy worker that was ended may leave a chunk behind on the target that commits later: who empties the table
# waits for it, also where it sees no row yet.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('left');
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text)');
$pair->declare;
$pair->advance;
$pair->sync;

# What such a session is like: it passes the fence, and its transaction is open.
my $token = $pair->source_sql('SELECT token FROM migrate_tiers.migration');
my $chunk = MigrateTiers::session($pair->target);
$chunk->query_safe("SET migrate_tiers.session = '$token'; BEGIN; INSERT INTO item VALUES (1000, 'left behind')");
my $mover = MigrateTiers::session($pair->source);
$mover->query_until(qr/going/, "\\echo going\nCALL migrate_tiers.revert('planned');\n\\echo arrived\n");
ok($pair->wait_until(target => q{SELECT count(*) > 0 FROM pg_locks WHERE relation = 'item'::regclass AND mode = 'ShareLock' AND NOT granted}),
	'the way back waits for who writes the table');
$chunk->query_safe('COMMIT');
$mover->query_until(qr/arrived/, '');
is($pair->source_sql('SELECT phase FROM migrate_tiers.migration'), 'planned', 'it arrives when that has ended');
is($pair->target_sql('SELECT count(*) FROM item'), '0', 'and no row is left');
$_->quit for $chunk, $mover;
$pair->finish;
done_testing();
