# One row that 100,000 transactions of one side have changed while nothing was sent, and one of the other side. While
# that is told apart the row is locked: an application that changes it waits for a moment, not for as long as each of the
# transactions is compared with all others.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use Test::More;

my $many = 100_000;
my $pair = MigrateTiers::Pair->new('hot', source_conf => 'synchronous_commit = off', target_conf => 'synchronous_commit = off');
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE many (id int PRIMARY KEY)');
$pair->source_sql("INSERT INTO item VALUES (1, 'old')");
$pair->declare;
$pair->advance;
$pair->sync;
ready($pair, 'dual_write');
$pair->advance('dual_write');
settle($pair);

$pair->source_sql('SELECT migrate_tiers.pause()');
$pair->source_sql("DO \$\$ BEGIN FOR i IN 1 .. $many LOOP UPDATE item SET v = 's' || i; COMMIT; END LOOP; END \$\$");
$pair->target_sql("UPDATE item SET v = 'target'");
$pair->source_sql('SELECT migrate_tiers.resume()');

# The tick from the target meets all of it; it is over when the conflict is there.
my $refused = '';
MigrateTiers::wait_for(
	sub {
		my ($went, undef, $error) = $pair->source_try(q{SET statement_timeout = '2 s'; UPDATE item SET v = v || '+'});
		$refused ||= $error unless $went;
		return $refused || $pair->source_sql('SELECT count(*) > 0 FROM migrate_tiers.conflicts') eq 't';
	}, 60) or fail('the conflict is found');
is($refused, '', 'no statement of an application waited for long');
settle($pair);
$pair->equal('both sides are equal');
settle_conflicts($pair);
$pair->finish;
done_testing();
