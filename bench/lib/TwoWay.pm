# TwoWay.pm
#	A pair whose two sides are both written: tables whose keys each side has a range
#	of for itself, the way through the phases, and statements timed one by one.
package TwoWay;

use strict;
use warnings;

use Cluster;
use Measure;
use Pair;
use POSIX ();
use Time::HiRes qw(time sleep);

our @ISA = ('Pair');

# Keys 1 to this are of both sides; then as many again for the source, and for the target.
our $shared = 1000;

my $statement = <<'SQL';
\set id random(:low, :high)
WITH a AS (UPDATE account SET balance = balance + 1, note = :id WHERE id = :id RETURNING id)
INSERT INTO entry (account) SELECT id FROM a;
SQL

# tables makes what the traffic writes: rows to update, and rows that draw numbers.
sub tables
{
	my ($self, $rows) = @_;
	$self->{rows} = $rows;
	$self->source(<<SQL);
CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL DEFAULT 0, note bigint);
INSERT INTO account (id) SELECT generate_series(1, $shared + 2 * $rows);
CREATE TABLE entry (id bigserial PRIMARY KEY, account integer NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE beat (side text PRIMARY KEY, n bigint NOT NULL);
INSERT INTO beat VALUES ('source', 0), ('target', 0);
SQL
	$self->sentinel;
	$self->source('VACUUM ANALYZE');
	$self->copy_schema;
	return;
}

# go takes a migration one phase on or back, with what its gates ask for; returns when it began and ended.
sub go
{
	my ($self, $how, $phase) = @_;
	$self->source("SELECT migrate_tiers.confirm('finished', 'measured')") if $phase eq 'finished';
	my $begin = time;
	$self->source("CALL migrate_tiers.$how('$phase')");
	return ($begin, time);
}

# compare gives the gates their evidence that both sides are equal; only one of them is written meanwhile.
sub compare
{
	my ($self) = @_;
	my $verdicts = $self->source("SELECT DISTINCT verdict FROM migrate_tiers.verify()");
	die "$self->{kind}: verify() says $verdicts\n" if $verdicts ne 'equal';
	return;
}

# to_dual_write connects and goes to dual_write.
sub to_dual_write
{
	my ($self) = @_;
	$self->connect;
	$self->source("SELECT migrate_tiers.set_option('quiet_period', '0'), migrate_tiers.set_option('max_lag', '1 min')");
	$self->catch_up;
	$self->compare;
	$self->go(advance => 'dual_write');
	return;
}

# traffic starts pgbench clients on a side, each statement logged with its time; options go to pgbench.
sub traffic
{
	my ($self, $side, @options) = @_;
	my $serial = our $runs++;
	my $prefix = Cluster::folder() . "/log-$serial";
	my $low = $shared + 1 + ($side eq 'target' ? $self->{rows} : 0);
	my $child = Cluster::spawn("traffic-$serial", "$Cluster::bindir/pgbench", '-n', '-M', 'prepared', '-c', 4, '-j', 1,
		'-l', '--log-prefix', $prefix, '-D', "low=$low", '-D', 'high=' . ($low + $self->{rows} - 1),
		(grep { /^-f/ } @options) ? () : ('-f', script('own', $statement)), @options,
		'-h', '127.0.0.1', '-p', $self->{$side}{port}, '-U', 'postgres', $self->{db});
	return { child => $child, prefix => $prefix, side => $side };
}

# script writes statements to a file of the run, and returns its name.
sub script
{
	my ($name, $text) = @_;
	my $file = Cluster::folder() . "/$name.sql";
	open my $out, '>', $file or die "$file: $!\n";
	print $out $text;
	close $out;
	return $file;
}

# mixed_scripts returns options for traffic of which a share, in percent, goes to the rows of both sides.
sub mixed_scripts
{
	my ($share) = @_;
	my $common = $statement =~ s/random\(:low, :high\)/random(1, $shared)/r;
	return ('-f' . script('own', $statement) . '@' . (100 - $share), '-f' . script('shared', $common) . '@' . $share);
}

