# A person takes the row that lost after all: whatever either side had done to it (changed, deleted, moved to
# another key), whichever side had won, and where the fence of the source is closed. Both sides end equal.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use Test::More;

my %other = (source => 'target', target => 'source');

# What each side does to key %d, which was there before ("old") but for the insert; and what either has then.
my @cases = (
	{ name => 'update, update', source => "UPDATE item SET v = 's' WHERE id = %d", target => "UPDATE item SET v = 't' WHERE id = %d", has => { source => 's', target => 't' } },
	{ name => 'update, delete', source => "UPDATE item SET v = 's' WHERE id = %d", target => 'DELETE FROM item WHERE id = %d', has => { source => 's', target => '' } },
	{ name => 'delete, update', source => 'DELETE FROM item WHERE id = %d', target => "UPDATE item SET v = 't' WHERE id = %d", has => { source => '', target => 't' } },
	{ name => 'insert, insert', new => 1, source => "INSERT INTO item VALUES (%d, 's')", target => "INSERT INTO item VALUES (%d, 't')", has => { source => 's', target => 't' } },
	{ name => 'key update, update', source => 'UPDATE item SET id = id + 5 WHERE id = %d', target => "UPDATE item SET v = 't' WHERE id = %d", has => { source => '', target => 't' } },
	{ name => 'update, key update', source => "UPDATE item SET v = 's' WHERE id = %d", target => 'UPDATE item SET id = id + 5 WHERE id = %d', has => { source => 's', target => '' } });

my $pair = MigrateTiers::Pair->new('resolve');
my $round = 0;

$pair->both_sql('CREATE EXTENSION hstore');
$pair->both_sql(q{CREATE TABLE item (id int PRIMARY KEY, v text, u int UNIQUE, j json, h hstore DEFAULT '"a b"=>"1", c=>NULL', a int[] DEFAULT '[2:3]={1,NULL}', f float8 DEFAULT '-0', m money DEFAULT 1234.5, r tstzrange DEFAULT '[2020-02-01 00:00+00,)', b jsonb DEFAULT '"x"', d date DEFAULT 'infinity', n numeric DEFAULT 'NaN', c char(4) DEFAULT 'q', bits bit(3) DEFAULT '101', nothing hstore, w int GENERATED ALWAYS AS (id * 2) STORED); CREATE ROLE app LOGIN; GRANT ALL ON item TO app; CREATE TABLE tagged (tags text[], price float8, v text, PRIMARY KEY (tags, price)); CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)});
$pair->both_sql(<<'SQL');
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE FUNCTION shout(mood) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $$!$$ || upper($1::varchar)';
CREATE FUNCTION guess(text) RETURNS mood IMMUTABLE LANGUAGE sql AS 'SELECT mood $$ok$$';
CREATE FUNCTION no_json(mood) RETURNS json IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no json$$; END';
CREATE CAST (mood AS text) WITH FUNCTION shout(mood);
CREATE CAST (text AS mood) WITH FUNCTION guess(text);
CREATE CAST (mood AS json) WITH FUNCTION no_json(mood);
CREATE TYPE pair AS (a mood, b text);
CREATE FUNCTION shout(pair) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $$!$$';
CREATE CAST (pair AS text) WITH FUNCTION shout(pair);
CREATE TABLE hostile (k mood PRIMARY KEY, i int, j json, m mood, p pair, a mood[], b jsonb, e jsonb);
SQL
$pair->declare;
$pair->advance;
$pair->sync;
ready($pair, 'dual_write');
$pair->advance('dual_write');
for my $winner (qw(source target))
{
	for my $chosen (qw(source target)) { subtest "$winner wins, the row of the $chosen is taken" => sub { settle_all($winner, $chosen); }; }
}
is($pair->$_('SELECT count(DISTINCT ROW(h, a, f, m, r, b, d, n, c, bits, nothing)::text) FROM item'), '1', "the other values are what they were: $_")
  for qw(source_sql target_sql);
