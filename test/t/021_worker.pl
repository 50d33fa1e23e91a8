# The life of a worker: one at a time, gone when told, back when needed, not
# moved by a network that fails.
use strict;
use warnings;

use IO::Socket::INET;
use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Proxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $pair = MigrateTiers::Pair->new('worker');
my ($source, $target) = ($pair->source, $pair->target);
my $proxy = MigrateTiers::Proxy->new($target->port);
my $next = 100;

$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY, v text)');
$pair->source_sql('INSERT INTO item SELECT i, i FROM generate_series(1, 50) i');
$pair->declare(port => $proxy->port);
$pair->advance;
$pair->sync;
$pair->equal('in sync');

# What must be so within a second or two says so; the rest has the test bed's patience.
my $at_once = 3;

sub gone { my ($pid) = @_; return $pair->wait_until(source => "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", timeout => $at_once); }
# In a session of its own: who has just started a worker starts none.
sub write_row { $next++; $pair->source->safe_psql(q(shop), "INSERT INTO item VALUES ($next, 'written')"); return; }
# From PostgreSQL 18 on a process is shown before its database is.
sub worker_is_back { return $pair->wait_until(source => q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers sync' AND datname = current_database()}); }
sub log_of { return slurp_file($source->logfile); }

# The worker waits for an answer that will not come.
sub stick
{
	$proxy->hold;
	write_row();
	ok($pair->wait_until(source => 'SELECT forward_pending > 0 FROM migrate_tiers.status'), 'a row waits behind a network that is black');
	sleep 0.5;    # no condition tells "in the network call": give it time to be there
	return $pair->worker_pid;
}

subtest 'exactly one worker' => sub {
	my $script = PostgreSQL::Test::Utils::tempdir() . '/start.sql';
	append_to_file($script, "SELECT migrate_tiers.start_workers();\nINSERT INTO other VALUES ((random() * 1e9)::int, 'x') ON CONFLICT DO NOTHING;\n");
	for my $round (1 .. 3)
	{
		my $pid = $pair->worker_pid;
		$pair->source_sql("SELECT pg_terminate_backend($pid)") if $pid;
		$source->command_ok([ 'pgbench', '-n', '-c', 8, '-t', 15, '-f', $script, '-h', $source->host, '-p', $source->port, 'shop' ], "many start at once, round $round");
		my %seen;
		for (1 .. 10)
		{
			$seen{ $pair->source_sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers sync'}) }++;
			sleep 0.05;
		}
		is(join(' ', grep { $_ > 1 } keys %seen), '', 'never more than one');
		ok(worker_is_back(), 'one is there');
	}
	$pair->sync;
	$pair->equal('and it does its work');
};

subtest 'terminated and cancelled' => sub {
	my $pid = $pair->worker_pid;
	$pair->source_sql("SELECT pg_terminate_backend($pid)");
	ok(gone($pid), 'an idle worker obeys terminate');
	write_row();
	ok(worker_is_back(), 'a captured write brings it back');
	$pair->sync;
	$pid = $pair->worker_pid;
	$pair->source_sql("SELECT pg_cancel_backend($pid)");
	write_row();
	$pair->sync;
	$pair->equal('a cancel of an idle worker does no harm');
};

subtest 'a black network' => sub {
	my $pid = stick();
	my $start = time;
	write_row() for 1 .. 5;
	cmp_ok(time - $start, '<', 5, 'applications do not notice');
	$pair->source_sql("SELECT pg_cancel_backend($pid)");
	ok($pair->wait_until(source => q{SELECT stopped LIKE '%57014%' FROM migrate_tiers.status}, timeout => $at_once), 'a call into the network obeys cancel');
	$pid = $pair->worker_pid;
	$pair->source_sql("SELECT pg_terminate_backend($pid)");
	ok(gone($pid), 'and terminate');
	write_row();
	ok(worker_is_back(), 'a new worker');
	sleep 0.5;
	$pid = $pair->worker_pid;
	$pair->source_sql("SELECT pg_terminate_backend($pid)");
	ok(gone($pid), 'a worker that connects obeys terminate');
	write_row();
	worker_is_back();
	$start = time;
	my $before = $proxy->connections;
	$source->stop('fast');
	cmp_ok(time - $start, '<', 2 * $at_once, 'fast shutdown waits for nothing');
	$proxy->pass;
	$source->start;
	write_row();
	$pair->sync;
	$pair->equal('all is there when the network is back');
};

subtest 'a target that takes connections and says nothing' => sub {
	$pair->source_sql(q{ALTER SERVER new_db OPTIONS (ADD connect_timeout '1')});
	my $pid = $pair->worker_pid;
	$proxy->hold;
	$pair->source_sql("SELECT pg_terminate_backend($pid)");
	ok(gone($pid), 'the worker has ended');
	write_row();
	ok($pair->wait_until(source => q{SELECT stopped ~ '08001: .*no answer within 1 s' FROM migrate_tiers.status}), 'status says that there is no answer');
	is($pair->source_sql(q{SELECT status FROM migrate_tiers.preflight() WHERE check_name = 'target_reachable'}), 'failure', 'and so does preflight');
	# One whose queue of connections is full, and one that answers.
	my $full = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1, Proto => 'tcp');
	my @waiting = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Blocking => 0, Proto => 'tcp') } 1 .. 4;
	$pair->source_sql(q{ALTER SERVER new_db OPTIONS (SET host '127.0.0.1,127.0.0.1', SET port '} . $full->sockport . ',' . $proxy->port . q{')});
	$proxy->reset;
	$pair->sync;
	$pair->equal('a host that takes no connection is passed over');
	$pair->source_sql(q{ALTER SERVER new_db OPTIONS (SET host '127.0.0.1', SET port '} . $proxy->port . q{', DROP connect_timeout)});
};

