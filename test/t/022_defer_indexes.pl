# defer_indexes: what is set aside of the target's tables for their copy comes
# back exactly as it was, after the copy, after a crash, after a revert in the
# middle of it, and when the migration is dropped.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use PostgreSQL::Test::Utils;
use Test::More;

my $pair = MigrateTiers::Pair->new('defer');

$pair->both_sql(<<'SQL');
SET client_min_messages = warning;
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE elsewhere LOCATION '';
RESET allow_in_place_tablespaces;
CREATE EXTENSION btree_gist;
CREATE SCHEMA "Ünï ""q""";
CREATE TABLE item (id int, code text NOT NULL, n int NOT NULL, during int4range,
    CONSTRAINT "item's key" PRIMARY KEY (id) WITH (fillfactor = 80) USING INDEX TABLESPACE elsewhere,
    CONSTRAINT code_once UNIQUE NULLS NOT DISTINCT (code) INCLUDE (n) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT n_once UNIQUE (n) DEFERRABLE,
    CONSTRAINT not_twice EXCLUDE USING gist (n WITH =, during WITH &&) WHERE (n > 0) DEFERRABLE);
COMMENT ON CONSTRAINT "item's key" ON item IS 'the key''s \ comment';
COMMENT ON INDEX "item's key" IS 'the index of the key';
COMMENT ON CONSTRAINT not_twice ON item IS 'not twice';
CREATE INDEX item_words ON item ((lower(code)) COLLATE "C" text_pattern_ops DESC NULLS LAST, n) INCLUDE (id)
    WITH (fillfactor = 55) TABLESPACE elsewhere WHERE n <> 13;
ALTER INDEX item_words ALTER COLUMN 1 SET STATISTICS 321;
COMMENT ON INDEX item_words IS 'words';
CREATE INDEX item_brin ON item USING brin (n) WITH (pages_per_range = 4);
CREATE INDEX item_hash ON item USING hash (code);
CREATE UNIQUE INDEX item_identity ON item (code, id);
ALTER TABLE item REPLICA IDENTITY USING INDEX item_identity;
ALTER TABLE item CLUSTER ON "item's key";
ALTER INDEX item_hash DEPENDS ON EXTENSION btree_gist;
CREATE TABLE "Ünï ""q"""."tä ""b" (id int PRIMARY KEY, "Ä k" text, item int,
    CONSTRAINT "to 'item'" FOREIGN KEY (item) REFERENCES item MATCH FULL ON UPDATE CASCADE ON DELETE SET NULL (item)
        DEFERRABLE INITIALLY DEFERRED);