subtest 'a key of types that jsonb does not hold' => \&other_keys;
for my $winner (qw(source target))
{
	for my $chosen (qw(source target)) { subtest "values that jsonb refuses: $winner wins, the row of the $chosen is taken" => sub { hostile_values($winner, $chosen); }; }
}
subtest 'what cannot be' => \&refusals;
subtest 'a way back waits until those found on the target are carried' => \&carried_first;
subtest 'after a new start' => \&begun_anew;
subtest 'a partition that was emptied, and another one' => \&emptied_partitions;
subtest 'a table that was emptied, unsent at a way back' => \&emptied_unsent;
ready($pair, $_), $pair->advance($_) for 'read_target';
subtest 'while the fence of the source is closed' => \&behind_the_fence;
subtest 'and nothing of it is left behind at the end' => \&at_the_end;
$pair->finish;
done_testing();

# collide has both sides do what the cases say; keys of a round begin at its number times 1000.
sub collide
{
	my ($winner) = @_;
	my $hold;

	$round++;
	$pair->set_option('conflict_policy', $winner);
	my @all = map { { %{ $cases[$_] }, id => $round * 1000 + $_ * 10 } } 0 .. $#cases;
	$pair->source_sql(join '', map { "INSERT INTO item (id, v, j) VALUES ($_->{id}, 'old', '{\"a\":1, \"a\":2}');" } grep { !$_->{new} } @all);
	settle($pair);
	$pair->source_sql('SELECT migrate_tiers.pause()');
	for my $side (qw(source target))
	{
		$pair->can("${side}_sql")->($pair, join '', map { my $do = $_->{$side}; $do =~ s/%d/$_->{id}/g; "$do;" } @all);
	}
	# In every other round the target cannot send first: the conflicts are found there, and carried.
	if ($round % 2)
	{
		$hold = MigrateTiers::session($pair->source);
		$hold->query_safe('BEGIN; LOCK TABLE item IN EXCLUSIVE MODE');
	}
	$pair->source_sql('SELECT migrate_tiers.resume()');
	sent($pair, 'source') if $hold;
	$hold->quit if $hold;
	settle($pair);
	return @all;
}

sub conflict_of { my ($id) = @_; return $pair->source_sql("SELECT id FROM migrate_tiers.conflicts WHERE resolved IS NULL AND key ->> 'id' = '$id'"); }
sub value { my ($side, $id) = @_; return $pair->can("${side}_sql")->($pair, "SELECT v FROM item WHERE id = $id"); }

sub settle_all
{
	my ($winner, $chosen) = @_;
	my @all = collide($winner);

	for my $case (@all)
	{
		is(value('source', $case->{id}), $case->{has}{$winner}, "$case->{name}: the $winner has won");
		$pair->source_sql('SET array_nulls = off; SELECT migrate_tiers.resolve_conflict(' . conflict_of($case->{id}) . ", '$chosen')");
	}
	settle($pair);
	for my $case (@all)
	{
		is(value($_, $case->{id}), $case->{has}{$chosen}, "$case->{name}: the $_ has the row of the $chosen") for qw(source target);
	}
	$pair->equal('both sides are equal');
	is($pair->source_sql("SELECT count(*) FROM migrate_tiers.conflicts WHERE resolved IS NULL"), '0', 'none is open, and settling made none');
	is($pair->source_sql("SELECT string_agg(DISTINCT resolution, ',') FROM (SELECT * FROM migrate_tiers.conflicts ORDER BY id DESC LIMIT 6) c"), $chosen, 'it is kept who was chosen');
	return;
}

sub refused
{
	my ($sql, $state, $pattern, $name) = @_;
	my ($went, $have, $error) = $pair->source_try($sql);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!$went && $have eq $state && $error =~ $pattern, $name) or diag("$have: $error");
	return;
}

