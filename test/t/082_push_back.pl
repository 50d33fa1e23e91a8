# The direction of pushes turns with the phase, tables go from one tier to the other
# while syncing, and nothing is left behind.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
for my $node ($source, $target)
{
	sql($node, <<'SQL');
CREATE TABLE item (id int PRIMARY KEY, v text);
CREATE TABLE account (id int PRIMARY KEY, v int);
CREATE TABLE summary (region text, day int, total numeric, at timestamptz, list int[], PRIMARY KEY (region, day));
CREATE TABLE heap (v int, w text);
CREATE TABLE keyed (id int PRIMARY KEY, v numeric, note varchar(20));
CREATE TABLE journal (seq bigint, v text);
CREATE TABLE fired (name text);
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.fired VALUES (TG_TABLE_NAME); RETURN NULL; END$$;
CREATE TRIGGER fire AFTER INSERT OR UPDATE OR DELETE ON summary FOR EACH STATEMENT EXECUTE FUNCTION fire();
SQL
}
sql($source, 'CREATE TABLE numbered (id serial PRIMARY KEY, v int)');
sql($target, 'CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int)');
sql($source, 'CREATE MATERIALIZED VIEW totals AS SELECT day % 10 AS d, sum(total) AS total FROM summary GROUP BY 1; CREATE UNIQUE INDEX ON totals (d)');
sql($target, 'CREATE TABLE totals (d int PRIMARY KEY, total numeric)');
sql($_, 'CREATE MATERIALIZED VIEW counts AS SELECT v % 10 AS d, count(*) AS n FROM keyed GROUP BY 1; CREATE UNIQUE INDEX ON counts (d)') for $source, $target;
# A day begins where the database is.
sql($_, q(ALTER DATABASE shop SET TimeZone = 'Asia/Tokyo'; CREATE TABLE sale (id int PRIMARY KEY, at timestamptz);
	CREATE MATERIALIZED VIEW days AS SELECT at::date AS day, count(*) AS n FROM sale GROUP BY 1; CREATE UNIQUE INDEX ON days (day))) for $source, $target;
migration($source, 'item', 'account');
# Views of somebody whose rights are fewer than those of the migration's owner.
sql($source, 'CREATE ROLE analyst; GRANT USAGE ON SCHEMA public TO analyst; GRANT SELECT ON summary, keyed TO analyst');
sql($source, "ALTER MATERIALIZED VIEW $_ OWNER TO analyst") for qw(totals counts);
sql($source, "SELECT migrate_tiers.tag('$_', 'batch')") for qw(summary heap journal totals keyed counts numbered sale days);
sql($source, q{SELECT migrate_tiers.tag('fired', 'ignored')});
sql($source, q{SELECT migrate_tiers.batch_policy('heap', mode => 'replace'), migrate_tiers.batch_policy('keyed', mode => 'replace'), migrate_tiers.batch_policy('journal', mode => 'append', watermark => 'seq')});
sql($source, q{INSERT INTO account SELECT i, i FROM generate_series(1, 1000) i});
advance($source, 'syncing');
wait_synced($source);

# Forward.
sql($source, <<'SQL');
INSERT INTO summary SELECT 'r' || i % 5, i, i / 3.0, now(), ARRAY[i, NULL] FROM generate_series(1, 30000) i;
ANALYZE summary;
INSERT INTO heap SELECT i, 'x' FROM generate_series(1, 100) i;
INSERT INTO journal SELECT i, 'x' FROM generate_series(1, 100) i;
REFRESH MATERIALIZED VIEW totals;
INSERT INTO keyed SELECT i, i / 10.0, 'x' FROM generate_series(1, 2000) i;
REFRESH MATERIALIZED VIEW counts;
INSERT INTO sale SELECT i, timestamptz '2020-01-01 00:30+00' + i * interval '1 hour' FROM generate_series(0, 60) i;
REFRESH MATERIALIZED VIEW days;
SQL
check_push($_, 'forward', "forward: $_") for qw(summary heap journal totals keyed counts sale days);
sql($source, q{INSERT INTO numbered (v) SELECT generate_series(1, 100)});
check_push('numbered', 'forward', 'forward: numbers that the target gives itself');
sql($source, 'UPDATE numbered SET v = -v WHERE id <= 10');
check_push('numbered', 'forward', 'forward: and rows of such numbers that have changed');
is(counts(), '0|10|0', 'which are counted as that');
sql($source, 'UPDATE keyed SET v = -v, note = NULL WHERE id <= 20; DELETE FROM keyed WHERE id = 30; INSERT INTO keyed VALUES (-1)');
check_push('keyed', 'forward', 'forward: most rows of keyed are right already');
is(counts(), '1|20|1', 'only the others are written');
sql($source, 'UPDATE keyed SET v = v + 1');
check_push('keyed', 'forward', 'forward: all rows of keyed are others');
is(counts(), '2000|0|2000', 'all are written');
is(sql($target, 'SELECT count(*) FROM fired'), '0', 'triggers of the target do not act');

