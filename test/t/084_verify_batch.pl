# A batch table is compared with the snapshot of its last push: whether the receiver holds what was sent, and
# whether the sender has moved since. What cannot be known is unknown.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
my $tables = <<'SQL';
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE report (id int PRIMARY KEY, day date, total numeric, ratio float8, data jsonb, note char(5));
CREATE TABLE heap (v int, w text);
CREATE TABLE journal (seq bigint, v text);
CREATE TABLE empty (id int PRIMARY KEY);
CREATE TYPE span AS (a int, b text);
CREATE DOMAIN whole_span AS span;
CREATE TABLE spans (id int PRIMARY KEY, s span, w whole_span);
CREATE TABLE late (id int PRIMARY KEY, v int);
SQL
sql($_, $tables) for $source, $target;
sql($source, 'CREATE TABLE part (id int PRIMARY KEY, v text)');
sql($target, 'CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE part_1 PARTITION OF part DEFAULT');
sql($source, 'CREATE MATERIALIZED VIEW summary AS SELECT i AS id, i * 2 AS n FROM generate_series(1, 10) i; CREATE UNIQUE INDEX ON summary (id)');
sql($target, 'CREATE TABLE summary (id int PRIMARY KEY, n int)');
# Defaults of the two sides that change what values look like.
sql($source, q(ALTER DATABASE shop SET DateStyle = 'SQL, DMY'; ALTER DATABASE shop SET extra_float_digits = -15));
sql($target, q(ALTER DATABASE shop SET DateStyle = 'German'; ALTER DATABASE shop SET TimeZone = 'Asia/Kolkata'));
migration($source, 'item');
sql($source, "SELECT migrate_tiers.tag('$_', 'batch')") for qw(report heap journal summary empty spans part late);
sql($source, q(SELECT migrate_tiers.batch_policy('heap', mode => 'replace'), migrate_tiers.batch_policy('journal', mode => 'append', watermark => 'seq')));
sql($source, <<'SQL');
INSERT INTO item VALUES (1, 'one');
INSERT INTO report SELECT i, '2020-01-01'::date + i, i / 3.0, i / 7.0, jsonb_build_object('i', i), 'a' || i % 3 FROM generate_series(1, 30000) i;
INSERT INTO heap SELECT i % 5, 'w' || i FROM generate_series(1, 500) i;
INSERT INTO journal SELECT i, 'v' FROM generate_series(1, 500) i;
INSERT INTO spans SELECT i, ROW(i, NULL)::span, ROW(NULL, 'w' || i)::span FROM generate_series(1, 5) i;
INSERT INTO part SELECT i, 'v' FROM generate_series(1, 300) i;
INSERT INTO late VALUES (1, 0);
ANALYZE;
SQL
advance($source, 'syncing');
wait_synced($source);

sub verdict
{
	my ($table) = @_;
	return query($source, "SELECT concat_ws(' ', verdict, source_rows, target_rows, different_rows, detail) FROM migrate_tiers.verify('$table')");
}

sub push_table { return sql($source, "SELECT * FROM migrate_tiers.push_batch('$_[0]')"); }

is(verdict('report'), 'unknown it was never pushed', 'a table that was never pushed is unknown');
push_table('report');
like(verdict('report'), qr/^equal 30000 30000 0 as the source is now$/, 'without a digest kept, a source that stays still is enough');
sql($source, q(UPDATE report SET note = 'later' WHERE id = 6));
like(verdict('report'), qr/^unknown 30000 30000 not as the source is now, and the push of .* kept no digest/, 'and one that moves is not');
sql($source, q(SELECT migrate_tiers.set_option('batch_digest', 'on')));
push_table($_) for qw(report heap journal summary empty spans part late);
my %rows = (report => 30000, heap => 500, journal => 500, summary => 10, empty => 0, spans => 5, part => 300);
like(verdict($_), qr/^equal $rows{$_} $rows{$_} 0 as the push of .* sent it; since then the source has not changed$/, "$_: equal after a push") for sort keys %rows;
is(query($source, q(SELECT string_agg(relation || ' ' || verdict, ', ' ORDER BY relation::text) FROM migrate_tiers.verify())), 'empty equal, heap equal, item equal, journal equal, late equal, part equal, report equal, spans equal, summary equal', 'a verification of all tables is one of batch tables, too');

# The source moves on: that is no damage.
sql($source, q(UPDATE report SET note = 'new' WHERE id = 5; DELETE FROM heap WHERE w = 'w7'));
like(verdict('report'), qr/^equal 30000 30000 0 as the push of .* sent it; since then the source has changed$/, 'a source that has changed since is no difference, and is told');
like(verdict('heap'), qr/^equal 499 500 0 as the push of .* sent it; since then the source has changed$/, 'without a key, too');
push_table('report');
like(verdict('report'), qr/^equal .*has not changed$/, 'a push of what differs counts for the whole table');

