# Psql.pm: psql that stays connected between the calls of a test.  To start one,
# and a server process with its caches, costs more than most statements do.
#
#   my ($status, $out, $err) = MigrateTiers::Psql::ask($node, 'shop', 'SELECT 1');
#
# As the node's psql, which stops at the first error.  What a session could leave
# to the next call does not stay: an open transaction ends, settings, temporary
# tables and locks go, statistics are sent.  A session that is gone, with the
# server or otherwise, is replaced before the call; never in it.
package MigrateTiers::Psql;

use strict;
use warnings;

use IPC::Run;

# What pg_stat_activity calls these sessions, for a test that looks for others.
our $NAME = 'test';

# Printed by psql where a part of its input ends.
my $END = 'end of what psql was asked';

# What IPC::Run says of a psql that has ended.
my $GONE = qr/Broken pipe|ended prematurely/;

# Settings that only begin with a session, and commands of psql, which stay in it.
my $OWN = qr/\b(?:ALTER|CREATE|DROP)\s+(?:DATABASE|ROLE|USER|SYSTEM)\b|\bpg_reload_conf\b|^\s*\\[a-z]|\\g/im;

# Sessions by node, database and environment.  A child of the test has its own.
my %kept;
my $owner = $$;

# ask($node, $dbname, $sql): (status, output, errors), each as the node's psql has it.
sub ask
{
	my ($node, $dbname, $sql) = @_;
	if ($sql =~ $OWN)
	{
		forget($node);
		my @result = eval { $node->psql($dbname, $sql) };
		return @result if $@ eq '';
		# With no server, psql may be gone before it is given the statement.
		die $@ if $@ !~ /Broken pipe/;
		return (2, '', 'psql could not connect');
	}
	my $session = _session($node, $dbname);
	# After COPY an empty statement would be one too many for psql.
	my ($out, $err) = _exchange($session, $sql =~ /(?:;|^\\\.)\s*\z/m ? "$sql\n" : "$sql\n;\n");
	my $status = $session->{status} // 0;
	_exchange($session, "DISCARD ALL;\nSELECT pg_stat_force_next_flush();\n") if !defined $session->{status};
	chomp($out, $err);
	return ($status, $out, $err);
}

# run($node, $dbname, $sql): the output; dies on an error.
sub run
{
	my ($node, $dbname, $sql) = @_;
	my ($status, $out, $err) = ask($node, $dbname, $sql);
	die "psql ended with $status: '$err'\nwhile running '$sql'" if $status;
	print "# $err\n" if $err ne '';
	return $out;
}

# forget($node): its sessions end.
sub forget
{
	my ($node) = @_;
	foreach my $key (grep { $kept{$_}{node} == $node } keys %kept)
	{
		_exchange(delete $kept{$key}, "\\q\n");
	}
	return;
}

sub _session
{
	my ($node, $dbname) = @_;
	%kept = () if $owner != $$;
	$owner = $$;
	local %ENV = $node->_get_env();
	my $key = join "\0", $node->name, $dbname, map { "$_=$ENV{$_}" } grep { /^PG/ } sort keys %ENV;
	my $session = $kept{$key};

	# psql ends where the connection is lost.
	_exchange($session, "SELECT;\n") if $session && !defined $session->{status};
	return $session if $session && !defined $session->{status};
	return $kept{$key} = _start($node, $dbname);
}

sub _start
{
	my ($node, $dbname) = @_;
	my $session = { node => $node, in => '', out => '', err => '' };
	local $ENV{PGAPPNAME} = $NAME;
	$session->{run} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($dbname), '-f', '-' ],
		'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{err});
	return $session;
}

# _exchange gives psql input and returns what it printed, once it has read all of it or is gone.
sub _exchange
{
	my ($session, $input) = @_;
	my $end = qr/^\Q$END\E\n\z/m;
	@$session{qw(in out err)} = ("$input\\echo $END\n\\warn $END\n", '', '');
	local $SIG{PIPE} = 'IGNORE';
	local $@;
	my $read = eval {
		$session->{run}->pump until $session->{out} =~ $end && $session->{err} =~ $end;
		1;
	};
	if (!$read)
	{
		die $@ if $@ !~ $GONE;
		$session->{in} = '';
		# What psql was to read and did not would be given to it again.
		eval { $session->{run}->finish; 1 } or $@ =~ $GONE ? $session->{run}->kill_kill : die $@;
		$session->{status} = $session->{run}->result(0);
	}
	s/$end// for @$session{qw(out err)};
	return @$session{qw(out err)};
}

1;