sub refusals
{
	my @all = collide('source');
	my $id = conflict_of($all[0]{id});

	refused("SELECT migrate_tiers.resolve_conflict($id, 'both')", '22023', qr/HINT:.*source and target/s, 'no such side');
	refused("SELECT migrate_tiers.resolve_conflict(123456, 'source')", '42704', qr/HINT:.*migrate_tiers\.conflicts/s, 'no such conflict');
	refused("SET ROLE app; SELECT migrate_tiers.resolve_conflict($id, 'source')", '42501', qr/HINT/, 'a role without the right');
	$pair->source_sql("SELECT migrate_tiers.resolve_conflict($id, 'target')");
	refused("SELECT migrate_tiers.resolve_conflict($id, 'source')", '55000', qr/HINT:.*UPDATE/s, 'settled before');
	settle_conflicts($pair);

	# The row that lost by another unique key still cannot stand beside the one that won.
	$round++;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->source_sql("INSERT INTO item VALUES ($round, 's', $round)");
	$pair->target_sql("INSERT INTO item VALUES ($round + 500, 't', $round)");
	$pair->source_sql('SELECT migrate_tiers.resume()');
	settle($pair);
	my $lost = conflict_of($round + 500);
	refused("SELECT migrate_tiers.resolve_conflict($lost, 'target')", '23505', qr/item_u_key/, 'a row that another one excludes');
	is($pair->source_sql("SELECT resolved IS NULL FROM migrate_tiers.conflicts WHERE id = $lost"), 't', '... and its conflict stays open');
	$pair->source_sql("DELETE FROM item WHERE id = $round; SELECT migrate_tiers.resolve_conflict($lost, 'target')");
	settle($pair);
	is(value($_, $round + 500), 't', "... until that one is gone: the $_ has it") for qw(source target);
	settle_conflicts($pair);
	$pair->equal('both sides are equal');
	return;
}

sub behind_the_fence
{
	my @all = collide('source');

	collide('source');
	ready_but_conflicts('target_only');
	$pair->advance('target_only');
	for my $case (@all)
	{
		$pair->source_sql('SELECT migrate_tiers.resolve_conflict(' . conflict_of($case->{id}) . ", 'target')");
	}
	settle($pair);
	for my $case (@all)
	{
		is(value($_, $case->{id}), $case->{has}{target}, "$case->{name}: the $_ has the row of the target") for qw(source target);
	}
	$pair->equal('both sides are equal');
	refused("INSERT INTO item VALUES (1, 'x')", 'MT005', qr/target_only/, 'and the fence is closed as before');
	return;
}

# One conflict is left for the last moment: what it sends must arrive before sync ends for good.
sub at_the_end
{
	my $id = $round * 1000;

	$pair->source_sql('SELECT migrate_tiers.pause(); SELECT migrate_tiers.resolve_conflict(' . conflict_of($id) . ", 'target')");
	settle_conflicts($pair);
	$pair->source_sql(q{SELECT migrate_tiers.confirm('finished', 'tested')});
	refused(q{CALL migrate_tiers.advance('finished')}, 'MT001', qr/Gate running: sending is paused.*Gate forward_drained: 1 changes/s, 'what is not sent bars the end');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ready_but_conflicts('finished');
	$pair->advance('finished');
	is(value($_, $id), 't', "the $_ has the row that was chosen") for qw(source target);
	$pair->equal('both sides are equal at the end');
	$id = $pair->source_sql(q{UPDATE migrate_tiers.conflict SET resolved = NULL WHERE id = (SELECT max(id) FROM migrate_tiers.conflict WHERE winner = 'target') RETURNING id});
	refused("SELECT migrate_tiers.resolve_conflict($id, 'source')", 'MT003', qr/cannot be taken in phase finished.*on the target yourself: SELECT source_row/s, 'a row that lost is not sent any more');
	$pair->equal('so it is not written');
	$pair->source_sql("SELECT migrate_tiers.resolve_conflict($id, 'target')");
	return;
}