# found(): the rows that the last verification lists, and whose images are kept.
sub found
{
	return query($source, q(SELECT string_agg(concat_ws(' ', kind, key, columns, CASE WHEN source_row IS NULL THEN 'target' WHEN target_row IS NULL THEN 'source' ELSE 'both' END), ', ' ORDER BY kind, key)
		FROM migrate_tiers.discrepancies WHERE verification = (SELECT max(id) FROM migrate_tiers.verifications)));
}

# A value with a null field is a value.
foreach (q{s = ROW(10, NULL)::span WHERE id = 1}, q{w = ROW(NULL, 'W')::span WHERE id = 2}, 's = ROW(NULL, NULL)::span WHERE id = 3', 's = NULL WHERE id = 4')
{
	sql($source, "UPDATE spans SET $_");
	is((split /\|/, push_table('spans'))[8], '1', "$_: is pushed");
	tables_equal($source, $target, 'spans', 'and arrives');
}

# Damage on the receiver.
my @damages = (
	[ 'report', 'a missing row', 'DELETE FROM report WHERE id = 77', 'INSERT INTO report SELECT 77, \'2020-01-01\'::date + 77, 77 / 3.0, 77 / 7.0, \'{"i": 77}\', \'a2\'', 'missing {77} source' ],
	[ 'report', 'the scale of a numeric', 'UPDATE report SET total = total * 1.0 WHERE id = 3', 'UPDATE report SET total = 3 / 3.0 WHERE id = 3', 'changed {3} {total} both' ],
	[ 'report', 'NULL for an empty object', q(UPDATE report SET data = NULL WHERE id = 4), q(UPDATE report SET data = '{"i": 4}' WHERE id = 4), 'changed {4} {data} both' ],
	[ 'spans', 'a field beside one that is null', 'UPDATE spans SET s = ROW(6, NULL)::span WHERE id = 5', 'UPDATE spans SET s = ROW(5, NULL)::span WHERE id = 5', 'changed {5} {s} both' ],
	[ 'part', 'a row of a partition', q(UPDATE part SET v = 'V' WHERE id = 7), q(UPDATE part SET v = 'v' WHERE id = 7), 'changed {7} {v} both' ],
	[ 'heap', 'a row twice', q(INSERT INTO heap VALUES (1, 'w1')), q(DELETE FROM heap WHERE ctid = (SELECT max(ctid) FROM heap WHERE w = 'w1')) ],
	[ 'journal', 'one letter', q(UPDATE journal SET v = 'V' WHERE seq = 250), q(UPDATE journal SET v = 'v' WHERE seq = 250) ]);