subtest 'a number that another worker has by now' => sub {
	my ($port, $secret) = ($target->port, MigrateTiers::secret());
	$target->safe_psql('postgres', 'CREATE DATABASE second');
	$_->[0]->safe_psql($_->[1], 'CREATE SCHEMA second; CREATE TABLE second.item (id int PRIMARY KEY)') for [ $source, 'shop' ], [ $target, 'second' ];
	$pair->source_sql(<<"SQL");
CREATE SERVER second_db FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'second');
CREATE USER MAPPING FOR CURRENT_USER SERVER second_db OPTIONS (user 'postgres', password '$secret');
SELECT migrate_tiers.create_migration('second', 'second_db');
SELECT migrate_tiers.tag('second.item', 'realtime', migration => 'second');
CALL migrate_tiers.advance('syncing', 'second');
SELECT migrate_tiers.wait_for_sync(migration => 'second');
SQL
	my ($first, $second) = split /\n/, $pair->source_sql('SELECT worker_pid FROM migrate_tiers.migration ORDER BY name');
	$pair->source_sql("SELECT pg_terminate_backend($first)");
	ok(gone($first), 'a worker has ended');
	# What a restart of the server may come to: numbers of processes begin anew.
	$pair->source_sql("UPDATE migrate_tiers.migration SET worker_pid = $second WHERE name = 'm'");
	write_row();
	ok($pair->wait_until(source => q{SELECT workers_running FROM migrate_tiers.status WHERE migration = 'm'}), 'a captured write brings it back');
	$pair->source_sql(q{CALL migrate_tiers.revert('planned', 'second'); SELECT migrate_tiers.drop_migration('second');
		DROP SERVER second_db CASCADE; DROP SCHEMA second CASCADE});
	$pair->sync;
	$pair->equal('and it does its work');
};

subtest 'connections reset' => sub {
	for (1 .. 3)
	{
		$proxy->reset;
		write_row();
		$pair->sync;
	}
	$pair->equal('a reset is overcome');
	# The row is there before the worker has said so.
	ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'and forgotten');
};