# From batch to realtime, and back, under writes.
sql($source, q{SELECT migrate_tiers.tag('summary', 'realtime')});
sql($source, q{UPDATE summary SET total = -1 WHERE day % 100 = 0});
ok(wait_until($source, q{SELECT state FROM migrate_tiers.tables WHERE relation = 'summary'::regclass}, 'syncing'), 'a batch table becomes realtime');
sql($source, q{UPDATE summary SET total = -2 WHERE day % 100 = 1});
wait_synced($source);
tables_equal($source, $target, 'summary', 'and follows each change');
sql_fails($target, 'DELETE FROM summary', 'MT005', qr/source/, 'fenced on the target');
sql($source, q{SELECT migrate_tiers.tag('account', 'batch')});
sql($source, q{UPDATE account SET v = -v WHERE id < 100});
is(sql($source, q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'account'::regclass}), '0', 'a realtime table becomes batch: nothing is on it');
sql($source, q{INSERT INTO item VALUES (1, 'a')});
wait_synced($source);
is(sql($target, 'SELECT sum(v) FROM account'), '500500', 'the target keeps what it had');
check_push('account', 'forward', 'and the next push brings the rest');
is(sql($source, q{SELECT updated FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1}), '99', 'no more than that');
sql($source, q{SELECT migrate_tiers.tag('summary', 'batch')});
sql($source, q{DELETE FROM summary WHERE day % 1000 = 0});
check_push('summary', 'forward', 'there and back');
ok(wait_until($target, q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'summary'::regclass AND tgname ~ '^migrate_tiers_fence'}, '0'), 'its fence is taken off');
sql($source, 'CREATE TABLE child (id int PRIMARY KEY, account int REFERENCES account); CREATE TABLE other (id int PRIMARY KEY, item int REFERENCES item)');
sql_fails($source, q{SELECT migrate_tiers.tag('child', 'realtime')}, 'MT001', qr/foreign_keys of public\.child: /, 'a new table that refers to a batch table cannot be realtime');

