# Every pair of writes to one row on both sides: whoever commits first, whichever direction ticks
# first, and under each policy the same side wins, both sides end equal, and the loser is kept whole.
#
# A case has keys of its own; all cases go in one round, and there is a round for each policy and
# each direction that ticks first.
use strict;
use warnings;

use JSON::PP;
use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use Test::More;

my $pair = MigrateTiers::Pair->new('pairs');
my %node = (source => $pair->source, target => $pair->target);
my %other = (source => 'target', target => 'source');
my @truncated = map { "cut_$_" } 1 .. 20;
my $json = JSON::PP->new->canonical->allow_nonref;
my $round = 0;

# What each side does to keys that both have (before) or do not have.  Rows are [id, v, u]; %d is the
# first key of the case.  "conflicts" has the source's and the target's row of each, by key: undef for a
# row that is gone.  "rows" is what is there in the end (by who wins), if not the winner's rows of these.
my @cases = (
	{	name => 'insert, insert',
		source => "INSERT INTO item VALUES (%d, 's')",
		target => "INSERT INTO item VALUES (%d, 't')",
		conflicts => { 0 => [ [ 0, 's' ], [ 0, 't' ] ] },
	},
	{	name => 'insert, the same insert',
		source => "INSERT INTO item VALUES (%d, 'both')",
		target => "INSERT INTO item VALUES (%d, 'both')",
		rows => [ [ 0, 'both' ] ],
	},
	{	name => 'update, update',
		before => [ [ 0, 'old' ] ],
		source => "UPDATE item SET v = 's' WHERE id = %d",
		target => "UPDATE item SET v = 't' WHERE id = %d",
		conflicts => { 0 => [ [ 0, 's' ], [ 0, 't' ] ] },
	},
	{	name => 'update, the same update',
		before => [ [ 0, 'old' ] ],
		source => "UPDATE item SET v = 'both' WHERE id = %d",
		target => "UPDATE item SET v = 'both' WHERE id = %d",
		rows => [ [ 0, 'both' ] ],
	},
	{	name => 'update, delete',
		before => [ [ 0, 'old' ] ],
		source => "UPDATE item SET v = 's' WHERE id = %d",
		target => 'DELETE FROM item WHERE id = %d',
		conflicts => { 0 => [ [ 0, 's' ], undef ] },
	},
	{	name => 'delete, update',
		before => [ [ 0, 'old' ] ],
		source => 'DELETE FROM item WHERE id = %d',
		target => "UPDATE item SET v = 't' WHERE id = %d",
		conflicts => { 0 => [ undef, [ 0, 't' ] ] },
	},
	{	name => 'delete, delete',
		before => [ [ 0, 'old' ] ],
		source => 'DELETE FROM item WHERE id = %d',
		target => 'DELETE FROM item WHERE id = %d',
		rows => [],
	},
	{	name => 'delete, delete and insert',
		before => [ [ 0, 'old' ] ],
		source => 'DELETE FROM item WHERE id = %d',
		target => "DELETE FROM item WHERE id = %d; INSERT INTO item VALUES (%d, 't')",
		conflicts => { 0 => [ undef, [ 0, 't' ] ] },
	},
	{	name => 'delete and insert, delete',
		before => [ [ 0, 'old' ] ],
		source => "DELETE FROM item WHERE id = %d; INSERT INTO item VALUES (%d, 's')",
		target => 'DELETE FROM item WHERE id = %d',
		conflicts => { 0 => [ [ 0, 's' ], undef ] },
	},
	{	name => 'insert and delete, insert',
		source => "INSERT INTO item VALUES (%d, 's'); DELETE FROM item WHERE id = %d",
		target => "INSERT INTO item VALUES (%d, 't')",
		conflicts => { 0 => [ undef, [ 0, 't' ] ] },
	},
	{	name => 'key update, update',
		before => [ [ 0, 'old' ] ],
		source => 'UPDATE item SET id = id + 1 WHERE id = %d',
		target => "UPDATE item SET v = 't' WHERE id = %d",
		conflicts => { 0 => [ undef, [ 0, 't' ] ] },
		rows => { source => [ [ 1, 'old' ] ], target => [ [ 0, 't' ], [ 1, 'old' ] ] },
	},
	{	name => 'update, key update',
		before => [ [ 0, 'old' ] ],
		source => "UPDATE item SET v = 's' WHERE id = %d",
		target => 'UPDATE item SET id = id + 1 WHERE id = %d',
		conflicts => { 0 => [ [ 0, 's' ], undef ] },
		rows => { source => [ [ 0, 's' ], [ 1, 'old' ] ], target => [ [ 1, 'old' ] ] },
	},
	{	name => 'key updates to different keys',
		before => [ [ 0, 'old' ] ],
		source => 'UPDATE item SET id = id + 1 WHERE id = %d',
		target => 'UPDATE item SET id = id + 2 WHERE id = %d',
		rows => [ [ 1, 'old' ], [ 2, 'old' ] ],
	},
	{	name => 'key updates to the same key',
		before => [ [ 0, 'old' ] ],
		source => "UPDATE item SET id = id + 1, v = 's' WHERE id = %d",
		target => "UPDATE item SET id = id + 1, v = 't' WHERE id = %d",
		conflicts => { 1 => [ [ 1, 's' ], [ 1, 't' ] ] },
	},
	{	name => 'key update onto a key that the other side inserts',
		before => [ [ 0, 'old' ] ],
		source => 'UPDATE item SET id = id + 1 WHERE id = %d',
		target => "INSERT INTO item VALUES (%d + 1, 't')",
		conflicts => { 1 => [ [ 1, 'old' ], [ 1, 't' ] ] },
	},
	{	name => 'only the source writes',
		before => [ [ 0, 'old' ] ],
		source => "UPDATE item SET v = 's' WHERE id = %d",
		rows => [ [ 0, 's' ] ],
	},
	{	name => 'only the target writes',
		before => [ [ 0, 'old' ] ],
		target => "UPDATE item SET v = 't' WHERE id = %d",
		rows => [ [ 0, 't' ] ],
	},
	# Rows of different keys that cannot stand together: the rows that the loser has changed are kept, and
	# it depends on who sends first which others are named with them.
	{	name => 'inserts of one value of another unique key',
		source => "INSERT INTO item VALUES (%d, 's', %d)",
		target => "INSERT INTO item VALUES (%d + 1, 't', %d)",
		rows => { source => [ [ 0, 's', 0 ] ], target => [ [ 1, 't', 0 ] ] },
		lost => { source => [ [ 0, 's', 0 ] ], target => [ [ 1, 't', 0 ] ] },
	},
	{	name => 'updates to one value of another unique key',
		before => [ [ 0, 'old', 0 ], [ 1, 'old', 1 ] ],
		source => "UPDATE item SET v = 's', u = %d + 2 WHERE id = %d",
		target => "UPDATE item SET v = 't', u = %d + 2 WHERE id = %d + 1",
		rows => { source => [ [ 0, 's', 2 ], [ 1, 'old', 1 ] ], target => [ [ 0, 'old', 0 ], [ 1, 't', 2 ] ] },
		lost => { source => [ [ 0, 's', 2 ] ], target => [ [ 1, 't', 2 ] ] },
	},
	{	name => 'a value of another unique key is handed on, and its row updated',
		before => [ [ 0, 'old', 0 ], [ 1, 'old', 1 ] ],
		source => "UPDATE item SET u = %d + 2 WHERE id = %d; UPDATE item SET v = 's', u = %d WHERE id = %d + 1",
		target => "UPDATE item SET v = 't' WHERE id = %d",
		rows => { source => [ [ 0, 'old', 2 ], [ 1, 's', 0 ] ], target => [ [ 0, 't', 0 ], [ 1, 'old', 1 ] ] },
		lost => { source => [ [ 0, 'old', 2 ], [ 1, 's', 0 ] ], target => [ [ 0, 't', 0 ] ] },
	});