subtest 'no network' => sub {
	$proxy->cut;
	write_row();
	ok($pair->wait_until(source => q{SELECT stopped ~ '08[0-9A-Z]{3}' FROM migrate_tiers.status}), 'status says why it stopped, with the SQLSTATE');
	ok($pair->status('forward_pending') > 0, 'what waits is counted');
	ok($pair->status('workers_running') eq 't', 'the worker lives');
	my $attempts = () = log_of() =~ /08[0-9A-Z]{3}/g;
	sleep 4;
	my $more = () = log_of() =~ /08[0-9A-Z]{3}/g;
	cmp_ok($more - $attempts, '<=', 12, 'it backs off');
	$proxy->pass;
	write_row();
	$pair->sync;
	$pair->equal('equal again');
	ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'status is clean');
};

subtest "an open transaction that has the migration's row" => sub {
	my ($pid, $from) = ($pair->worker_pid, length log_of());
	my $holder = MigrateTiers::session($source);
	$holder->query_safe(q{BEGIN; SELECT migrate_tiers.set_option('queue_retention', '3 h')});
	$proxy->cut;
	write_row();
	my $attempts = sub { my $found = () = substr(log_of(), $from) =~ /forward sync stopped/g; return $found; };
	my $deadline = time + 20;
	sleep 0.05 while $attempts->() < 2 && time < $deadline;
	cmp_ok($attempts->(), '>=', 2, 'it tries again');
	is($pair->worker_pid, $pid, 'the worker lives');
	like(substr(log_of(), $from), qr/what status says of it cannot be changed yet/, 'the log says that status is behind');
	$holder->query_safe('COMMIT');
	ok($pair->wait_until(source => q{SELECT stopped ~ '08[0-9A-Z]{3}' FROM migrate_tiers.status}, timeout => $at_once), 'status says why it stopped');
	$proxy->pass;
	$pair->sync;
	is($pair->worker_pid, $pid, 'the same worker goes on');

	# One that begins has to note its number there.
	$holder->query_safe(q{BEGIN; SELECT migrate_tiers.set_option('queue_retention', '2 h')});
	$pair->source_sql("SELECT pg_terminate_backend($pid)");
	ok(gone($pid), 'the worker has ended');
	write_row();
	ok(worker_is_back(), 'a captured write brings it back');
	$pid = $pair->worker_pid;
	my $waiting = "FROM pg_locks WHERE pid = $pid AND waitstart IS NOT NULL";
	ok($pair->wait_until(source => "SELECT count(*) > 0 $waiting"), 'it waits for the row');
	my $since = $pair->source_sql("SELECT max(waitstart) $waiting") || '-infinity';
	ok($pair->wait_until(source => "SELECT max(waitstart) > '$since' $waiting"), 'and again');
	$holder->query_safe('COMMIT');
	$holder->quit;
	$pair->sync;
	is($pair->worker_pid, $pid, 'and goes on when it has it');
	$pair->equal('equal again');
	$pair->source_sql(q{SELECT migrate_tiers.set_option('queue_retention', NULL)});
	ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'status is clean');
};

subtest 'a target that was away' => sub {
	$target->stop('fast');
	$pair->source_sql(q{INSERT INTO item SELECT i, 'away' FROM generate_series(10000, 20000) i; UPDATE item SET v = v || '!'; DELETE FROM item WHERE id % 10 = 0});
	ok($pair->wait_until(source => 'SELECT stopped IS NOT NULL FROM migrate_tiers.status'), 'it is seen');
	$target->start;
	$pair->sync;
	$pair->equal('it is caught up');
};

subtest 'pause and resume' => sub {
	$pair->source_sql('SELECT migrate_tiers.pause()');
	write_row();
	my ($ok, $state) = $pair->source_try(q{SELECT migrate_tiers.wait_for_sync(timeout => '1 s')});
	ok(!$ok, 'nothing is sent while paused');
	is($state, 'MT006', 'wait_for_sync says that it waited in vain');
	is($pair->target_sql("SELECT count(*) FROM item WHERE id = $next"), '0', 'the row is not there');
	$source->restart;
	write_row();
	sleep 1;
	is($pair->target_sql("SELECT count(*) FROM item WHERE id = $next"), '0', 'pause outlives a restart');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->sync;
	$pair->equal('resumed');
};