foreach (@damages)
{
	my ($table, $name, $damage, $mend, $rows) = @$_;
	sql($target, $damage);
	my $lists = defined $rows;
	like(verdict($table), $lists ? qr/^different \d+ \d+ 1 not as the push of .* sent it; since then .* has not changed; the rows that differ are in discrepancies\. Call migrate_tiers\.push_batch/
		: qr/^different \d+ \d+ not as the push of .* sent it; since then .*which rows differ cannot be told\. Call migrate_tiers\.push_batch/, "$table: $name is a difference");
	is(found(), $rows, "$table: and that row is found") if $lists;
	sql($target, $mend);
	like(verdict($table), qr/^equal /, "$table: and no other");
}
sql($target, 'DELETE FROM report WHERE id < 100');
like(verdict('report'), qr/^different 30000 29901 99 not as .*has not changed/, 'rows that are gone are counted');
is(query($source, q(SELECT count(*) FILTER (WHERE kind = 'missing') || ' ' || count(*) FROM migrate_tiers.discrepancies WHERE verification = (SELECT max(id) FROM migrate_tiers.verifications))), '99 99', 'and listed');
sql($source, q(UPDATE report SET note = 'moved' WHERE id = 20000));
like(verdict('report'), qr/^different 30000 29901 not as .* has changed; which rows differ cannot be told/, 'unless the sender has other rows by now');
sql_fails($source, "SELECT migrate_tiers.repair('report')", '55000', qr/table public.report is tagged batch.*migrate_tiers.push_batch\('public.report'\)/s, 'repair is not for batch tables, and says what is');
push_table('report');
like(verdict('report'), qr/^equal 30000 30000 0/, 'a push mends them');
sql($target, q(ALTER TABLE report ADD own int DEFAULT 7));
is(verdict('report'), q(unknown the target's table has columns of its own: own (option ignore_target_columns)), 'a column that the target alone has is not equal to anything');
sql($source, q(SELECT migrate_tiers.set_option('ignore_target_columns', 'on')));
like(verdict('report'), qr/^equal 30000 30000 0/, 'unless it is not to be looked at');
sql($source, q(SELECT migrate_tiers.set_option('ignore_target_columns', NULL)));
sql($target, q(ALTER TABLE report DROP own));
sql($source, q(UPDATE report SET note = 'x' WHERE id = 9));
sql($target, q(UPDATE report SET note = 'x' WHERE id = 9));
like(verdict('report'), qr/^equal 30000 30000 0 not as the push of .* sent it, but as the source is now$/, 'what both sides hold now is equal, and it is told why');

# An error after the receiver has the rows takes none of them back.
sql($source, 'ALTER TABLE migrate_tiers.imprint ADD CONSTRAINT refused CHECK (false) NOT VALID; UPDATE late SET v = 1');
push_table('late');
like(sql($source, q(SELECT error IS NULL, note FROM migrate_tiers.batches ORDER BY started DESC LIMIT 1)), qr/^t\|it was applied; what was to be done after that failed: 23514:/, 'a push that fails when it is applied says so');
sql($source, 'ALTER TABLE migrate_tiers.imprint DROP CONSTRAINT refused; UPDATE late SET v = 2');
like(verdict('late'), qr/^equal 1 1 0 as the push of .* sent it; since then the source has changed$/, 'and the receiver is held to it');

# Nor is it known what becomes of a COMMIT that nobody waits for.
sql($target, <<'SQL');
CREATE TABLE held ();
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN WHILE to_regclass('public.held') IS NOT NULL LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER hold AFTER UPDATE ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold();
ALTER TABLE late ENABLE ALWAYS TRIGGER hold;
SQL
my $pusher = session($source);
$pusher->query_until(qr/begun/, "\\set ON_ERROR_STOP 0\n\\echo begun\nSELECT migrate_tiers.push_batch('late');\n");
ok(wait_until($target, q(SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'), '1'), 'a push commits');
sql($source, q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers batch'));
ok(wait_until($source, q(SELECT count(*) FROM migrate_tiers.batches WHERE error ~ '^57P01: the push was cut off; whether it was applied is not known: 57014'), '1'), 'whoever waits for it is cancelled');
$pusher->quit;
sql($target, 'DROP TABLE held');
sql($source, q(UPDATE late SET v = 3));
like(verdict('late'), qr/^unknown whether the push of .*, which was cut off, was applied is not known$/, 'which cannot be known');

# What cannot be known.
sql($_, 'ALTER TABLE empty ADD n int') for $source, $target;
is(verdict('empty'), 'unknown its columns have changed since it was pushed', 'columns that have changed since');
sql($source, q(UPDATE migrate_tiers.batch SET finished = NULL WHERE id = (SELECT max(id) FROM migrate_tiers.batch WHERE relation = (SELECT id FROM migrate_tiers.relation WHERE relation = 'heap'::regclass))));
is(verdict('heap'), 'unknown a push of it is under way, or was cut off', 'a push that has not ended');
push_table('heap');
like(verdict('heap'), qr/^equal 499 499 0/, 'until the next one');
sql($target, 'DROP TABLE summary');
like(verdict('summary'), qr/^unknown 42P01: the target has no table public.summary/, 'a table that is gone');
sql($target, 'CREATE MATERIALIZED VIEW summary AS SELECT i AS id, i * 2 AS n FROM generate_series(1, 10) i; CREATE UNIQUE INDEX ON summary (id)');
push_table('summary');
is(verdict('summary'), 'unknown in mode refresh the receiver computes its rows itself', 'rows that the receiver computes itself');
my $app = MigrateTiers::session($target);
$app->query_safe('BEGIN; LOCK TABLE journal');
my $asker = MigrateTiers::session($source);
$asker->query_until(qr/begun/, "\\echo begun\nSELECT verdict FROM migrate_tiers.verify('journal');\n");
ok(wait_until($source, q(SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers verify')), 'a table that somebody has locked');
$app->query_safe('COMMIT');
ok(wait_until($source, q(SELECT verdict FROM migrate_tiers.verifications WHERE relation = 'journal'::regclass ORDER BY id DESC LIMIT 1), 'equal'), 'is verified when it can be had');
$app->quit;

# Each attempt has a connection of its own, and takes it along.
my $began = query($target, 'SELECT extract(epoch FROM clock_timestamp())');
my $watch = session($target);
my (%seen, $most);
$app = session($source);
$app->query_safe('BEGIN; LOCK TABLE journal');
$asker->query_until(qr/again/, "\\echo again\nSELECT verdict FROM migrate_tiers.verify('journal');\n");
ok(wait_for(sub {
	my @now = split /\n/, $watch->query_safe("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND extract(epoch FROM backend_start) > $began AND pid <> pg_backend_pid()");
	@seen{@now} = @now;
	$most = @now if @now > ($most || 0);
	return keys %seen >= 5;
}), 'a table that is locked on the source is tried again and again');
cmp_ok($most, '<=', 2, 'and no attempt leaves its connection behind');
$app->query_safe('COMMIT');
ok(wait_until($source, q(SELECT verdict FROM migrate_tiers.verifications WHERE relation = 'journal'::regclass AND finished IS NOT NULL ORDER BY id DESC LIMIT 1), 'equal'), 'until it can be had');
$_->quit for $app, $asker, $watch;
is(query($source, q(SELECT last_verdict || ' ' || (last_verified > now() - interval '1 min') FROM migrate_tiers.tables WHERE relation = 'journal'::regclass)), 'equal true', 'the view tables tells it');

finish($source, $target);
done_testing();