# stop ends the traffic, and returns its statements and what pgbench said. Clients that an error ended have written their log, too.
sub stop
{
	my ($traffic) = @_;
	my ($status, $text) = Cluster::finish($traffic->{child}, 'ALRM');
	return { statements => read_log($traffic->{prefix}), text => $text, status => $status };
}

# read_log returns what pgbench logged as [begin, end] in seconds.
sub read_log
{
	my ($prefix) = @_;
	my @statements;
	foreach my $line (map { split /\n/, Cluster::slurp($_) } glob "$prefix.*")
	{
		# With a rate the time counts from when it was due; the last field is how late it began.
		my (undef, undef, $us, undef, $epoch, $fraction, $late) = split / /, $line;
		next if $us !~ /^\d+$/;
		my $end = $epoch + $fraction / 1e6;
		push @statements, [ $end - ($us - ($late // 0)) / 1e6, $end ];
	}
	return [ sort { $a->[1] <=> $b->[1] } @statements ];
}

# within returns the seconds of the statements that ran at some moment of a window.
sub within
{
	my ($run, $begin, $end) = @_;
	return map { $_->[1] - $_->[0] } grep { $_->[1] >= $begin && $_->[0] <= $end } @{ $run->{statements} };
}

# failed counts what the traffic's sessions had refused, by the server's log: by a fence, and otherwise.
sub failed
{
	my ($self, $side) = @_;
	my @errors = grep { / client backend pgbench (?:ERROR|FATAL|PANIC):/ } split /\n/, $self->{$side}->log;
	my $fenced = grep { /writes of table/ } @errors;
	return ($fenced, @errors - $fenced, grep { !/writes of table/ } @errors);
}

# arrived waits until all that is committed on a side is on the other.
sub arrived
{
	my ($self, $from) = @_;
	my $to = $from eq 'source' ? 'target' : 'source';
	my $n = $self->$from("UPDATE beat SET n = n + 1 WHERE side = '$from' RETURNING n");
	my $watch = $self->{$to}->session($self->{db});
	wait_until("everything of the $from on the $to", 600, sub { $watch->query("SELECT n FROM beat WHERE side = '$from'") == $n }, 0.005);
	$watch->close;
	return;
}

# settle waits until each side has all of the other: what one takes over the other may have to take back.
sub settle
{
	my ($self) = @_;
	$self->arrived($_) foreach qw(source target source target);
	return;
}

# beats measures, for so many seconds, how long a row takes from its commit on a side until the other has it, in ms.
sub beats
{
	my ($self, $from, $end) = @_;
	my $to = $from eq 'source' ? 'target' : 'source';
	my ($write, $watch) = ($self->{$from}->session($self->{db}), $self->{$to}->session($self->{db}));
	my @lags;
	my $next = time;
	while (($next += 0.1) < $end)
	{
		sleep($next - time) if $next > time;
		my $n = $write->query("UPDATE beat SET n = n + 1 WHERE side = '$from' RETURNING n");
		my $begin = time;
		wait_until("the beat of the $from", 60, sub { $watch->query("SELECT n FROM beat WHERE side = '$from'") == $n }, 0.0005);
		push @lags, 1000 * (time - $begin);
	}
	$_->close foreach $write, $watch;
	return @lags;
}

# beats_both_ways does so for both directions at once.
sub beats_both_ways
{
	my ($self, $end) = @_;
	my $file = Cluster::folder() . '/beats';
	my $pid = fork // die "fork: $!\n";
	if ($pid == 0)
	{
		my $ok = eval {
			my @lags = $self->beats('target', $end);
			open my $out, '>', $file or die "$file: $!\n";
			print $out map { "$_\n" } @lags;
			close $out or die "$file: $!\n";
			1;
		};
		print STDERR "beats: $@" unless $ok;
		POSIX::_exit($ok ? 0 : 1);
	}
	my $child = Cluster::adopt({ pid => $pid, file => $file, name => 'beats' });
	my @forward = $self->beats('source', $end);
	my ($status, $text) = Cluster::finish($child);
	die "the beats of the target failed\n" if $status;
	return (\@forward, [ split /\n/, $text ]);
}

1;
