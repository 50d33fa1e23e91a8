# While both sides are written, the worker reads its tables anew and one of them is locked: by an application,
# for longer than the worker waits. It has only some of the tables then. What is committed meanwhile, on either
# side, is sent all the same when the lock is gone: nothing is passed over, and no server falls.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use PostgreSQL::Test::Utils;
use Test::More;

my $pair = MigrateTiers::Pair->new('reload');
$pair->both_sql("CREATE TABLE $_ (id int PRIMARY KEY, v text)") for qw(again locked zlate);
$pair->source_sql("INSERT INTO $_ VALUES (1, 'old')") for qw(again locked zlate);
$pair->declare;
$pair->advance;
$pair->sync;
ready($pair, 'dual_write');
$pair->advance('dual_write');
settle($pair);

# A copy that is refused, since applications write the target: after each attempt the tables are read anew.
$pair->source_sql("UPDATE migrate_tiers.relation SET state = 'recopy' WHERE relation = 'again'::regclass; SELECT migrate_tiers.set_option('max_lag', '1 h')");
ok($pair->wait_until(source => "SELECT copy_error ~ 'is to be copied again' FROM migrate_tiers.migration"), 'a copy is refused');
is($pair->source_sql("SELECT stopped ~ '^copy: ' AND stopped_at > now() - interval '2 min' FROM migrate_tiers.status"), 't', 'status says so, and since when');
# Nothing is dropped of the queue meanwhile, whatever its limit.
$pair->set_option('queue_limit', '8kB');
like($pair->source_sql("SELECT alarm FROM migrate_tiers.status"), qr/^queue: \d+ bytes, more than queue_limit; nothing is dropped in this phase$/, 'a queue above its limit is told of');
$pair->set_option('queue_limit', '0');
is($pair->source_sql("SELECT alarm IS NULL FROM migrate_tiers.status"), 't', 'and nothing where it has none');

my $log = -s $pair->source->logfile;
my $worker = $pair->worker_pid;
my $waits = q{EXISTS (SELECT FROM pg_locks WHERE relation = 'locked'::regclass AND NOT granted)};
my $session = MigrateTiers::session($pair->source);
$session->query_safe('BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE');
$pair->wait_until(source => "SELECT $_") or die for $waits, "NOT $waits";
$pair->source_sql("UPDATE zlate SET v = 'new'; INSERT INTO zlate VALUES (10, 'source')");
$pair->target_sql("INSERT INTO zlate VALUES (11, 'target')");
$session->query_safe('COMMIT');
$session->quit;
$pair->source_sql("INSERT INTO zlate VALUES (20, 'last of the source')");
$pair->target_sql("INSERT INTO zlate VALUES (21, 'last of the target')");
ok($pair->wait_until(target => 'SELECT EXISTS (SELECT FROM zlate WHERE id = 20)'), 'what the source commits is sent');
ok($pair->wait_until(source => 'SELECT EXISTS (SELECT FROM zlate WHERE id = 21)'), 'and what the target commits');
$pair->equal('nothing was passed over');
is($pair->source_sql("SELECT string_agg(relation::regclass || ' ' || state, ', ' ORDER BY relation::regclass::text) FROM migrate_tiers.relation"),
	'again recopy, locked syncing, zlate syncing', 'no other table is to be copied again');
is($pair->worker_pid, $worker, 'the worker is the same');
unlike(slurp_file($pair->source->logfile, $log), qr/terminated by signal|not open/, 'and nobody fell');

# A target that was set back further than the queue reaches: what can be done is told, with calls that this phase allows.
$pair->source_sql(q{SELECT migrate_tiers.pause(); UPDATE migrate_tiers.migration SET floor = '99999999:99999999:'; SELECT migrate_tiers.resume()});
ok($pair->wait_until(source => q{SELECT stopped ~ 'Restore the target to a later time.* CALL migrate_tiers.revert\(.syncing.\), then CALL migrate_tiers.revert\(.planned.\), then CALL migrate_tiers.advance\(.syncing.\)\.' FROM migrate_tiers.status}),
	'it says which calls lead back');
$pair->finish;
done_testing();