# The same of TRUNCATE, each in a table of its own, with rows 1, 2, 3 ('old').
my @cuts = (
	{	name => 'TRUNCATE, update',
		source => 'TRUNCATE %s',
		target => "UPDATE %s SET v = 't' WHERE id = 1",
		conflicts => { 1 => [ undef, [ 1, 't' ] ] },
	},
	{	name => 'update, TRUNCATE',
		source => "UPDATE %s SET v = 's' WHERE id = 1",
		target => 'TRUNCATE %s',
		conflicts => { 1 => [ [ 1, 's' ], undef ] },
	},
	{	name => 'TRUNCATE, insert',
		source => 'TRUNCATE %s',
		target => "INSERT INTO %s VALUES (9, 't')",
		conflicts => { 9 => [ undef, [ 9, 't' ] ] },
	},
	{	name => 'insert, TRUNCATE',
		source => "INSERT INTO %s VALUES (9, 's')",
		target => 'TRUNCATE %s',
		conflicts => { 9 => [ [ 9, 's' ], undef ] },
	},
	{	name => 'TRUNCATE and insert, update',
		source => "TRUNCATE %s; INSERT INTO %s VALUES (1, 's')",
		target => "UPDATE %s SET v = 't' WHERE id = 1",
		conflicts => { 1 => [ [ 1, 's' ], [ 1, 't' ] ] },
	},
	{	name => 'update, TRUNCATE and insert',
		source => "UPDATE %s SET v = 's' WHERE id = 1",
		target => "TRUNCATE %s; INSERT INTO %s VALUES (1, 't')",
		conflicts => { 1 => [ [ 1, 's' ], [ 1, 't' ] ] },
	},
	{	name => 'TRUNCATE, TRUNCATE',
		source => 'TRUNCATE %s',
		target => 'TRUNCATE %s',
		rows => [],
	},
	{	name => 'TRUNCATE and insert, the same',
		source => "TRUNCATE %s; INSERT INTO %s VALUES (1, 'both')",
		target => "TRUNCATE %s; INSERT INTO %s VALUES (1, 'both')",
		rows => [ [ 1, 'both' ] ],
	},
	{	name => 'TRUNCATE, delete',
		source => 'TRUNCATE %s',
		target => 'DELETE FROM %s WHERE id = 2',
		rows => [],
	},
	{	name => 'delete, TRUNCATE',
		source => 'DELETE FROM %s WHERE id = 2',
		target => 'TRUNCATE %s',
		rows => [],
	});