COMMENT ON CONSTRAINT "to 'item'" ON "Ünï ""q"""."tä ""b" IS 'a reference';
CREATE INDEX item_words ON "Ünï ""q"""."tä ""b" ("Ä k");
CREATE TABLE kept (id int PRIMARY KEY, name text NOT NULL);
CREATE INDEX kept_name ON kept (name);
CREATE VIEW kept_names AS SELECT id, name FROM kept GROUP BY id;
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree, CONSTRAINT unchecked CHECK (id > 0) NOT VALID);
ALTER TABLE tree ADD CONSTRAINT never_checked FOREIGN KEY (up) REFERENCES item NOT VALID;
CREATE TABLE parts (id int, item int REFERENCES item, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (1000) TO (100000);
SQL
# A table that the migration knows nothing of refers to one that it fills.
$pair->target_sql('CREATE TABLE outside (item int CONSTRAINT to_item REFERENCES item)');
$pair->source_sql(<<'SQL');
INSERT INTO item SELECT i, md5(i::text), i, int4range(i, i + 5) FROM generate_series(1, 10000) i;
INSERT INTO "Ünï ""q"""."tä ""b" SELECT i, 'k' || i, i FROM generate_series(1, 3000) i;
INSERT INTO kept SELECT i, 'n' || i FROM generate_series(1, 1000) i;
INSERT INTO tree SELECT i, nullif(i - 1, 0) FROM generate_series(1, 3000) i;
INSERT INTO parts SELECT i, i FROM generate_series(1, 3000) i;
SQL

# Everything of the target's indexes and constraints that can be seen, one line each.
sub image
{
	my ($where) = @_;
	$where //= 'true';
	return $pair->target_pinned(<<"SQL");
SET search_path = '';
SELECT 'index', c.oid::regclass, pg_get_indexdef(c.oid), i.indisunique, i.indisprimary, i.indisexclusion, i.indimmediate, i.indisclustered,
       i.indisvalid, i.indisready, i.indisreplident, i.indnullsnotdistinct, c.reloptions, c.relam, t.spcname, c.relowner::regrole,
       obj_description(c.oid, 'pg_class'), (SELECT array_agg(attstattarget ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid),
       (SELECT array_agg(concat(deptype, ' ', pg_describe_object(refclassid, refobjid, refobjsubid)) ORDER BY concat(deptype, ' ', pg_describe_object(refclassid, refobjid, refobjsubid))) FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
 WHERE c.relnamespace IN ('public'::regnamespace, '"Ünï ""q"""'::regnamespace) AND $where ORDER BY 2;
SELECT 'constraint', conrelid::regclass, conname, contype, condeferrable, condeferred, convalidated, conindid::regclass, confmatchtype,
       confupdtype, confdeltype, confdelsetcols, conislocal, coninhcount, connoinherit, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')
  FROM pg_constraint WHERE connamespace IN ('public'::regnamespace, '"Ünï ""q"""'::regnamespace) AND $where ORDER BY 2, 3;
SELECT 'trigger', tgrelid::regclass, tgfoid::regproc, tgtype, tgdeferrable, tginitdeferred, tgenabled, count(*)
  FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid WHERE c.relnamespace IN ('public'::regnamespace, '"Ünï ""q"""'::regnamespace)
   AND tgname NOT LIKE 'migrate_tiers_fence_%' AND $where GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 2, 3, 4;
SELECT 'table', c.oid::regclass, c.relreplident, (SELECT array_agg(attnotnull ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0)
  FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace IN ('public'::regnamespace, '"Ünï ""q"""'::regnamespace) AND $where ORDER BY 2;
SQL
}

# is_image compares with what was there before, line by line.
my $before = image();

sub is_image
{
	my ($name) = @_;
	my %lines;
	$lines{$_}++ for split /\n/, $before;
	$lines{$_}-- for split /\n/, image();
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $same = ok(!(grep { $_ } values %lines), $name);
	diag(($lines{$_} > 0 ? 'gone: ' : 'left: ') . $_) for $same ? () : sort grep { $lines{$_} } keys %lines;
	return $same;
}

# The copy, slow enough to be looked at: every table has begun, none is complete.
sub begin_slowly
{
	$pair->set_option('copy_rate', '60000');
	$pair->set_option('chunk_size', '64kB');
	$pair->advance;
	return $pair->wait_until(
		target => q{SELECT EXISTS (SELECT FROM ONLY item) AND EXISTS (SELECT FROM migrate_tiers.set_aside WHERE table_name = 'item')});
}

sub in_sync
{
	my ($name) = @_;
	$pair->set_option('copy_rate', '0');
	$pair->sync(120);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($pair->wait_until(target => 'SELECT count(*) = 0 FROM migrate_tiers.set_aside', timeout => 60), "$name: nothing is aside any more");
	$pair->equal($name, 'public', 'Ünï "q"');
	is_image("$name: indexes and constraints are as they were");
	return;
}

$pair->declare(schemas => [ 'public', 'Ünï "q"' ]);

subtest 'while tables are copied' => sub {
	ok(begin_slowly(), 'the copy has begun');
	isnt(image(), $before, 'the comparison sees what is aside');
	is($pair->target_sql(q{SELECT count(*) FROM pg_index WHERE indrelid = 'item'::regclass}), '0', 'all indexes of a table are aside');
	is($pair->target_sql(q{SELECT count(*) FROM pg_constraint WHERE confrelid = 'item'::regclass}), '0', 'and foreign keys that rest on them');
	is($pair->target_sql(q{SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'kept'::regclass}), 'kept_pkey', 'the key that a view needs stays');
	is($pair->target_sql(q{SELECT count(*) FROM pg_index WHERE indrelid = 'parts'::regclass}), '1', 'the key of a partitioned table stays');
	is($pair->target_sql(q{SELECT string_agg(attnotnull::text, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'item'::regclass AND attnum > 0}),
		'true,true,true,false', 'columns stay not null');
};

subtest 'workers killed in the middle' => sub {
	for my $round (1 .. 3)
	{
		$pair->source_sql(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type LIKE 'migrate_tiers%'});
		$pair->source_sql('SELECT migrate_tiers.start_workers()');
	}
	in_sync('after kills');
};

subtest 'reverted' => sub {
	$pair->revert;
	is_image('indexes and constraints are as they were');
	is($pair->target_sql('SELECT count(*) FROM item'), '0', 'empty again');
};

subtest 'the target crashed in the middle' => sub {
	ok(begin_slowly(), 'the copy has begun');
	$pair->target->stop('immediate');
	$pair->target->start;
	in_sync('after the crash');
	$pair->revert;
	is_image('after the revert, too');
};

subtest 'crashed while indexes were built' => sub {
	$pair->set_option('copy_rate', '0');
	# One of the builds fails until it is told otherwise: its expression divides by this.
	$pair->target_sql(q{
		CREATE TABLE gate (open int);
		INSERT INTO gate VALUES (0);
		CREATE FUNCTION through(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 / (SELECT open FROM public.gate); END';
		CREATE INDEX item_gate ON item (through(n))});
	my $with_gate = image();
	$pair->advance;
	ok($pair->wait_until(source => q{SELECT bool_and(state = 'syncing' OR relation = 'item'::regclass) FROM migrate_tiers.tables WHERE tier = 'realtime'}, timeout => 60),
		'the other tables are in sync');
	ok($pair->wait_until(target => q{SELECT string_agg(name, ',') = 'item_gate' FROM migrate_tiers.set_aside WHERE state = 'aside' AND kind = 'index'}),
		'all but one are built');
	ok($pair->wait_until(source => q{SELECT stopped ~ '22012' FROM migrate_tiers.status}), 'status says why');
	$pair->target->stop('immediate');
	$pair->target->start;
	$pair->target_sql('UPDATE gate SET open = 1');
	$before = $with_gate;
	in_sync('after the gate was opened');
	$pair->target_sql('DROP INDEX item_gate; DROP FUNCTION through; DROP TABLE gate');
	$pair->revert;
	$before = image();
};

subtest 'an index that takes long to build' => sub {
	# What a sequence says is seen by whoever asks, whatever his snapshot.
	$pair->target_sql(q{
		CREATE SEQUENCE gate;
		CREATE FUNCTION slowly(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
			AS 'BEGIN WHILE NOT (SELECT is_called FROM public.gate) LOOP PERFORM pg_sleep(0.05); END LOOP; RETURN $1; END';
		CREATE INDEX kept_slow ON kept (slowly(id))});
	$before = image();
	$pair->advance;
	ok($pair->wait_until(target => q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'kept_slow' AND wait_event = 'PgSleep'}), 'it is being built');
	ok($pair->wait_until(source => q{SELECT count(*) = 1 FROM migrate_tiers.progress WHERE state <> 'done'}), 'all else is done');
	my $began = $pair->source_sql(q{SELECT started FROM migrate_tiers.progress WHERE object = 'kept_slow'});
	ok($pair->wait_until(source => q{SELECT count(*) = 1 AND bool_and(backend_xid IS NULL AND backend_xmin IS NULL) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers copy'}, timeout => 10),
		'the source has no transaction open for it, and no snapshot');
	is($pair->source_sql(q{SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE classid = 'migrate_tiers.copy_task'::regclass AND granted AND backend_type = 'migrate_tiers copy'}), '1', 'its worker holds it');
	is($pair->source_sql(q{SELECT started FROM migrate_tiers.progress WHERE object = 'kept_slow'}), $began, 'it was begun once');
	is($pair->target_sql(q{SELECT count(*) FROM pg_stat_activity WHERE query ~ 'kept_slow' AND wait_event_type = 'Lock'}), '0', 'nobody else begins to build it');
	$pair->target_sql(q{SELECT nextval('gate')});
	in_sync('after it was built');
	$pair->target_sql('DROP INDEX kept_slow; DROP FUNCTION slowly; DROP SEQUENCE gate');
	$pair->revert;
	$before = image();
};

subtest 'reverted in the middle' => sub {
	ok(begin_slowly(), 'the copy has begun');
	$pair->revert;
	is_image('indexes and constraints are as they were');
	is($pair->target_sql('SELECT count(*) FROM item'), '0', 'empty again');
	is($pair->target_sql(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'migrate_tiers%'}), '0', 'no fence');
};

subtest 'reverted while an index is built' => sub {
	$pair->set_option('copy_rate', '0');
	$pair->set_option('attach_timeout', '10 s');
	$pair->target_sql(q{
		CREATE FUNCTION endless(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN $1; END';
		CREATE INDEX item_endless ON item (endless(n))});
	my $with_index = image();
	$pair->advance;
	ok($pair->wait_until(target => q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query ~ 'item_endless')}, timeout => 60),
		'the index is built');
	my ($ok, undef, $err) = $pair->source_try(q{CALL migrate_tiers.revert('planned')});
	ok($ok, 'reverted: the build ends with the worker that asked for it') || diag $err;
	$before = $with_index;
	is_image('indexes and constraints are as they were');
	$pair->target_sql('DROP INDEX item_endless; DROP FUNCTION endless');
	$before = image();
};

subtest 'a foreign key that does not hold' => sub {
	$pair->target_sql('SET session_replication_role = replica; INSERT INTO outside VALUES (1)');
	ok(begin_slowly(), 'the copy has begun');
	my ($ok, $state, $err) = $pair->source_try(q{CALL migrate_tiers.revert('planned')});
	ok($ok, 'reverted in the middle');
	like($err, qr/WARNING.*foreign key "to_item" of target table public\.outside does not hold/s, 'with a warning');
	is($pair->target_sql(q{SELECT convalidated FROM pg_constraint WHERE conname = 'to_item'}), 'f', 'it is there, and not valid');
	$pair->target_sql('DELETE FROM outside; ALTER TABLE outside VALIDATE CONSTRAINT to_item');
	is_image('once it holds, all is as it was');
};

subtest 'not deferred' => sub {
	$pair->set_option('defer_indexes', 'off');
	$pair->set_option('copy_rate', '60000');
	$pair->advance;
	ok($pair->wait_until(target => 'SELECT EXISTS (SELECT FROM ONLY item)'), 'the copy has begun');
	is_image('nothing is set aside');
	in_sync('in sync');
	$pair->revert;
	$pair->set_option('defer_indexes', 'on');
};

subtest 'a table that is copied while the others are in sync' => sub {
	$pair->advance;
	in_sync('at first');
	my $session = q{SELECT backend_start FROM pg_stat_activity WHERE backend_type LIKE 'migrate_tiers sync%'};
	my $began = $pair->source_sql($session);
	$pair->source_sql(qq{SELECT migrate_tiers.tag('tree', '$_')}) for qw(batch realtime);
	in_sync('later');
	is($pair->source_sql($session), $began, 'by the same worker');
	is($pair->source_sql(q{SELECT passed FROM migrate_tiers.gates('dual_write') WHERE gate = 'copied'}), 't', 'the gate passes');
	$pair->revert;
	is_image('after the revert, too');
};

subtest 'a check that takes long' => sub {
	# The check of a foreign key waits for a lock, as for one of its table that somebody holds.
	$pair->target_sql(<<'EOT');
CREATE FUNCTION wait_for_one() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN
	IF current_query() ~ 'FOREACH' AND current_query() !~ 'default_tablespace' THEN PERFORM pg_advisory_xact_lock(1); END IF; END$$;
CREATE EVENT TRIGGER checks ON ddl_command_start WHEN tag IN ('ALTER TABLE') EXECUTE FUNCTION wait_for_one();
ALTER EVENT TRIGGER checks ENABLE ALWAYS;
EOT
	my $holder = MigrateTiers::session($pair->target);
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	my $waits = q{FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'};
	$pair->advance;
	ok($pair->wait_until(target => "SELECT count(*) = 1 $waits"), 'a check waits');
	is($pair->source_sql(q{SELECT passed FROM migrate_tiers.gates('dual_write') WHERE gate = 'copied'}), 'f', 'the gate waits for it');
	ok($pair->wait_until(source => q{SELECT count(*) > 0 FROM migrate_tiers.progress WHERE kind = 'foreign_key' AND state = 'running'}), 'progress shows it');
	# A wait gives up after a while and comes back: a row has to arrive within one of them.
	my ($before, $after) = ('none', 'no other');
	for my $row (1 .. 10)
	{
		$before = $pair->target_sql("SELECT pid, query_start $waits");
		$pair->source_sql("INSERT INTO kept VALUES (10000 + $row, 'meanwhile')");
		$pair->sync;
		$after = $pair->target_sql("SELECT pid, query_start $waits");
		last if $before ne '' && $before eq $after;
	}
	is($after, $before, 'rows arrive while it waits');
	$pair->source_sql('SELECT migrate_tiers.pause()');
	ok($pair->wait_until(target => "SELECT count(*) = 0 $waits"), 'it ends with the worker');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	ok($pair->wait_until(target => "SELECT count(*) = 1 $waits"), 'and begins again');
	$pair->source_sql(qq{SELECT migrate_tiers.tag('tree', '$_')}) for qw(batch realtime);
	$pair->sync;
	$pair->equal('a table can be copied again meanwhile', 'public', 'Ünï "q"');
	$holder->quit;
	in_sync('when it has the lock');
	$pair->target_sql('DROP EVENT TRIGGER checks; DROP FUNCTION wait_for_one');
	$pair->source_sql('DELETE FROM kept WHERE id > 10000');
	$pair->revert;
};

subtest 'a check that keeps writers out' => sub {
	# That of a partitioned table is checked as it is added; here it goes on for as long as somebody likes.
	$pair->target_sql(<<'EOT');
CREATE FUNCTION go_on() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN
	IF current_query() ~ 'FOREACH' AND current_query() !~ 'default_tablespace'
		AND EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE objid = 'public.parts'::regclass) THEN
		WHILE NOT pg_try_advisory_xact_lock(1) LOOP PERFORM pg_sleep(0.02); END LOOP;
	END IF; END$$;
CREATE EVENT TRIGGER checks ON ddl_command_end WHEN tag IN ('ALTER TABLE') EXECUTE FUNCTION go_on();
ALTER EVENT TRIGGER checks ENABLE ALWAYS;
EOT
	my $holder = MigrateTiers::session($pair->target);
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	$pair->advance;
	ok($pair->wait_until(target => q{SELECT count(*) = 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = 'item'::regclass AND mode = 'ShareRowExclusiveLock' AND granted AND wait_event = 'PgSleep'}), 'it has its locks');
	my $log = -s $pair->target->logfile;
	$pair->source_sql('UPDATE item SET during = int4range(id, id + 4) WHERE id <= 10');
	my $since = $pair->source_sql('SELECT clock_timestamp()');
	ok($pair->wait_until(source => "SELECT clock_timestamp() > '$since'::timestamptz + interval '2 s'"), 'there is something to send meanwhile');
	unlike(slurp_file($pair->target->logfile, $log), qr/lock timeout/, 'no tick asks for what it would not be given');
	is($pair->source_sql('SELECT stopped FROM migrate_tiers.status'), '', 'and nothing is stopped');
	$holder->quit;
	in_sync('when it is over');
	$pair->target_sql('DROP EVENT TRIGGER checks; DROP FUNCTION go_on');
	$pair->revert;
};

subtest 'a foreign key that cannot come back' => sub {
	$pair->target_sql('SET session_replication_role = replica; INSERT INTO outside VALUES (100000)');
	$pair->advance;
	ok($pair->wait_until(source => q{SELECT stopped ~ '23503' FROM migrate_tiers.status}), 'status says why');
	ok($pair->wait_until(source => q{SELECT NOT passed AND detail ~ ': foreign key to_item of public.outside$' FROM migrate_tiers.gates('dual_write') WHERE gate = 'copied'}),
		'it alone bars the way to where the target is written');
	$pair->source_sql(q{INSERT INTO kept VALUES (20000, 'goes on')});
	$pair->sync;
	is($pair->target_sql('SELECT count(*) FROM kept WHERE id = 20000'), '1', 'ticks go on');
	$pair->target_sql('DELETE FROM outside');
	ok($pair->wait_until(source => q{SELECT passed FROM migrate_tiers.gates('dual_write') WHERE gate = 'copied'}), 'until the rows are mended');
	$pair->revert;
	is_image('all is as it was');
};

subtest 'a table that leaves in mid-copy' => sub {
	$pair->both_sql('CREATE TABLE leaver (id int PRIMARY KEY, v text UNIQUE); CREATE INDEX leaver_index ON leaver (v, id)');
	$pair->source_sql(q{INSERT INTO leaver SELECT i, 'v' || i FROM generate_series(1, 3000) i; SELECT migrate_tiers.tag('leaver', 'realtime')});
	ok(begin_slowly(), 'the copy has begun');
	ok($pair->wait_until(target => q{SELECT count(*) = 3 FROM migrate_tiers.set_aside WHERE table_name = 'leaver'}), 'its indexes are aside');
	$pair->source_sql('SET migrate_tiers.allow_ddl = on; DROP TABLE leaver');
	ok($pair->wait_until(target => q{SELECT count(*) = 3 FROM pg_index WHERE indrelid = 'leaver'::regclass}, timeout => 30), 'dropped here, it has them again there');
	$pair->set_option('copy_rate', '0');
	$pair->sync(120);
	ok($pair->wait_until(source => q{SELECT passed FROM migrate_tiers.gates('dual_write') WHERE gate = 'copied'}, timeout => 30), 'and does not bar the way');
	$pair->target_sql('DROP TABLE leaver');
	in_sync('without it');
	$pair->revert;
};

subtest 'a table that is altered on both sides in mid-copy' => sub {
	$pair->both_sql('CREATE TABLE altered (id int PRIMARY KEY, a text, b int CONSTRAINT b_to_item REFERENCES item, c int CONSTRAINT c_to_item REFERENCES item); CREATE INDEX altered_a ON altered (a)');
	$pair->source_sql(q{INSERT INTO altered SELECT i, 'a' || i, i, i FROM generate_series(1, 3000) i; SELECT migrate_tiers.tag('altered', 'realtime')});
	my $alter = sub {
		my ($columns) = @_;
		ok(begin_slowly(), 'the copy has begun');
		ok($pair->wait_until(target => q{SELECT count(*) > 0 FROM migrate_tiers.set_aside WHERE name = 'altered_pkey'}), 'its key is aside');
		ok($pair->wait_until(target => q{SELECT count(*) > 0 FROM migrate_tiers.set_aside WHERE name = 'c_to_item'}), '... and what rests on another');
		$pair->target_sql("ALTER TABLE altered $columns");
		$pair->source_sql("SET migrate_tiers.allow_ddl = on; ALTER TABLE altered $columns");
		return $pair->set_option('copy_rate', '0');
	};
	$alter->('DROP COLUMN a, DROP COLUMN b');
	ok($pair->wait_until(source => q{SELECT stopped ~ '42703: .*CREATE INDEX altered_a .*DELETE FROM migrate_tiers.set_aside .*''altered_a''' FROM migrate_tiers.status}, timeout => 60),
		'status names what cannot be built, and a way out') || diag $pair->status('stopped');
	my ($ok, undef, $err) = $pair->source_try(q{CALL migrate_tiers.revert('planned')});
	ok($ok, 'the way back is open') || diag $err;
	like($err, qr/WARNING.*$_.*could not be restored/, "with a warning of $_") for qw(altered_a b_to_item);
	is($pair->target_sql(q{SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conrelid = 'altered'::regclass AND contype <> 'n'}), 'altered_pkey c_to_item', 'all else is there again');

	$alter->('DROP COLUMN c');
	ok($pair->wait_until(source => q{SELECT stopped ~ '42703: .*DELETE FROM migrate_tiers.set_aside .*''c_to_item''' FROM migrate_tiers.status}, timeout => 60),
		'the same of a foreign key') || diag $pair->status('stopped');
	my ($way_out) = $pair->status('stopped') =~ /run there: (DELETE FROM .*'c_to_item')/;
	$pair->target_sql($way_out);
	ok($pair->wait_until(source => q{SELECT passed FROM migrate_tiers.gates('dual_write') WHERE gate = 'copied'}, timeout => 60), 'the way out is one');
	$pair->source_sql('SET migrate_tiers.allow_ddl = on; DROP TABLE altered');
	$pair->target_sql('DROP TABLE altered');
	in_sync('without it');
	$pair->revert;
};

subtest 'dropped' => sub {
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	is_image('indexes and constraints are as they were');
	is($pair->target_sql(q{SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_tiers'}), '0', 'nothing of ours is left');
};

$pair->finish(crashes => 1);
done_testing();
