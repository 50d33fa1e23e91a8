# Capture on the target: whatever way a change is made, its keys are in the
# queue once it is committed, and nothing else is.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;


my $pair = MigrateTiers::Pair->new('capture');
my $tables = <<'SQL';
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE line (item int REFERENCES item ON DELETE CASCADE ON UPDATE CASCADE, n int, v text, PRIMARY KEY (n, item));
CREATE TABLE event (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10);
CREATE TABLE event_2 (at int NOT NULL, v text, id int NOT NULL) PARTITION BY LIST (id);
CREATE TABLE event_2a PARTITION OF event_2 FOR VALUES IN (1, 2, 3, 4);
CREATE TABLE event_2b PARTITION OF event_2 DEFAULT;
ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE hashed (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE listed (k text PRIMARY KEY) PARTITION BY LIST (k);
CREATE TABLE listed_1 PARTITION OF listed FOR VALUES IN ('a\b');
CREATE TABLE mother (id int PRIMARY KEY, v text);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (mother);
CREATE DOMAIN code AS char(5) COLLATE "C" CHECK (value <> 'x');
CREATE TABLE coded (k code PRIMARY KEY, v text);
CREATE TABLE "Ünï ""q"" 'a' %s" ("kéy ""1"" $f$ %I" varchar(3), "new" numeric(4, 2), "old" text, PRIMARY KEY ("new", "kéy ""1"" $f$ %I"));
SQL
$pair->both_sql($tables);
$pair->target_sql('CREATE ROLE clerk; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO clerk');
# What is ours is a heap all the same.
$pair->both_sql('CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler; ALTER DATABASE shop SET default_table_access_method = other');
$pair->declare;
$pair->advance;
$pair->sync;
$pair->dual_write;
$pair->source_sql('SELECT migrate_tiers.pause()');

my $others = q{SELECT coalesce(string_agg(c.relname, ' '), '') FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.relnamespace = 'migrate_tiers'::regnamespace AND c.relkind = 'r' AND a.amname <> 'heap'};
is($pair->source_sql($others), '', 'the tables of the extension and its queue are heaps');
is($pair->target_sql($others), '', 'and those on the target');

my $ident = $pair->target_sql('SELECT left(ident::text, 8) FROM migrate_tiers.migration');
my %id = map { split /\|/, $_, 2 } split /\n/, $pair->source_sql(q{SELECT target_name, id FROM migrate_tiers.relation});

# noted() gives what the queues hold, "table: kind key, ..." a line, and empties them.
sub noted
{
	my ($first) = @_;
	my @tables = sort keys %id;
	my @gone = map { "d$_ AS (DELETE FROM migrate_tiers.queue_${ident}_$id{$tables[$_]} RETURNING concat_ws(' ', kind, condition, " . columns($tables[$_]) . ') AS r)' } 0 .. $#tables;
	my @lines = map { "SELECT $_ AS n, string_agg(r, ', ' ORDER BY r COLLATE \"C\") AS r FROM d$_ HAVING count(*) > 0" } 0 .. $#tables;
	my $found = $pair->target_sql(($first // '') . 'WITH ' . join(', ', @gone) . ' SELECT * FROM (' . join(' UNION ALL ', @lines) . ') l ORDER BY n');
	my @found = map { /^(\d+)\|(.*)$/ ? "$tables[$1]: $2" : $_ } split /\n/, $found;
	return join "\n", @found;
}

sub columns
{
	my ($table) = @_;
	my %two = map { $_ => 1 } 'line', 'event', grep { /q/ } keys %id;
	return $two{$table} ? 'k1, k2' : 'k1';
}

# Tells of each transaction that noted something whether it began and ended as it should; and forgets them.
my $queues = join ' UNION ', map { "SELECT xid FROM migrate_tiers.queue_${ident}_$_" } values %id;
my $writers = <<"SQL";
SELECT coalesce(string_agg(DISTINCT problem, '; '), 'good') FROM (
  SELECT CASE WHEN w.xid IS NULL THEN 'no writer' WHEN q.xid IS NULL THEN 'a writer that wrote nothing'
    WHEN w.begun <> 1 THEN w.begun || ' beginnings' WHEN w.ended <> 1 THEN w.ended || ' ends' END AS problem
  FROM ($queues) q FULL JOIN (SELECT xid, count(*) FILTER (WHERE committed IS NULL) AS begun, count(committed) AS ended
    FROM migrate_tiers.writer_$ident GROUP BY xid) w USING (xid)) x;
DELETE FROM migrate_tiers.writer_$ident;
SQL

# notes(sql, expected, name): two tests, what is noted, and that transactions are.
sub notes
{
	my ($sql, $expected, $name, %o) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$pair->target_sql($sql);
	my ($good, $noted) = split /\n/, noted($writers), 2;
	is($good, 'good', "$name: transactions");
	is($noted // '', $expected, $name);
	return;
}

notes(q{INSERT INTO item SELECT i, 'a' FROM generate_series(1, 5) i}, 'item: 0 1, 0 2, 0 3, 0 4, 0 5', 'INSERT');
notes(q{UPDATE item SET v = 'b' WHERE id < 3}, 'item: 0 1, 0 2', 'UPDATE');
notes(q{UPDATE item SET v = 'b' WHERE id > 100; DELETE FROM item WHERE false; INSERT INTO item SELECT 1, 'x' WHERE false}, '', 'nothing');
notes(q{DELETE FROM item WHERE id IN (4, 5)}, 'item: 0 4, 0 5', 'DELETE');
notes(q{UPDATE item SET id = id + 10 WHERE id >= 2}, 'item: 0 12, 0 13, 0 2, 0 3', 'an update of the key');
notes(q{UPDATE item SET id = id}, 'item: 0 1, 0 12, 0 13', 'an update of the key to the same');
notes("COPY item FROM STDIN;\n20\tx\n21\ty\n\\.\n", 'item: 0 20, 0 21', 'COPY');
notes(q{INSERT INTO item VALUES (1, 'c'), (30, 'd') ON CONFLICT (id) DO UPDATE SET v = excluded.v}, 'item: 0 1, 0 30', 'ON CONFLICT DO UPDATE');
notes(q{INSERT INTO item VALUES (1, 'c'), (31, 'd') ON CONFLICT DO NOTHING}, 'item: 0 31', 'ON CONFLICT DO NOTHING');
notes(q{MERGE INTO item USING (VALUES (1), (30), (40)) s(id) ON item.id = s.id WHEN MATCHED AND s.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET v = 'm' WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'm')},
	'item: 0 1, 0 30, 0 40', 'MERGE');
notes(q{WITH gone AS (DELETE FROM item WHERE id = 40 RETURNING id) INSERT INTO item SELECT id + 1 FROM gone}, 'item: 0 40, 0 41', 'a statement within a statement');
notes(q{INSERT INTO line VALUES (12, 1), (12, 2), (13, 1)}, 'line: 0 1 12, 0 1 13, 0 2 12', 'a key of two columns, in the order of the key');
notes(q{UPDATE item SET id = 14 WHERE id = 13}, "item: 0 13, 0 14\nline: 0 1 13, 0 1 14", 'ON UPDATE CASCADE');
notes(q{DELETE FROM item WHERE id = 12}, "item: 0 12\nline: 0 1 12, 0 2 12", 'ON DELETE CASCADE');

subtest 'transactions' => sub {
	notes(q{BEGIN; INSERT INTO item VALUES (50); SAVEPOINT a; INSERT INTO item VALUES (51); ROLLBACK TO a; INSERT INTO item VALUES (52); COMMIT}, 'item: 0 50, 0 52', 'a savepoint rolled back');
	notes(q{BEGIN; SAVEPOINT a; INSERT INTO item VALUES (51); ROLLBACK TO a; INSERT INTO item VALUES (53); COMMIT}, 'item: 0 53', 'one with the first change of the transaction');
	notes(q{BEGIN; SAVEPOINT a; INSERT INTO item VALUES (51); ROLLBACK TO a; COMMIT}, '', 'one with all of them');
	notes(q{DO $$ BEGIN BEGIN INSERT INTO item VALUES (55); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN INSERT INTO item VALUES (56); END; END $$}, 'item: 0 56', 'an exception that was caught');
	notes(q{BEGIN; INSERT INTO item VALUES (57); ROLLBACK}, '', 'a transaction rolled back');
	notes(q{BEGIN; INSERT INTO item VALUES (57); PREPARE TRANSACTION 'a'; COMMIT PREPARED 'a'}, 'item: 0 57', 'a prepared transaction');
	notes(q{BEGIN; INSERT INTO item VALUES (58); PREPARE TRANSACTION 'a'; ROLLBACK PREPARED 'a'}, '', 'one that was rolled back');
	notes(q{BEGIN; INSERT INTO item VALUES (58); INSERT INTO line VALUES (58, 1); INSERT INTO item VALUES (59); COMMIT; INSERT INTO item VALUES (60)}, "item: 0 58, 0 59, 0 60\nline: 0 1 58", 'several statements, and another transaction of the session');
	notes(q{SET session_replication_role = replica; INSERT INTO item VALUES (61); INSERT INTO event VALUES (61, 1); TRUNCATE line}, "event: 0 61 1\nitem: 0 61\nline: 1", 'replica role');
	notes(q{CREATE SCHEMA evil AUTHORIZATION clerk; SET ROLE clerk; CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
		CREATE FUNCTION evil.strpos(text, text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$hijacked$x$; END'; SET search_path = evil, pg_catalog, public;
		INSERT INTO item VALUES (62); INSERT INTO event VALUES (62, 1); TRUNCATE event_1; RESET ROLE; DROP SCHEMA evil CASCADE},
		q{event: 0 62 1, 2 (("at" IS NOT NULL) AND ("at" >= 0) AND ("at" < 10))} . "\nitem: 0 62", 'a role without rights on our schema, with a search_path of its own');
};

subtest 'TRUNCATE' => sub {
	notes(q{TRUNCATE line}, 'line: 1', 'alone');
	notes(q{TRUNCATE item CASCADE; INSERT INTO item VALUES (1)}, "item: 0 1, 1\nline: 1", 'cascading');
	notes(q{TRUNCATE event_1}, 'event: 2 (("at" IS NOT NULL) AND ("at" >= 0) AND ("at" < 10))', 'a partition');
	notes(q{SET DateStyle = german; SET quote_all_identifiers = on; TRUNCATE event_2}, 'event: 2 (("at" IS NOT NULL) AND ("at" >= 10) AND ("at" < 20) AND ("id" IS NOT NULL) AND ("id" = ANY (ARRAY[1, 2, 3, 4]))), 2 (("at" IS NOT NULL) AND ("at" >= 10) AND ("at" < 20) AND (NOT (("id" IS NOT NULL) AND ("id" = ANY (ARRAY[1, 2, 3, 4])))))', 'partitions of a partition');
	notes(q{SET standard_conforming_strings = off; TRUNCATE listed_1}, q{listed: 2 (("k" IS NOT NULL) AND ("k" = 'a\b'::"text"))}, 'a backslash in the bound');
	notes(q{TRUNCATE event}, 'event: 1', 'the partitioned table');
	$pair->target_sql(q{INSERT INTO hashed SELECT i FROM generate_series(1, 8) i});
	noted();
	$pair->target_sql("DELETE FROM migrate_tiers.writer_$ident");
	my $keys = $pair->target_sql(q{SELECT string_agg('0 ' || id, ', ' ORDER BY id) FROM hashed_0});
	notes(q{TRUNCATE hashed_0}, "hashed: $keys", 'a hash partition');
	notes(q{TRUNCATE hashed}, 'hashed: 1', 'all of them');
	notes(q{BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE hashed; INSERT INTO hashed VALUES (1); TRUNCATE hashed_0; COMMIT}, 'hashed: 0 1, 1', 'all, and then one');
	my ($out, $err);
	isnt($pair->target->psql('shop', 'BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE hashed_0', stderr => \$err), 0, 'an older snapshot does not see all rows');
	like($err, qr/READ COMMITTED only: public.hashed_0/, 'and so it is refused');
	notes(q{TRUNCATE mother}, "child: 1\nmother: 1", 'with children');
	notes(q{TRUNCATE ONLY mother}, 'mother: 1', 'without');
};

subtest 'partitions' => sub {
	notes(q{INSERT INTO event VALUES (1, 1), (2, 12), (5, 13)}, 'event: 0 1 1, 0 2 12, 0 5 13', 'through the table');
	notes(q{INSERT INTO event_2a VALUES (14, 'v', 3); UPDATE event_2 SET v = 'x' WHERE id = 5; DELETE FROM event_1}, 'event: 0 1 1, 0 3 14, 0 5 13', 'directly, and with columns in another order');
	notes(q{UPDATE event SET at = 1 WHERE id = 2}, 'event: 0 2 1, 0 2 12', 'from one to another');
	notes(q{UPDATE event SET at = 2, id = 9 WHERE id = 2}, 'event: 0 2 1, 0 9 2', 'within one, with the key');
	notes("COPY event FROM STDIN;\n7\t7\tx\n7\t17\ty\n\\.\n", 'event: 0 7 17, 0 7 7', 'COPY');
	notes(q{CREATE TABLE event_3 PARTITION OF event FOR VALUES FROM (20) TO (30); SET session_replication_role = replica; INSERT INTO event_3 VALUES (1, 20); UPDATE event SET id = 2 WHERE at = 20; DELETE FROM event_3; INSERT INTO event VALUES (3, 21)},
		'event: 0 1 20, 0 1 20, 0 2 20, 0 2 20, 0 3 21', 'one that came later');
	$pair->target_sql('CREATE ROLE builder; CREATE ROLE owners; GRANT owners TO builder; GRANT ALL ON SCHEMA public TO owners; ALTER TABLE hashed OWNER TO owners; ALTER TABLE event OWNER TO owners');
	notes(q{ALTER TABLE event DETACH PARTITION event_3; TRUNCATE event_3; DROP TABLE event_3}, '', 'one that is not ours any more');
};

subtest 'inheritance' => sub {
	notes(q{INSERT INTO mother VALUES (1); INSERT INTO child VALUES (1), (2)}, "child: 0 1, 0 2\nmother: 0 1", 'of each its own');
	notes(q{UPDATE mother SET v = 'x'}, "child: 0 1, 0 2\nmother: 0 1", 'through the parent');
	notes(q{DELETE FROM mother WHERE id = 2}, 'child: 0 2', 'only the child\'s');
};

subtest 'types and names' => sub {
	my ($odd) = grep { /q/ } keys %id;
	notes(q{INSERT INTO coded VALUES ('ab')}, 'coded: 0 ab   ', 'a domain');
	notes(qq{INSERT INTO "Ünï ""q"" 'a' %s" VALUES ('é', 1.5, 'o'); UPDATE "Ünï ""q"" 'a' %s" SET "new" = 2; TRUNCATE "Ünï ""q"" 'a' %s"}, "$odd: 0 1.50 é, 0 1.50 é, 0 2.00 é, 1", 'names that need quotes');
	notes(q{ALTER DOMAIN code ADD CONSTRAINT c CHECK (value <> 'ab') NOT VALID; DELETE FROM coded}, 'coded: 0 ab   ', 'a value that its domain has come to refuse');
	is($pair->target_sql("SELECT format_type(atttypid, atttypmod) || ' ' || collname FROM pg_attribute a JOIN pg_collation c ON c.oid = attcollation WHERE attrelid = 'migrate_tiers.queue_${ident}_$id{coded}'::regclass AND attname = 'k1'"), 'bpchar C', 'the type without its length, with its collation');
};

# committed(after): whether the one transaction there is has a commit time of that moment or later.
sub committed
{
	my ($after) = @_;
	my $answer = $pair->target_sql("SELECT max(committed) >= '$after' AND max(committed) <= clock_timestamp() AND count(DISTINCT xid) = 1 FROM migrate_tiers.writer_$ident");
	$pair->target_sql("DELETE FROM migrate_tiers.writer_$ident");
	return $answer;
}

subtest 'when and who' => sub {
	$pair->target_sql("DELETE FROM migrate_tiers.writer_$ident");
	my $session = MigrateTiers::session($pair->target);
	$session->query_safe(q{SET application_name = 'shop ''1''  "%s"'; BEGIN; INSERT INTO item VALUES (70)});
	my $then = $session->query_safe('SELECT clock_timestamp()');
	$session->query_safe(q{SET application_name = 'other'});
	$session->query_safe('COMMIT');
	is($pair->target_sql("SELECT string_agg(application, ',') FROM migrate_tiers.writer_$ident"), q{shop '1'  "%s",shop '1'  "%s"}, 'the application\'s name');
	is(committed($then), 't', 'the time is that of the commit');
	$session->query_safe('BEGIN; SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO item VALUES (71)');
	$then = $session->query_safe('SELECT clock_timestamp()');
	$session->query_safe('INSERT INTO item VALUES (72)');
	$session->query_safe('COMMIT');
	is(committed($then), 't', 'with constraints immediate, that of the last change');
	$session->quit;

	$pair->target_sql(q{CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('shop.then', clock_timestamp()::text, false); INSERT INTO coded VALUES (NEW.id); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER zzz AFTER INSERT ON line DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()} =~ s/NEW\.id/NEW.n/r);
	$pair->target_sql("DELETE FROM migrate_tiers.writer_$ident");
	noted();
	$then = $pair->target_sql(q{BEGIN; INSERT INTO line VALUES (70, 8); COMMIT; SELECT current_setting('shop.then')});
	is(committed($then), 't', 'a deferred trigger that writes is before the commit');
	is(noted(), "coded: 0 8    \nline: 0 8 70", 'and what it writes is noted');
	$pair->target_sql('DROP FUNCTION late() CASCADE');
};

$pair->target_sql(q{TRUNCATE item, line, event, hashed, mother, child, coded});
noted();

# With the triggers disabled nothing is noted: that is seen, said, and put right by verify and repair.
my $disturbed = q{SELECT count(*) FROM pg_trigger WHERE tgname ~ '^migrate_tiers_reverse' AND tgenabled <> 'A'};

# unseen(table, values): writes a row as pg_restore --disable-triggers does.
sub unseen
{
	my ($table, $values) = @_;
	$pair->target_sql("ALTER TABLE $table DISABLE TRIGGER ALL; INSERT INTO $table VALUES $values; ALTER TABLE $table ENABLE TRIGGER ALL");
	return;
}

# mended(table): the verdicts before and after repair.
sub mended
{
	my ($table) = @_;
	my $verdict = "SELECT verdict FROM migrate_tiers.verify('$table')";
	my $before = $pair->source_sql($verdict);
	$pair->source_sql("SELECT migrate_tiers.repair('$table', side => 'target')");
	$pair->sync_back;
	return "$before, " . $pair->source_sql($verdict);
}

# Our functions have the rights of who may write our queues: no name in them is anybody else's.
subtest 'a type of the same name' => sub {
	for my $schema ('pg_temp', 'clerks')
	{
		$pair->target_sql("CREATE SCHEMA IF NOT EXISTS clerks AUTHORIZATION clerk; SET ROLE clerk; SET search_path = clerks, pg_catalog, public;
			CREATE FUNCTION $schema.rise(v pg_catalog.text) RETURNS bool LANGUAGE plpgsql AS \$\$ BEGIN EXECUTE 'ALTER ROLE clerk SUPERUSER'; RETURN true; END \$\$;
			CREATE DOMAIN $schema.text AS pg_catalog.text CHECK ($schema.rise(VALUE));
			BEGIN; INSERT INTO public.item VALUES (424242, 'x'); DELETE FROM public.item WHERE id = 424242; COMMIT;
			BEGIN; INSERT INTO public.event VALUES (3, 3, 'x'); DELETE FROM public.event WHERE id = 3 AND at = 3; SET CONSTRAINTS ALL IMMEDIATE; COMMIT");
		is($pair->target_sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'clerk'}), 'f', "of $schema: nobody rises");
	}
	$pair->target_sql('DROP SCHEMA clerks CASCADE');
	noted();
	$pair->target_sql("TRUNCATE migrate_tiers.writer_$ident");
};

subtest 'disabled triggers' => sub {
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->set_option('quiet_period', '0');
	for (['item', 'item', q{(900, 'unseen')}], ['event_1', 'event', q{(900, 1, 'unseen')}])
	{
		my ($table, $whole, $values) = @$_;
		unseen($table, $values);
		ok($pair->wait_until(source => qq{SELECT coalesce(stopped ~ 'triggers of $whole on the target', false) FROM migrate_tiers.status}), "$table: status says so");
		ok($pair->wait_until(target => $disturbed, expected => 0), 'they are enabled always again');
		is($pair->source_sql("SELECT state FROM migrate_tiers.tables WHERE relation = '$whole'::regclass"), 'stopped', 'the table is stopped');
		my ($back, $state, $error) = $pair->source_try(q{CALL migrate_tiers.revert('syncing')});
		is($state, 'MT001', 'no way back');
		like($error, qr/captured.*$whole/s, 'by its own gate');
		is(mended($whole), 'different, equal', 'verify finds it, repair mends it');
		is($pair->status('stopped'), '', 'nothing is stopped any more');
		is($pair->source_sql("SELECT count(*) FROM $whole WHERE id = 900"), '1', 'the row is here');
	}
	$pair->target_sql(q{INSERT INTO item VALUES (901, 'seen'); TRUNCATE event_1});
	$pair->sync_back;
	$pair->equal('and capture goes on');

	# Just before the way back, which the worker cannot note yet.
	my $holder = MigrateTiers::session($pair->source);
	$holder->query_safe(q{BEGIN; SELECT FROM migrate_tiers.relation WHERE target_name = 'mother' FOR NO KEY UPDATE});
	unseen('mother', q{(900, 'unseen')});
	my ($back, $state, $error) = $pair->source_try(q{CALL migrate_tiers.revert('syncing')});
	is($state, 'MT001', 'who closes the fence sees it too');
	like($error, qr/public\.mother of the target may be missing/, 'and says so');
	$holder->quit;
	ok($pair->wait_until(source => q{SELECT coalesce(stopped ~ 'mother', false) FROM migrate_tiers.status}), 'the worker hears of it');
	is(mended('mother'), 'different, equal', 'mended');
	$pair->revert('syncing');
	is($pair->source_sql('SELECT count(*) FROM ONLY mother WHERE id = 900'), '1', 'the row is here');
	is($pair->source_sql(q{SELECT string_agg(target_name, ' ' ORDER BY target_name) FROM migrate_tiers.relation WHERE uncaptured IS NOT NULL}), 'event item mother', 'nothing else was taken for disturbed');
};
# stopped(table): waits until status says that changes of it may be missing.
sub stopped { my ($table) = @_; return $pair->wait_until(source => "SELECT coalesce(stopped ~ '$table on the target', false) FROM migrate_tiers.status"); }

# The call of a way back in a session of its own, and its SQLSTATE when it has ended.
sub revert_begin
{
	my $caller = $pair->source->background_psql('shop', on_error_stop => 0);
	$caller->query_until(qr/begun/, "\\echo begun\nCALL migrate_tiers.revert('syncing');\n\\echo over :SQLSTATE\n");
	return $caller;
}

sub revert_end
{
	my ($caller) = @_;
	my ($state) = $caller->query_until(qr/over \w+/, "\n") =~ /over (\w+)/;
	$caller->quit;
	return $state;
}

$pair->dual_write;

subtest 'after a way back that failed' => sub {
	my $reader = MigrateTiers::session($pair->target);
	$reader->query_safe('BEGIN; SELECT FROM item');
	$pair->set_option('attach_timeout', '500 ms');
	my ($back, $state) = $pair->source_try(q{CALL migrate_tiers.revert('syncing')});
	is($state, '55P03', 'triggers that cannot be taken away');
	$reader->quit;
	$pair->set_option('attach_timeout', '10 min');
	is($pair->status('phase'), 'dual_write', 'and so everything is as before');
	unseen('item', q{(910, 'unseen')});
	ok(stopped('item'), 'the table is guarded as before');
	is(mended('item'), 'different, equal', 'mended');
};

subtest 'a lock that is not to be had' => sub {
	my $source_log = -s $pair->source->logfile;
	my $target_log = -s $pair->target->logfile;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	unseen('item', q{(920, 'unseen')});
	my $writer = MigrateTiers::session($pair->target);
	$writer->query_safe('BEGIN; LOCK TABLE item IN ROW EXCLUSIVE MODE');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	my @at;
	ok(MigrateTiers::wait_for(sub {
		@at = map { $_ % 86400 } map { my @time = split /:/; $time[0] * 3600 + $time[1] * 60 + $time[2] } substr(slurp_file($pair->target->logfile), $target_log) =~ /^\S+ (\S+) .*due to lock timeout/mg;
		return @at >= 2;
	}, 30), 'is asked for again');
	cmp_ok(($at[1] - $at[0]) % 86400, '>=', 2, 'later than a look');
	ok(stopped('item'), 'and status says what is amiss meanwhile');
	$writer->quit;
	ok($pair->wait_until(target => 'SELECT bool_and(trigger_oid <> 0) FROM migrate_tiers.armed'), 'noted');
	ok($pair->wait_until(target => $disturbed, expected => 0), 'the triggers are enabled when it is there');
	my @said = substr(slurp_file($pair->source->logfile), $source_log) =~ /LOG:.*(changes of table public.item of the target (?:may be missing|are noted again))/g;
	is(join('; ', @said), 'changes of table public.item of the target may be missing; changes of table public.item of the target are noted again', 'both is said once');
	is(mended('item'), 'different, equal', 'mended');
};

subtest 'another table by its name' => sub {
	$pair->target_sql(q{CREATE TABLE coded_new (LIKE coded INCLUDING ALL); INSERT INTO coded_new VALUES ('new'); BEGIN; ALTER TABLE coded RENAME TO coded_old; ALTER TABLE coded_new RENAME TO coded; COMMIT; DELETE FROM coded_old});
	ok(stopped('coded'), 'status says so');
	is(mended('coded'), 'different, equal', 'mended');
	$pair->target_sql(q{INSERT INTO coded VALUES ('later'); DROP TABLE coded_old});
	$pair->sync_back;
	is($pair->source_sql(q{SELECT string_agg(k, ' ' ORDER BY k) FROM coded}), 'later new', 'it is captured from then on');
	is($pair->status('stopped'), '', 'nothing is stopped');
};

subtest 'while the way back is under way' => sub {
	my $hidden = MigrateTiers::session($pair->target);
	$hidden->query_safe(q{BEGIN; ALTER TABLE child DISABLE TRIGGER ALL; INSERT INTO child VALUES (930, 'unseen')});
	my $caller = revert_begin();
	ok($pair->wait_until(target => q{SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'child'::regclass AND NOT granted)}), 'who writes unseen is waited for');
	$hidden->query_safe('ALTER TABLE child ENABLE TRIGGER ALL; COMMIT');
	$hidden->quit;
	is(revert_end($caller), 'MT001', 'and bars the way');
	ok(stopped('child'), 'the worker hears of it');
	is(mended('child'), 'different, equal', 'mended');

	my $writer = MigrateTiers::session($pair->target);
	$writer->query_safe('BEGIN; INSERT INTO item VALUES (940)');
	$caller = revert_begin();
	ok($pair->wait_until(target => "SELECT last_value FROM migrate_tiers.fence_$ident", expected => 1), 'the gates are passed');
	unseen('mother', q{(940, 'unseen')});
	ok($pair->wait_until(source => q{SELECT EXISTS (SELECT FROM migrate_tiers.uncaptured WHERE name = 'mother')}), 'then the worker notes something');
	ok($pair->wait_until(target => 'SELECT bool_and(trigger_oid <> 0) FROM migrate_tiers.armed'), 'and the target forgets it');
	$writer->query_safe('COMMIT');
	$writer->quit;
	is(revert_end($caller), 'MT001', 'it bars the way all the same');
	is(mended('mother'), 'different, equal', 'mended');
	$pair->revert('syncing');
	$pair->equal('equal in the end');
};
$pair->finish;
done_testing();
