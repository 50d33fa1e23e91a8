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
$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE many (id int PRIMARY KEY);
	CREATE TABLE tenant (id text PRIMARY KEY, seen int);
	CREATE TABLE child (id int PRIMARY KEY, tenant text REFERENCES tenant)');
$pair->source_sql("INSERT INTO item VALUES (1, 'old'); INSERT INTO tenant SELECT i, 0 FROM generate_series(1, 40) i");
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

# Rows that others refer to: one who inserts such a row holds the key of the parent, and neither side waits for it where
# only the rest of the parent changes; one row by itself, many in a statement, and a tick that is sent by COPY.
my $ids = 0;
$pair->target_sql('CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
	CREATE TRIGGER same BEFORE UPDATE ON tenant FOR EACH ROW EXECUTE FUNCTION same()');
for my $small (1, 0)
{
	$pair->small_tick(1) unless $small;
	for my $here ('source', 'target')
	{
		my $there = $here eq 'source' ? 'target' : 'source';
		my $child = MigrateTiers::session($pair->$there);
		$ids++;
		$child->query_safe("BEGIN; INSERT INTO child VALUES ($ids, '1')");
		my $how = ($small ? 'small' : 'large') . " ticks of the $here";
		my $write = "${here}_sql";
		$pair->$write("UPDATE tenant SET seen = $ids WHERE id = '1'") if $small;
		ok($pair->wait_until($there, "SELECT seen = $ids FROM tenant WHERE id = '1'"), "$how pass a row that is referred to") if $small;
		$pair->$write("UPDATE tenant SET seen = 100 + $ids");
		ok($pair->wait_until($there, "SELECT count(*) = 40 FROM tenant WHERE seen = 100 + $ids"), "$how pass one among many");
		$child->query_safe('COMMIT');
		$child->quit;
		settle($pair);
	}
}
$pair->equal('both sides are equal after that');
$pair->finish;
done_testing();
