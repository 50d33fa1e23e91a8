# A bank whose clerks work on both databases at once, each with accounts of his own: at every moment,
# on each side, the total is what it was. No clerk writes a row of another's, so there is no conflict.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use MigrateTiers::Traffic;
use Test::More;

my $pair = MigrateTiers::Pair->new('bank', source_conf => 'restart_after_crash = on');
my $traffic = MigrateTiers::Traffic->new($pair, clients => 3, rate => 60, shared => 0);
my %read = (source => 0, target => 0);
my @wrong;

$traffic->tables;
$pair->declare;
$pair->advance;
$pair->sync;
$traffic->start('source');
ready($pair, 'dual_write');
$pair->advance('dual_write');
$traffic->start('target');
watch(2);
ready($pair, 'read_target');
# What made the gate pass was a way back and forth, with all this traffic.
$pair->advance('read_target');
watch(2);
for my $try (1 .. 3)
{
	my $pid = $pair->worker_pid;
	$pair->source_sql("SELECT pg_terminate_backend($pid)") if $pid ne '';
	$pair->source_sql('SELECT migrate_tiers.start_workers()');
	watch(1);
}
$pair->revert('dual_write');
watch(2);
$traffic->stop;
$traffic->survived('no clerk was sent home');
settle($pair);
watch(0);

is(join("\n", @wrong), '', "the total is the same in each of $read{source} and $read{target} reads");
cmp_ok($read{$_}, '>', 20, "the $_ was read often enough") for qw(source target);
$pair->equal('both sides are equal');
is($pair->source_sql('SELECT count(*) FROM migrate_tiers.conflicts'), '0', 'there was no conflict');
for my $side (qw(source target))
{
	my @failed = map { "$_->[1] $_->[2]" } grep { !($side eq 'target' && $_->[1] eq 'MT005') } $traffic->troubles($side);
	is(join("\n", @failed), '', "no statement failed on the $side");
	cmp_ok($traffic->done($side), '>', 100, "the $side was worked on");
}
$pair->finish;
done_testing();

# watch reads both sides again and again for so many seconds; each sum is of one snapshot.
sub watch
{
	my ($seconds) = @_;
	my $end = Time::HiRes::time() + $seconds;
	my $want = "$traffic->{total}|" . 6 * $MigrateTiers::Traffic::ACCOUNTS;

	do
	{
		for my $side (qw(source target))
		{
			my $have = $pair->can("${side}_pinned")->($pair, 'SELECT sum(balance), count(*) FROM account');
			push @wrong, "$side: $have" if $have ne $want;
			$read{$side}++;
		}
	} while (Time::HiRes::time() < $end);
	return;
}
