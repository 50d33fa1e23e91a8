# The worker's memory is bounded by distinct pending keys and does not grow with
# the number of ticks.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

plan skip_all => 'reads /proc' unless -r "/proc/$$/status";

my $pair = MigrateTiers::Pair->new('memory');
my $keys = 250_000;
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v int, pad text); CREATE TABLE long_key (id numeric PRIMARY KEY, v int)');
$pair->source_sql("INSERT INTO item SELECT i, 0, 'x' FROM generate_series(1, $keys) i");
$pair->declare;
$pair->advance;
$pair->sync;

# Private memory of the worker in kB, now or at its highest: shared buffers do not count.
sub memory { return (slurp_file('/proc/' . $pair->worker_pid . '/status') =~ /^RssAnon:\s+(\d+)/m)[0]; }

sub ticks
{
	my ($n) = @_;
	for my $i (1 .. $n)
	{
		my $from = $i * 100 % 200_000;
		$pair->source_sql(join "\n", map { my $a = $from + $_; "UPDATE item SET v = v + 1, pad = repeat('p', 500) WHERE id BETWEEN $a AND $a + 20;" } 1 .. 40);
		$pair->sync if $i % 5 == 0;
	}
	return;
}

ticks(15);
# The first large tick, which a busy machine may make of many small ones, leaves what the next ones use again.
$pair->source_sql("SELECT migrate_tiers.pause(); UPDATE item SET v = v + 1 WHERE id <= 5000; SELECT migrate_tiers.resume()");
$pair->sync;
my $first = memory();
ticks(40);
my $then = memory();
ticks(40);
my $last = memory();
cmp_ok($last - $then, '<=', 1024, "ticks leave nothing behind: $first, $then, $last kB");

# Nor in a session that waits: it is woken by each tick.
my $looker = MigrateTiers::session($pair->source, on_error_stop => 0);
my $looker_pid = $looker->query_safe('SELECT pg_backend_pid()');
$looker->{stdin} .= "SELECT migrate_tiers.wait_for_sync(xid || ':' || xid || ':', '10 min') FROM (SELECT pg_current_xact_id()::text::bigint + 1000000000) AS x (xid);\n";
$looker->{run}->pump_nb;
MigrateTiers::wait_until($pair->source, "SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $looker_pid") or fail('the session waits');

sub looks
{
	my ($n) = @_;
	my $before = $pair->target_sql('SELECT ticks FROM migrate_tiers.migration');
	my $ticks = 0;
	while ($ticks < $n)
	{
		$pair->source_sql('DO $$ BEGIN FOR i IN 1 .. 500 LOOP UPDATE item SET v = v + 1 WHERE id = i; COMMIT; END LOOP; END $$');
		$ticks = $pair->target_sql('SELECT ticks FROM migrate_tiers.migration') - $before;
	}
	return (slurp_file("/proc/$looker_pid/status") =~ /^RssAnon:\s+(\d+)/m)[0];
}

my $waiting = looks(100);
my $still = looks(1000);
cmp_ok($still - $waiting, '<=', 256, "looks leave nothing behind: $waiting, $still kB");
$pair->source_sql("SELECT pg_cancel_backend($looker_pid)");
$looker->quit;

# A backlog of many changes of many keys, made while nothing is sent.
$pair->source_sql('SELECT migrate_tiers.pause()');
$pair->source_sql("UPDATE item SET v = v + 1; UPDATE item SET v = v + 1; UPDATE item SET pad = repeat(md5(id::text), 8)");

# Whoever looks at it needs no memory for each change.
my $reader = MigrateTiers::session($pair->source);
my $reader_pid = $reader->query_safe('SELECT pg_backend_pid()');
is($reader->query_safe('SELECT count(*) FROM migrate_tiers.pending'), 3 * $keys, 'all of it is pending');
my ($highest) = slurp_file("/proc/$reader_pid/status") =~ /^VmHWM:\s+(\d+)/m;
cmp_ok($highest, '<', 256 * 1024, "memory of who reads it at its highest: $highest kB");
$reader->quit;

$pair->source_sql('SELECT migrate_tiers.resume()');
my $peak = 0;
my $waiter = MigrateTiers::session($pair->source);
$waiter->{stdin} .= "SELECT migrate_tiers.wait_for_sync(timeout => '120 s');\n\\echo done\n";
MigrateTiers::wait_for(sub {
	$waiter->{run}->pump_nb;
	my $now = eval { memory() } // 0;
	$peak = $now if $now > $peak;
	return $waiter->{stdout} =~ /done/;
}, 120) or fail('the backlog is sent');
$waiter->quit;
my $limit = 64 * 1024 + 32 * $keys / 1024;
cmp_ok($peak, '<', $limit, "memory of the worker at its highest: $peak kB");
cmp_ok($peak, '>', 0, 'and it was seen');
$pair->equal('equal');
ticks(10);
cmp_ok(memory() - $last, '<=', 16384, 'memory is given back: ' . memory() . ' kB');

# While both sides are written, a key that is compared by its type costs no memory each time that it was written.
$pair->source_sql(q(INSERT INTO long_key SELECT (i || repeat('7', 5000))::numeric, 0 FROM generate_series(1, 2) i));
ready($pair, 'dual_write');
$pair->advance('dual_write');
$pair->source_sql('SELECT migrate_tiers.pause()');
$pair->target_sql('UPDATE long_key SET v = 1 WHERE id = (SELECT max(id) FROM long_key)');
$pair->source_sql('DO $$ DECLARE k numeric := min(id) FROM long_key; BEGIN FOR i IN 1 .. 8000 LOOP UPDATE long_key SET v = i WHERE id = k; COMMIT; END LOOP; END $$');
$pair->source_sql('SELECT migrate_tiers.resume()');
$pair->sync_back;
cmp_ok(highest(), '<', 16 * 1024, 'memory of the worker at its highest while both sides are written: ' . highest() . ' kB');
$pair->equal('both sides are equal');

# Rows that both sides have written are read together, but few where they are large, here 4 MB.  It is a new worker that does it.
$pair->source_sql('SELECT migrate_tiers.pause()');
$pair->both_sql(q(UPDATE item SET pad = repeat('abcdefgh', 512 * 1024) WHERE id <= 60));
$pair->source_sql('SELECT migrate_tiers.resume()');
settle($pair);
cmp_ok(highest(), '<', 160 * 1024, '... and with large rows: ' . highest() . ' kB');
$pair->equal('both sides are equal');
$pair->finish;
done_testing();

# highest is what the worker had at its highest, in kB, without what it shares with others.
sub highest
{
	my %has = slurp_file('/proc/' . $pair->worker_pid . '/status') =~ /^(VmHWM|RssShmem|RssFile):\s+(\d+)/mg;
	return $has{VmHWM} - $has{RssShmem} - $has{RssFile};
}
