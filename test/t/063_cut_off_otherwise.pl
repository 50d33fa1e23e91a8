# What 043 does to the session that asks for a transition, done to the worker and to the postmasters of both
# servers in turn; and to rehearsals and to drop_migration. About a third of the steps, and the end, of each transition are
# cut off by one of them; others in the next run.
#
# MT_SEED repeats the choices of a run, MT_CUT_SHARE is the share of the steps (1: each).
use strict;
use warnings;

use MigrateTiers;
use MigrateTiers::Catalogs;
use MigrateTiers::Cut;
use MigrateTiers::Pair;
use Test::More;

my $seed = $ENV{MT_SEED} // (time ^ $$) % 1_000_000;
srand $seed;
diag "MT_SEED=$seed";

my $pair = MigrateTiers::Pair->new('cut');
my ($source, $target) = ($pair->source, $pair->target);
$pair->both_sql(q(CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
	CREATE TABLE part (id serial, at int, v text, PRIMARY KEY (id, at)) PARTITION BY LIST (at);
	CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)));
$pair->source_sql(q(CREATE EXTENSION postgres_fdw; CREATE EXTENSION migrate_tiers;
	INSERT INTO item (name) SELECT 'item ' || i FROM generate_series(1, 50) i;
	INSERT INTO part (at, v) SELECT 1, i FROM generate_series(1, 50) i));
MigrateTiers::server($source, $target);
MigrateTiers::mapping($source);

my @kinds = qw(target worker source);
my @way = qw(planned syncing dual_write read_target target_only);
my $cut = MigrateTiers::Cut->new($source, $target);
$cut->{share} = $ENV{MT_CUT_SHARE} // 0.35;
my %before = map { $_ => catalogs_of($pair, $_) } qw(source target);

declare();
my $rehearsed = (0, 2, 3)[ rand 3 ];
for my $i (0 .. 3)
{
	rehearsal(@way[ $i, $i + 1 ]) if $i == 1 || $i == $rehearsed;
	$cut->cut_each('advance', @way[ $i, $i + 1 ], turned());
}
$cut->equal('target_only');
$cut->cut_each('revert', @way[ $_, $_ - 1 ], turned()) for 4, 3, 2;
$cut->equal('syncing, after all that');
$cut->cut_each('revert', 'syncing', 'planned', turned());
$cut->go('advance', 'syncing');
dropped('syncing');
declare();
$cut->go('advance', $_) for @way[ 1 .. 2 ];
$cut->equal('dual_write');
sql($source, q(SELECT migrate_tiers.set_option('forget_target', 'on')));
dropped('dual_write');
declare();
$cut->go('advance', $_) for @way[ 1 .. 2 ];
$cut->go('revert', 'syncing');
$cut->go('advance', $_) for @way[ 2 .. 4 ];
$cut->equal('before the end');
sql($source, q(SELECT migrate_tiers.confirm('finished', 'yes')));
$cut->cut_each('advance', 'target_only', 'finished', turned());
$cut->all_hit;
sql($source, 'SELECT migrate_tiers.drop_migration()');
nothing_left('finished, and dropped');
finish({ crashes => 1 }, $source, $target);
done_testing();

# turned gives the kinds, beginning with any.
sub turned { my $n = int rand @kinds; return @kinds[ $n .. $#kinds, 0 .. $n - 1 ]; }

# declare begins a migration; the target has no rows.
sub declare
{
	sql($target, 'TRUNCATE item, part');
	migration($source, 'item', 'part');
	sql($source, q(SELECT migrate_tiers.set_option('quiet_period', '0 s'), migrate_tiers.set_option('max_age', '1 day'),
		migrate_tiers.set_option('attach_timeout', '10 s')));
	return;
}

# rehearsal is cut off on its way there, and on its way back; then what is open is settled, and it ends where it began.
sub rehearsal
{
	my ($from, $to) = @_;

	for my $half ($to, $from)
	{
		my @steps = $half eq $to ? $cut->steps($to) : steps_back($from, $to);
		$cut->cut('rehearse', $to, $steps[ rand @steps ], (turned())[0], $half);
		$half eq $to ? $cut->settle('advance', $from, $to) : $cut->settle('revert', $to, $from);
		$cut->go('revert', $from) if $cut->phase eq $to;
		$cut->phase_is($from, "rehearse('$to') is over");
	}
	return;
}

# steps_back gives the steps of the way back, as the journal of a rehearsal that was let go has them.
sub steps_back
{
	my ($from, $to) = @_;

	$cut->gates($to);
	sql($source, "CALL migrate_tiers.rehearse('$to')");
	return map { [ split /\|/, $_, 2 ] } split /\n/, query($source, "SELECT DISTINCT s ->> 'step', coalesce(s ->> 'object', '')
		FROM (SELECT steps FROM migrate_tiers.transition WHERE to_phase = '$from' ORDER BY id DESC LIMIT 1) t, jsonb_array_elements(steps) s");
}

# dropped: drop_migration is killed when the target is clean, and then when all but the end is done; the next call ends it.
sub dropped
{
	my ($phase) = @_;

	for my $when ('AFTER UPDATE ON migrate_tiers.relation', 'AFTER DELETE ON migrate_tiers.migration')
	{
		sql($source, qq(CREATE FUNCTION cut.kill() RETURNS trigger LANGUAGE plpgsql AS \$\$
			BEGIN
				-- A worker says there how far it is.
				IF (SELECT a.backend_type FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()) = 'client backend' THEN
					EXECUTE format('COPY (SELECT) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
				END IF;
				RETURN NULL;
			END \$\$;
			CREATE TRIGGER kill $when FOR EACH ROW EXECUTE FUNCTION cut.kill()));
		my $log = -s $source->logfile;
		my ($status, $out, $err) = $source->psql('shop', 'SELECT migrate_tiers.drop_migration()');
		like($err, qr/server closed the connection/, "drop_migration in $phase, killed $when");
		$cut->recover('caller', $log);
		sql($source, 'DROP FUNCTION cut.kill CASCADE');
		is(query($source, 'SELECT phase FROM migrate_tiers.status'), $phase, '... the migration is still there');
		ok($source->psql('shop', q(INSERT INTO item (name) VALUES ('meanwhile'))) == 0, '... and applications go on');
	}
	$phase eq 'syncing' ? sql($source, 'SELECT migrate_tiers.drop_migration()') : MigrateTiers::give_up($source, $target);
	nothing_left("dropped in $phase");
	return;
}

sub nothing_left
{
	my ($name) = @_;
	same_catalogs($before{$_}, catalogs_of($pair, $_), "$name: nothing is left on the $_") for qw(source target);
	nothing_runs($pair, $name);
	return;
}
