# Switch fest: at random, legal and illegal calls of advance, revert and rehearse, while applications
# write both sides and do not care. After each call the state is as the table of phases says; no
# statement failed that the phase allows; sequences never collide; in the end both sides are equal.
#
# MT_SEED repeats the choices of a run (not its timing), MT_CALLS says how many calls there are.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use MigrateTiers::Traffic;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{MT_SEED} // (time ^ $$) % 1_000_000;
my $calls = $ENV{MT_CALLS} // 200;
srand $seed;
diag "MT_SEED=$seed MT_CALLS=$calls";

my @phases = qw(planned syncing dual_write read_target target_only finished);
my %fenced = (target => { planned => 1, syncing => 1 }, source => { target_only => 1, finished => 1 });
my $pair = MigrateTiers::Pair->new('fest');
my $traffic = MigrateTiers::Traffic->new($pair, clients => 2, rate => 30);
my %count = (done => 0, refused => 0, gate => 0);
my @windows;    # [begin, end, phases that were the current one]
my @wrong;

$traffic->tables;
$pair->both_sql(<<'SQL');
CREATE FUNCTION harness.try_write() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.account SET balance = balance WHERE id = -1;
	RETURN 'passes';
EXCEPTION WHEN SQLSTATE 'MT005' THEN
	RETURN SQLSTATE;
END $$;
SQL
$pair->declare;
$pair->advance;
$pair->sync;
$traffic->start('source', 'target');

my $phase = 'syncing';
push @windows, [ 0, time, $phase ];
call_something() for 1 .. $calls;
note "calls: $count{done} went, $count{refused} were illegal, $count{gate} met a closed gate";
is(join("\n", @wrong), '', "every call did what the table of phases says (MT_SEED=$seed)");
cmp_ok($count{done}, '>=', $calls / 5, 'there were enough legal ones');
cmp_ok($count{refused}, '>=', $calls / 5, 'and illegal ones');

go_to('dual_write');
$traffic->stop;
$traffic->survived('no client has ended by itself');
settle($pair);
$pair->equal("both sides are equal (MT_SEED=$seed)");
push @windows, [ $windows[-1][1], time + 3600, $phase ];
for my $side (qw(source target))
{
	my @failed = map { "$_->[3] to $_->[0] $_->[1] $_->[2]" } grep { !allowed($side, $_) } $traffic->troubles($side);
	is(join("\n", splice @failed, 0, 20), '', "on the $side no statement failed that the phase allows");
	cmp_ok($traffic->done($side), '>', 200, "the $side was written");
	cmp_ok(scalar $traffic->troubles($side), '>', 0, "and the fence of the $side was met");
}
last_of_all();
$pair->finish;
done_testing();

# call_something makes one call: every second one is a legal one, most of these after what the gates ask for.
sub call_something
{
	my $call = (qw(advance revert rehearse))[ rand 3 ];
	my $to = $phases[ rand @phases ];
	my $legal;

	if (rand() < 0.5)
	{
		$call = rand() < 0.1 ? 'rehearse' : rand() < 0.5 ? 'advance' : 'revert';
		$to = $call eq 'revert' ? phase_before($phase) : phase_after($phase);
	}
	$legal = $to eq (($call eq 'revert' ? phase_before($phase) : phase_after($phase)) // '');
	# There is no way back from these two, or none without a new copy.
	return call_something() if $legal && ($to eq 'finished' || $to eq 'planned');
	prepare($to) if $legal && rand() < 0.85;
	make_call($call, $to, $legal);
	return;
}

# prepare does what the gates ask for. The way back that one of them wants to have been gone closes a fence:
# it is gone here, where that is noted, and not by ready().
sub prepare
{
	my ($to) = @_;
	my %open = $to eq 'read_target' ? open_gates($pair, $to) : ();

	if ($open{rehearsed})
	{
		walk_to('syncing');
		walk_to('dual_write');
	}
	ready($pair, $to);
	return;
}

# make_call calls, and compares what comes with what must.
sub make_call
{
	my ($call, $to, $legal) = @_;
	my $begin = time;
	my ($went, $state, $error) = $pair->source_try("CALL migrate_tiers.$call('$to')");
	my $name = "$phase: $call('$to')";
	my $from = $phase;

	if ($went)
	{
		$phase = $to if $legal && $call ne 'rehearse';
		push @wrong, "$name went" unless $legal;
		$count{done}++;
	}
	elsif ($legal && $state eq 'MT001')
	{
		# A rehearsal whose way back is barred ends where it went, and says so.
		$phase = $to if $error =~ /rehearsal of phase $to/;
		$count{gate}++;
	}
	elsif (!$legal && $state eq 'MT003')
	{
		$count{refused}++;
	}
	else
	{
		push @wrong, "$name failed: $state $error";
	}
	push @windows, [ $windows[-1][1], $begin, $from ], [ $begin, time, $from, $legal ? $to : () ];
	check_state($name);
	return;
}

# check_state asks both sides what they say, and what they let through.
sub check_state
{
	my ($name) = @_;
	my %says = (
		source => $pair->source_pinned("SELECT phase || '|' || coalesce(transition, '') FROM migrate_tiers.status"),
		'routing of the source' => $pair->source_pinned("SELECT phase || '|' FROM migrate_tiers.routing"),
		'routing of the target' => $pair->target_pinned("SELECT phase || '|' FROM migrate_tiers.routing"));

	for my $who (sort keys %says)
	{
		push @wrong, "$name: the $who says $says{$who}, not $phase" if $says{$who} ne "$phase|";
	}
	for my $side (qw(source target))
	{
		my $have = $pair->can("${side}_pinned")->($pair, 'SELECT harness.try_write()');
		my $want = $fenced{$side}{$phase} ? 'MT005' : 'passes';
		push @wrong, "$name: a write of the $side: $have, not $want" if $have ne $want;
	}
	return;
}

# allowed: a fence may refuse what came while its phase was, or might have been, the current one. What is
# refused is noted later, where the machine is busy much later: the fence may be open again by then.
sub allowed
{
	my ($side, $trouble) = @_;
	my ($noted, $state, undef, $began) = @$trouble;

	return 0 if $state ne 'MT005';
	return scalar grep
	{
		my ($from, $to, @among) = @$_;
		$noted >= $from && $began <= $to && grep { $fenced{$side}{$_} } @among;
	} @windows;
}

sub go_to
{
	my ($to) = @_;

	walk_to($to);
	is($phase, $to, "phase $to is reached");
	is(join("\n", @wrong), '', '... as the table of phases says');
	return;
}

# walk_to goes to a phase by legal calls, step by step.
sub walk_to
{
	my ($to) = @_;
	my %place = map { $phases[$_] => $_ } 0 .. $#phases;

	for (my $tries = 0; $phase ne $to; $tries++)
	{
		die "phase $to is not reached: " . join("\n", @wrong) if $tries > 20;
		my $call = $place{$phase} < $place{$to} ? 'advance' : 'revert';
		my $next = $call eq 'advance' ? phase_after($phase) : phase_before($phase);
		prepare($next);
		make_call($call, $next, 1);
	}
	return;
}

# last_of_all goes to the end, where the target is a database of its own.
sub last_of_all
{
	go_to('target_only');
	ready($pair, 'finished');
	$pair->advance('finished');
	is(phase($pair), 'finished', 'the end is reached');
	$pair->target_sql("INSERT INTO entry (owner) SELECT 'last' FROM generate_series(1, 100)");
	is($pair->target_sql("SELECT count(*) FROM entry WHERE owner = 'last'"), '100', 'the target goes on alone');
	return;
}
