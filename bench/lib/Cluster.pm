# Cluster.pm
#	Temporary PostgreSQL clusters for the benchmarks and the demo: made in a
#	folder of their own, on free ports of the loopback, and taken away again
#	however the script ends.  Servers never run as root: a script that does
#	starts them as the user postgres.
package Cluster;

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use IPC::Open3;
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(time sleep);

my $owner = $> == 0 ? 'postgres' : getpwuid($>);
my $folder;
my @clusters;
my %children;    # processes that a script left running
my $main = $$;

our $pg_config = $ENV{PG_CONFIG} || 'pg_config';
chomp(our $bindir = `$pg_config --bindir`);
die "pg_config: no PostgreSQL found, set PG_CONFIG\n" if $? or !-x "$bindir/initdb";

$SIG{$_} = \&interrupted foreach qw(INT TERM HUP);

# interrupted ends the script the ordinary way, so that END cleans up.
sub interrupted
{
	$SIG{INT} = $SIG{TERM} = $SIG{HUP} = 'IGNORE';
	print STDERR "\ninterrupted, cleaning up\n";
	exit 130;
}

# folder returns the temporary folder of this run, made at first use.
sub folder
{
	return $folder if defined $folder;
	$folder = tempdir('migrate_tiers.XXXXXX',
		DIR => $ENV{BENCH_TMP} || $ENV{TMPDIR} || '/tmp');
	chmod 0755, $folder or die "chmod $folder: $!\n";
	if ($> == 0)
	{
		my ($uid, $gid) = (getpwnam('postgres'))[ 2, 3 ];
		die "no user postgres to run the servers as\n" unless defined $uid;
		chown $uid, $gid, $folder or die "chown $folder: $!\n";
	}
	return $folder;
}

# as_owner prefixes a command so that it runs as the servers' user.
sub as_owner
{
	return $> == 0 ? ('runuser', '-u', $owner, '--', @_) : @_;
}

# run executes a command, returns its output and dies with all of it on failure.
sub run
{
	my ($input, @command) = @_;
	my ($text, $pid) = ('');
	my $in = File::Temp->new(DIR => folder());
	print $in $input // '';
	$in->flush;
	open my $from, '<', $in->filename or die "$!\n";
	$pid = open3('<&' . fileno($from), my $out, undef, @command);
	local $/ = undef;
	$text = <$out> // '';
	waitpid $pid, 0;
	die join(' ', @command) . ": exit status " . ($? >> 8) . "\n$text" if $?;
	return $text;
}

# new makes and starts a cluster; settings are lines of postgresql.conf.
sub new
{
	my ($class, $name, %settings) = @_;
	my $dir = folder() . "/$name";
	my $self = bless { name => $name, dir => $dir }, $class;
	run(undef, as_owner("$bindir/initdb", '-D', $dir, '-U', 'postgres', '-A', 'trust',
			'-E', 'UTF8', '--locale=C.UTF-8', '--no-sync', '--no-instructions'));
	$self->{port} = free_port();
	my %all = (
		listen_addresses => "'127.0.0.1'",
		unix_socket_directories => "'" . folder() . "'",
		port => $self->{port},
		log_line_prefix => "'%m [%p] %b %a '",
		%settings);
	my $lines = join '', map { "$_ = $all{$_}\n" } sort keys %all;
	run($lines, as_owner('sh', '-c', "cat >> $dir/postgresql.conf"));
	push @clusters, $self;
	$self->start;
	return $self;
}

# free_port asks the kernel for one, or counts up from BENCH_PORT.
my $next_port = $ENV{BENCH_PORT};

sub free_port
{
	while (1)
	{
		my $socket = IO::Socket::INET->new(
			LocalAddr => '127.0.0.1', Listen => 1, Proto => 'tcp',
			LocalPort => defined $next_port ? $next_port++ : 0);
		return $socket->sockport if $socket;
		die "no free port: $!\n" unless defined $next_port;
	}
}

sub start
{
	my ($self) = @_;
	run(undef, as_owner("$bindir/pg_ctl", '-D', $self->{dir}, '-l', "$self->{dir}.log", '-w', 'start'));
	return;
}

# start_counted starts it under valgrind's callgrind, which counts the instructions of each process.
sub start_counted
{
	my ($self) = @_;
	my $counts = $self->{counts} = "$self->{dir}.counts";
	run(undef, as_owner('mkdir', '-p', $counts));
	spawn("$self->{name}-counted", as_owner('valgrind', '--tool=callgrind', '--trace-children=no', '--callgrind-out-file=/dev/null',
			"--log-file=$counts/%p", "$bindir/postgres", '-D', $self->{dir}));
	my $end = time + 60;
	until (eval { $self->psql('postgres', 'SELECT 1') })
	{
		die "$self->{name} does not start under valgrind\n" if time > $end;
		sleep 0.2;
	}
	return;
}

