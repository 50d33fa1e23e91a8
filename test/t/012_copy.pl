# The initial copy: live, in pieces, under throttle, resumed, begun again where
# it must be.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

sub state_of
{
	my ($pair, $table) = @_;
	return $pair->source_sql("SELECT state FROM migrate_tiers.tables WHERE relation = '$table'::regclass");
}

# Rows of a table that the copy has brought, by its own account.
sub copied
{
	my ($pair, $table) = @_;
	return $pair->source_sql("SELECT coalesce(sum(copied_rows), 0) FROM migrate_tiers.tables WHERE relation = '$table'::regclass");
}

sub copy_has_begun
{
	my ($pair, $table) = @_;
	return $pair->wait_until(source => "SELECT copied_rows > 0 AND state = 'copying' FROM migrate_tiers.tables WHERE relation = '$table'::regclass");
}

subtest 'tables of many shapes' => sub {
	my $pair = MigrateTiers::Pair->new('shapes');
	$pair->both_sql(<<'SQL');
CREATE TABLE empty (id int PRIMARY KEY);
CREATE TABLE emptied (id int PRIMARY KEY, v text);
CREATE TABLE wide (id int PRIMARY KEY, v bytea);
ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;
CREATE TABLE documents (id int PRIMARY KEY, v text);
ALTER TABLE documents ALTER v SET STORAGE EXTERNAL;
CREATE TABLE holes (id int PRIMARY KEY, v text);
CREATE TABLE parts (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (500);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (500) TO (1000) PARTITION BY HASH (id);
CREATE TABLE parts_2a PARTITION OF parts_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_2b PARTITION OF parts_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE parts_empty PARTITION OF parts FOR VALUES FROM (1000) TO (2000);
CREATE TABLE base (id int PRIMARY KEY, v text);
CREATE TABLE derived (w int, PRIMARY KEY (id)) INHERITS (base);
CREATE TABLE computed (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a + 1) STORED, gone int);
ALTER TABLE computed DROP COLUMN gone;
CREATE TABLE locked (id int PRIMARY KEY, v text);
SQL
	$pair->source_sql(<<'SQL');
INSERT INTO emptied SELECT i, 'x' FROM generate_series(1, 10000) i;
DELETE FROM emptied;
INSERT INTO wide SELECT i, decode(repeat(md5(i::text), 250000), 'hex') FROM generate_series(1, 5) i;
INSERT INTO documents SELECT i, repeat('d', 4000) FROM generate_series(1, 1500) i;
INSERT INTO holes SELECT i, repeat('h', 100) FROM generate_series(1, 20000) i;
DELETE FROM holes WHERE id BETWEEN 3000 AND 15000 OR id > 19000;
UPDATE holes SET v = 'again' WHERE id % 3 = 0;
BEGIN;
INSERT INTO holes SELECT i, 'rolled back' FROM generate_series(50000, 51000) i;
ROLLBACK;
INSERT INTO parts SELECT i, i % 1000, repeat('p', 50) FROM generate_series(1, 10000) i;
INSERT INTO base SELECT i, 'b' FROM generate_series(1, 100) i;
INSERT INTO derived SELECT i, 'd', i FROM generate_series(50, 150) i;
INSERT INTO computed (a) SELECT i FROM generate_series(1, 1000) i;
INSERT INTO locked SELECT i, 'l' FROM generate_series(1, 1000) i;
BEGIN;
SELECT id FROM locked WHERE id < 500 FOR UPDATE;
UPDATE locked SET v = 'undone';
ROLLBACK;
ALTER SYSTEM SET autovacuum = off;
SQL
	$pair->declare;
	$pair->set_option('chunk_size', '256kB');
	$pair->set_option('copy_workers', 4);
	my $begun = MigrateTiers::session($pair->source);
	$begun->query_safe(q{BEGIN; INSERT INTO empty VALUES (1); UPDATE holes SET v = 'begun before' WHERE id < 100; DELETE FROM wide WHERE id = 1});
	# advance needs the lock of capture's trigger, which this transaction holds off: it ends while advance tries.
	my $ender = fork // die;
	if (!$ender) { sleep 2; kill 'USR1', getppid; POSIX::_exit(0); }
	local $SIG{USR1} = sub { $begun->query_safe(q{INSERT INTO empty VALUES (2); COMMIT}) };
	my $advance = MigrateTiers::session($pair->source);
	$advance->{stdin} .= "CALL migrate_tiers.advance('syncing');\n\\echo advanced\n";
	ok(MigrateTiers::wait_for(sub { $advance->{run}->pump_nb; $advance->{stdout} =~ /advanced/ }, 60), 'advance waits for a transaction that was open, and goes on');
	waitpid $ender, 0;
	$advance->quit;
	$begun->quit;
	$pair->sync;
	$pair->equal('copied');
	is($pair->target_sql(q{SELECT count(*) FROM holes WHERE v = 'begun before'}), '99', 'what was open before advance and committed after it is there');
	is($pair->source_sql(q{SELECT string_agg(DISTINCT state, ',') FROM migrate_tiers.tables}), 'syncing', 'every table is in sync');
	cmp_ok($pair->source_sql(q{SELECT max(bytes) FROM migrate_tiers.progress WHERE relation = 'documents'::regclass}), '<', 3 * 256 * 1024, 'a chunk has the size that was asked for, with what stands out of line');
	$pair->finish;
};

