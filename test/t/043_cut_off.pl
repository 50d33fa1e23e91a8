# The backend that carries out a transition is killed with SIGKILL at each step
# that it journals, in every transition, forward and back: the next call
# finishes it or undoes it, and both sides end equal.
use strict;
use warnings;

use MigrateTiers;
use MigrateTiers::Cut;
use Test::More;

my $seed = $ENV{MT_SEED} // (time ^ $$) % 1_000_000;
srand $seed;
diag "MT_SEED=$seed";

my ($source, $target) = pair();
sql($_, q(CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
	CREATE TABLE part (id serial, at int, v text, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1))) for $source, $target;
migration($source, 'item', 'part');
sql($source, q(INSERT INTO item (name) SELECT 'item ' || i FROM generate_series(1, 50) i;
	INSERT INTO part (at, v) SELECT 1, i FROM generate_series(1, 50) i;
	SELECT migrate_tiers.set_option('quiet_period', '0 s'), migrate_tiers.set_option('max_age', '1 day')));

my $cut = MigrateTiers::Cut->new($source, $target);
my @way = qw(planned syncing dual_write read_target target_only);
my $settings = q(SELECT string_agg(q::text, ' ' ORDER BY seqrelid) FROM pg_sequence q WHERE seqrelid::regclass::text ~ '^(item|part)_');
my %before = map { $_ => query($_, $settings) } $source, $target;

$cut->cut_each('advance', @way[ $_, $_ + 1 ], 'caller') for 0 .. 3;
$cut->equal('target_only');
$cut->cut_each('revert', @way[ $_, $_ - 1 ], 'caller') for 4, 3, 2;
$cut->equal('syncing, after all that');
is(query($_, $settings), $before{$_}, 'sequences have their settings again') for $source, $target;
$cut->cut_each('revert', 'syncing', 'planned', 'caller');
is(query($target, 'SELECT (SELECT count(*) FROM item) + (SELECT count(*) FROM part)'), '0', 'the copy is taken back');

# The end can only be gone on with.
$cut->go('advance', $_) for @way[ 1 .. 2 ];
$cut->go('revert', 'syncing');
$cut->go('advance', $_) for @way[ 2 .. 4 ];
$cut->equal('before the end');
sql($source, q(SELECT migrate_tiers.confirm('finished', 'yes')));
$cut->cut_each('advance', 'target_only', 'finished', 'caller');
$cut->all_hit;
is(query($_, q(SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname <> 'cut')), '0', 'no trigger is left') for $source, $target;
is(query($target, q(SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_tiers')), '0', 'nor a schema');

finish({ crashes => 1 }, $source, $target);
done_testing();
