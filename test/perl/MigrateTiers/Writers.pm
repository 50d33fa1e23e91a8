# Writers.pm: clients that do one thing over and over on a side of a Pair, until they are ended.
#
#   writer($pair, 'target', "UPDATE hot SET n = n + 1 WHERE id = 2;\n\\sleep 1 ms");    # a pgbench script
#   end_writers();
package MigrateTiers::Writers;

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Utils;

our @EXPORT = qw(writer end_writers);

my $folder;
my @writers;

# writer begins a client.
sub writer
{
	my ($pair, $side, $script) = @_;
	my $node = $pair->$side;

	$folder //= PostgreSQL::Test::Utils::tempdir();
	my $name = "$folder/" . @writers . '.sql';
	open my $file, '>', $name or die "$name: $!";
	print $file "$script\n";
	close $file;
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		open STDOUT, '>', "$name.log";
		open STDERR, '>&', \*STDOUT;
		exec('pgbench', '-n', '-c', 1, '-T', 3600, '-f', $name, '-h', $node->host, '-p', $node->port, $pair->{db}) or POSIX::_exit(1);
	}
	push @writers, $pid;
	return;
}

# end_writers ends all of them, and says how many had ended before.
sub end_writers
{
	my $gone = grep { waitpid($_, POSIX::WNOHANG()) != 0 } @writers;

	kill 'INT', @writers;
	waitpid $_, 0 for splice @writers;
	return $gone;
}

END
{
	local $?;
	end_writers();
}

1;
