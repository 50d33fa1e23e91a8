# A transaction of many subtransactions costs its backend neither memory nor time
# that grows faster than it does, and a savepoint that was rolled back leaves nothing behind.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;
use Time::HiRes qw(time);

my $pair = MigrateTiers::Pair->new('subtransactions');
$pair->both_sql('CREATE TABLE item (k text PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY, v text)');
$pair->source_sql('CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.unrelated (id int)');
$pair->declare;
$pair->set_option('queue_retention', '1 h');
$pair->advance;
$pair->sync;

# Blocks with a long key each; of those whose number "fails" divides the subtransaction is rolled back.
sub blocks
{
	my ($from, $count, $fails) = @_;
	return "DO \$\$ BEGIN FOR i IN 1 .. $count LOOP BEGIN INSERT INTO item VALUES ('$from ' || repeat(md5(i::text), 3), i);"
	  . " IF i % $fails = 0 THEN RAISE SQLSTATE 'UX001'; END IF; EXCEPTION WHEN SQLSTATE 'UX001' THEN NULL; END; END LOOP; END \$\$;\n";
}

sub queue_pages { return $pair->source_sql('SELECT sum(pg_relation_size(q) / 8192) FROM migrate_tiers.migration, unnest(queue) q'); }

subtest 'memory' => sub {
	my $count = 100_000;
	my $used = q{SELECT total_bytes FROM pg_backend_memory_contexts WHERE name = 'TopMemoryContext';};
	my $pages = queue_pages();
	my ($first, $then, $last) = split /\n/, $pair->source_sql(
		blocks('warm', 200, 7) . "BEGIN;\n$used\n" . blocks('memory', $count, 1_000_000) . "$used\nCOMMIT;\n$used");
	cmp_ok($then - $first, '<', 1024 * 1024, "notes are written while the transaction goes on: $first, $then bytes");
	cmp_ok($last - $first, '<', 1024 * 1024, 'and nothing is left of them');
	# A key takes 100 bytes here, so that a page has 78.
	my $rows = queue_pages() - $pages;
	cmp_ok($rows, '<', $count / 70, "rows are full: $rows pages");
	$pair->sync;
	$pair->equal('equal');
	$pair->source_sql('TRUNCATE item');
};

subtest 'time' => sub {
	my %took;
	for my $count (5_000, 25_000)
	{
		my $began = time;
		$pair->source_sql(blocks("time $count", $count, 10));
		$took{$count} = time - $began;
	}
	cmp_ok($took{25_000}, '<', 12 * $took{5_000}, "five times as much takes not many times as long: $took{5_000}, $took{25_000} s");
	$pair->sync;
	$pair->equal('equal');
	$pair->source_sql('TRUNCATE item');
};

subtest 'levels' => sub {
	$pair->source_sql(join ' ', 'BEGIN;', blocks('kept', 300, 10), 'SAVEPOINT a;', blocks('undone', 2000, 10),
		'ROLLBACK TO a;', blocks('kept too', 2000, 3), 'RELEASE a;', blocks('last', 10, 4), 'COMMIT');
	$pair->sync;
	$pair->equal('around a savepoint that is rolled back');
	$pair->source_sql(join ' ', 'BEGIN;', (map { ("SAVEPOINT s$_;", blocks("deep $_", 120, 9)) } 1 .. 40),
		'ROLLBACK TO s30;', blocks('after', 120, 9), 'RELEASE s20;', 'ROLLBACK TO s10;', blocks('at last', 100, 9), 'COMMIT');
	$pair->sync;
	$pair->equal('in deep levels');
	$pair->source_sql(join ' ', 'BEGIN;', blocks('prepared', 500, 7), q{PREPARE TRANSACTION 'late'; COMMIT PREPARED 'late'});
	$pair->sync;
	$pair->equal('in a prepared transaction');
};

subtest 'a savepoint that was rolled back leaves nothing to write' => sub {
	my @sessions = map { MigrateTiers::session($pair->source, on_error_stop => 0) } 1 .. 2;
	foreach my $session (@sessions)
	{
		$session->query_safe('BEGIN; SAVEPOINT a');
		$session->query_safe(q{INSERT INTO other SELECT i, 'undone' FROM generate_series(1, 5000) i});
		$session->query_safe('ROLLBACK TO a');
	}
	$pair->revert;
	$sessions[0]->query('INSERT INTO elsewhere.unrelated VALUES (1); COMMIT');
	is($sessions[0]->{stderr}, '', 'another table is written when the migration has gone back');
	$sessions[1]->query('COMMIT');
	is($sessions[1]->{stderr}, '', 'and a transaction that did nothing else can be committed');
	is($pair->source_sql('SELECT count(*) FROM elsewhere.unrelated'), '1', 'the row is there');
	$_->quit foreach @sessions;
};

$pair->finish;
done_testing();