subtest 'throttle, and life during the copy' => sub {
	my $pair = MigrateTiers::Pair->new('live');
	my $tables = join ";\n", map { "CREATE TABLE $_ (id int PRIMARY KEY, v text)" } qw(big rewritten clustered cut cut_and_filled);
	$pair->both_sql($tables);
	$pair->source_sql("INSERT INTO $_ SELECT i, repeat('v', 200) FROM generate_series(1, 6000) i") for qw(big rewritten clustered cut cut_and_filled);
	my $bytes = $pair->source_sql(q{SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace});
	$pair->declare;
	my $rate = 500_000;
	$pair->set_option('copy_rate', $rate);
	$pair->set_option('chunk_size', '128kB');
	my $start = time;
	$pair->advance;
	cmp_ok(time - $start, '<', $bytes / $rate, 'advance does not wait for the copy');
	copy_has_begun($pair, $_) or fail("$_ is being copied") for qw(big rewritten);
	my $before = $pair->source_sql("SELECT pg_relation_filenode('rewritten')");
	$pair->source_sql('VACUUM FULL rewritten');
	isnt($pair->source_sql("SELECT pg_relation_filenode('rewritten')"), $before, 'a table is rewritten in mid-copy');
	$pair->source_sql('CLUSTER clustered USING clustered_pkey');
	$pair->source_sql('TRUNCATE cut');
	$pair->source_sql(q{BEGIN; TRUNCATE cut_and_filled; INSERT INTO cut_and_filled SELECT i, 'new' FROM generate_series(1, 3000) i; COMMIT});
	my $rounds = 0;
	while ($pair->source_sql(q{SELECT bool_and(state = 'syncing') FROM migrate_tiers.tables}) ne 't')
	{
		$rounds++;
		$pair->source_sql("UPDATE big SET v = 'round $rounds' WHERE id % 7 = $rounds % 7; UPDATE rewritten SET id = id + 10000 WHERE id % 100 = $rounds % 100; DELETE FROM big WHERE id % 101 = $rounds; INSERT INTO big VALUES (100000 + $rounds, 'inserted'); UPDATE clustered SET v = v || 'x' WHERE id < 20");
		sleep 0.1;
	}
	my $took = time - $start;
	cmp_ok($rounds, '>', 2, "rows changed in $rounds rounds during the copy");
	cmp_ok($took, '>', 0.7 * 0.6 * $bytes / $rate, sprintf('%d bytes at %d bytes a second took %.1f s: not faster', $bytes, $rate, $took));
	cmp_ok($took, '<', 4 * $bytes / $rate + 5, 'nor much slower');
	$pair->sync;
	$pair->equal('equal');
	$pair->finish;
};

