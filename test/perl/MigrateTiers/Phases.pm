# Phases.pm: a Pair on its way through the phases in which both sides are written.
#
#   ready($pair, 'dual_write');      # does what the gates ask for
#   $pair->advance('dual_write');
#   sent($pair, 'target');           # all that is committed there is on the source
#   settle($pair);                   # nobody writes: both queues are empty, conflicts are carried
package MigrateTiers::Phases;

use strict;
use warnings;

use Exporter 'import';
use MigrateTiers ();

our @EXPORT = qw(ready sent settle phase open_gates settle_conflicts phase_before phase_after);

my @phases = qw(planned syncing dual_write read_target target_only finished);
my %place = map { $phases[$_] => $_ } 0 .. $#phases;

sub phase_after { my ($phase) = @_; return $phases[ $place{$phase} + 1 ]; }
sub phase_before { my ($phase) = @_; return $place{$phase} ? $phases[ $place{$phase} - 1 ] : undef; }

sub phase { my ($pair) = @_; return $pair->source_pinned('SELECT phase FROM migrate_tiers.status'); }

# ready makes the gates between here and a phase pass; dies when they do not.
sub ready
{
	my ($pair, $to) = @_;

	$pair->set_option('quiet_period', '0 s');
	settle_conflicts($pair);
	my %open = open_gates($pair, $to);
	$pair->source_sql('SELECT * FROM migrate_tiers.verify()') if $open{verified};
	$pair->source_sql("SELECT migrate_tiers.confirm('finished', 'tested')") if $open{finished};
	if ($open{rehearsed})
	{
		# A target that was away has to tell first what it has.
		MigrateTiers::wait_for(sub { my %back = open_gates($pair, 'syncing'); return !$back{reverse_drained}; }, 60)
		  or die 'what the target has is not known';
		$pair->revert('syncing');
		ready($pair, 'dual_write');
		$pair->advance('dual_write');
		# Servers that were led back say again where they are.
		$pair->source_sql('SELECT migrate_tiers.report_instance(name, reported_phase) FROM migrate_tiers.instances WHERE expected');
	}
	# Lag comes and goes with traffic, and so do conflicts.
	MigrateTiers::wait_for(sub { settle_conflicts($pair); return !(%open = open_gates($pair, $to)); }, 60)
	  or die "gates to $to stay closed: " . join '; ', map { "$_: $open{$_}" } sort keys %open;
	return;
}

# open_gates gives what does not pass, with its detail.
sub open_gates
{
	my ($pair, $to) = @_;
	return map { split /\|/, $_, 2 }
	  split /\n/, $pair->source_pinned("SELECT gate, detail FROM migrate_tiers.gates('$to') WHERE NOT passed");
}

sub settle_conflicts
{
	my ($pair) = @_;
	$pair->source_sql(<<'SQL');
SELECT migrate_tiers.resolve_conflict(id, winner) FROM migrate_tiers.conflicts WHERE resolved IS NULL
SQL
	return;
}

# sent waits until the other side has all that a side has committed.
sub sent
{
	my ($pair, $side, $timeout) = @_;
	my $sql = "SELECT migrate_tiers.wait_for_sync(timeout => '" . ($timeout // 60) . " s')";
	$side eq 'source' ? $pair->source_pinned($sql) : $pair->target_pinned($sql);
	return;
}

# settle waits until both queues are empty, and conflicts found on the target are here.
sub settle
{
	my ($pair) = @_;

	# A clash of rows can be noted on the other side once more.
	sent($pair, $_) for qw(source target source target);
	$pair->wait_until(target => 'SELECT count(*) = 0 FROM migrate_tiers.conflict')
	  or die 'conflicts stay on the target';
	return;
}

1;