$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text NOT NULL, u int UNIQUE);'
	  . join('', map { "CREATE TABLE $_ (id int PRIMARY KEY, v text NOT NULL);" } @truncated));
$pair->declare;
$pair->advance;
$pair->sync;
ready($pair, 'dual_write');
$pair->advance('dual_write');

for my $policy (qw(source target last_write reading_side))
{
	run_round($policy, $_, 'source') for qw(source target);
}
ready($pair, 'read_target');
$pair->advance('read_target');
run_round('reading_side', $_, 'target') for qw(source target);
my @stopped = grep { $_->{conflicts} } @cases, @cuts;
stops($stopped[$_], $_ % 2 ? 'source' : 'target', ('target', 'source')[ $_ / 2 % 2 ]) for 0 .. $#stopped;
$pair->source_sql("INSERT INTO item VALUES (-1, 'last')");
ok($pair->wait_until(source => 'SELECT NOT EXISTS (SELECT FROM migrate_tiers.cancelled)', timeout => 60), 'which entries were void is forgotten, once all are sent');
$pair->finish;
done_testing();

# run_round runs every case, in both orders of commits; "first" is the side that sends first.
sub run_round
{
	my ($policy, $first, $reading) = @_;
	my $name = "$policy, " . ($first eq 'source' ? 'forward' : 'reverse') . " first, $reading is read";
	my @all;

	$round++;
	$pair->set_option('conflict_policy', $policy);
	for my $writes_first (qw(source target))
	{
		push @all, map { { %$_, writes_first => $writes_first, table => 'item' } } @cases, @cuts;
	}
	my @tables = @truncated;
	for my $i (0 .. $#all)
	{
		my $case = $all[$i];
		$case->{at} = $round * 10000 + $i * 10;
		next if $case->{source} && $case->{source} =~ /item/ || $case->{target} =~ /item/;
		$case->{table} = shift @tables;
		$case->{at} = 0;
		$case->{before} = [ map { [ $_, 'old' ] } 1 .. 3 ];
		$case->{cut} = 1;
	}
	prepare(@all);
	write_both(@all);
	send_in_turn($first);
	check_round($name, $policy, $reading, @all);
	return;
}

# prepare makes what is there before, on both sides, with nothing left to send.
sub prepare
{
	my @all = @_;
	my $sql = join '', map { "DELETE FROM $_;" } @truncated;

	for my $case (@all)
	{
		$sql .= "INSERT INTO $case->{table} VALUES (" . join(', ', values_of($case, $_)) . ');' for @{ $case->{before} // [] };
	}
	$pair->source_sql("BEGIN; $sql COMMIT");
	$pair->sync;
	$pair->equal("round $round: the same rows to begin with");
	$pair->source_sql('SELECT migrate_tiers.pause()');
	return;
}

# write_both commits each case on both sides, in its order.
sub write_both
{
	my @all = @_;

	for my $writes_first (qw(source target))
	{
		for my $side ($writes_first, $other{$writes_first})
		{
			my $sql = join '', map { 'BEGIN; ' . statement($_, $side) . '; COMMIT;' }
			  grep { $_->{writes_first} eq $writes_first && $_->{$side} } @all;
			$pair->can("${side}_sql")->($pair, $sql);
		}
	}
	return;
}

sub statement
{
	my ($case, $side) = @_;
	my $sql = $case->{$side};
	$sql =~ s/%d/$case->{at}/g;
	$sql =~ s/%s/$case->{table}/g;
	return $sql;
}

# send_in_turn lets one direction tick, then the other: tables of the first sender admit no writes of ours.
sub send_in_turn
{
	my ($first) = @_;
	my $lock = MigrateTiers::session($node{$first});

	$lock->query_safe('BEGIN; LOCK TABLE item, ' . join(', ', @truncated) . ' IN EXCLUSIVE MODE');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	sent($pair, $first);
	$lock->query_safe('COMMIT');
	$lock->quit;
	settle($pair);
	return;
}

sub check_round
{
	my ($name, $policy, $reading, @all) = @_;
	my %found;

	for my $line (split /\n/, $pair->source_pinned(<<'SQL'))
SELECT json_build_object('relation', relation::text, 'id', key ->> 'id', 'winner', winner, 'policy', policy,
                         'source', source_row, 'target', target_row, 'times', source_written IS NOT NULL AND target_written IS NOT NULL)
FROM migrate_tiers.conflicts WHERE resolved IS NULL
SQL
	{
		my $conflict = $json->decode($line);
		push @{ $found{ "$conflict->{relation} $conflict->{id}" } }, $conflict;
	}
	for my $case (@all)
	{
		my $winner =
			$policy eq 'last_write' ? $other{ $case->{writes_first} }
		  : $policy eq 'reading_side' ? $reading
		  : $policy;
		check_case("$name: $case->{name}, $case->{writes_first} writes first", $case, $winner, $policy, \%found);
	}
	is(join(', ', sort keys %found), '', "$name: there is no other conflict");
	$pair->equal("$name: both sides are equal");
	settle_conflicts($pair);
	return;
}

sub check_case
{
	my ($name, $case, $winner, $policy, $found) = @_;
	my $rows = expected_rows($case, $winner);
	my $range = $case->{cut} ? '' : "WHERE id BETWEEN $case->{at} AND $case->{at} + 9";
	my $there = $pair->source_pinned("SELECT to_jsonb(t) FROM $case->{table} AS t $range ORDER BY id");
	my %conflicts = %{ $case->{conflicts} // {} };

	is_rows([ map { $json->decode($_) } split /\n/, $there ], [ map { as_row($case, $_) } @$rows ], "$name: $winner wins");
	for my $key (sort keys %conflicts)
	{
		my $id = $case->{at} + $key;
		my $kept = delete $found->{"$case->{table} $id"} // [];
		my @images = map { $_ && as_row($case, $_) } @{ $conflicts{$key} };
		is(scalar @$kept, 1, "$name: one conflict of key $id");
		next unless @$kept;
		is_rows([ $kept->[0]{source}, $kept->[0]{target} ], \@images, "$name: both rows of key $id are kept");
		is("$kept->[0]{winner} by $kept->[0]{policy}", "$winner by $policy", "$name: the conflict of key $id names the winner");
		ok($kept->[0]{times}, "$name: ... and when both were written");
	}
	check_lost($name, $case, $winner, $found) if $case->{lost};
	return;
}

# check_lost looks for the rows that the loser had changed, where rows of different keys were decided as one.
sub check_lost
{
	my ($name, $case, $winner, $found) = @_;
	my $loser = $other{$winner};

	for my $row (map { as_row($case, $_) } @{ $case->{lost}{$loser} })
	{
		my $kept = $found->{"$case->{table} $row->{id}"} // [];
		is_rows([ map { $_->{$loser} } @$kept ], [$row], "$name: the row of key $row->{id} that lost is kept");
	}
	delete $found->{"$case->{table} " . ($case->{at} + $_)} for 0 .. 9;
	return;
}

# expected_rows gives what is there in the end: as the case says, or the winner's rows of its conflicts.
sub expected_rows
{
	my ($case, $winner) = @_;
	my $rows = $case->{rows};
	my $side = $winner eq 'source' ? 0 : 1;
	my %conflicts = %{ $case->{conflicts} // {} };

	return ref $rows eq 'HASH' ? $rows->{$winner} : $rows if defined $rows;
	my @won = grep { defined } map { $conflicts{$_}[$side] } sort { $a <=> $b } keys %conflicts;
	# A TRUNCATE concerns the other rows all the same.
	return \@won;
}

sub as_row
{
	my ($case, $row) = @_;
	my @values = values_of($case, $row);
	return { id => $values[0] + 0, v => $row->[1], ($case->{cut} ? () : (u => defined $row->[2] ? $values[2] + 0 : undef)) };
}

sub values_of
{
	my ($case, $row) = @_;
	return ($case->{at} + $row->[0], "'$row->[1]'", defined $row->[2] ? $case->{at} + $row->[2] : ());
}

sub is_rows
{
	my ($have, $want, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($json->encode($have), $json->encode($want), $name);
}

# stops: with policy "stop" nothing is sent over a row that both sides changed: status says so, each side keeps what
# it wrote; and when another policy is set, its side wins.
sub stops
{
	my ($case, $policy, $writes_first) = @_;
	my $name = "stop: $case->{name}, $writes_first writes first";
	my $cut = ($case->{source} . $case->{target}) =~ /%s/;

	$round++;
	$case = { %$case, writes_first => $writes_first, table => $cut ? $truncated[0] : 'item', cut => $cut,
		at => $cut ? 0 : $round * 10000, $cut ? (before => [ map { [ $_, 'old' ] } 1 .. 3 ]) : () };
	prepare($case);
	$pair->set_option('conflict_policy', 'stop');
	write_both($case);
	my @written = map { rows_of($_, $case->{table}) } qw(source target);
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ok($pair->wait_until(source => "SELECT stopped ~ 'MT007.*$case->{table}' FROM migrate_tiers.status"), "$name: status says it, and names the table");
	is_rows([ map { rows_of($_, $case->{table}) } qw(source target) ], \@written, "$name: each side keeps what it wrote");
	is($pair->source_sql('SELECT count(*) FROM migrate_tiers.conflicts WHERE resolved IS NULL'), '0', "$name: nothing is decided");
	$pair->set_option('conflict_policy', $policy);
	settle($pair);
	check_round("$name, then $policy", $policy, 'target', $case);
	ok($pair->wait_until(source => q{SELECT stopped IS NULL FROM migrate_tiers.status}), "$name: and nothing is stopped");
	return;
}

sub rows_of
{
	my ($side, $table) = @_;
	my $rows = $pair->can("${side}_sql")->($pair, "SELECT to_jsonb(t) FROM $table AS t ORDER BY id");
	return [ map { $json->decode($_) } split /\n/, $rows ];
}