# More than one round carries, and a worker that finds them anew, as after it was killed in between.
sub carried_first
{
	my $hold = MigrateTiers::session($pair->source);
	my $revert = MigrateTiers::session($pair->source);
	my $relation = $pair->source_sql(q{SELECT id FROM migrate_tiers.relation WHERE relation = 'item'::regclass});
	my $kept = 'SELECT count(*) FROM migrate_tiers.conflicts';
	my $before = $pair->source_sql($kept);

	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->target_sql("INSERT INTO migrate_tiers.conflict (migration, relation, key, winner, policy, source_row, target_row)"
		  . " SELECT ident, $relation, jsonb_build_object('id', -n), 'source', 'source', NULL, jsonb_build_object('id', -n) FROM migrate_tiers.migration, generate_series(1, 5000) AS n");
	$hold->query_safe('BEGIN; LOCK TABLE migrate_tiers.conflict IN SHARE MODE');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ready_but_conflicts('syncing');
	$revert->query_safe('SET client_min_messages = warning');
	$revert->query_until(qr/begun/, "\\echo begun\nCALL migrate_tiers.revert('syncing');\n");
	$pair->wait_until(source => q{SELECT transition LIKE 'drain_reverse%' OR phase = 'syncing' FROM migrate_tiers.status});
	is(phase($pair), 'dual_write', 'while they cannot be kept here, it does not go on');
	$hold->query_safe('COMMIT');
	$revert->query_safe('SELECT 1');
	$_->quit for $hold, $revert;
	is(phase($pair), 'syncing', 'then it does');
	is($pair->source_sql($kept) - $before, 5000, 'all are here');
	is($pair->target_sql('SELECT count(*) FROM migrate_tiers.conflict'), '0', 'and none is there');
	return;
}

# What the first start has kept stays, and so does what a second one finds: the target counts its conflicts from 1 again.
sub begun_anew
{
	ready($pair, 'planned');
	$pair->revert('planned');
	$pair->set_option('overwrite', 'on');
	my $kept = $pair->source_sql('SELECT count(*) FROM migrate_tiers.conflicts');
	cmp_ok($kept, '>', 0, 'conflicts of the first start are kept');
	$pair->advance;
	$pair->sync;
	ready($pair, 'dual_write');
	$pair->advance('dual_write');
	my @all = collide('source');
	is(value('source', $_->{id}), $_->{has}{source}, "$_->{name}: the source has won") for @all;
	is($pair->source_sql('SELECT count(*) FROM migrate_tiers.conflicts') - $kept, scalar @all, 'each loser of the second is kept as well');
	settle_conflicts($pair);
	$pair->equal('both sides are equal');
	return;
}

sub other_keys
{
	$pair->set_option('conflict_policy', 'source');
	$pair->source_sql(q{INSERT INTO tagged VALUES ('{"a,b",c}', 0.1, 'old')});
	settle($pair);
	$pair->source_sql("SELECT migrate_tiers.pause(); UPDATE tagged SET v = 's'");
	$pair->target_sql('DELETE FROM tagged');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	settle($pair);
	$pair->source_sql("SELECT migrate_tiers.resolve_conflict(id, 'target') FROM migrate_tiers.conflicts WHERE resolved IS NULL");
	settle($pair);
	is($pair->source_sql('SELECT count(*) FROM tagged'), '0', 'the row is deleted');
	$pair->equal('both sides are equal');
	return;
}

# Texts of json that jsonb refuses, and types whose casts are a user's own: to and from text, and to json.
sub hostile_values
{
	my ($winner, $chosen) = @_;
	my %value = (source => ['{"a":"\u0000"}', 'sad', '(sad,)', '{sad,ok}'], target => ['{"n":1e200000}', 'ok', '(,)', '{ok}']);

	$pair->set_option('conflict_policy', $winner);
	$pair->source_sql(q{DELETE FROM hostile; INSERT INTO hostile VALUES ('ok', 1, '{}', 'ok', NULL, NULL)});
	settle($pair);
	$pair->source_sql('SELECT migrate_tiers.pause()');
	for my $side (qw(source target))
	{
		my ($j, $m, $p, $a) = @{ $value{$side} };
		my $b = $side eq 'source' ? "'null'" : 'NULL';
		$pair->can("${side}_sql")->($pair, "UPDATE hostile SET j = '$j', m = '$m', p = '$p', a = '$a', b = $b, e = coalesce($b, '\"null\"'::jsonb)");
	}
	$pair->source_sql('SELECT migrate_tiers.resume()');
	settle($pair);
	is($pair->source_sql("SELECT ${winner}_row ->> 'm' || (${winner}_row ->> 'j') FROM migrate_tiers.conflicts WHERE resolved IS NULL"), $value{$winner}[1] . $value{$winner}[0], 'the row is kept');
	$pair->source_sql("SELECT migrate_tiers.resolve_conflict(id, '$chosen') FROM migrate_tiers.conflicts WHERE resolved IS NULL");
	settle($pair);
	$pair->equal('both sides are equal');
	is($pair->source_sql('SELECT concat_ws($$ $$, j, m, p, a) FROM hostile'), "@{ $value{$chosen} }", 'and have what was chosen');
	is($pair->source_sql(q{SELECT concat_ws(' ', b, e) FROM hostile}), $chosen eq 'source' ? 'null null' : '"null"', 'NULL, a null and a text of jsonb are three things');
	return;
}

