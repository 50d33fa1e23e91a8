# VACUUM of the queue gives pages back whose rows were rolled back; what is written
# in their place afterwards is sent like everything else.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('vacuumed_queue');
$pair->both_sql('CREATE TABLE item (id bigint PRIMARY KEY, v text)');
$pair->source_sql(q{INSERT INTO item VALUES (1, 'old')});
$pair->declare;
$pair->set_option('queue_retention', '1 h');
$pair->advance;
$pair->sync;
$pair->equal('in sync');

my @segments = split /\n/,
  $pair->source_sql(q{SELECT unnest(queue)::regclass FROM migrate_tiers.migration});
is(@segments, 3, 'the queue has its segments');

sub pages { return $pair->source_sql('SELECT ' . join ' + ', map { "pg_relation_size('$_') / 8192" } @segments); }
sub vacuum { my ($options) = @_; $pair->source_sql("VACUUM ($options) $_") for @segments; return; }

# Pages whose rows are dead, behind everything else; the worker knows that nothing on them matters.
sub roll_back
{
	$pair->source_sql('BEGIN; INSERT INTO item SELECT i, repeat(md5(i::text), 2) FROM generate_series(1000001, 1040000) i; ROLLBACK');
	$pair->sync;
	return pages();
}

my $before = pages();
my $pages = roll_back();
cmp_ok($pages, '>', $before + 20, "pages of what was rolled back: $before, then $pages");
vacuum('TRUNCATE off');
vacuum('INDEX_CLEANUP on');
is(pages(), $pages, 'VACUUM as it is called by everyone gives none of them back');
vacuum('TRUNCATE');
cmp_ok(pages(), '<', $pages - 20, 'VACUUM (TRUNCATE) does');
$pair->source_sql(q{INSERT INTO item VALUES (2, 'after a VACUUM')});
$pair->sync;
$pair->equal('a row that is written in their place is sent');

# The pages are given back and written anew while the worker sees nothing of it.
$pages = roll_back();
my $worker = $pair->worker_pid;
kill 'STOP', $worker or die "cannot stop $worker: $!";
vacuum('TRUNCATE');
cmp_ok(pages(), '<', $pages - 20, 'given back');
$pair->source_sql(q{INSERT INTO item SELECT i, 'early page' FROM generate_series(1001, 9000) i});
$pair->source_sql('BEGIN; INSERT INTO item SELECT i, md5(i::text) FROM generate_series(2000001, 2080000) i; ROLLBACK');
cmp_ok(pages(), '>', $pages, 'and grown beyond what they were');
cmp_ok($pair->status('forward_pending'), '>=', 8000, 'status counts what is there');
kill 'CONT', $worker or die "cannot continue $worker: $!";
$pair->sync;
$pair->equal('rows of pages that the worker knew otherwise are sent');

# Rotation looks at the pages that are there, too.
roll_back();
vacuum('TRUNCATE');
$pair->source_sql(q{INSERT INTO item VALUES (3, 'before rotation')});
$pair->source_sql(q{CREATE SCHEMA watch; CREATE TABLE watch.seen (v text);
	CREATE FUNCTION watch.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO watch.seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
	CREATE TRIGGER see AFTER UPDATE OF floor ON migrate_tiers.migration FOR EACH ROW EXECUTE FUNCTION watch.see()});
$pair->set_option('queue_retention', '1 s');
ok($pair->wait_until(source => 'SELECT 0 = ' . join(' + ', map { "pg_relation_size('$_')" } @segments)), 'rotated');
is($pair->source_sql('SELECT DISTINCT v FROM watch.seen'), 'local', 'nobody who writes the queue waits with it for a standby');
$pair->source_sql(q{INSERT INTO item VALUES (4, 'after rotation')});
$pair->sync;
$pair->equal('nothing that rotation gave back was needed');
$pair->finish;
done_testing();
