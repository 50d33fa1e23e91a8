# Pushes by our own interval, and by pg_cron: a real one, preloaded by this cluster.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair(source_conf => "shared_preload_libraries = 'pg_cron'\ncron.database_name = 'shop'\ncron.use_background_workers = on\n");
for my $node ($source, $target)
{
	sql($node, 'CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE hourly (id int PRIMARY KEY, v int); CREATE TABLE nightly (id int PRIMARY KEY, v int)');
}
migration($source, 'item');
sql($source, q{SELECT migrate_tiers.tag(t, 'batch') FROM unnest('{hourly,nightly}'::regclass[]) t});
advance($source, 'syncing');

# Our own schedule.
sql($source, 'INSERT INTO hourly SELECT i, i FROM generate_series(1, 1000) i');
sql($source, q{SELECT migrate_tiers.batch_policy('hourly', every => '2 s', max_age => '1 hour')});
ok(pushed('hourly', 'scheduled AND inserted = 1000'), 'a table is pushed by its interval');
sql($source, 'UPDATE hourly SET v = -v WHERE id <= 10');
ok(pushed('hourly', 'scheduled AND updated = 10'), 'again and again');
tables_equal($source, $target, 'hourly');
is(state_of('hourly'), 'fresh', 'it stays fresh');
my $job = session($source);
$job->query_safe('BEGIN; LOCK TABLE hourly');
SKIP:
{
	skip 'there is no /proc here', 1 unless -e '/proc/self/stat';
	sql($source, <<'SQL');
CREATE FUNCTION nice(pid int) RETURNS int LANGUAGE sql AS
$$ SELECT split_part(split_part(pg_read_file(format('/proc/%s/stat', pid), 0, 10000, true), ') ', 2), ' ', 17)::int $$
SQL
	ok(wait_until($source, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers batch' AND wait_event_type = 'Lock'
		AND nice(pid) = nice(pg_backend_pid()) + 5}), 'whoever pushes steps back behind sessions');
}
ok(pushed('hourly', q{scheduled AND error ~ '^55P03' AND note ~ 'postponed'}), 'a push is postponed while the table is locked');
sql($source, 'INSERT INTO item SELECT generate_series(1, 100)');
wait_synced($source, 30);
pass('which holds up no tick');
$job->query_safe('UPDATE hourly SET v = 0 WHERE id = 500; COMMIT');
$job->quit;
ok(pushed('hourly', 'scheduled AND updated = 1'), 'and made up for later');
sql($source, q{SELECT migrate_tiers.pause()});
sql_fails($source, q{SELECT migrate_tiers.push_batch('hourly')}, '55000', qr/paused/, 'paused is paused');
sql($source, q{SELECT migrate_tiers.resume()});
# The clock was ahead, and is set back.
my $last = sql($source, q{WITH u AS (UPDATE migrate_tiers.batch SET started = started + '1 day', finished = finished + '1 day'::interval,
	snapshot_time = snapshot_time + '1 day'::interval RETURNING id) SELECT max(id) FROM u});
ok(wait_until($source, "SELECT count(*) >= 2 FROM migrate_tiers.batches WHERE id > $last AND finished IS NOT NULL"), 'pushes that seem to come from the future hold up none');
sql($source, q{SELECT count(*) FROM migrate_tiers.verify('item'); UPDATE migrate_tiers.verification SET oldest = oldest + '1 day'});
is(sql($source, q{SELECT passed || ' ' || (detail ~ 'before the clock was set back') FROM migrate_tiers.gates('dual_write') WHERE gate = 'verified'}), 'false true', 'nor are verifications from there evidence');
sql($source, q{SELECT migrate_tiers.batch_policy('hourly', max_age => '1 second')});
ok(wait_until($source, q{SELECT state FROM migrate_tiers.tables WHERE relation = 'hourly'::regclass}, 'stale'), 'without an interval it becomes stale by max_age');

# pg_cron.
sql_fails($source, q{SELECT migrate_tiers.schedule('nightly', '* * * * *')}, '55000', qr/batch_policy\('public.nightly', every =>/, 'without pg_cron the error names the built-in way');
sql($source, 'CREATE EXTENSION pg_cron');
sql_fails($source, q{SELECT migrate_tiers.schedule('nightly', 'every night')}, '22023', qr/every night.*'0 3 \* \* \*'/s, 'a schedule that cannot be parsed');
is(sql($source, 'SELECT count(*) FROM cron.job'), '0', 'leaves no job');
sql($source, q{SELECT migrate_tiers.schedule('nightly', '0 3 * * *')});
sql($source, q{SELECT migrate_tiers.schedule('nightly', '* * * * *')});
is(sql($source, q{SELECT schedule || ' ' || command FROM cron.job}), q{* * * * * SELECT migrate_tiers.push_batch('public.nightly', 'shop')}, 'there is one job a table, with the schedule given last');
sql($source, 'INSERT INTO nightly SELECT i, i FROM generate_series(1, 500) i');
ok(wait_until($source, q{SELECT count(*) > 0 FROM migrate_tiers.batches WHERE relation = 'nightly'::regclass AND inserted = 500 AND NOT scheduled}, 't', 150), 'a job fires, and batches shows it');
tables_equal($source, $target, 'nightly');
ok(wait_until($source, q{SELECT count(*) > 0 FROM cron.job_run_details WHERE status = 'succeeded'}), 'pg_cron says the same');
sql($source, q{SELECT migrate_tiers.unschedule('nightly')});
is(sql($source, 'SELECT count(*) FROM cron.job'), '0', 'unschedule removes it');
sql_fails($source, q{SELECT migrate_tiers.unschedule('nightly')}, '42704', qr/no job of pg_cron/, 'once');
sql($source, q{SELECT migrate_tiers.schedule('nightly', '0 3 * * *'), migrate_tiers.schedule('hourly', '0 3 * * *')});
sql($source, q{SELECT migrate_tiers.untag('hourly')});
is(sql($source, 'SELECT count(*) FROM cron.job'), '1', 'a job goes with its tag');
sql($source, 'SELECT migrate_tiers.drop_migration()');
is(sql($source, 'SELECT count(*) FROM cron.job'), '0', 'and with the migration');

finish($source, $target);
done_testing();

sub pushed
{
	my ($table, $condition) = @_;
	return wait_until($source, "SELECT count(*) > 0 FROM migrate_tiers.batches WHERE relation = '$table'::regclass AND $condition", 't', 60);
}

sub state_of { return sql($source, "SELECT state FROM migrate_tiers.tables WHERE relation = '$_[0]'::regclass"); }
