# Rows that were written before the transaction counter wrapped around are old,
# not new: their xmin is larger than any of now.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use PostgreSQL::Test::Utils;
use Test::More;

my $pair = MigrateTiers::Pair->new('old');
my $source = $pair->source;

# move_on sets the counter forward, in steps that the server takes as sane.
sub move_on
{
	my ($xid) = @_;
	$source->safe_psql($_, 'VACUUM (FREEZE)') for 'postgres', 'shop', 'template1';
	$source->safe_psql('postgres', 'ALTER DATABASE template0 ALLOW_CONNECTIONS true');
	$source->safe_psql('template0', 'VACUUM (FREEZE)');
	$source->stop('fast');
	my $segment = sprintf '%s/pg_xact/%04X', $source->data_dir, $xid / (32768 * 32);
	append_to_file($segment, "\0" x 262144) unless -e $segment;
	system_or_bail('pg_resetwal', '-x', $xid, '-D', $source->data_dir);
	$source->start;
	return;
}

move_on($_) for 1_500_000_000, 3_000_000_000, 4_294_960_128;
$pair->both_sql('CREATE TABLE frozen (id int PRIMARY KEY, v text); CREATE TABLE hinted (id int PRIMARY KEY, v text); CREATE TABLE later (id int PRIMARY KEY, v text)');
$pair->source_sql(q{INSERT INTO frozen SELECT i, 'old' FROM generate_series(1, 5000) i; INSERT INTO hinted SELECT i, 'old' FROM generate_series(1, 5000) i; UPDATE hinted SET v = 'new' WHERE id < 1000});
$pair->source_sql('VACUUM (FREEZE) frozen');
cmp_ok($pair->source_sql('SELECT xmin FROM frozen LIMIT 1'), '>', 4_294_960_000, 'rows of before the wrap');

# Subtransactions take ids fast.
$pair->source_sql(q{DO $$BEGIN FOR i IN 1..12000 LOOP BEGIN INSERT INTO later VALUES (i % 100, i) ON CONFLICT (id) DO UPDATE SET v = i; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END$$});
cmp_ok($pair->source_sql('SELECT pg_current_xact_id()'), '>', 4_294_967_296, 'the counter has wrapped');

$pair->declare;
$pair->advance;
$pair->sync;
is($pair->target_sql('SELECT count(*) FROM frozen'), '5000', 'old rows are copied');
$pair->equal('the copy');
$pair->source_sql(q{UPDATE frozen SET v = 'changed' WHERE id % 3 = 0; DELETE FROM hinted WHERE id % 5 = 0; UPDATE later SET v = v || 'x'});
$pair->sync;
$pair->equal('ticks');

# Two thousand million transactions later, what is frozen looks newer than all by its 32 bits.
$pair->revert;
$pair->source_sql('VACUUM (FREEZE)');
my $xmin = $pair->source_sql('SELECT max(xmin::text::bigint) FROM hinted');
move_on($_) for 1_500_000_000, 2_600_000_000;
$pair->source_sql(q{UPDATE hinted SET v = 'of now' WHERE id % 50 = 1});
is($pair->source_sql('SELECT max(xmin::text::bigint) FROM hinted'), $xmin, 'rows keep the xmin that they had');
$pair->advance;
$pair->sync;
$pair->equal('a copy of rows that are half the counter old');
$pair->source_sql(q{UPDATE frozen SET v = 'changed again' WHERE id % 7 = 0; DELETE FROM hinted WHERE id % 11 = 0});
$pair->sync;
$pair->equal('and ticks');

# Once around: ids are given out during the copy that frozen rows carry from the round before.
$pair->revert;
my ($low, $high) = (4_294_960_000, 4_294_967_000);
move_on($_) for 3_500_000_000, $low;
is($pair->source_sql("SELECT count(*) > 1000 FROM hinted WHERE xmin::text::bigint BETWEEN $low AND $high"), 't', 'rows of the round before');
$pair->both_sql('CREATE TABLE a_slow (id int PRIMARY KEY, v text)');
$pair->source_sql(q{INSERT INTO a_slow SELECT i, repeat('s', 1000) FROM generate_series(1, 1500) i; SELECT migrate_tiers.untag(t::regclass) FROM unnest('{frozen,hinted,later}'::text[]) t; SELECT migrate_tiers.tag(t::regclass, 'realtime') FROM unnest('{a_slow,frozen,hinted,later}'::text[]) t});
$pair->set_option('copy_workers', 1);
$pair->set_option('copy_rate', 600_000);
$pair->set_option('chunk_size', '256kB');
$pair->advance;
$pair->source_sql(q{DO $$BEGIN FOR i IN 1..6000 LOOP BEGIN INSERT INTO later VALUES (i % 100, i) ON CONFLICT (id) DO UPDATE SET v = i; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END$$});
$pair->source_sql(q{INSERT INTO frozen SELECT i, 'new, and frozen at once' FROM generate_series(100001, 101000) i; UPDATE hinted SET v = 'new' WHERE id % 9 = 0});
$pair->source_sql('VACUUM (FREEZE) frozen, hinted');
is($pair->source_sql(q{SELECT sum(copied_rows) FROM migrate_tiers.tables WHERE relation IN ('frozen'::regclass, 'hinted'::regclass)}), '0', 'they are not copied yet');
$pair->set_option('copy_rate', 0);
$pair->sync;
$pair->equal('rows whose age is in doubt are neither lost nor sent twice');
$pair->finish;
done_testing();
