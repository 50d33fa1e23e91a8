# Proxy.pm: a network between two servers that can be cut.
#
#   my $proxy = MigrateTiers::Proxy->new($target->port);
#   $proxy->port                 where to connect instead
#   $proxy->hold                 a black hole: connections stay, nothing passes, new ones are taken and not answered
#   $proxy->cut                  resets all connections and refuses new ones
#   $proxy->pass                 the network works (held bytes pass on)
#   $proxy->reset                resets all connections, new ones work
#   $proxy->connections          how many came so far
#   $proxy->stop
package MigrateTiers::Proxy;

use strict;
use warnings;

use Errno qw(EAGAIN EINTR);
use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);

my $LIMIT = 65536;    # bytes that wait for one side, at most

sub new
{
	my ($class, $to) = @_;
	my $listener = _listen(0) or die "proxy: cannot listen: $!";
	my $port = $listener->sockport;
	pipe(my $command_read, my $command_write) or die "proxy: $!";
	pipe(my $answer_read, my $answer_write) or die "proxy: $!";
	my $pid = fork // die "proxy: $!";
	if (!$pid)
	{
		close $command_write;
		close $answer_read;
		$SIG{PIPE} = 'IGNORE';
		eval { _serve($listener, $port, $to, $command_read, $answer_write); 1 } or warn "proxy: $@";
		POSIX::_exit(0);
	}
	close $command_read;
	close $answer_write;
	close $listener;
	$command_write->autoflush(1);
	return bless { port => $port, pid => $pid, owner => $$, command => $command_write, answer => $answer_read }, $class;
}

sub port { my $self = shift; return $self->{port}; }

sub pass { my $self = shift; return $self->_tell('pass'); }
sub hold { my $self = shift; return $self->_tell('hold'); }
sub cut { my $self = shift; return $self->_tell('cut'); }
sub reset { my $self = shift; return $self->_tell('reset'); }
sub connections { my $self = shift; return $self->_tell('count'); }

sub stop
{
	my $self = shift;
	return unless $self->{pid} && $self->{owner} == $$;
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = 0;
	return;
}

sub DESTROY { my $self = shift; local ($?, $!); $self->stop; return; }

sub _tell
{
	my ($self, $what) = @_;
	$self->{command}->print("$what\n");
	my $answer = readline $self->{answer};
	die 'proxy: gone' unless defined $answer;
	chomp $answer;
	return $answer;
}

sub _listen
{
	my ($port) = @_;
	return IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 64, ReuseAddr => 1, Proto => 'tcp');
}

# _serve is the life of the child: %peer leads from a socket to the other end of it.
sub _serve
{
	my ($listener, $port, $to, $commands, $answers) = @_;
	my (%peer, %out, %socket);
	my ($mode, $count) = ('pass', 0);
	$answers->autoflush(1);

	my $drop = sub {
		my ($s, $hard) = @_;
		my @ends = grep { defined } $s, $peer{$s};
		for my $end (@ends)
		{
			setsockopt $end, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0) if $hard;
			close $end;
			delete $_->{$end} for \%peer, \%out, \%socket;
		}
	};
	while (1)
	{
		my @all = values %socket;
		my $readers = IO::Select->new($commands, $listener ? $listener : ());
		my $writers = IO::Select->new;
		if ($mode eq 'pass')
		{
			$readers->add(grep { length $out{ $peer{$_} } < $LIMIT } @all);
			$writers->add(grep { length $out{$_} } @all);
		}
		my ($can_read, $can_write) = IO::Select->select($readers, $writers, undef, 10);
		for my $s (@{ $can_write // [] })
		{
			next unless $socket{$s};
			my $n = syswrite $s, $out{$s};
			if (defined $n) { substr($out{$s}, 0, $n) = ''; }
			elsif ($! != EAGAIN && $! != EINTR) { $drop->($s); }
		}
		for my $s (@{ $can_read // [] })
		{
			if ($s == $commands)
			{
				my $command = readline $commands;
				return unless defined $command;
				chomp $command;
				if ($command eq 'cut' || $command eq 'reset')
				{
					for my $end (@all) { $drop->($end, 1) if $socket{$end}; }
				}
				if ($command eq 'cut') { close $listener if $listener; undef $listener; }
				elsif ($command ne 'count') { $listener ||= _listen($port); }
				$mode = { reset => 'pass', count => $mode }->{$command} // $command;
				print $answers "$count\n";
			}
			elsif ($listener && $s == $listener)
			{
				my $client = $listener->accept or next;
				$count++;
				my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $to, Proto => 'tcp');
				if (!$server) { close $client; next; }
				$_->blocking(0) for $client, $server;
				@socket{ $client, $server } = ($client, $server);
				@peer{ $client, $server } = ($server, $client);
				@out{ $client, $server } = ('', '');
			}
			elsif ($socket{$s})
			{
				my $n = sysread $s, my $bytes, 16384;
				if ($n) { $out{ $peer{$s} } .= $bytes; }
				elsif (defined $n || ($! != EAGAIN && $! != EINTR)) { _flush($peer{$s}, $out{ $peer{$s} }); $drop->($s); }
			}
		}
	}
	return;
}

# _flush sends what still waits for an end whose other end has closed.
sub _flush
{
	my ($s, $bytes) = @_;
	return unless length $bytes;
	$s->blocking(1);
	syswrite $s, $bytes;
	return;
}

1;
