# Shop.pm
#	The demo's database and what goes on in it: loading the archive, live traffic,
#	the heartbeat that measures lag, and the comparison of both sides.
package Shop;

use strict;
use warnings;

use Cluster;
use FindBin;
use Measure;
use Time::HiRes qw(time sleep);
use TwoWay;

my $here = $FindBin::RealBin;
my $db = 'shop';
my @scripts = (
	'buy.sql@6', 'pay.sql@4', 'cancel.sql@2', 'rate.sql@3', 'voucher.sql@3', 'exchange.sql@1', 'move.sql@2');

# index returns the archive's package index as text; the lists of a fresh machine may be empty.
sub index_file
{
	my $file = Cluster::folder() . '/index';
	system "apt-cache dumpavail > '$file' 2>/dev/null";
	if (!-s $file)
	{
		my @update = $> == 0 ? () : ('sudo');
		system(@update, 'apt-get', '-q', 'update') == 0
		  or die "demo: the lists of apt are empty; run: sudo apt-get update\n";
		system "apt-cache dumpavail > '$file'";
	}
	die "demo: apt-cache dumpavail gives no packages; run: sudo apt-get update\n" unless -s $file;
	return $file;
}

# load fills the source, and returns the number of packages.
sub load
{
	my ($source) = @_;
	my $folder = Cluster::folder();
	my $index = index_file();
	my $packages = Cluster::run(undef, 'sh', '-c', "'$here/parse' '$folder' < '$index'");
	chomp $packages;
	$source->psql($db, Cluster::slurp("$here/schema.sql"));
	$source->psql($db, <<SQL);
BEGIN;
ALTER TABLE dependency DROP CONSTRAINT dependency_package_fkey;
\\copy section FROM '$folder/section.copy'
\\copy maintainer FROM '$folder/maintainer.copy'
\\copy package (id, name, version, architecture, section, maintainer, priority, size, installed_kb, price, summary, tags, fields, control) FROM '$folder/package.copy'
\\copy dependency FROM '$folder/dependency.copy'
\\copy event (at, kind, package, detail) FROM '$folder/event.copy'
ALTER TABLE dependency ADD FOREIGN KEY (package) REFERENCES package ON DELETE CASCADE;
INSERT INTO customer (name) SELECT 'customer ' || i FROM generate_series(1, 5000) i;
INSERT INTO purchase (customer) SELECT 1 + i % 5000 FROM generate_series(1, 20000) i;
INSERT INTO purchase_line SELECT id, 1, 1 + id % $packages, 1 FROM purchase;
INSERT INTO voucher SELECT 'V' || nextval('voucher_code'), i, 10 FROM generate_series(1, 1000) i;
INSERT INTO heartbeat VALUES (1, 0, now());
INSERT INTO section_summary SELECT section, count(*), sum(size) FROM package GROUP BY section;
INSERT INTO import_log (line) VALUES ('$packages packages');
SELECT setval(pg_get_serial_sequence(t, 'id'), (xpath('/row/max/text()',
		query_to_xml(format('SELECT max(id) FROM %I', t), false, true, '')))[1]::text::bigint)
	FROM unnest(ARRAY['section', 'maintainer', 'package']) t;
REFRESH MATERIALIZED VIEW most_needed;
COMMIT;
VACUUM ANALYZE;
SQL
	unlink glob "$folder/*.copy $folder/index";
	return $packages;
}

# start_traffic lets four clients of the role shop write; what fails, fails: nothing is tried again.
sub start_traffic
{
	my ($server, $packages, $rate) = @_;
	my $serial = our $runs++;
	my $prefix = Cluster::folder() . "/log-$serial";
	my $child = Cluster::spawn("traffic-$serial", "$Cluster::bindir/pgbench", '-n', '-M', 'prepared',
		'-c', 4, '-j', 1, '-T', 3600, '-R', $rate, '--max-tries', 1, '--failures-detailed', '-P', 1,
		'--progress-timestamp', '-l', '--log-prefix', $prefix, '-D', "packages=$packages",
		(map { ('-f', "$here/traffic/$_") } @scripts),
		'-h', '127.0.0.1', '-p', $server->{port}, '-U', 'shop', $db);
	return { %$child, prefix => $prefix };
}

# stop_traffic lets each client end its transaction (pgbench takes SIGALRM for
# the end of its time), and returns what it says of the run, and when each transaction ran.
sub stop_traffic
{
	my ($traffic) = @_;
	my ($status, $text) = Cluster::finish($traffic, 'ALRM');
	my $result = Measure::parse_pgbench($text);
	die "the traffic ended with an error:\n$text\n" if $status;
	$result->{seconds} = [ map { [ /^progress: ([\d.]+) s, ([\d.]+) tps, lat ([\d.]+) ms/ ] }
		  grep { /^progress: [\d.]+ s, [\d.]+ tps, lat [\d.]+ ms/ } split /\n/, $text ];
	$result->{statements} = TwoWay::read_log($traffic->{prefix});
	return $result;
}

# failed_statements counts the errors of the traffic's sessions in the server's log.
sub failed_statements
{
	my ($source) = @_;
	return scalar grep { / client backend pgbench (ERROR|FATAL|PANIC):/ } split /\n/, $source->log;
}

# start_heartbeat measures lag in a process of its own until it is told to stop.
sub start_heartbeat
{
	my ($source, $target) = @_;
	my $file = Cluster::folder() . '/lags';
	unlink $file;
	my $pid = fork // die "fork: $!\n";
	if ($pid == 0)
	{
		my $stop = 0;
		$SIG{TERM} = sub { $stop = 1 };
		$SIG{INT} = 'IGNORE';
		my $ok = eval { heartbeat($source, $target, $file, \$stop); 1 };
		print STDERR "heartbeat: $@" unless $ok;
		POSIX::_exit($ok ? 0 : 1);
	}
	return Cluster::adopt({ pid => $pid, file => $file, name => 'heartbeat' });
}

# heartbeat writes the row ten times a second and polls the target from its commit until it is seen.
sub heartbeat
{
	my ($source, $target, $file, $stop) = @_;
	my ($write, $watch) = map { $_->session($db) } $source, $target;
	open my $out, '>', $file or die "$file: $!\n";
	my $next = time;
	while (!$$stop)
	{
		$next += 0.1;
		sleep($next - time) if $next > time;
		my $n = $write->query('UPDATE heartbeat SET n = n + 1, at = clock_timestamp() RETURNING n');
		my $begin = time;
		Measure::wait_until('the heartbeat on the target', 60,
			sub { $watch->query('SELECT n FROM heartbeat') == $n }, 0.001);
		printf $out "%.3f\n", 1000 * (time - $begin);
	}
	close $out or die "$file: $!\n";
	$_->close foreach $write, $watch;
	return;
}

sub stop_heartbeat
{
	my ($heartbeat) = @_;
	my ($status, $text) = Cluster::finish($heartbeat, 'TERM');
	die "the heartbeat failed\n" if $status;
	return split /\n/, $text;
}

# digest returns for a table the number of rows and a digest of their content, whatever their order.
sub digest
{
	my ($cluster, $table) = @_;
	return split /\|/, $cluster->psql($db, <<SQL);
SET DateStyle = ISO; SET TimeZone = 'UTC'; SET extra_float_digits = 3;
SELECT count(*), coalesce(md5(sum(('x' || left(md5(r::text), 15))::bit(60)::bigint)::text
							  || sum(('x' || right(md5(r::text), 15))::bit(60)::bigint)::text), 'empty')
FROM $table r
SQL
}

1;