subtest 'restart of the server' => sub {
	$source->restart;
	is($pair->worker_pid, '', 'without preload no worker comes by itself');
	write_row();
	ok(worker_is_back(), 'the first captured write brings it');
	$pair->sync;
	$source->restart;
	$pair->source_sql('SELECT migrate_tiers.start_workers()');
	ok(worker_is_back(), 'start_workers brings it');

	$pair->source_sql(q{ALTER SYSTEM SET shared_preload_libraries = 'migrate_tiers'});
	$source->restart;
	ok(worker_is_back(), 'with preload it comes by itself');
	write_row();
	$pair->sync;
	$pair->equal('and works');
	my $old = $pair->worker_pid;
	my $victim = MigrateTiers::session($source);
	kill 'KILL', $victim->query_safe('SELECT pg_backend_pid()');
	ok($pair->wait_until(source => q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers sync' AND datname = current_database() AND pid <> } . $old, timeout => 60), 'and after a crash');
	eval { $victim->quit };
	$pair->sync;
	$pair->equal('and works');
	is($pair->source_sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'migrate_tiers autostart'}), '0', 'who looked into the databases is gone');
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$source->restart;
	ok($pair->wait_until(source => q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'migrate_tiers launcher' AND wait_event = 'Extension'}), 'the launcher has made its round');
	is($pair->worker_pid, '', 'not where it is paused');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->source_sql('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = \'migrate_tiers sync\'');
	$pair->source_sql('ALTER SYSTEM RESET shared_preload_libraries');
	$source->restart;
};

subtest 'a server that is pointed to the target again' => sub {
	$pair->sync;
	my $port = $pair->source_sql(q{SELECT substr(o, 6) FROM pg_foreign_server, unnest(srvoptions) o WHERE srvname = 'new_db' AND o ~ '^port='});
	my $from = length log_of();
	$pair->source_sql(q{ALTER SERVER new_db OPTIONS (SET port '1')});
	write_row();
	my $deadline = time + 60;
	sleep 0.05 while substr(log_of(), $from) !~ /next attempt in 8\.0 s/ && time < $deadline;
	$pair->source_sql("ALTER SERVER new_db OPTIONS (SET port '$port')");
	my ($came) = $pair->source_try(q{SELECT migrate_tiers.wait_for_sync(timeout => '5 s')});
	ok($came, 'it is not waited for the next attempt');
	$pair->equal('equal');
};

# A relation cache entry goes with each VACUUM and ANALYZE; what sync knows of the table does not.
subtest 'statistics of a table' => sub {
	my $log = $pair->target->logfile;
	my $reads = sub {
		my ($change) = @_;
		my $from = -s $log;
		$pair->source_sql($change);
		# What the worker hears of in one round it looks at in the next.
		for my $round (1, 2)
		{
			write_row();
			$pair->sync;
		}
		return scalar(() = substr(slurp_file($log), $from) =~ /relkind = 'p'/g);
	};
	write_row();
	$pair->sync;
	$pair->target_sql("ALTER SYSTEM SET log_statement = 'all'");
	$pair->target->reload;
	ok($pair->wait_until(target => q{SELECT setting = 'all' FROM pg_settings WHERE name = 'log_statement'}), 'the target logs what it is asked');
	my $insert = 'INSERT INTO item SELECT i FROM generate_series(1100000, 1100100) i ON CONFLICT (id) DO UPDATE SET v = item.v;';
	is($reads->("$insert\nANALYZE item"), 0, 'ANALYZE has no table read again');
	is($reads->("$insert\nVACUUM item"), 0, 'nor has VACUUM');
	cmp_ok($reads->('ALTER TABLE item ALTER v SET STATISTICS 50'), '>', 0, 'what changes the table has');
	cmp_ok($reads->('CREATE INDEX CONCURRENTLY ON item (v)'), '>', 0, 'and an index');
	$pair->target_sql('ALTER SYSTEM RESET log_statement');
	$pair->target->reload;
	$pair->equal('equal');
};

