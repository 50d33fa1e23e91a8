# Whatever is killed while a push goes on, and whenever: the receiver holds one whole snapshot,
# and the next push succeeds.  One that was cut off goes on at the last range that it brought.
#
# MT_SEED repeats the choices of a run (not its timing), MT_KILLS says how many kills there are.
use strict;
use warnings;

use MigrateTiers;
use List::Util qw(sum0);
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{MT_SEED} // (time ^ $$) % 1_000_000;
my $kills = $ENV{MT_KILLS} // 30;
srand $seed;
diag "MT_SEED=$seed MT_KILLS=$kills";

my ($source, $target) = pair();
my $signature = 'count(*) || \' \' || coalesce(sum(hashint8extended(b.id * 1000003::bigint + b.v, 0)), 0)';
sql($_, <<'SQL') for $source, $target;
CREATE TABLE item (id int PRIMARY KEY);
CREATE TABLE seen (relation text, signature text);
CREATE TABLE board (id int PRIMARY KEY, v bigint);
CREATE TABLE journal (id bigint, v bigint);
CREATE FUNCTION catch_one(victim text, moment text, polls int, kill int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	seen int := 0;
	there boolean;
	caught boolean;
BEGIN
	FOR i IN 1 .. 100000 LOOP
		PERFORM pg_stat_clear_snapshot();
		EXECUTE format('SELECT count(*) > 0, coalesce(bool_or(CASE WHEN %s AND $1 > $2 THEN $3 = 0 OR pg_terminate_backend(pid) END), false)'
			' FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND %s', moment, victim) INTO there, caught USING seen, polls, kill;
		-- Gone, or so quick that it was never seen.
		EXIT WHEN caught OR seen > 0 AND NOT there OR seen = 0 AND clock_timestamp() > now() + interval '5 s';
		seen := seen + there::int;
	END LOOP;
	RETURN caught;
END $$;
SQL
migration($source, 'item');
sql($source, q{SELECT migrate_tiers.tag('board', 'batch'), migrate_tiers.tag('journal', 'batch'), migrate_tiers.tag('seen', 'ignored')});
sql($source, q{SELECT migrate_tiers.batch_policy('journal', mode => 'append', watermark => 'id')});
advance($source, 'syncing');
wait_synced($source);
sql($source, q{INSERT INTO board SELECT i, i FROM generate_series(1, 21000) i; ANALYZE board});
my $generation = 0;
next_generation(0, '');
sql($source, "SELECT migrate_tiers.push_batch('$_')") for qw(board journal);

# Statements of a push, as the target sees them: what is killed, is killed at one of them or at some moment.
my @moments = ('COPY', 'CREATE UNIQUE INDEX', 'DELETE', 'UPDATE', 'INSERT', 'SELECT');
my %done;
my $tries = 0;
while ((my $hits = sum0(values %done)) < $kills && $tries++ < 4 * $kills)
{
	my $table = rand() < 0.8 ? 'board' : 'journal';
	my $mode = $table eq 'journal' ? 'append' : rand() < 0.5 ? 'diff' : 'replace';
	next_generation(rand() < 0.5, $table eq 'board' ? "SELECT migrate_tiers.batch_policy('board', mode => '$mode');" : '');
	my $what = $hits % 10 == 8 ? 'target server' : $hits % 10 == 9 ? 'source server' : ('worker', 'session', 'target', 'target')[ int rand 4 ];
	my $killed = kill_during($table, $what);
	$done{$what}++ if $killed;
	ok(wait_for(sub { known($table) }, 60), "$mode, $what " . ($killed ? 'killed' : 'missed') . ": the receiver holds one whole snapshot of $table")
	  or last;
	# Every other time the next push is the one that is killed.
	next if $tries % 2;
	ok(wait_for(sub { my ($status) = $source->psql('shop', "SELECT migrate_tiers.push_batch('$table')"); return $status == 0 }, 60), 'and the next push succeeds')
	  or last;
	is(image($target, $table), image($source, $table), 'which brings all');
}
cmp_ok(sum0(values %done), '>=', $kills, 'kills: ' . join ', ', map { "$_ $done{$_}" } sort keys %done);
sql($source, "SELECT migrate_tiers.push_batch('$_')") for qw(board journal);
cmp_ok(sql($source, q{SELECT count(*) FROM migrate_tiers.batches WHERE error IS NOT NULL}), '>=', $kills / 2, 'pushes were cut off');
is(sql($source, q{SELECT count(*) FROM migrate_tiers.batches WHERE finished IS NULL}), '0', 'each is noted to its end');
is(sql($target, q{SELECT count(*) FROM pg_class WHERE relname LIKE 'stage%'}), '0', 'no stage is left');

# A push that is cut off when some ranges have come goes on with the others.
sql($source, q{INSERT INTO board SELECT i, 0 FROM generate_series(21001, 200000) i ON CONFLICT DO NOTHING; ANALYZE board});
for my $mode (qw(diff replace))
{
	sql($source, q{SELECT migrate_tiers.batch_policy('board', mode => 'diff')});
	sql($source, q{SELECT migrate_tiers.push_batch('board')});
	sql($source, qq{SELECT migrate_tiers.batch_policy('board', mode => '$mode')});
	# By a sample of pages a push in mode replace finds most rows alike: of few changed ones it cannot find many.
	sql($source, 'UPDATE board SET v = v + 1 WHERE ' . ($mode eq 'diff' ? 'true' : 'id % 10 = 0'));
	# Slow enough to be met in the middle.
	sql($source, q{SELECT migrate_tiers.set_option('copy_rate', '1000000')});
	my $begun = sql($target, 'SELECT clock_timestamp()');
	my $push = start_push('board');
	# Other backends of ours come and go meanwhile: it is over when it was cut off, not when one of them is gone.
	my $cut = q{SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_stat_activity WHERE } . new_backend($begun)
	  . q{ AND EXISTS (SELECT FROM pg_class WHERE relkind = 'r' AND relname LIKE 'stage%' AND pg_relation_size(oid) > 3000000)};
	ok(wait_for(sub { sql($target, $cut) eq 't' }, 60), "$mode: it is cut off when some ranges are there");
	waitpid $push, 0;
	isnt($?, 0, "$mode: who asked for it is told");
	# Ranges are staged whole, each in a transaction of its own.
	my $staged = sql($target, 'SELECT count(*) FROM migrate_tiers.' . sql($target, q{SELECT quote_ident(relname) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'stage%'}));
	cmp_ok($staged, '>=', 10000, "$mode: some are");
	sql($source, q{SELECT migrate_tiers.set_option('copy_rate', '0')});
	sql($source, q{SELECT migrate_tiers.push_batch('board')});
	# A row is of 22 bytes; each range has a few more.
	my $others = (200000 - $staged) * 22;
	cmp_ok(sql($source, q{SELECT bytes FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1}), '<', $others + 2000, "$mode: the next push sends the others, and no more");
	is(image($target, 'board'), image($source, 'board'), "$mode: and all is there");
}
sql($source, q{SELECT migrate_tiers.push_batch('journal')});
tables_equal($source, $target, $_) for qw(board journal);

finish({ crashes => 1 }, $source, $target);
done_testing();

# Another state of the source: all rows change or few do, one goes, some come.
sub next_generation
{
	my ($all, $policy) = @_;
	$generation++;
	my $which = $all ? 'true' : "id % 500 = $generation";
	sql($source, "BEGIN; $policy UPDATE board SET v = v + 1 WHERE $which; DELETE FROM board WHERE id = $generation * 11; INSERT INTO board VALUES (30000 + $generation, 0);"
		  . "INSERT INTO journal SELECT $generation * 1000 + i, i FROM generate_series(1, 900) i;"
		  . "INSERT INTO seen SELECT 'board', $signature FROM board AS b; INSERT INTO seen SELECT 'journal', $signature FROM journal AS b; COMMIT");
	return;
}

# known(table): the receiver has it as the source had it once.
sub known
{
	my ($table) = @_;
	my ($status, $out) = $target->psql('shop', "SELECT $signature FROM $table AS b");
	return $status == 0 && sql($source, "SELECT count(*) > 0 FROM seen WHERE relation = '$table' AND signature = '$out'") eq 't';
}

sub image { return sql($_[0], "SELECT $signature FROM $_[1] AS b"); }

# kill_during(table, what): pushes the table and kills something meanwhile; true if it was there to be killed.
sub kill_during
{
	my ($table, $what) = @_;
	my $begun = sql($target, 'SELECT clock_timestamp()');
	my $push = start_push($table);
	my $polls = int rand 100;
	my $killed;
	if ($what =~ /server/)
	{
		my $node = $what =~ /target/ ? $target : $source;
		$killed = catch_one($source, q{backend_type = 'migrate_tiers batch'}, 'true', $polls, 0);
		$node->stop('immediate');
		$node->start;
	}
	elsif ($what eq 'target')
	{
		my $moment = $moments[ rand @moments ];
		$killed = catch_one($target, new_backend($begun), rand() < 0.5 ? 'true' : "query LIKE '$moment%'", $polls % 10, 1);
	}
	elsif ($what eq 'worker') { $killed = catch_one($source, q{backend_type = 'migrate_tiers batch'}, 'true', $polls, 1) }
	else { $killed = catch_one($source, q{query ~ '^SELECT migrate_tiers.push_batch'}, 'true', $polls, 1) }
	waitpid $push, 0;
	return $killed;
}

sub start_push
{
	my ($table) = @_;
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	open STDOUT, '>', '/dev/null';
	open STDERR, '>', '/dev/null';
	exec 'psql', '-Xq', '-h', $source->host, '-p', $source->port, 'shop', '-c', "SELECT migrate_tiers.push_batch('$table')";
}

# The target's backend of the push: it began after the push did.
sub new_backend { return qq{application_name = 'migrate_tiers' AND backend_start > '$_[0]'}; }

# catch_one looks again and again, without a pause, until the victim was there so often and the moment has come; then ends it.
# False when the victim was gone before.
sub catch_one
{
	my ($node, $victim, $moment, $polls, $kill) = @_;
	return sql($node, "SELECT catch_one(\$a\$$victim\$a\$, \$a\$$moment\$a\$, $polls, $kill)") eq 't';
}
