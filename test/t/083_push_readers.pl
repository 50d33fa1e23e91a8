# Readers of the receiver see whole snapshots only, and wait for nobody, while pushes go on.
#
# MT_PUSHES says how many pushes there are in each direction.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my $pushes = $ENV{MT_PUSHES} // 50;
my ($source, $target) = pair();
my $signature = 'count(*) || \' \' || sum(hashint8extended(b.id * 1000003::bigint + b.v, 0))';
sql($_, 'CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE seen (signature text); CREATE TABLE board (id int PRIMARY KEY, v bigint)') for $source, $target;
migration($source, 'item');
sql($source, q{SELECT migrate_tiers.tag('board', 'batch'), migrate_tiers.tag('seen', 'ignored')});
advance($source, 'syncing');
sql($source, q{INSERT INTO board SELECT i, i FROM generate_series(1, 21000) i; ANALYZE board});
remember($source);
sql($source, q{SELECT migrate_tiers.push_batch('board')});

watch($source, $target, $pushes, 'forward');
sql($source, q{UPDATE migrate_tiers.migration SET phase = 'read_target'});
watch($target, $source, int($pushes / 5), 'reverse');
is(sql($source, q{SELECT count(*) FROM migrate_tiers.batches WHERE error IS NOT NULL}), '0', 'no push failed');

sql($source, q{UPDATE migrate_tiers.migration SET phase = 'syncing'});
finish($source, $target);
done_testing();

# watch(sender, receiver, number of pushes, direction): they go on under the eyes of two readers.
sub watch
{
	my ($sender, $receiver, $count, $direction) = @_;
	remember($sender);
	my @readers = map { start_reader($receiver, $_) } ('READ COMMITTED', 'REPEATABLE READ');
	for my $n (1 .. $count)
	{
		next_generation($sender, $n);
		sql($source, q{SELECT migrate_tiers.batch_policy('board', mode => '} . ($n % 3 ? 'diff' : 'replace') . q{'); SELECT migrate_tiers.push_batch('board')});
	}
	my %known = map { $_ => 1 } split /\n/, sql($sender, 'SELECT signature FROM seen');
	my @lines = map { stop_reader($_) } @readers;
	my %different = map { $_ => 1 } map { (split / \| /)[1] } @lines;
	cmp_ok(scalar @lines, '>=', $count, "$direction: readers looked " . @lines . ' times');
	cmp_ok(scalar keys %different, '>', $count / 5, "$direction: and saw " . keys(%different) . ' snapshots');
	is(join(' ; ', grep { !$known{$_} } keys %different), '', "$direction: each of them one that the sender had");
	is(join(' ; ', grep { my ($level, $one, $two) = split / \| /; $level eq 'repeatable read' && $one ne $two } @lines), '', "$direction: the same in all of a transaction");
	is(sql($receiver, q{SELECT count(*) FROM waits}), '0', "$direction: no reader waited for a lock");
	tables_equal($source, $target, 'board', "$direction: all has arrived");
	return;
}

# Another state of the sender: all rows change, or some; some come, some go.
sub next_generation
{
	my ($node, $n) = @_;
	my $which = $n % 2 ? 'true' : 'id % 1000 = ' . $n % 1000;
	sql($node, "UPDATE board SET v = v + 1 WHERE $which; DELETE FROM board WHERE id = $n * 7; INSERT INTO board VALUES (100000 + $n, $n) ON CONFLICT (id) DO UPDATE SET v = excluded.v + 1");
	remember($node);
	return;
}

sub remember { return sql($_[0], "INSERT INTO seen SELECT $signature FROM board AS b"); }

# A session that looks twice in each of its transactions; whether it waited, the server itself is asked.
sub start_reader
{
	my ($node, $level) = @_;
	my $application = $level =~ s/ /_/r;
	sql($node, 'CREATE TABLE IF NOT EXISTS waits (query text)');
	my $file = $node->basedir . "/$application.out";
	open my $psql, '|-', 'psql', '-XqAt', '-o', $file, '-h', $node->host, '-p', $node->port, 'shop' or die "psql: $!";
	$psql->autoflush(1);
	print $psql <<"SQL";
SET default_transaction_isolation = '$level';
SET lock_timeout = '1ms';
CREATE TEMP TABLE looked (level text, one text, two text);
CREATE PROCEDURE pg_temp.look() LANGUAGE plpgsql AS \$\$
DECLARE one text; two text; level text := current_setting('transaction_isolation');
BEGIN
	WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 83 AND granted) LOOP
		BEGIN
			SELECT $signature INTO one FROM board AS b;
			SELECT $signature INTO two FROM board AS b;
			INSERT INTO looked VALUES (level, one, two);
		EXCEPTION WHEN lock_not_available THEN
			INSERT INTO waits VALUES ('$level');
		END;
		COMMIT;
		PERFORM pg_sleep(0.05);
		COMMIT;
	END LOOP;
END \$\$;
CALL pg_temp.look();
SELECT level || ' | ' || one || ' | ' || two FROM looked;
\\q
SQL
	return { psql => $psql, file => $file, node => $node };
}

# stop_reader returns what the session saw.
sub stop_reader
{
	my ($reader) = @_;
	my $stop = session($reader->{node});
	$stop->query_safe('SELECT pg_advisory_lock(83)');
	close $reader->{psql} or die "reader: $?";
	$stop->quit;
	return split /\n/, PostgreSQL::Test::Utils::slurp_file($reader->{file});
}