subtest 'a change that cannot be applied' => sub {
	write_row();
	$pair->sync;
	$pair->target_sql(q{ALTER TABLE item ADD CONSTRAINT not_bad CHECK (v <> 'bad')});
	$pair->source_sql(q{BEGIN; INSERT INTO other VALUES (-1, 'same transaction'); INSERT INTO item VALUES (777777, 'bad'); COMMIT});
	ok($pair->wait_until(source => q{SELECT stopped LIKE '%23514%' FROM migrate_tiers.status}), 'it stops, with the SQLSTATE');
	like($pair->status('stopped'), qr/not_bad/, 'the constraint');
	like($pair->status('stopped'), qr/777777/, 'the key');
	like(log_of(), qr/not_bad.*777777/s, 'the log says so too');
	is($pair->target_sql('SELECT count(*) FROM other WHERE id = -1'), '0', 'the tick is applied whole or not at all');
	write_row();
	is($pair->source_sql("SELECT count(*) FROM item WHERE id = $next"), '1', 'applications go on');
	$pair->target_sql('ALTER TABLE item DROP CONSTRAINT not_bad');
	$pair->sync;
	$pair->equal('it goes on when that is mended');
	ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'status is clean');

	$pair->target_sql('ALTER TABLE item RENAME TO item_gone');
	$pair->source_sql(q{INSERT INTO item SELECT i, 'many' FROM generate_series(800000, 802000) i});
	ok($pair->wait_until(source => q{SELECT stopped LIKE '%42P01%' FROM migrate_tiers.status}), 'a large tick stops as well');
	like($pair->status('stopped'), qr/table public\.item/, 'the table');
	$pair->target_sql('ALTER TABLE item_gone RENAME TO item');
	$pair->sync;
	$pair->equal('and goes on');
};

subtest 'an error that does not say which row' => sub {
	$pair->target_sql(q{
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF coalesce(NEW.v, OLD.v) = 'odd' THEN RAISE 'no such luck'; END IF;
				RETURN coalesce(NEW, OLD);
			END $$;
		CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION refuse();
		ALTER TABLE item ENABLE ALWAYS TRIGGER refuse});
	my $row = sub { my $text = quotemeta("the row of table public.item with key (id)=($_[0])"); return qr/$text/; };
	my $names = sub {
		my ($what, $key, $change) = @_;
		my $from = length log_of();
		$pair->source_sql($change);
		ok($pair->wait_until(source => q{SELECT stopped LIKE '%P0001%no such luck%' FROM migrate_tiers.status}), "$what stops");
		like($pair->status('stopped'), $row->($key), 'status names table and key');
		like(substr(log_of(), $from), $row->($key), 'so does the log');
		$pair->target_sql('ALTER TABLE item DISABLE TRIGGER refuse');
		$pair->sync;
		$pair->equal("$what is not skipped");
		ok($pair->wait_until(source => 'SELECT stopped IS NULL FROM migrate_tiers.status'), 'status is clean');
		$pair->target_sql('ALTER TABLE item ENABLE ALWAYS TRIGGER refuse');
	};

	$names->('a row of a statement of many', 810021, q{INSERT INTO item SELECT i, CASE WHEN i = 810021 THEN 'odd' ELSE 'even' END FROM generate_series(810001, 810040) i});
	$names->('a deletion', 810021, q{DELETE FROM item WHERE id IN (810020, 810021, 810022)});
	$names->('a row of a large tick', 822345, q{INSERT INTO item SELECT i, CASE WHEN i = 822345 THEN 'odd' ELSE 'even' END FROM generate_series(820001, 824000) i});
	$pair->target_sql('DROP FUNCTION refuse() CASCADE');
};