# counted_pgbench runs transactions of one client of pgbench: the instructions of its backend.
sub counted_pgbench
{
	my ($self, $db, $transactions) = @_;
	my %before = map { $_ => 1 } glob "$self->{counts}/*";
	run(undef, "$bindir/pgbench", '-n', '-M', 'prepared', '-c', 1, '-t', $transactions, '--random-seed=1',
		'-h', '127.0.0.1', '-p', $self->{port}, '-U', 'postgres', $db);
	my $end = time + 60;
	while (1)
	{
		my @new = grep { !$before{$_} } glob "$self->{counts}/*";
		my @counts = sort { $b <=> $a } map { slurp($_) =~ /Collected : (\d+)/ ? $1 : () } @new;
		return $counts[0] if @counts && @counts == @new;
		die "no count of pgbench's backend\n" if time > $end;
		sleep 0.2;
	}
}

sub stop
{
	my ($self, $mode) = @_;
	return unless -e "$self->{dir}/postmaster.pid";
	run(undef, as_owner("$bindir/pg_ctl", '-D', $self->{dir}, '-m', $mode // 'fast', '-w', 'stop'));
	return;
}

# conninfo of a database, for clients of libpq.
sub conninfo
{
	my ($self, $db) = @_;
	$db //= 'postgres';
	return "host=127.0.0.1 port=$self->{port} user=postgres dbname=$db";
}

# psql runs statements one by one and returns what they print, unaligned.
sub psql
{
	my ($self, $db, $sql, @options) = @_;
	my $text = run($sql, psql_command($self->conninfo($db)), @options);
	chomp $text;
	return $text;
}

sub psql_command
{
	my ($conninfo) = @_;
	return ("$bindir/psql", '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $conninfo);
}

# session opens a psql that stays, for statements in quick succession.
sub session
{
	my ($self, $db) = @_;
	my $pid = open3(my $in, my $out, undef, psql_command($self->conninfo($db)));
	$children{$pid} = 1;
	$in->autoflush(1);
	return bless { pid => $pid, in => $in, out => $out }, 'Cluster::Session';
}

# spawn starts a command in the background, its output in a file.
sub spawn
{
	my ($name, @command) = @_;
	my $file = folder() . "/$name.out";
	my $pid = fork // die "fork: $!\n";
	if ($pid == 0)
	{
		$SIG{$_} = 'DEFAULT' foreach qw(INT TERM HUP);
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', $file;
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(127);
	}
	return adopt({ pid => $pid, file => $file, name => $name });
}

# adopt has a child process ended with the script.
sub adopt
{
	my ($child) = @_;
	$children{ $child->{pid} } = 1;
	return $child;
}

# finish waits for a spawned command and returns (exit status, output).
sub finish
{
	my ($child, $signal) = @_;
	kill $signal, $child->{pid} if $signal;
	waitpid $child->{pid}, 0;
	my $status = $?;
	delete $children{ $child->{pid} };
	return ($status, slurp($child->{file}));
}

sub slurp
{
	my ($name) = @_;
	open my $file, '<', $name or die "$name: $!\n";
	local $/ = undef;
	return scalar <$file>;
}

# running tells whether a spawned command still runs.
sub running
{
	my ($child) = @_;
	open my $stat, '<', "/proc/$child->{pid}/stat" or return 0;
	return <$stat> !~ /\) Z /;
}

# postmaster returns the server's process id.
sub postmaster
{
	my ($self) = @_;
	my ($pid) = split /\n/, run(undef, as_owner('cat', "$self->{dir}/postmaster.pid"));
	return $pid;
}

# log returns the server's log.
sub log
{
	my ($self) = @_;
	return run(undef, as_owner('cat', "$self->{dir}.log"));
}

# cleanup stops what runs and removes the folder; BENCH_KEEP=1 keeps the folder.
sub cleanup
{
	kill 'TERM', $_ foreach keys %children;
	waitpid $_, 0 foreach keys %children;
	%children = ();
	eval { $_->stop('immediate'); 1 } or warn $@ foreach @clusters;
	@clusters = ();
	return unless defined $folder;
	if ($ENV{BENCH_KEEP}) { print STDERR "kept: $folder\n" }
	else { system 'rm', '-rf', '--', $folder }
	undef $folder;
	return;
}

END
{
	if ($$ == $main)
	{
		my $status = $?;
		local $?;
		cleanup();
		$? = $status;
	}
}

package Cluster::Session;

# query runs one statement and returns its output; an SQL error dies.
sub query
{
	my ($self, $sql) = @_;
	my $text = '';
	my ($in, $out) = ($self->{in}, $self->{out});
	local $SIG{PIPE} = 'IGNORE';
	print $in "$sql;\n\\echo =end=\n";
	while (1)
	{
		my $line = <$out>;
		die "psql ended: $sql\n$text" unless defined $line;
		last if $line eq "=end=\n";
		$text .= $line;
	}
	chomp $text;
	return $text;
}

sub close
{
	my ($self) = @_;
	close $self->{in};
	waitpid $self->{pid}, 0;
	delete $children{ $self->{pid} };
	return;
}

1;
