# Verification while both sides are written: a row that is on its way is no
# difference, however often it is verified; a row that is never at rest settles
# too, or is unknown with the reason, and never equal unseen; and it holds up no other.
#
# MT_VERIFY_SECONDS, MT_VERIFY_RUNS and MT_VERIFY_RATE (transactions a second, each side) make it longer.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use MigrateTiers::Traffic;
use MigrateTiers::Writers;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{MT_VERIFY_SECONDS} // 15;
my $runs = $ENV{MT_VERIFY_RUNS} // 20;
my $rate = $ENV{MT_VERIFY_RATE} // 150;

my $pair = MigrateTiers::Pair->new('two_way', source_conf => "max_worker_processes = 16\n");
my $traffic = MigrateTiers::Traffic->new($pair, clients => 2, rate => $rate, shared => 0.02);
$traffic->tables;
$pair->both_sql(<<'SQL');
CREATE TABLE hot (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
CREATE TABLE wide (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), v text);
SQL
$pair->source_sql(q{INSERT INTO hot (id) VALUES (1), (2), (3); INSERT INTO wide (id, v) SELECT i, md5(i::text) FROM generate_series(1, 30000) i});
$pair->declare;
$pair->advance;
$pair->sync;
ready($pair, 'dual_write');
$pair->advance('dual_write');

$traffic->start('source', 'target');
# One row that only the source changes, all the time, one that only the target does, and a bulk now and then.
writer($pair, 'source', "UPDATE hot SET n = n + 1 WHERE id = 1;\n\\sleep 1 ms");
writer($pair, 'target', "UPDATE hot SET n = n + 1 WHERE id = 2;\n\\sleep 1 ms");
writer($pair, 'target', "\\set k random(1, 29)\nUPDATE wide SET v = v || '.' WHERE id BETWEEN :k * 1000 AND :k * 1000 + 800 AND id % 2 = 0;\n\\sleep 700 ms");
writer($pair, 'source', "\\set k random(1, 29)\nUPDATE wide SET v = v || ',' WHERE id BETWEEN :k * 1000 AND :k * 1000 + 800 AND id % 2 = 1;\n\\sleep 700 ms");

my (%verdicts, @wrong);
my $end = time + $seconds;
my $count = 0;
my $looked_again = 0;
# That a row is on its way at the very point is likely, not certain: it is waited for.
while ($count < $runs || time < $end || ($looked_again == 0 && time < $end + 120))
{
	$count++;
	for (split /\n/, $pair->source_sql(q{SELECT concat_ws('|', relation, verdict, detail) FROM migrate_tiers.verify()}))
	{
		my ($table, $verdict, $detail) = split /\|/, $_, 3;
		$verdicts{$verdict}++;
		$looked_again++ if ($detail // '') =~ /common points/;
		push @wrong, "run $count: $_" if $verdict ne 'equal';
	}
}
is(join("\n", @wrong), '', "every table is equal in each of $count verifications under traffic on both sides");
is($pair->source_sql('SELECT count(*) FROM migrate_tiers.discrepancies'), '0', 'and no row was taken for a difference');
cmp_ok($looked_again, '>', 0, "rows under way were looked at again ($looked_again times)");
is($pair->source_sql('SELECT count(*) FROM migrate_tiers.suspect'), '0', 'until none was left');
is(end_writers(), 0, 'no writer had ended');

# A row that both sides change all the time: nothing may be made up about it.
writer($pair, $_, "UPDATE hot SET n = n + 1 WHERE id = 3;\n\\sleep 5 ms") for qw(source target);
like($pair->source_sql(q{SELECT concat_ws('|', verdict, detail) FROM migrate_tiers.verify('hot')}),
	qr/^(equal|unknown\|1 rows differ, and changes of theirs were on the way from the target at each common point: \{3\})/, 'a row that both sides always change is equal at some point, or unknown');
# Such a row must not hold up the others: each side is told what the other has written, while it goes on.
for my $size ('small', 'large')
{
	$pair->small_tick(1) if $size eq 'large';
	$pair->source_sql(q{SELECT migrate_tiers.wait_for_sync(timeout => '60 s')}) for 1 .. 10;
	ok($pair->wait_until('source', q{SELECT reverse_lag < '1 s' FROM migrate_tiers.status}, timeout => 60), "it holds up neither way, in $size ticks");
}
end_writers();
$traffic->stop;
$traffic->survived('no client ended');
cmp_ok($traffic->done($_), '>', $seconds * $rate / 4, "the $_ was worked on") for qw(source target);
settle($pair);
$pair->equal('both sides are equal');
is($pair->source_sql(q{SELECT string_agg(DISTINCT verdict, ',') FROM migrate_tiers.verify()}), 'equal', 'and so says the last verification');
$pair->finish;
done_testing();