subtest 'the extension dropped and created under old sessions' => sub {
	my $old = MigrateTiers::session($source);
	$old->query_safe(q{INSERT INTO item VALUES (900001, 'old session')});
	$pair->revert;
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	$pair->source_sql('DROP EXTENSION migrate_tiers');
	$old->query_safe(q{INSERT INTO item VALUES (900002, 'no extension')});
	$pair->source_sql('CREATE EXTENSION migrate_tiers');
	$old->query_safe(q{INSERT INTO item VALUES (900003, 'not declared')});
	$pair->source_sql(q{SELECT migrate_tiers.create_migration('m', 'new_db'); SELECT migrate_tiers.tag_schema('public', 'realtime')});
	$pair->advance;
	$old->query_safe(q{INSERT INTO item VALUES (900004, 'new capture')});
	$old->query_safe(q{UPDATE item SET v = 'new capture' WHERE id = 900001});
	$pair->sync;
	$pair->equal('the old session is captured by the new extension');

	my ($ok, $state) = $pair->source_try('DROP EXTENSION migrate_tiers CASCADE');
	ok(!$ok, "the extension stays while it has a migration ($state)");
	$old->query_safe(q{INSERT INTO item VALUES (900005, 'still captured')});
	$pair->sync;
	$pair->equal('capture and sync went on');
	$pair->revert;
	$pair->source_sql(q{SELECT migrate_tiers.drop_migration('m')});
	ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'migrate_tiers%'}), 'no worker is left');
	$pair->source_sql('DROP EXTENSION migrate_tiers');
	$old->query_safe(q{INSERT INTO item VALUES (900006, 'no extension')});
	is($pair->source_sql(q{SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal}), '0', 'no trigger stays');
	$old->quit;
};

subtest 'writers start no worker while a migration is dropped' => sub {
	$pair->source_sql('DROP SERVER new_db CASCADE');
	$pair->declare(port => $proxy->port);
	$pair->advance;
	$pair->sync;
	my $holder = MigrateTiers::session($target);
	my $dropper = MigrateTiers::session($source);
	my $pid = $dropper->query_safe('SELECT pg_backend_pid()');
	$source->safe_psql('shop', $_) for 'ALTER SYSTEM SET log_min_messages = debug1', 'SELECT pg_reload_conf()';
	$holder->query_safe('BEGIN; LOCK TABLE item IN ACCESS SHARE MODE');
	$dropper->query_until(qr/going/, "\\echo going\nSELECT migrate_tiers.drop_migration();\n");
	ok($pair->wait_until(source => "SELECT count(*) > 100 FROM pg_locks WHERE pid = $pid AND locktype = 'object' AND mode = 'ExclusiveLock' AND granted"), 'it waits for the target');
	my $log = -s $source->logfile;
	$pair->source_sql("INSERT INTO item VALUES (89000$_, 'meanwhile')") for 1 .. 5;
	unlike(slurp_file($source->logfile, $log), qr/starting background worker process "migrate_tiers sync/, 'nobody starts a worker');
	$pair->source_sql("SELECT pg_terminate_backend($pid)");
	eval { $dropper->quit };
	$holder->quit;
	ok(gone($pid), 'it is given up');
	$pair->source_sql(q{INSERT INTO item VALUES (890010, 'after')});
	$pair->sync;
	$pair->equal('the next writer starts it again');
	like(slurp_file($source->logfile, $log), qr/starting background worker process "migrate_tiers sync/, '... which the log tells');
	$source->safe_psql('shop', $_) for 'ALTER SYSTEM RESET log_min_messages', 'SELECT pg_reload_conf()';
};

subtest 'DROP DATABASE' => sub {
	stick();
	my $start = time;
	$pair->source_sql('DROP DATABASE shop WITH (FORCE)', db => 'postgres');
	cmp_ok(time - $start, '<', 2 * $at_once, 'waits for no network');
	my $lines = () = log_of() =~ /database .* does not exist/g;
	sleep 7;    # longer than the pause after which the server starts a worker again
	my $later = () = log_of() =~ /database .* does not exist/g;
	is($later, $lines, 'no worker comes back for a database that is gone');
	is($source->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'migrate_tiers%'}), '0', 'no worker is left');
	$proxy->pass;
};

unlike(log_of(), qr/\Q@{[ MigrateTiers::secret() ]}\E/, 'no password in the log');
$pair->finish(crashes => 1);
done_testing();
