# A migration that is dropped and an extension that is dropped leave both
# databases as they were: every catalog is compared, before and after.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Catalogs;
use MigrateTiers::Pair;
use Test::More;
use Time::HiRes qw(time);

my $pair = MigrateTiers::Pair->new('trace', target_conf => "track_counts = on\n");

$pair->both_sql(<<'SQL');
CREATE SCHEMA shop;
CREATE TYPE shop.mood AS ENUM ('low', 'high');
CREATE ROLE app;
CREATE ROLE boss;
CREATE TABLE shop.customer (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, email text, mood shop.mood,
    CONSTRAINT email_once UNIQUE (email) DEFERRABLE, CONSTRAINT has_name CHECK (name <> ''));
COMMENT ON CONSTRAINT email_once ON shop.customer IS 'one of each';
CREATE TABLE shop.purchase (id bigserial, at date, customer int NOT NULL REFERENCES shop.customer ON DELETE CASCADE, note text,
    CONSTRAINT purchase_pkey PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE shop.purchase_1 PARTITION OF shop.purchase FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') WITH (fillfactor = 70);
CREATE TABLE shop.purchase_2 PARTITION OF shop.purchase DEFAULT;
CREATE TABLE shop.item (id int NOT NULL, code text NOT NULL, customer int, price numeric, during int4range,
    CONSTRAINT "item's key" PRIMARY KEY (id) WITH (fillfactor = 80),
    CONSTRAINT item_customer FOREIGN KEY (customer) REFERENCES shop.customer DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT not_twice EXCLUDE USING gist (during WITH &&));
COMMENT ON CONSTRAINT "item's key" ON shop.item IS 'the key';
CREATE UNIQUE INDEX item_code ON shop.item (lower(code) DESC NULLS LAST) INCLUDE (price) WITH (fillfactor = 60) WHERE price > 0;
COMMENT ON INDEX shop.item_code IS 'a comment';
ALTER INDEX shop.item_code ALTER COLUMN 1 SET STATISTICS 500;
CREATE INDEX item_brin ON shop.item USING brin (id) WITH (pages_per_range = 4);
CREATE UNIQUE INDEX item_identity ON shop.item (code, id);
ALTER TABLE shop.item REPLICA IDENTITY USING INDEX item_identity;
ALTER TABLE shop.item CLUSTER ON "item's key";
CREATE TABLE shop.line (item int REFERENCES shop.item ON UPDATE CASCADE, n int, PRIMARY KEY (item, n));
CREATE TABLE shop.audit (id int PRIMARY KEY);
CREATE FUNCTION shop.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER audit AFTER INSERT ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.audit();
CREATE TRIGGER audit_always BEFORE TRUNCATE ON shop.audit EXECUTE FUNCTION shop.audit();
CREATE RULE quiet AS ON DELETE TO shop.audit DO ALSO NOTHING;
CREATE VIEW shop.names AS SELECT id, name FROM shop.customer GROUP BY id;
CREATE MATERIALIZED VIEW shop.totals AS SELECT customer, count(*) FROM shop.purchase GROUP BY customer;
CREATE POLICY own ON shop.customer USING (name = current_user);
GRANT SELECT, UPDATE (name) ON shop.customer TO app;
GRANT USAGE ON SCHEMA shop TO app, boss;
ALTER TABLE shop.line OWNER TO boss;
CREATE STATISTICS shop.more ON id, code FROM shop.item;
CREATE PUBLICATION all_items FOR TABLE shop.item;
CREATE PUBLICATION everything FOR ALL TABLES;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO app;
SQL
# A trigger that fires for replicated rows, too, is what preflight refuses.
$pair->target_sql('ALTER TABLE shop.audit ENABLE TRIGGER audit_always');
$pair->source_sql(<<'SQL');
INSERT INTO shop.customer (name, email) SELECT 'n' || i, i || '@x' FROM generate_series(1, 500) i;
INSERT INTO shop.purchase (at, customer) SELECT date '2024-06-01' + i, i FROM generate_series(1, 500) i;
INSERT INTO shop.item SELECT i, 'c' || i, i, i, int4range(i * 2, i * 2 + 1) FROM generate_series(1, 500) i;
INSERT INTO shop.line SELECT i, 1 FROM generate_series(1, 500) i;
SQL

sub catalogs { my ($side) = @_; return catalogs_of($pair, $side); }

# What a DBA makes by hand, and takes away by hand, is there on both ends of the comparison.
$pair->source_sql('CREATE EXTENSION postgres_fdw');
MigrateTiers::server($pair->source, $pair->target);
MigrateTiers::mapping($pair->source);
my $source_bare = catalogs('source');
my $target_bare = catalogs('target');
cmp_ok(scalar @{ $source_bare->{pg_depend} }, '>', 100, 'the catalogs are read');
$pair->source_sql('CREATE EXTENSION migrate_tiers');
my $source_with = catalogs('source');

sub migrate
{
	$pair->source_sql(q{SELECT migrate_tiers.create_migration('m', 'new_db'); SELECT migrate_tiers.tag_schema('shop', 'realtime')});
	migrate_declared();
	return;
}

sub migrate_declared
{
	$pair->source_sql(q{SELECT migrate_tiers.tag(c.oid::regclass, 'ignored') FROM pg_class c WHERE relkind = 'm' AND relnamespace = 'shop'::regnamespace});
	$pair->advance;
	$pair->sync;
	$pair->source_sql(q{UPDATE shop.customer SET name = name || '!' WHERE id < 20; DELETE FROM shop.line WHERE item > 490});
	$pair->sync;
	return;
}

subtest 'planned, then dropped' => sub {
	$pair->source_sql(q{SELECT migrate_tiers.create_migration('m', 'new_db'); SELECT migrate_tiers.tag_schema('shop', 'realtime'); SELECT migrate_tiers.set_option('copy_workers', '3'); SELECT count(*) FROM migrate_tiers.preflight()});
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	same_catalogs($source_with, catalogs('source'), 'source');
	same_catalogs($target_bare, catalogs('target'), 'target');
};

subtest 'syncing: what is there meanwhile' => sub {
	migrate();
	$pair->equal('in sync', 'shop');
	my $source = catalogs('source');
	isnt(join(',', @{ $source->{pg_trigger} }), join(',', @{ $source_with->{pg_trigger} }), 'the comparison sees triggers');
	my $target = catalogs('target');
	for my $of (qw(pg_index pg_constraint pg_description))
	{
		my %has = map { $_ => 1 } @{ $target->{$of} };
		my @gone = grep { !$has{$_} } @{ $target_bare->{$of} };
		is(join("\n", @gone), '', "the target has every $of that it had");
	}
};

subtest 'reverted and dropped' => sub {
	$pair->revert;
	my $there = $pair->target_sql(q{SELECT string_agg(n::text, ',') FROM (SELECT count(*) n FROM shop.customer UNION ALL SELECT count(*) FROM shop.item UNION ALL SELECT count(*) FROM shop.line UNION ALL SELECT count(*) FROM shop.purchase) x});
	is($there, '0,0,0,0', 'what was copied is taken back');
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	same_catalogs($source_with, catalogs('source'), 'source');
	same_catalogs($target_bare, catalogs('target'), 'target');
	nothing_runs($pair, 'afterwards');
};

subtest 'dropped in mid-copy' => sub {
	$pair->source_sql(q{SELECT migrate_tiers.create_migration('m', 'new_db'); SELECT migrate_tiers.tag_schema('shop', 'realtime'); SELECT migrate_tiers.tag('shop.totals', 'ignored'); SELECT migrate_tiers.set_option('copy_rate', '10000'); SELECT migrate_tiers.set_option('chunk_size', '64kB')});
	$pair->advance;
	$pair->wait_until(source => q{SELECT bool_or(state = 'copying') FROM migrate_tiers.tables});
	$pair->revert;
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	same_catalogs($source_with, catalogs('source'), 'source');
	same_catalogs($target_bare, catalogs('target'), 'target');
};

# slowly declares a migration whose copy takes longer than the test.
sub slowly
{
	$pair->source_sql(q{SELECT migrate_tiers.create_migration('m', 'new_db'); SELECT migrate_tiers.tag_schema('shop', 'realtime'); SELECT migrate_tiers.tag('shop.totals', 'ignored'); SELECT migrate_tiers.set_option('copy_rate', '10000'); SELECT migrate_tiers.set_option('chunk_size', '64kB')});
	return;
}

# in_background sends a statement and does not wait for its end.
sub in_background { my ($session, $sql) = @_; $session->query_until(qr/sent/, "\\echo sent\n$sql;\n"); return; }

sub empty_target { $pair->target_sql('TRUNCATE shop.customer, shop.item, shop.line, shop.purchase'); return; }

subtest 'dropped while syncing' => sub {
	migrate();
	my ($good, $state, $error) = $pair->source_try(q{BEGIN; SELECT migrate_tiers.drop_migration('m'); COMMIT});
	is($state, '25001', 'not in a transaction block, where it could be rolled back on one side only');
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	same_catalogs($source_with, catalogs('source'), 'source');
	same_catalogs($target_bare, catalogs('target'), 'target');
	is($pair->worker_pid, '', 'no worker');
	$pair->equal('the rows stay on the target', 'shop');
	$pair->source_sql(q{INSERT INTO shop.customer (name) VALUES ('free')});
	$pair->target_sql(q{INSERT INTO shop.audit VALUES (1); DELETE FROM shop.audit});
	empty_target();
};

subtest 'dropped while copying' => sub {
	slowly();
	$pair->advance;
	$pair->wait_until(source => q{SELECT bool_or(state = 'copying') FROM migrate_tiers.tables});
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	same_catalogs($source_with, catalogs('source'), 'source');
	same_catalogs($target_bare, catalogs('target'), 'target');
	is($pair->worker_pid('copy'), '', 'no copy worker');
	empty_target();
};

subtest 'dropped after a transition that was cut off' => sub {
	slowly();
	my $writer = MigrateTiers::session($pair->source);
	$writer->query_safe('BEGIN; LOCK shop.line IN ROW EXCLUSIVE MODE');
	my $advance = MigrateTiers::session($pair->source, on_error_stop => 0);
	my $pid = $advance->query_safe('SELECT pg_backend_pid()');
	in_background($advance, q{CALL migrate_tiers.advance('syncing')});
	ok($pair->wait_until(source => q{SELECT count(*) > 1 FROM pg_trigger WHERE tgname = 'migrate_tiers_capture' AND tgparentid = 0}), 'half of the tables are captured');
	$pair->source_sql("SELECT pg_terminate_backend($pid, 10000)");
	isnt($pair->status('transition'), '', 'a transition that was cut off');
	# The table that the writer has is not captured yet, so nothing stands in the way.
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	$writer->query_safe('COMMIT');
	$writer->quit;
	eval { $advance->quit };
	same_catalogs($source_with, catalogs('source'), 'source');
	same_catalogs($target_bare, catalogs('target'), 'target');
};

subtest 'dropped under writers' => sub {
	migrate();
	my $writer = MigrateTiers::session($pair->source);
	$writer->query_safe(q{BEGIN; UPDATE shop.customer SET name = name WHERE id = 1});
	my $drop = MigrateTiers::session($pair->source);
	# It says that it waits, if it does so for long.
	$drop->query_safe('SET client_min_messages = warning');
	in_background($drop, q{SELECT migrate_tiers.drop_migration('m')});
	ok($pair->wait_until(target => q{SELECT to_regnamespace('migrate_tiers') IS NULL}), 'the target is clean');
	my $longest = 0;
	for (1 .. 20)
	{
		my $start = time;
		$pair->source_sql(q{UPDATE shop.customer SET name = name WHERE id = 2; UPDATE shop.item SET price = price WHERE id = 2});
		$longest = time - $start if time - $start > $longest;
	}
	cmp_ok($longest, '<', 2, 'others do not queue behind it');
	is($pair->source_sql(q{SELECT count(*) > 0 FROM pg_trigger WHERE tgname = 'migrate_tiers_capture'}), 't', 'it waits for a writer');
	$writer->query_safe('COMMIT');
	$drop->query_safe('SELECT 1');
	$_->quit for $writer, $drop;
	same_catalogs($source_with, catalogs('source'), 'source');
	same_catalogs($target_bare, catalogs('target'), 'target');
	empty_target();
};

subtest 'dropped while the target is away' => sub {
	slowly();
	$pair->advance;
	$pair->wait_until(source => q{SELECT bool_or(state = 'copying') FROM migrate_tiers.tables});
	$pair->target->stop('fast');
	my ($good, $state, $error) = $pair->source_try(q{SELECT migrate_tiers.drop_migration('m')});
	is($state, '08001', 'refused');
	like($error, qr/forget_target/, 'and told what to do');
	is($pair->status('phase'), 'syncing', 'nothing has changed');
	$pair->source_sql(q{SELECT migrate_tiers.set_option('forget_target', 'on')});
	($good, $state, $error) = $pair->source_try(q{SELECT migrate_tiers.drop_migration('m')});
	ok($good, 'with forget_target it goes on') or diag($error);
	like($error, qr/WARNING.*was left as it is/s, 'and says what it leaves');
	same_catalogs($source_with, catalogs('source'), 'source');
	$pair->target->start;
	my ($statement) = $error =~ /(DO \$migrate_tiers\$.*\$migrate_tiers\$;)/s;
	ok($statement, 'the warning has a statement to run');
	$pair->target_sql($statement);
	same_catalogs($target_bare, catalogs('target'), 'target, when that has run');
	empty_target();
};

subtest 'the extension dropped' => sub {
	migrate();
	my ($good, $state) = $pair->source_try('DROP EXTENSION migrate_tiers CASCADE');
	is($state, '55006', 'not while it has a migration');
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	$pair->source_sql('DROP EXTENSION migrate_tiers');
	same_catalogs($source_bare, catalogs('source'), 'source');
	same_catalogs($target_bare, catalogs('target'), 'target');
	$pair->source_sql(q{INSERT INTO shop.customer (name) VALUES ('free')});
	nothing_runs($pair, 'afterwards');
	empty_target();
};

subtest 'the extension stays while a migration is in it' => sub {
	$pair->source_sql('CREATE EXTENSION migrate_tiers');
	migrate();
	my ($before_source, $before_target) = (catalogs('source'), catalogs('target'));
	my ($ok, $state, $error) = $pair->source_try('DROP EXTENSION migrate_tiers CASCADE');
	ok(!$ok, "refused ($state)");
	like($error, qr/drop_migration/, 'with what to call');
	same_catalogs($before_source, catalogs('source'), 'nothing changed on the source');
	same_catalogs($before_target, catalogs('target'), 'nor on the target');
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	$pair->source_sql('DROP EXTENSION migrate_tiers');
	same_catalogs($source_bare, catalogs('source'), 'dropped while syncing, source');
	same_catalogs($target_bare, catalogs('target'), 'dropped while syncing, target');
	$pair->source_sql(q{INSERT INTO shop.customer (name) VALUES ('free')});
};

$pair->finish;
done_testing();