subtest 'a copy that is cut off goes on where it was' => sub {
	my $pair = MigrateTiers::Pair->new('resume');
	$pair->both_sql('CREATE TABLE big (id int PRIMARY KEY, v text)');
	$pair->source_sql("INSERT INTO big SELECT i, repeat('v', 200) FROM generate_series(1, 20000) i");
	$pair->declare;
	$pair->set_option('copy_rate', 500_000);
	$pair->set_option('chunk_size', '128kB');
	$pair->advance;
	my $last = 0;
	for my $how ('copy', 'sync', 'target', 'source')
	{
		$pair->wait_until(source => "SELECT copied_rows > $last AND state = 'copying' FROM migrate_tiers.tables") or fail("the copy goes on before the $how is stopped");
		my $there = $pair->target_sql('SELECT count(*) FROM big');
		if ($how eq 'copy' || $how eq 'sync') { my $pid = $pair->worker_pid($how); $pair->source_sql("SELECT pg_terminate_backend($pid)") if $pid; }
		else { $pair->{$how}->stop('immediate'); $pair->{$how}->start; }
		$pair->source_sql('SELECT migrate_tiers.start_workers()');
		cmp_ok($pair->target_sql('SELECT count(*) FROM big'), '>=', $there, "what is in stays in ($how)");
		$last = copied($pair, 'big');
		cmp_ok($last, '>', 0, 'and is counted');
	}
	is(state_of($pair, 'big'), 'copying', 'it was cut off in mid-copy each time');
	# As a copy worker sees it that came when pause() had ended the others.
	ok($pair->wait_until(source => q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers copy'}), 'a copy worker is at work');
	$pair->source_sql('UPDATE migrate_tiers.migration SET paused = true');
	ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers copy'}), 'while sending is paused it takes no more chunks');
	is(state_of($pair, 'big'), 'copying', '... of which there are some left');
	$pair->source_sql('UPDATE migrate_tiers.migration SET paused = false');
	$pair->set_option('copy_rate', 0);
	$pair->sync;
	$pair->equal('equal');
	is(copied($pair, 'big'), '20000', 'each row was copied once');
	$pair->finish;
};

# Tools that rewrite tables online give the new file to the old table in the catalog, behind the guard's back.
subtest 'files that are exchanged before the copy' => sub {
	my $pair = MigrateTiers::Pair->new('exchanged');
	$pair->both_sql(<<'SQL');
CREATE TABLE a_exchanged (id int PRIMARY KEY, v text);
CREATE TABLE b_parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE b_parts_1 PARTITION OF b_parts FOR VALUES FROM (0) TO (500);
CREATE TABLE b_parts_2 PARTITION OF b_parts FOR VALUES FROM (500) TO (10000);
CREATE TABLE c_rewritten (id int PRIMARY KEY, v text);
CREATE TABLE d_emptied (id int PRIMARY KEY, v text);
CREATE TABLE z_last (id int PRIMARY KEY, v text);
SQL
	$pair->source_sql("INSERT INTO $_ SELECT i, 'v' FROM generate_series(1, 1000) i") for qw(a_exchanged b_parts c_rewritten d_emptied z_last);
	$pair->declare;
	my $writer = MigrateTiers::session($pair->source);
	$writer->query_safe(q{BEGIN; UPDATE z_last SET v = 'open' WHERE id = 1});
	my $advance = MigrateTiers::session($pair->source);
	$advance->{stdin} .= "CALL migrate_tiers.advance('syncing');\n\\echo advanced\n";
	ok(MigrateTiers::wait_for(sub { $advance->{run}->pump_nb; $pair->source_sql('SELECT count(*) FROM migrate_tiers.relation WHERE captured') == 4 }, 60), 'the last table is waited for');
	for my $table (qw(a_exchanged b_parts_2))
	{
		$pair->source_sql(<<"SQL");
SET allow_system_table_mods = on;
BEGIN;
LOCK TABLE $table IN ACCESS EXCLUSIVE MODE;
CREATE SCHEMA aside CREATE TABLE $table (LIKE public.$table INCLUDING ALL);
INSERT INTO aside.$table SELECT * FROM public.$table;
UPDATE pg_class AS c SET relfilenode = o.relfilenode FROM pg_class AS o WHERE (c.oid, o.oid) IN (('public.$table'::regclass, 'aside.$table'::regclass),
  ('aside.$table'::regclass, 'public.$table'::regclass), ('public.${table}_pkey'::regclass, 'aside.${table}_pkey'::regclass),
  ('aside.${table}_pkey'::regclass, 'public.${table}_pkey'::regclass));
DROP SCHEMA aside CASCADE;
COMMIT;
UPDATE $table SET v = 'after' WHERE id % 10 = 0;
SQL
	}
	$pair->source_sql('VACUUM FULL c_rewritten');
	$pair->source_sql(q{TRUNCATE d_emptied; INSERT INTO d_emptied SELECT i, 'new' FROM generate_series(1, 100) i});
	$writer->query_safe('COMMIT');
	ok(MigrateTiers::wait_for(sub { $advance->{run}->pump_nb; $advance->{stdout} =~ /advanced/ }, 60), 'and advance goes on');
	$_->quit for $writer, $advance;
	$pair->sync;
	$pair->equal('every row was copied');
	$pair->finish;
};

subtest 'revert in mid-copy, and again' => sub {
	my $pair = MigrateTiers::Pair->new('revert');
	$pair->both_sql('CREATE TABLE big (id int PRIMARY KEY, v text, n int UNIQUE); CREATE TABLE small (id int PRIMARY KEY, big int REFERENCES big); CREATE INDEX ON big (v)');
	$pair->source_sql("INSERT INTO big SELECT i, repeat('v', 200), i FROM generate_series(1, 20000) i; INSERT INTO small SELECT i, i FROM generate_series(1, 100) i");
	my $indexes = q{SELECT string_agg(pg_get_indexdef(indexrelid), ';' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid IN ('big'::regclass, 'small'::regclass)};
	my $constraints = q{SELECT string_agg(conname || pg_get_constraintdef(oid), ';' ORDER BY conname) FROM pg_constraint WHERE conrelid IN ('big'::regclass, 'small'::regclass)};
	my @before = map { $pair->target_sql($_) } $indexes, $constraints;
	$pair->declare;
	$pair->set_option('copy_rate', 1_000_000);
	$pair->set_option('chunk_size', '128kB');
	$pair->advance;
	copy_has_begun($pair, 'big');
	$pair->source_sql(q{UPDATE big SET v = 'during' WHERE id < 50});
	$pair->revert;
	is($pair->target_sql('SELECT (SELECT count(*) FROM big) + (SELECT count(*) FROM small)'), '0', 'the target is empty again');
	is_deeply([ map { $pair->target_sql($_) } $indexes, $constraints ], \@before, 'with the indexes and constraints that it had');
	is(state_of($pair, 'big'), 'planned', 'state');
	is($pair->source_sql('SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal'), '0', 'no trigger on the source');
	is($pair->source_sql(q{SELECT count(*) FROM pg_class WHERE relname LIKE 'queue\_%' AND relkind = 'r'}), '0', 'no queue');
	ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'migrate_tiers%'}), 'no worker');
	$pair->target_sql(q{INSERT INTO big VALUES (1, 'mine', 1); DELETE FROM big});
	$pair->set_option('copy_rate', 0);
	$pair->advance;
	$pair->sync;
	$pair->equal('forward again');
	is_deeply([ map { $pair->target_sql($_) } $indexes, $constraints ], \@before, 'indexes and constraints are there');
	$pair->revert;
	$pair->advance;
	$pair->source_sql(q{DELETE FROM small; UPDATE big SET n = -n});
	$pair->sync;
	$pair->equal('back and forward once more');
	$pair->finish;
};

