# Partitions of the target that come and go while both sides are written: what moves with
# them fires no trigger, and reaches the source all the same, at once with what its transaction did else.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('partitions');
$pair->both_sql(q{CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN code AS varchar(5) COLLATE "C"});
$pair->source_sql('CREATE TABLE typed (id int, at timestamptz, m mood, c code, "system_user" text, "json_value" text, PRIMARY KEY (id, at, m, c, "system_user"))');
$pair->source_sql('CREATE TABLE event (id int, at int, v text, PRIMARY KEY (id, at)); CREATE TABLE hashed (id int PRIMARY KEY, v text); CREATE TABLE note (id int PRIMARY KEY, v text)');
$pair->target_sql(<<'SQL');
CREATE TABLE event (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE event_0 PARTITION OF event FOR VALUES FROM (0) TO (10);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (10) TO (20);
CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (20) TO (30);
CREATE TABLE hashed (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE note (id int PRIMARY KEY, v text);
CREATE TABLE typed (id int, at timestamptz, m mood, c code, "system_user" text, "json_value" text, PRIMARY KEY (id, at, m, c, "system_user")) PARTITION BY RANGE (at, "system_user");
CREATE TABLE typed_1 PARTITION OF typed FOR VALUES FROM ('2026-01-01 00:00+02', 'a''b\c') TO ('2026-02-01 00:00+02', MINVALUE) PARTITION BY LIST (m);
CREATE TABLE typed_1a PARTITION OF typed_1 FOR VALUES IN ('glad', 'sad') PARTITION BY LIST (c);
CREATE TABLE typed_1aa PARTITION OF typed_1a FOR VALUES IN ('x', 'y');
CREATE TABLE typed_rest PARTITION OF typed DEFAULT;
SQL
$pair->source_sql(q{INSERT INTO event SELECT i, i, 'source' FROM generate_series(0, 29) i; INSERT INTO hashed SELECT i FROM generate_series(1, 20) i});
$pair->map_table("public.$_", "public.$_") for 'event', 'hashed', 'typed';
$pair->declare;
$pair->source_sql(q{SELECT migrate_tiers.set_option('quiet_period', '0')});
$pair->advance;
$pair->sync;
$pair->dual_write;
$pair->equal('in sync');

my $rows = q{SELECT concat_ws('-', min(at), max(at)) || ' ' || count(*) FROM event};

# arrives(sql, rows, name): after the SQL on the target, the source comes to hold these rows: "first-last count".
sub arrives
{
	my ($sql, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$pair->target_sql($sql);
	ok($pair->wait_until(source => $rows, expected => $expected), $name);
	return;
}

subtest 'rows that come and go' => sub {
	arrives(q{CREATE TABLE event_3 (LIKE event INCLUDING ALL); INSERT INTO event_3 SELECT i, i, 'attached' FROM generate_series(30, 39) i; ALTER TABLE event ATTACH PARTITION event_3 FOR VALUES FROM (30) TO (40)},
		'0-39 40', 'attached, with nothing else written');
	arrives(q{ALTER TABLE event DETACH PARTITION event_3; UPDATE event_3 SET v = 'not ours'; TRUNCATE event_3}, '0-29 30', 'detached');
	arrives(q{DROP TABLE event_0}, '10-29 20', 'dropped');
	arrives(q{CREATE TABLE event_4 PARTITION OF event FOR VALUES FROM (40) TO (50); INSERT INTO event_4 SELECT i, i FROM generate_series(40, 49) i}, '10-49 30', 'written into a new partition directly');
	arrives(q{CREATE TABLE event_5 PARTITION OF event FOR VALUES FROM (50) TO (60); INSERT INTO event SELECT i, i FROM generate_series(50, 59) i}, '10-59 40', 'written into one through the table');
	arrives(q{TRUNCATE event_5}, '10-49 30', 'and truncated');
	arrives(q{CREATE TABLE event_6 PARTITION OF event FOR VALUES FROM (60) TO (70); INSERT INTO event_6 VALUES (60, 60)}, '10-60 31', 'one row in a new partition');
	arrives(q{DROP TABLE event_6}, '10-49 30', 'which is dropped as soon as the row is there');
	arrives(q{BEGIN; ALTER TABLE event DETACH PARTITION event_1; CREATE TABLE event_1b PARTITION OF event FOR VALUES FROM (10) TO (20); INSERT INTO event SELECT * FROM event_1 WHERE at < 15; COMMIT; DROP TABLE event_1},
		'10-49 25', 'a partition replaced by another with some of its rows');
	$pair->target_sql(q{BEGIN; ALTER TABLE hashed DETACH PARTITION hashed_0; DROP TABLE hashed_0; CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0); COMMIT});
	my $left = $pair->target_sql('SELECT count(*) FROM hashed');
	ok($pair->wait_until(source => 'SELECT count(*) FROM hashed', expected => $left), 'a hash partition replaced by an empty one');
	arrives(q{CREATE TABLE rest PARTITION OF event DEFAULT; INSERT INTO event VALUES (100, 100)}, '10-100 26', 'into a default partition');
	arrives(q{ALTER TABLE event DETACH PARTITION event_4; INSERT INTO event VALUES (44, 44)}, '10-100 17', 'whose range becomes wider');
	arrives(q{ALTER TABLE event DETACH PARTITION rest}, '10-29 15', 'and that is detached');
};

subtest 'bounds of all types' => sub {
	my $typed = q{SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM typed};
	$pair->target_sql(q{INSERT INTO typed VALUES (1, '2026-01-10', 'sad', 'x', 'k'), (2, '2026-01-20', 'glad', 'y', 'k'), (3, '2025-01-01', 'sad', 'x', 'k')});
	ok($pair->wait_until(source => $typed, expected => '1 2 3'), 'rows of both partitions');
	$pair->target_sql('TRUNCATE typed_1aa');
	ok($pair->wait_until(source => $typed, expected => '3'), 'one is truncated');
	$pair->source_sql(q{SELECT migrate_tiers.pause(); UPDATE typed SET "json_value" = 'meanwhile'});
	$pair->target_sql('TRUNCATE typed_rest');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ok($pair->wait_until(source => 'SELECT count(*) FROM migrate_tiers.conflicts', expected => 1), 'the default one, while the source changes a row of it');
	$pair->sync;
	$pair->sync_back;
	is($pair->target_sql($typed), $pair->source_sql($typed), 'which both sides have in the end, or neither');
};

# Who connects as the mapping's role can write into our tables there.  What he writes stops the way back, and runs nothing here.
subtest 'entries that no trigger wrote' => sub {
	my $ident = $pair->target_sql('SELECT left(ident::text, 8) FROM migrate_tiers.migration');
	my %id = map { split /\|/, $_, 2 } split /\n/, $pair->source_sql('SELECT target_name, id FROM migrate_tiers.relation');
	my $started = q{SELECT backend_start FROM pg_stat_activity WHERE backend_type = 'checkpointer'};
	my $before = $pair->source_sql($started);
	$pair->source_sql(<<'SQL');
CREATE SCHEMA aside;
CREATE TABLE aside.owned (by text);
CREATE FUNCTION aside.own(by text) RETURNS bool LANGUAGE sql VOLATILE AS 'INSERT INTO aside.owned VALUES (by) RETURNING true';
CREATE FUNCTION aside.looks_plain(a bool, b bool DEFAULT aside.own('default')) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN a; END';
SQL
	my $no_bound = 'no bound of a partition of table "event"';
	for (['a statement', 'event', 'condition', q{2, $$false; INSERT INTO aside.owned VALUES ('statement'); DELETE FROM public.event WHERE false$$}, $no_bound],
		['a function', 'event', 'condition', q{2, $$aside.own('function')$$}, $no_bound],
		['an argument not given', 'event', 'condition', '2, $$aside.looks_plain(true)$$', $no_bound],
		['a subquery', 'event', 'condition', '2, $$EXISTS (SELECT FROM aside.owned)$$', $no_bound],
		['a query', 'event', 'condition', '2, $$true FROM aside.owned$$', $no_bound],
		['a star', 'event', 'condition', '2, $$*$$', $no_bound],
		['another parenthesis', 'event', 'condition', '2, $$false) OR (true$$', $no_bound],
		['a condition of a table without partitions', 'note', 'condition', '2, $$true$$', 'without a partitioned table'],
		['no condition', 'event', 'condition', '2, NULL', 'without a condition'],
		['no key', 'event', 'k1', '0, 1', 'without a key'],
		['truncations not named', 'note', 'k1', '3, 1', 'without a condition'])
	{
		my ($name, $table, $columns, $values, $message) = @$_;
		my $kept = $pair->source_sql("SELECT count(*) FROM $table");
		my $queue = "migrate_tiers.queue_${ident}_$id{$table}";
		my $xid = $pair->target_sql("BEGIN; INSERT INTO $queue (kind, $columns) VALUES ($values); INSERT INTO migrate_tiers.writer_$ident VALUES (pg_current_xact_id(), NULL, 'other'); SELECT pg_current_xact_id(); COMMIT");
		ok($pair->wait_until(source => "SELECT coalesce(stopped ~ '$message', false) FROM migrate_tiers.status"), "$name: stops the way back") or diag($pair->status('stopped'));
		$pair->target_sql("DELETE FROM $queue WHERE xid = '$xid'");
		$pair->sync_back;
		is($pair->source_sql("SELECT (SELECT count(*) FROM $table) || ' ' || (SELECT count(*) FROM aside.owned)"), "$kept 0", "$name: nothing was done, and it goes on");
	}
	is($pair->source_sql($started), $before, 'the source has not crashed');
};

# What is done in one transaction, or before anybody looks, while the worker is paused.
sub unseen
{
	my ($sql, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->target_sql($sql);
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ok($pair->wait_until(source => $rows, expected => $expected), $name);
	return;
}

subtest 'before anybody looks' => sub {
	unseen(q{ALTER TABLE event DETACH PARTITION event_2; DELETE FROM event_2 WHERE at < 25; UPDATE event_2 SET v = 'unseen'; ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES FROM (20) TO (30)},
		'10-29 10', 'detached, changed and attached again');
	is($pair->source_sql(q{SELECT count(*) FROM event WHERE v = 'unseen'}), '5', 'with what was changed meanwhile');
	unseen(q{CREATE TABLE event_7 PARTITION OF event FOR VALUES FROM (70) TO (80); INSERT INTO event_7 VALUES (70, 70), (71, 71); TRUNCATE event_7; INSERT INTO event VALUES (72, 72)}, '10-72 11', 'made, written, truncated, written');
	unseen(q{TRUNCATE event_7; DROP TABLE event_7; CREATE TABLE event_7 PARTITION OF event FOR VALUES FROM (70) TO (75); INSERT INTO event_7 VALUES (73, 73)}, '10-73 11', 'dropped and made again');
	unseen(q{CREATE TABLE event_8 PARTITION OF event FOR VALUES FROM (80) TO (90); INSERT INTO event VALUES (80, 80); DROP TABLE event_8}, '10-73 11', 'made, written and dropped');
	unseen(q{DROP TABLE event_7}, '10-29 10', 'dropped');
};

# The transaction that attaches a partition and that which moves rows to it arrive whole.
subtest 'with what the transaction did else' => sub {
	my $watch = MigrateTiers::session($pair->source);
	my $torn = 0;
	for my $n (1 .. 6)
	{
		my $to = 100 + 10 * $n;
		$pair->target_sql("BEGIN; CREATE TABLE move_$n (LIKE event INCLUDING ALL); INSERT INTO move_$n VALUES ($to, $to, 'moved'); ALTER TABLE event ATTACH PARTITION move_$n FOR VALUES FROM ($to) TO (@{[$to + 10]}); INSERT INTO note VALUES ($n, 'moved'); COMMIT");
		my $seen = '';
		for (1 .. 3000)
		{
			$seen = $watch->query_safe(q{SELECT (SELECT count(*) FROM event WHERE v = 'moved') || ' ' || (SELECT count(*) FROM note)});
			$torn++ if $seen !~ /^(\d+) \g1$/;
			last if $seen eq "$n $n";
		}
		is($seen, "$n $n", "partition $n and the note of it");
	}
	is($torn, 0, 'never the one without the other');
	$watch->quit;
};

subtest 'a busy partition' => sub {
	$pair->target_sql(q{CREATE TABLE busy (LIKE event INCLUDING ALL)});
	$pair->target_sql(q{ALTER TABLE event ATTACH PARTITION busy FOR VALUES FROM (200) TO (210)});
	my $writer = MigrateTiers::session($pair->target);
	$writer->query_safe(q{BEGIN; INSERT INTO busy VALUES (200, 200, 'late')});
	arrives(q{INSERT INTO event VALUES (201, 201)}, '10-201 17', 'written while a transaction keeps the TRUNCATE trigger off');
	$writer->query_safe('COMMIT');
	ok($pair->wait_until(source => $rows, expected => '10-201 18'), 'and what that wrote');
	$writer->quit;
	arrives(q{TRUNCATE busy}, '10-160 16', 'truncated, with the trigger or without');
};

subtest 'a storm' => sub {
	$pair->target_sql(q{CREATE PROCEDURE storm() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1 .. 400 LOOP BEGIN INSERT INTO event VALUES (i, 300 + i % 40, 'storm') ON CONFLICT (id, at) DO UPDATE SET v = 'again';
		UPDATE event SET v = v || '.' WHERE at = 300 + (i * 7) % 40; DELETE FROM event WHERE at = 300 + (i * 11) % 40 AND id % 3 = 0; EXCEPTION WHEN check_violation OR undefined_table OR deadlock_detected THEN NULL; END; COMMIT; PERFORM pg_sleep(0.005); END LOOP; END $$});
	my $writer = $pair->target->background_psql('shop', on_error_stop => 0);
	$writer->query_until(qr/begun/, "\\echo begun\nCALL storm();\n");
	srand($ENV{MT_SEED} // 1);
	my @there = (0) x 4;
	for my $round (1 .. 24)
	{
		my $n = int rand 4;
		my ($low, $high) = (300 + 10 * $n, 310 + 10 * $n);
		my $sql = !$there[$n] ? "CREATE TABLE storm_$n PARTITION OF event FOR VALUES FROM ($low) TO ($high)"
		  : $round % 3 == 0 ? "TRUNCATE storm_$n"
		  : $round % 3 == 1 ? "ALTER TABLE event DETACH PARTITION storm_$n; DELETE FROM storm_$n WHERE id % 2 = 0; ALTER TABLE event ATTACH PARTITION storm_$n FOR VALUES FROM ($low) TO ($high)"
		  : "DROP TABLE storm_$n";
		$there[$n] = $sql !~ /^DROP/;
		$pair->target_sql($sql);
	}
	$writer->quit;
	my $sum = q{SELECT count(*) || ' ' || coalesce(sum(hashtextextended(e::text, 0)::numeric), 0) FROM event e};
	ok($pair->wait_until(source => $sum, expected => $pair->target_sql($sum)), 'equal after it');
};

# The TRUNCATE trigger is each partition's own.
subtest 'its triggers' => sub {
	my $covered = q{SELECT coalesce(bool_and(covered), true) || ' ' || count(*) FROM migrate_tiers.leaf WHERE leaf = 'event_2'::regclass};
	ok($pair->wait_until(target => $covered, expected => 'true 1'), 'a partition has its own');
	$pair->target_sql('ALTER TABLE event DETACH PARTITION event_2');
	ok($pair->wait_until(target => $covered, expected => 'true 0'), 'it is not ours any more');
	$pair->target_sql('ALTER TABLE event_2 DISABLE TRIGGER ALL');
	$pair->target_sql(q{ALTER TABLE note DISABLE TRIGGER ALL; INSERT INTO note VALUES (100, 'unseen'); ALTER TABLE note ENABLE TRIGGER ALL});
	my $uncaptured = q{SELECT string_agg(name, ' ' ORDER BY name) FROM migrate_tiers.uncaptured};
	ok($pair->wait_until(source => qq{SELECT ($uncaptured) ~ 'note'}), 'what is done to triggers is seen');
	is($pair->source_sql($uncaptured), 'note', 'but not what is done to those of a table that is not ours');
	$pair->target_sql('DROP TABLE event_2; CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (20) TO (30); INSERT INTO event VALUES (20, 20)');
	ok($pair->wait_until(target => $covered, expected => 'true 1'), 'another partition');
	$pair->sync_back;
	my ($name) = split /\n/, $pair->target_sql(q{SELECT tgname FROM pg_trigger WHERE tgrelid = 'event_2'::regclass AND tgname ~ '^migrate_tiers_reverse.*truncate$'});
	$pair->target_sql("BEGIN; DROP TRIGGER $name ON event_2; TRUNCATE event_2; COMMIT");
	ok($pair->wait_until(source => $uncaptured, expected => 'event note'), 'its trigger dropped');
	ok($pair->wait_until(target => "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'event_2'::regclass AND tgname = '$name' AND tgenabled = 'A'", expected => 1), 'is made again');
	for ('event', 'note')
	{
		is($pair->source_sql("SELECT verdict FROM migrate_tiers.verify('$_')"), 'different', "$_ is different");
		$pair->source_sql("SELECT migrate_tiers.repair('$_', side => 'target')");
		$pair->sync_back;
		is($pair->source_sql("SELECT verdict FROM migrate_tiers.verify('$_')"), 'equal', 'and mended');
	}
};

$pair->target_sql(q{CREATE TABLE event_9 (LIKE event INCLUDING ALL); INSERT INTO event_9 SELECT i, i, 'last' FROM generate_series(400, 409) i; ALTER TABLE event ATTACH PARTITION event_9 FOR VALUES FROM (400) TO (410)});
$pair->revert('syncing');
is($pair->source_sql(q{SELECT count(*) FROM event WHERE v = 'last'}), '10', 'rows attached just before the way back');
$pair->equal('equal in the end');
is($pair->source_sql('SELECT count(*) FROM migrate_tiers.conflicts'), '1', 'no other conflict');
is($pair->target_sql(q{SELECT count(*) FROM pg_trigger WHERE tgname ~ '^migrate_tiers_reverse'}), '0', 'no trigger is left');
$pair->finish;
done_testing();