# Reverse: the phase is what decides.
sql($source, q{DELETE FROM fired; UPDATE migrate_tiers.migration SET phase = 'read_target'});
is(sql($source, q{SELECT state FROM migrate_tiers.tables WHERE relation = 'heap'::regclass}), 'waiting', 'the other way it was never pushed');
sql($target, <<'SQL');
UPDATE summary SET total = 7, list = NULL WHERE region = 'r1' AND day < 1000;
DELETE FROM summary WHERE region = 'r2' AND day < 500;
INSERT INTO summary (region, day) VALUES ('new', 1), ('r1', 100000);
DELETE FROM heap WHERE v < 50;
INSERT INTO journal SELECT i, 'y' FROM generate_series(101, 200) i;
DELETE FROM fired;
SQL
check_push($_, 'reverse', "reverse: $_") for qw(heap journal keyed summary);
is(sql($source, q{SELECT inserted, updated, deleted FROM migrate_tiers.batches WHERE relation = 'summary'::regclass ORDER BY id DESC LIMIT 1}), '2|200|100', 'what differs is counted');
is(sql($source, 'SELECT count(*) FROM fired'), '0', 'triggers of the source do not act');
sql($target, 'UPDATE keyed SET v = v + 5 WHERE id <= 20; DELETE FROM keyed WHERE id = 40; INSERT INTO keyed VALUES (-2); REFRESH MATERIALIZED VIEW counts');
check_push('keyed', 'reverse', 'reverse: most rows of keyed are right already');
is(counts(), '1|20|1', 'only the others are written');
sql($target, 'UPDATE keyed SET v = v + 1');
check_push('keyed', 'reverse', 'reverse: all rows of keyed are others');
sql($target, 'REFRESH MATERIALIZED VIEW counts');
check_push('counts', 'reverse', 'reverse: a materialized view is refreshed');
sql($target, 'DELETE FROM sale WHERE id % 3 = 0; REFRESH MATERIALIZED VIEW days');
check_push($_, 'reverse', "reverse: $_") for qw(sale days);
sql($target, "DELETE FROM totals; INSERT INTO totals SELECT day % 10, sum(total) FROM summary GROUP BY 1");
check_push('totals', 'reverse', 'reverse: a table to a materialized view');
check_push('summary', 'reverse', 'reverse, nothing changed');
is(sql($source, q{SELECT ranges_sent FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1}), '0', 'nothing is sent');
sql($target, 'TRUNCATE heap');
check_push('heap', 'reverse', 'an emptied table');
like(sql($source, q{SELECT note FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1}), qr/empty/, 'is noted');
is(sql($source, q{SELECT state FROM migrate_tiers.tables WHERE relation = 'heap'::regclass}), 'fresh', 'the source is fresh for a step back');
my $job = session($target);
$job->query_safe('BEGIN; LOCK TABLE heap');
sql_fails($source, "SELECT migrate_tiers.push_batch('heap')", '55P03', qr/postponed/, 'a lock on the target is not waited for');
$job->query_safe('COMMIT');
$job->quit;

# The operator of a key becomes part of statements that run here: it is that of the index here, whatever the target's has.
sql($target, <<'SQL');
CREATE SCHEMA aside;
CREATE OPERATOR aside.=== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int, COMMUTATOR = OPERATOR(aside.===), RESTRICT = eqsel, JOIN = eqjoinsel, MERGES, HASHES);
CREATE OPERATOR CLASS aside.int_ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 aside.===, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int);
ALTER TABLE keyed DROP CONSTRAINT keyed_pkey;
CREATE UNIQUE INDEX ON keyed (id aside.int_ops);
UPDATE keyed SET v = v + 1 WHERE id <= 20;
SQL
check_push('keyed', 'reverse', 'a key of which the target has another operator');

# Nothing is left, and what no push has written stays.
sql($source, q{UPDATE migrate_tiers.migration SET phase = 'syncing'});
sql($target, 'CREATE TABLE elsewhere (LIKE numbered); INSERT INTO elsewhere VALUES (1, 1)');
sql($source, q{SELECT migrate_tiers.tag('numbered', 'batch', target => 'public.elsewhere')});
is(sql($source, q{SELECT detail FROM migrate_tiers.verify('numbered')}), 'it was never pushed', 'another table of the target was never pushed');
revert($source, 'planned');
is(sql($target, 'SELECT count(*) FROM elsewhere'), '1', 'what another table of the target has is not taken for ours');
is(sql($target, 'SELECT (SELECT count(*) FROM summary) + (SELECT count(*) FROM heap) + (SELECT count(*) FROM totals)'), '0', 'back in planned the target is as it was found');
sql($source, 'SELECT migrate_tiers.drop_migration()');
is(sql($_, q{SELECT count(*) FROM pg_class WHERE relname LIKE 'stage%'}), '0', 'no stage is left on ' . $_->name) for $source, $target;
sql($source, 'DROP EXTENSION migrate_tiers');
finish($source, $target);
done_testing();

sub counts { return sql($source, q{SELECT inserted, updated, deleted FROM migrate_tiers.batches ORDER BY id DESC LIMIT 1}); }

sub check_push
{
	my ($table, $direction, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sql($source, "SELECT direction, source_rows = target_rows, error IS NULL FROM migrate_tiers.push_batch('$table')"), "$direction|t|t", "$name: it is pushed");
	tables_equal($source, $target, $table, $name);
	return;
}