subtest 'an autovacuum gives way' => sub {
	my $pair = MigrateTiers::Pair->new('vacuum', source_conf => "autovacuum_naptime = 1s\n");
	$pair->both_sql('CREATE TABLE slow (id int PRIMARY KEY, v text)');
	# Slow from the first: one that was at full speed would leave nothing to do.
	$pair->source_sql('ALTER TABLE slow SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)');
	$pair->source_sql("INSERT INTO slow SELECT i, repeat('v', 500) FROM generate_series(1, 20000) i; DELETE FROM slow WHERE id % 2 = 0");
	$pair->declare;
	ok($pair->wait_until(source => q{SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = 'slow'::regclass)}), 'a slow autovacuum is under way');
	my $start = time;
	$pair->advance;
	cmp_ok(time - $start, '<', 10, 'advance does not wait for it');
	$pair->sync;
	$pair->equal('equal');
	$pair->finish;
};

subtest 'queue_limit' => sub {
	my $pair = MigrateTiers::Pair->new('limit');
	$pair->both_sql('CREATE TABLE busy (id int PRIMARY KEY, v text); CREATE TABLE calm (id int PRIMARY KEY, v text)');
	$pair->source_sql("INSERT INTO busy SELECT i, 'v' FROM generate_series(1, 5000) i; INSERT INTO calm SELECT i, 'v' FROM generate_series(1, 100) i");
	$pair->declare;
	$pair->set_option('queue_limit', '512kB');
	$pair->advance;
	$pair->sync;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	for my $round (1 .. 100)
	{
		$pair->source_sql("UPDATE busy SET v = 'round $round'; UPDATE calm SET v = 'round $round' WHERE id = $round % 100");
		last if state_of($pair, 'busy') eq 'recopy';
	}
	is(state_of($pair, 'busy'), 'recopy', 'past the limit the table is marked for a new copy');
	my $size = $pair->status('queue_bytes');
	$pair->source_sql("UPDATE busy SET v = 'unseen $_'") for 1 .. 20;
	cmp_ok($pair->status('queue_bytes'), '<', $size + 200_000, 'and its changes fill the disk no more');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ok($pair->wait_until(source => q{SELECT bool_and(state = 'syncing') FROM migrate_tiers.tables}, timeout => 60), 'it is copied again');
	$pair->source_sql("UPDATE busy SET v = 'after' WHERE id < 100; DELETE FROM busy WHERE id > 4000");
	$pair->sync;
	$pair->equal('equal');
	$pair->finish;
};