# What won over the TRUNCATE of one partition is not concerned by that of another, which goes with it.
sub emptied_partitions
{
	my $hold = MigrateTiers::session($pair->source);

	$pair->set_option('conflict_policy', 'source');
	$pair->source_sql(q{INSERT INTO parted VALUES (1, 'old'), (2, 'old'), (11, 'old')});
	settle($pair);
	$pair->source_sql(q{SELECT migrate_tiers.pause(); UPDATE parted SET v = 's' WHERE id = 1});
	$pair->target_sql('TRUNCATE parted_1');
	$hold->query_safe('BEGIN; LOCK TABLE parted IN EXCLUSIVE MODE');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	sent($pair, 'source');
	$pair->target_sql('TRUNCATE parted_2');
	$hold->quit;
	settle($pair);
	is($pair->$_(q{SELECT string_agg(id || v, ' ') FROM parted}), '1s', "the row that won is left, and no other: $_") for qw(source_sql target_sql);
	settle_conflicts($pair);
	return;
}

# What won over a TRUNCATE that cannot be sent is spared when it is sent at last, after the way back.
sub emptied_unsent
{
	$pair->set_option('conflict_policy', 'target');
	settle($pair);
	$pair->target_sql(q{ALTER TABLE tagged ADD CONSTRAINT good CHECK (v <> 'bad') NOT VALID});
	$pair->source_sql(q{INSERT INTO tagged VALUES ('{x}', 1, 'bad')});
	ok($pair->wait_until(source => q{SELECT coalesce(stopped ~ '23514', false) FROM migrate_tiers.status}), 'forward sync is stopped');
	$pair->source_sql('TRUNCATE item, parted_1');
	$pair->target_sql(q{INSERT INTO item (id, v) VALUES (7777, 't'); INSERT INTO parted VALUES (7, 't')});
	ok($pair->wait_until(source => 'SELECT count(*) = 2 FROM (SELECT id FROM item UNION ALL SELECT id FROM parted) AS u WHERE id IN (7, 7777)'), 'the rows of the target win');
	$pair->source_sql('TRUNCATE parted_2');
	ok(MigrateTiers::wait_for(sub { my ($went) = $pair->source_try(q{CALL migrate_tiers.revert('syncing')}); return $went; }, 60), 'the way back goes');
	$pair->target_sql('ALTER TABLE tagged DROP CONSTRAINT good');
	$pair->source_sql('SELECT migrate_tiers.pause(); SELECT migrate_tiers.resume()');
	$pair->sync(60);
	is(value('target', 7777), 't', 'that of the table is there still');
	is($pair->target_sql(q{SELECT string_agg(id || v, ' ') FROM parted}), '7t', '... and that of the one partition, though another one was emptied after it');
	$pair->equal('both sides are equal');
	ready_but_conflicts('dual_write');
	$pair->advance('dual_write');
	return;
}

# ready_but_conflicts waits for the gates of a phase; none of its gates asks for conflicts.
sub ready_but_conflicts
{
	my ($to) = @_;
	$pair->set_option('quiet_period', '0 s');
	MigrateTiers::wait_for(sub { my %open = open_gates($pair, $to); return !%open; }, 60) or die "the gates to $to stay closed";
	return;
}
