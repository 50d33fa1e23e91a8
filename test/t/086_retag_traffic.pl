# A table goes from batch to realtime and back, again and again, while it is written without a pause:
# no change is lost at any of the turns.  Two pushes of one table never go on at a time.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
sql($_, 'CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE tally (id int PRIMARY KEY, v bigint, note text); CREATE TABLE deferred (id int PRIMARY KEY, u int UNIQUE DEFERRABLE)') for $source, $target;
migration($source, 'item', 'deferred');
sql($source, q{SELECT migrate_tiers.tag('tally', 'batch'); INSERT INTO tally SELECT i, 0, 'x' FROM generate_series(1, 3000) i});
advance($source, 'syncing');
wait_synced($source);
sql($source, q{SELECT migrate_tiers.push_batch('tally')});

my $writer = start_writer();
for my $turn (1 .. 3)
{
	sql($source, q{SELECT migrate_tiers.tag('tally', 'realtime')});
	my $marked = mark("realtime $turn");
	wait_synced($source);
	is(state_of(), 'syncing', "turn $turn: it became realtime");
	is(sql($target, "SELECT note FROM tally WHERE id = -$marked"), "realtime $turn", 'what was written after the turn is there by sync');
	sql($source, q{SELECT migrate_tiers.tag('tally', 'batch')});
	$marked = mark("batch $turn");
	sql($source, q{SELECT migrate_tiers.push_batch('tally')});
	is(sql($target, "SELECT note FROM tally WHERE id = -$marked"), "batch $turn", 'and after the turn back, by a push');
	is(sql($source, q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tally'::regclass}), '0', 'nothing captures it');
}
sql($source, q{SELECT migrate_tiers.tag('tally', 'realtime')});
my $written = stop_writer($writer);
cmp_ok($written, '>', 100, "$written transactions wrote it meanwhile");
wait_synced($source);
tables_equal($source, $target, 'tally', 'realtime at last, it is equal on both sides');
sql($source, q{SELECT migrate_tiers.tag('tally', 'batch')});
sql($source, q{SELECT migrate_tiers.push_batch('tally')});
tables_equal($source, $target, 'tally', 'and batch at last');

# A table that is made meanwhile joins the others; not where it would delete rows that the target has.
sql($_, 'CREATE TABLE late (id int PRIMARY KEY, item int REFERENCES item)') for $source, $target;
sql($source, 'INSERT INTO item VALUES (1); INSERT INTO late SELECT i, 1 FROM generate_series(1, 100) i');
sql($target, 'SET session_replication_role = replica; INSERT INTO late VALUES (-1, 1)');
sql_fails($source, q{SELECT migrate_tiers.tag('late', 'realtime')}, 'MT001', qr/cannot join.*target_empty of public\.late: /s, 'a new table with rows on the target is refused');
is(sql($source, q{SELECT count(*) FROM migrate_tiers.tables WHERE relation = 'late'::regclass}), '0', 'and stays as it was');
sql($target, 'DELETE FROM late');
sql($source, q{SELECT migrate_tiers.tag('late', 'realtime')});
sql($source, 'UPDATE late SET id = -id WHERE id % 2 = 0');
wait_synced($source);
tables_equal($source, $target, 'late', 'a new table is copied and in sync');
sql($source, 'DELETE FROM late WHERE id < 0');
wait_synced($source);
tables_equal($source, $target, 'late', 'and follows');

# Nor does a table on the way through the batch tier, or with another target: only what our pushes have brought is ours.
sql($_, 'CREATE TABLE history (id int PRIMARY KEY, v bigint, note text)') for $source, $target;
sql($source, q{INSERT INTO history VALUES (1, 1, 'new'); SELECT migrate_tiers.set_option('overwrite', 'on')});
sql($target, q{INSERT INTO history VALUES (-1, -1, 'of somebody')});
is(sql($source, q{BEGIN; SELECT migrate_tiers.tag('history', 'realtime'); ROLLBACK; SELECT migrate_tiers.set_option('overwrite', NULL)}), "\n", 'where it is allowed, a table may be emptied');
for my $quoted ('off', 'on')
{
	my $quoting = "SET quote_all_identifiers = $quoted;";
	sql_fails($source, "$quoting SELECT migrate_tiers.tag('history', 'realtime')", 'MT001', qr/cannot join.*target_empty of public\.history: /s, "a new table is refused, quote_all_identifiers $quoted");
	sql_fails($source, "$quoting SELECT migrate_tiers.tag('tally', 'realtime', target => 'public.history')", 'MT001', qr/target_empty of public\.tally: public\.history has rows/, 'and one for which another target is named');
}
sql($source, q{SELECT migrate_tiers.tag('history', 'batch')});
sql_fails($source, q{SELECT migrate_tiers.tag('history', 'realtime')}, 'MT001', qr/target_empty of public\.history: /, 'and one that was batch, and was not pushed');
for my $mode ('diff', 'replace')
{
	sql($source, "SELECT migrate_tiers.batch_policy('history', mode => '$mode')");
	sql_fails($source, q{SELECT migrate_tiers.push_batch('history')}, '55000', qr/public\.history has rows on the target.*overwrite/s, "its first push is refused, mode $mode");
}
sql_fails($source, q{SELECT migrate_tiers.tag('history', 'realtime')}, 'MT001', qr/target_empty of public\.history: /, 'a push that was refused has brought nothing');
sql($source, q{SELECT migrate_tiers.untag('history'), migrate_tiers.tag('tally', 'batch', target => 'public.history')});
sql_fails($source, q{SELECT migrate_tiers.push_batch('tally')}, '55000', qr/public\.history has rows on the target/, 'so is one into a table that is named later');
sql($source, q{SELECT migrate_tiers.tag('tally', 'batch', target => 'public.tally')});
is(sql($target, 'TABLE history'), '-1|-1|of somebody', 'what the target has is there');
sql($source, q{SELECT migrate_tiers.tag('history', 'batch'), migrate_tiers.set_option('overwrite', 'on'); SELECT migrate_tiers.push_batch('history'); SELECT migrate_tiers.set_option('overwrite', NULL); SELECT migrate_tiers.push_batch('history')});
is(sql($target, 'TABLE history'), '1|1|new', 'where it is allowed, a push replaces it');
sql($source, q{SELECT migrate_tiers.tag('history', 'realtime')});
wait_synced($source);
tables_equal($source, $target, 'history', 'and then it may be realtime');

# While the target does not answer, nobody waits for the table; and it is batch all the same.
sql($source, q{SELECT migrate_tiers.tag('tally', 'realtime')});
wait_synced($source);
sql($target, q(CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN WHILE EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objid = 87) LOOP PERFORM pg_catalog.pg_sleep(0.02); END LOOP; RETURN OLD; END $$;
	CREATE TRIGGER stall BEFORE DELETE ON migrate_tiers.joined FOR EACH ROW EXECUTE FUNCTION stall();
	ALTER TABLE migrate_tiers.joined ENABLE ALWAYS TRIGGER stall));
my $staller = session($target);
$staller->query_safe('SELECT pg_advisory_lock(87)');
my $tagger = session($source, on_error_stop => 0);
$tagger->query_until(qr/tagging/, "\\echo tagging\nSELECT migrate_tiers.tag('tally', 'batch');\n");
ok(wait_until($target, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query ~ 'DELETE FROM migrate_tiers.joined' AND state = 'active' AND pid <> pg_backend_pid()}), 'the target does not answer');
$tagger->query_safe('SELECT 1');
is(sql($source, q{SET lock_timeout = '3 s'; UPDATE tally SET v = v + 1 WHERE id = 1; SELECT count(*) > 0 FROM tally}), 't', 'neither tag nor anybody else waits for it');
$staller->query_safe('SELECT pg_advisory_unlock(87)');
$_->quit for $tagger, $staller;
sql($target, q(DROP FUNCTION stall() CASCADE));
is(sql($source, q{SELECT tier FROM migrate_tiers.tables WHERE relation = 'tally'::regclass}), 'batch', 'the table is batch');
is(sql($source, q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tally'::regclass}), '0', 'and nothing captures it');
sql($source, q{SELECT migrate_tiers.push_batch('tally')});
tables_equal($source, $target, 'tally', 'the next push brings all');
ok(wait_until($target, left(), '0'), 'the target forgets that it was realtime');
sql($target, q{UPDATE tally SET v = v WHERE id = 1});
pass('and can be written');

# A table is locked for the instant in which it leaves, whatever else the session does, or waits for.
sql($source, q{SELECT migrate_tiers.tag('tally', 'realtime')});
wait_synced($source);
my $before = standing();
my $both = q{SELECT migrate_tiers.tag(t, 'batch') FROM unnest('{tally,late}'::regclass[]) AS t};
sql_fails($source, q{BEGIN; SELECT migrate_tiers.tag('tally', 'batch')}, '25001', qr/inside a transaction block.*transaction of its own/s, 'inside a block it is refused');
sql_fails($source, $both, '25001', qr/public\.late cannot be tagged.*once a statement/s, 'so are two in a statement');
sql_fails($source, q{DO $$ BEGIN PERFORM migrate_tiers.tag('tally', 'batch'); RAISE 'no'; END $$}, 'P0001', qr/no/, 'and one may fail at last');
wait_synced($source);
is(standing(), $before, 'nothing has changed then, on either side');
my ($reader, $leaver) = (session($source), session($source));
$reader->query_safe('BEGIN; SELECT count(*) FROM late');
sql_fails($source, "SET statement_timeout = '5 s'; $both", '25001', qr/once a statement/, 'no table is held while another one is waited for');
$leaver->query_until(qr/leaving/, "\\echo leaving\nSELECT migrate_tiers.tag('late', 'batch');\n");
ok(wait_until($source, q{SELECT count(*) > 0 FROM pg_locks WHERE relation = 'late'::regclass AND mode = 'AccessExclusiveLock'}), 'a table that is being read cannot leave yet');
sql($source, q{SET lock_timeout = '2 s'; SELECT count(*) FROM late; SELECT count(*) FROM tally}) for 1 .. 8;
pass('whoever reads it does not wait for that');
$reader->query_safe('COMMIT');
$leaver->query_safe('SELECT 1');
$_->quit for $reader, $leaver;
is(sql($source, q{SELECT tier FROM migrate_tiers.tables WHERE relation = 'late'::regclass}), 'batch', 'and it leaves when that has ended');

# What the target does not allow at once is done when it does.
$reader = session($target);
$reader->query_safe('BEGIN; SELECT count(*) FROM tally');
sql($source, q{SELECT migrate_tiers.tag('tally', 'batch')});
sql($source, 'INSERT INTO item VALUES (2)');
wait_synced($source);
is(sql($target, 'SELECT count(*) FROM item WHERE id = 2'), '1', 'while the target\'s table is held, others are in sync');
isnt(sql($target, left()), '0', 'its fence waits');
$reader->query_safe('COMMIT');
$reader->quit;
ok(wait_until($target, left(), '0'), 'and is taken off');

# One push a table at a time: the first is made so slow that it is under way until it is ended.
sql($source, q{UPDATE tally SET v = v + 1; SELECT migrate_tiers.set_option('copy_rate', '100')});
my $first = session($source, on_error_stop => 0);
$first->query_until(qr/pushing/, "\\echo pushing\nSELECT error IS NULL FROM migrate_tiers.push_batch('tally');\n");
ok(wait_until($source, q{SELECT state FROM migrate_tiers.tables WHERE relation = 'tally'::regclass}, 'pushing'), 'a push is under way');
sql_fails($source, q{SELECT migrate_tiers.push_batch('tally')}, '55006', qr/a push of table public.tally is under way/, 'another one is refused');
sql_fails($source, q{SELECT migrate_tiers.tag('tally', 'realtime')}, '55006', qr/under way/, 'so is another tier');
is(sql($source, q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers batch'}), '1', 'it is ended');
ok(wait_until($source, q{SELECT state FROM migrate_tiers.tables WHERE relation = 'tally'::regclass}, 'fresh'), 'and under way no more');
is(sql($source, q{SELECT migrate_tiers.set_option('copy_rate', NULL); SELECT updated FROM migrate_tiers.push_batch('tally')}) =~ s/^\n//r, sql($source, 'SELECT count(*) FROM tally'), 'the next one does it all');
like(sql($source, q{SELECT error FROM migrate_tiers.batches ORDER BY id DESC OFFSET 1 LIMIT 1}), qr/57P01/, 'and says what became of that one');
$first->quit;
is(sql($source, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers batch' AND backend_xmin IS NOT NULL}), '0', 'no snapshot is held after it');

# What was pushed into a table that became realtime while no worker was there is taken back with all the rest.
sql($source, q{SELECT migrate_tiers.pause(); SELECT migrate_tiers.tag('tally', 'realtime')});
revert($source, 'planned');
is(sql($target, 'SELECT count(*) FROM tally'), '0', 'what was pushed is taken back');
is(sql($target, 'SELECT count(*) FROM late'), '0', 'and what sync brought into one that was not pushed since');
is(sql($source, q{SELECT check_name, object, detail FROM migrate_tiers.preflight() WHERE status = 'failure'}), '', 'and the way is free again');

finish($source, $target);
done_testing();

# How tally is captured, and what the target has of it.
sub standing
{
	return join "\n", sql($source, q{SELECT tier, captured_from, incarnation FROM migrate_tiers.relation WHERE relation = 'tally'::regclass;
		SELECT tgname FROM pg_trigger WHERE tgrelid IN ('tally'::regclass, 'late'::regclass) ORDER BY tgrelid, tgname}), sql($target, left());
}

# A query for how much the target has of tally as a realtime table.
sub left
{
	my $id = sql($source, q{SELECT id FROM migrate_tiers.relation WHERE relation = 'tally'::regclass});
	return "SELECT (SELECT count(*) FROM migrate_tiers.joined WHERE relation = $id) + (SELECT count(*) FROM migrate_tiers.chunk WHERE relation = $id)"
	  . " + (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tally'::regclass)";
}

sub state_of { return sql($source, q{SELECT state FROM migrate_tiers.tables WHERE relation = 'tally'::regclass}); }

# A row that tells what was written before and after a turn; its number.
my $marks;

sub mark
{
	my ($note) = @_;
	$marks++;
	sql($source, "INSERT INTO tally VALUES (-$marks, 0, '$note')");
	return $marks;
}

# A session that writes one small transaction after the other until it is told to stop.
sub start_writer
{
	my $session = session($source);
	$session->query_safe(<<'SQL');
CREATE PROCEDURE public.write_on(OUT written int) LANGUAGE plpgsql AS $$
BEGIN
	written := 0;
	WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 86 AND granted) LOOP
		UPDATE tally SET v = v + 1 WHERE id = 1 + (random() * 2999)::int;
		DELETE FROM tally WHERE id = 10000 + (random() * 100)::int;
		INSERT INTO tally VALUES (10000 + (random() * 100)::int, written, 'w') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
		written := written + 1;
		COMMIT;
		PERFORM pg_sleep(0.005);
		COMMIT;
	END LOOP;
END $$;
SQL
	$session->query_until(qr/writing/, "\\echo writing\nCALL public.write_on(0);\n");
	return $session;
}

sub stop_writer
{
	my ($session) = @_;
	my $stop = session($source);
	$stop->query_safe('SELECT pg_advisory_lock(86)');
	my $out = $session->query_safe('SELECT 1');
	$stop->quit;
	$session->quit;
	sql($source, 'DROP PROCEDURE public.write_on');
	return $out =~ /^(\d+)\n1$/ ? $1 : 0;
}