subtest 'rotation under a long transaction' => sub {
	my $pair = MigrateTiers::Pair->new('rotate');
	$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text)');
	$pair->source_sql("INSERT INTO item SELECT i, 'v' FROM generate_series(1, 5000) i");
	$pair->declare;
	$pair->set_option('queue_retention', '1 s');
	$pair->advance;
	$pair->sync;
	my $long = MigrateTiers::session($pair->source);
	$long->query_safe(q{BEGIN; UPDATE item SET v = 'long' WHERE id <= 3000});    # written out early, in a segment that will grow old
	my $reader = MigrateTiers::session($pair->source);
	$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM item');
	my $most = 0;
	my $traffic = sub {
		my ($seconds) = @_;
		my $end = time + $seconds;
		my $n = 0;
		while (time < $end)
		{
			$n++;
			$pair->source_sql("UPDATE item SET v = 'short $n' WHERE id > 3000 AND id % 5 = $n % 5");
			my $size = $pair->status('queue_bytes');
			$most = $size if $size > $most;
		}
		return;
	};
	$traffic->(5);
	$long->query_safe('COMMIT');
	$pair->sync;
	$pair->equal('a transaction that was open over several periods');
	$traffic->(2);
	$reader->query_safe('COMMIT');
	$_->quit for $long, $reader;
	$traffic->(3);
	$pair->sync;
	$pair->equal('equal');
	ok($pair->wait_until(source => "SELECT queue_bytes < $most / 2 FROM migrate_tiers.status", timeout => 20), "the queue shrinks again (it had $most bytes)");
	$pair->finish;
};

