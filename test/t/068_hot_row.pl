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
	CREATE TABLE account (id numeric PRIMARY KEY, name text UNIQUE, seen int);
	CREATE TABLE child (id int PRIMARY KEY, tenant text REFERENCES tenant, account numeric REFERENCES account)');
$pair->source_sql("INSERT INTO item VALUES (1, 'old'); INSERT INTO tenant SELECT i, 0 FROM generate_series(1, 40) i;
	INSERT INTO account SELECT i, i, 0 FROM generate_series(1, 40) i");
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
		$child->query_safe("BEGIN; INSERT INTO child VALUES ($ids, '1', 1)");
		my $how = ($small ? 'small' : 'large') . " ticks of the $here";
		my $write = "${here}_sql";
		for my $parent ('tenant', 'account')
		{
			$pair->$write("UPDATE $parent SET seen = $ids WHERE id = '1'") if $small;
			ok($pair->wait_until($there, "SELECT seen = $ids FROM $parent WHERE id = '1'"), "$how pass a row of $parent that is referred to") if $small;
			$pair->$write("UPDATE $parent SET seen = 100 + $ids");
			ok($pair->wait_until($there, "SELECT min(seen) = 100 + $ids FROM $parent"), "$how pass one among many of $parent");
		}
		$child->query_safe('COMMIT');
		$child->quit;
		settle($pair);
		# Of other rows what is unique changes, too, moves from one to the other, and a key its spelling; rows are new.
		$pair->$write("UPDATE account SET name = 'new $ids' WHERE id = 2; UPDATE account SET id = round(3, $ids) WHERE id = 3;
			INSERT INTO account SELECT i, i, 0 FROM generate_series(1000 * $ids, 1000 * $ids + 20) i; DELETE FROM account WHERE id = 3 + $ids;
			UPDATE account SET name = 'between' WHERE name = '20'; UPDATE account SET name = 20 WHERE name = '21'; UPDATE account SET name = 21 WHERE name = 'between'");
		settle($pair);
		$pair->equal("both sides are equal after $how");
	}
}
$pair->finish;
done_testing();
