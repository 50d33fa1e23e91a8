# Measure.pm
#	What the benchmarks measure with: processor time, WAL, memory, pgbench; and
#	how they show it: medians over rounds, ratios within a round, verdicts.
package Measure;

use strict;
use warnings;

use Exporter 'import';
use POSIX qw(sysconf _SC_CLK_TCK);
use Time::HiRes qw(time sleep);

our @EXPORT = qw(setting median percentile children_cpu process_cpu wal_bytes pgbench
  private_kb wait_until say_round verdict summary ratio);

my $tick = sysconf(_SC_CLK_TCK);
my @verdicts;

# setting reads a size of the run from the environment.
sub setting
{
	my ($name, $default) = @_;
	return $ENV{"BENCH_$name"} // $default;
}

sub percentile
{
	my ($share, @values) = @_;
	return undef unless @values;
	@values = sort { $a <=> $b } @values;
	my $at = int($share * $#values + 0.5);
	return $values[$at];
}

sub median
{
	my @values = sort { $a <=> $b } @_;
	return undef unless @values;
	return ($values[ $#values / 2 ] + $values[ @values / 2 ]) / 2;
}

# ratio returns the median of the ratios of two series, round by round.
sub ratio
{
	my ($ours, $theirs) = @_;
	return median(map { $ours->[$_] / $theirs->[$_] } 0 .. $#$ours);
}

# children_cpu returns the processor seconds of all backends of a cluster that
# have ended so far: the postmaster has reaped them, whatever they were.  Its
# difference over a pgbench run with nothing else connected is what the clients'
# backends cost, from their start to their end.  A client is gone before its
# backend is, so this waits until the last one is reaped.
sub children_cpu
{
	my ($cluster) = @_;
	my $pid = $cluster->postmaster;
	wait_until('the last backend to end', 60, sub { !grep { is_client($_) } children($pid) }, 0.002);
	my @field = proc_stat($pid);
	return ($field[13] + $field[14]) / $tick;
}

sub children
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/task/$pid/children" or die "/proc has no list of children: $!\n";
	return split / /, <$file> // '';
}

# is_client tells whether a process serves a client (its title begins with the
# user's name), or is on its way out (it has no title any more).
sub is_client
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/cmdline" or return 0;
	return (<$file> // '') =~ /^postgres: postgres |^$/;
}

# process_cpu returns the processor seconds of one process that still runs.
sub process_cpu
{
	my ($pid) = @_;
	my @field = proc_stat($pid);
	return ($field[11] + $field[12]) / $tick;
}

# proc_stat returns the fields of /proc/PID/stat that stand after the name.
sub proc_stat
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/stat" or die "process $pid: $!\n";
	my $line = <$file>;
	$line =~ s/^.*\) //;
	return split / /, $line;
}

# wal_bytes returns the bytes of WAL records between two positions, and those of page images.
sub wal_bytes
{
	my ($cluster, $from, $to) = @_;
	my $text = Cluster::run(undef, Cluster::as_owner("$Cluster::bindir/pg_waldump", '--stats',
			'-p', "$cluster->{dir}/pg_wal", '-s', $from, '-e', $to));
	my ($records, $images) = $text =~ /^Total\s+\d+\s+(\d+)\s+\[[^\]]*\]\s+(\d+)/m
	  or die "pg_waldump: $text\n";
	return ($records, $images);
}

# pgbench runs to its end and returns a hash: transactions, tps, failed.
sub pgbench
{
	my ($cluster, $db, @options) = @_;
	return parse_pgbench(Cluster::run(undef, "$Cluster::bindir/pgbench", '-n',
			'-h', '127.0.0.1', '-p', $cluster->{port}, '-U', 'postgres', @options, $db));
}

sub parse_pgbench
{
	my ($text) = @_;
	my %result = (text => $text);
	($result{transactions}) = $text =~ /^number of transactions actually processed: (\d+)/m
	  or die "pgbench: $text\n";
	($result{failed}) = $text =~ /^number of failed transactions: (\d+)/m;
	($result{tps}) = $text =~ /^tps = ([\d.]+)/m;
	return \%result;
}

# private_kb returns the memory that a process has for itself: anonymous pages,
# and dynamic shared memory that it mapped.  The shared buffers are not in it.
sub private_kb
{
	my ($pid) = @_;
	my ($kb, $dynamic) = (0, 0);
	open my $status, '<', "/proc/$pid/status" or return undef;
	while (<$status>) { $kb = $1 if /^RssAnon:\s+(\d+) kB/ }
	open my $maps, '<', "/proc/$pid/smaps" or return undef;
	while (<$maps>)
	{
		if (/^[0-9a-f]+-[0-9a-f]+ /) { $dynamic = m{ /dev/shm/PostgreSQL} }
		elsif ($dynamic && /^Rss:\s+(\d+) kB/) { $kb += $1 }
	}
	return $kb;
}

# wait_until polls a condition, with a deadline in seconds.
sub wait_until
{
	my ($what, $deadline, $condition, $interval) = @_;
	my $end = time + $deadline;
	while (1)
	{
		my $result = $condition->();
		return $result if $result;
		die "timed out after $deadline s: $what\n" if time > $end;
		sleep($interval // 0.05);
	}
}

sub say_round
{
	my ($format, @values) = @_;
	printf "  $format\n", @values;
	STDOUT->flush;
	return;
}

# verdict notes a figure against its limit, "at most" or "at least".
sub verdict
{
	my ($what, $value, $sense, $limit, $unit) = @_;
	my $ok = $sense eq 'at most' ? $value <= $limit : $value >= $limit;
	push @verdicts, [ $what, $value, $sense, $limit, $unit // '', $ok ];
	return;
}

# summary prints the verdicts and ends the script: with 1 when a limit is missed.
sub summary
{
	my $missed = 0;
	print "\n";
	foreach (@verdicts)
	{
		my ($what, $value, $sense, $limit, $unit, $ok) = @$_;
		printf "%-6s %-58s %10.2f%s (%s %s%s)\n", $ok ? 'ok' : 'MISSED', $what, $value, $unit,
		  $sense, $limit, $unit;
		$missed++ unless $ok;
	}
	exit($missed ? 1 : 0);
}

1;