# A transaction elsewhere was open when capture began: S0 sees rows that were written since it began, and these may
# be frozen between two readings of their chunk.
subtest 'rows that are frozen in the middle' => sub {
	my $pair = MigrateTiers::Pair->new('frozen');
	my $source = $pair->source;
	$pair->both_sql('CREATE TABLE held (id int PRIMARY KEY, v text); CREATE TABLE slow (id int PRIMARY KEY, v text)');
	$source->safe_psql('postgres', q{BEGIN; CREATE TABLE open_one (id int); PREPARE TRANSACTION 'open one'});
	$pair->source_sql(q{INSERT INTO held SELECT i, 'frozen' FROM generate_series(1, 1000) i});
	$pair->source_sql('VACUUM (FREEZE) held');
	$pair->source_sql(q{INSERT INTO held SELECT i, 'not yet' FROM generate_series(1001, 3000) i});
	$pair->source_sql(q{INSERT INTO slow SELECT i, repeat('s', 1000) FROM generate_series(1, 1500) i});
	$pair->declare;
	$pair->set_option('copy_workers', 1);
	$pair->set_option('copy_rate', 100_000);
	$pair->set_option('chunk_size', '256kB');
	$pair->advance;
	ok($pair->wait_until(source => q{SELECT count(*) > 0 FROM migrate_tiers.copy_task WHERE source_table = 'held'::regclass AND (noted > 0 OR state = 'done')}), 'a chunk was read');
	# Any snapshot here, the worker's too, goes back to the transaction that is open: then nothing is frozen.
	my $frozen = MigrateTiers::wait_for(
		sub {
			$pair->source_sql('VACUUM (FREEZE) held');
			return $pair->source_sql(q{SELECT age(relfrozenxid) < (SELECT min(age(xmin)) FROM held) FROM pg_class WHERE oid = 'held'::regclass}) eq 't';
		},
		60);
	ok($frozen, 'its rows were frozen');
	$pair->set_option('copy_rate', 0);
	$pair->sync;
	$pair->equal('none is lost');
	$source->safe_psql('postgres', q{ROLLBACK PREPARED 'open one'});
	$pair->finish;
};

# A chunk in doubt is read again before more of its rows are frozen, and that reading is the last.
subtest 'rows that are frozen all the time' => sub {
	my $pair = MigrateTiers::Pair->new('freezing');
	$pair->both_sql('CREATE TABLE a_slow (id int PRIMARY KEY, v text); CREATE TABLE busy (id int PRIMARY KEY, v text) WITH (fillfactor = 40, autovacuum_enabled = off)');
	$pair->source_sql(q{INSERT INTO a_slow SELECT i, repeat('s', 1000) FROM generate_series(1, 500) i; INSERT INTO busy SELECT i, repeat('b', 200) FROM generate_series(1, 3000) i});
	$pair->declare;
	$pair->set_option('copy_workers', 1);
	$pair->set_option('copy_rate', 100_000);
	$pair->set_option('chunk_size', '64kB');
	$pair->advance;
	ok($pair->wait_until(source => q{SELECT count(*) > 1 FROM migrate_tiers.copy_task WHERE source_table = 'busy'::regclass}), 'its copy is planned');
	my $busy = MigrateTiers::session($pair->source);
	my ($round, $state) = (0, '');
	# In turns, so that at any moment some rows of each chunk are frozen that were not at its last reading.
	my $freeze = sub {
		$round++;
		$busy->query_safe($_) for "UPDATE busy SET v = 'round $round' || repeat('b', 200) WHERE id % 4 = $round % 2", 'VACUUM (FREEZE) busy';
		return;
	};
	$freeze->() for 1 .. 4;
	is($pair->source_sql(q{SELECT bool_and(state = 'planned') FROM migrate_tiers.copy_task WHERE source_table = 'busy'::regclass}), 't', 'no chunk was read before');
	$pair->set_option('copy_rate', 300_000);
	my $end = time + 20;
	while ($state ne 'syncing' && time < $end)
	{
		$freeze->();
		$state = state_of($pair, 'busy');
	}
	is($state, 'syncing', "the copy ends, while rows are frozen $round times");
	$busy->quit;
	$pair->sync;
	$pair->equal('and equal');
	$pair->finish;
};

done_testing();
