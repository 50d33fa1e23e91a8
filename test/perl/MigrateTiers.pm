# MigrateTiers.pm: what every TAP test of migrate_tiers stands on.
#
#   use MigrateTiers;
#   use Test::More;
#   my ($source, $target) = pair();
#   sql($_, 'CREATE TABLE item (id int PRIMARY KEY, name text)') for $source, $target;
#   migration($source, 'item');            # creates migration "shop", tags as realtime
#   advance($source, 'syncing');
#   sql($source, q(INSERT INTO item VALUES (1, 'a')));
#   wait_synced($source);
#   tables_equal($source, $target, 'item');
#   done_testing();
#
# Both nodes run with the server's default settings, but for what a test bed
# needs (fsync off, prepared transactions allowed): that the extension asks for
# no setting is then shown by every test.  The target may be of another major
# version: MT_TARGET_INSTALL names its installation (a folder that has bin/).
#
# Local sockets are trusted; TCP on 127.0.0.1 asks for a password, and the
# foreign server leads through TCP.  The password is odd enough to be searched
# for in logs and views: see secret().

package MigrateTiers;

use strict;
use warnings;

use Exporter 'import';
use MigrateTiers::Psql ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

our @EXPORT = qw(pair node database server mapping secret sql sql_fails query
  migration advance revert wait_synced wait_until wait_for tables_equal
  table_image copy_state worker_pids session finish);

# Name of the database that moves, on both sides.
our $DATABASE = 'shop';

# Seconds that a condition may take to come true; slow machines set more.
our $TIMEOUT = $ENV{PG_TEST_TIMEOUT_DEFAULT} || 180;

my $SECRET = 'xyzzy-Plugh-1977';

# Every node has this superuser, whoever runs the test.
$ENV{PGUSER} = 'postgres';

# Settings under which two servers print the same row as the same text.
my $PINNED = join ' ', map { "SET $_;" } (
	'search_path = pg_catalog',
	"DateStyle = 'ISO, YMD'",
	"TimeZone = 'UTC'",
	"IntervalStyle = 'postgres'",
	'extra_float_digits = 3',
	"bytea_output = 'hex'",
	"lc_monetary = 'C'",
	"xmloption = 'content'",
	'row_security = off');

=pod

=over

=item my ($source, $target) = pair(%options)

Starts two clusters with an empty database "shop" on each, the extension, the
foreign server "new_db" and a user mapping of postgres on the source.

Options: source_conf, target_conf (text appended to postgresql.conf),
source_initdb, target_initdb (lists of options), extension => 0 (nothing is
created in the source's database), name (prefix of the node names, for a test
with two pairs), encoding (of both databases; default UTF8).

=cut

sub pair
{
	my (%options) = @_;
	my $prefix = $options{name} ? "$options{name}_" : '';
	my $encoding = $options{encoding} || 'UTF8';

	my $source = node("${prefix}source",
		conf => $options{source_conf},
		initdb => $options{source_initdb});
	my $target = node("${prefix}target",
		conf => $options{target_conf},
		initdb => $options{target_initdb},
		install_path => $ENV{MT_TARGET_INSTALL} || undef);

	$_->safe_psql('postgres', "CREATE DATABASE $DATABASE TEMPLATE template0 ENCODING '$encoding'")
	  for $source, $target;
	if (!exists $options{extension} || $options{extension})
	{
		sql($source, 'CREATE EXTENSION postgres_fdw; CREATE EXTENSION migrate_tiers;');
		server($source, $target);
		mapping($source);
	}
	return ($source, $target);
}

=item my $node = node($name, conf => $text, initdb => \@options, install_path => $folder)

Starts one cluster of the same make, with no database of ours.

=cut

sub node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name,
		$options{install_path} ? (install_path => $options{install_path}) : ());

	$node->init(extra =>
		  [ '-U', 'postgres', '-E', 'UTF8', '--locale=C', @{ $options{initdb} || [] } ]);
	$node->append_conf('postgresql.conf', <<"CONF");
# What Cluster.pm sets otherwise than a server in use has it, set back.
wal_level = replica
max_wal_senders = 10
restart_after_crash = on
log_statement = none
log_replication_commands = off
max_prepared_transactions = 10
listen_addresses = '127.0.0.1'
password_encryption = 'scram-sha-256'
CONF
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', <<"HBA");
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
HBA
	$node->start;
	$node->safe_psql('postgres', "ALTER ROLE postgres PASSWORD '$SECRET'");
	return $node;
}

=item server($source, $target, name => 'new_db', port => $port, options => '...')

Creates the foreign server.  port leads elsewhere than to the target's own.

=cut

sub server
{
	my ($source, $target, %options) = @_;
	my $name = $options{name} || 'new_db';
	my $port = $options{port} || $target->port;
	my $more = $options{options} ? ", $options{options}" : '';

	sql($source,
		"CREATE SERVER $name FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname '$DATABASE'$more)"
	);
	return;
}

=item mapping($source, role => 'CURRENT_USER', server => 'new_db', user => 'postgres', password => secret())

Creates a user mapping.

=cut

sub mapping
{
	my ($source, %options) = @_;
	my $role = $options{role} || 'CURRENT_USER';
	my $server = $options{server} || 'new_db';
	my $user = $options{user} || 'postgres';
	my $password = defined $options{password} ? $options{password} : $SECRET;

	sql($source,
		"CREATE USER MAPPING FOR $role SERVER $server OPTIONS (user '$user', password '$password')");
	return;
}

=item secret() and database()

The password of every mapping made here; the name of the database that moves.

=cut

sub secret { return $SECRET; }
sub database { return $DATABASE; }

=item my $text = sql($node, $sql, %options)

Runs SQL in database "shop" as psql does, dies on an error, returns the output.
Options: as (a role, by SET SESSION AUTHORIZATION), dbname.

=cut

sub sql
{
	my ($node, $sql, %options) = @_;
	return MigrateTiers::Psql::run($node, $options{dbname} || $DATABASE, _as($options{as}) . $sql);
}

=item give_up($source, $target, %options)

Ends a migration that has forget_target, and runs on the target what the warning says.

=cut

sub give_up
{
	my ($source, $target, %options) = @_;
	my ($status, $out, $err) = $source->psql($DATABASE, _as($options{as}) . q(SET client_min_messages = warning; SELECT migrate_tiers.drop_migration()),
		on_error_stop => 1);
	my ($statement) = $err =~ /was left as it is.*(DO \$migrate_tiers\$.*\$migrate_tiers\$;)/s;
	die "not given up: $err\n" if $status != 0 || !$statement;
	return sql($target, $statement);
}

=item sql_fails($node, $sql, $sqlstate, $pattern, $test_name, %options)

One test: the SQL fails with this SQLSTATE and an error text (with detail and
hint) that matches.

=cut

sub sql_fails
{
	my ($node, $sql, $sqlstate, $pattern, $test_name, %options) = @_;
	my ($status, $out, $err) = $node->psql($options{dbname} || $DATABASE,
		"\\set VERBOSITY verbose\n" . _as($options{as}) . $sql,
		on_error_stop => 1);
	my $state = $err =~ /ERROR:\s+([0-9A-Z]{5}):/ ? $1 : '(none)';
	my $good = $status != 0 && $state eq $sqlstate && $err =~ $pattern;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($good, $test_name);
	diag("status $status, SQLSTATE $state, expected $sqlstate and $pattern, got: $err")
	  if !$good;
	return $good;
}

=item my $value = query($node, $sql, %options)

As sql, and says so when the test only wants one value.

=cut

sub query { return sql(@_); }

sub _as
{
	my ($role) = @_;
	return '' if !defined $role;
	$role =~ s/"/""/g;
	return "SET SESSION AUTHORIZATION \"$role\";\n";
}

=item migration($source, @tables)

Creates migration "shop" to server new_db and tags the tables as realtime.  A
table may be written 'name=>schema.other' for another name on the target.

=cut

sub migration
{
	my ($source, @tables) = @_;
	my $calls = "SELECT migrate_tiers.create_migration('shop', 'new_db');";

	foreach my $table (@tables)
	{
		my ($relation, $target) = split /=>/, $table;
		$calls .= "SELECT migrate_tiers.tag("
		  . join(', ', map { _literal($_) } grep { defined } $relation, 'realtime', $target) . ");";
	}
	sql($source, $calls);
	return;
}

sub _literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

=item advance($source, $phase) and revert($source, $phase)

One phase forward or back.

=cut

sub advance { return _move(@_[0, 1], 'advance'); }
sub revert { return _move(@_[0, 1], 'revert'); }

sub _move
{
	my ($source, $phase, $call) = @_;
	return sql($source, "CALL migrate_tiers.$call('$phase')");
}

=item wait_synced($source, $seconds)

Returns when everything that was committed before the call is on the target,
which includes the initial copy; dies at the time limit.

=cut

sub wait_synced
{
	my ($source, $seconds) = @_;
	$seconds ||= $TIMEOUT;
	my ($status, $out, $err) = MigrateTiers::Psql::ask($source, $DATABASE,
		"SELECT migrate_tiers.wait_for_sync(timeout => interval '$seconds s')");
	return if $status == 0;
	die "wait_for_sync failed: $err\n" . _state($source);
}

# _state describes the migration, for the log of a test that failed.
sub _state
{
	my ($source) = @_;
	my $text = '';
	foreach my $view ('status', 'tables')
	{
		my ($status, $out, $err) =
		  $source->psql($DATABASE, "TABLE migrate_tiers.$view", extra_params => ['-x']);
		$text .= "-- $view\n" . ($status == 0 ? $out : $err) . "\n";
	}
	return $text;
}

=item wait_until($node, $sql, $expected, $seconds, %options)

Asks again and again until the query's output is $expected (default 't'), a
string or a pattern.  Returns true; at the time limit says in the log what
it saw last and returns false.  Errors of the query count as another answer.

=cut

sub wait_until
{
	my ($node, $sql, $expected, $seconds, %options) = @_;
	my ($status, $out, $err);

	$expected = 't' if !defined $expected;
	my $matches = ref $expected ? sub { $_[0] =~ $expected } : sub { $_[0] eq $expected };
	my $came = wait_for(
		sub {
			($status, $out, $err) = MigrateTiers::Psql::ask($node, $options{dbname} || $DATABASE, $sql);
			return $status == 0 && $matches->($out);
		},
		$seconds);
	diag("waited in vain for \"$expected\" of: $sql\nlast output: $out\nlast error: $err") if !$came;
	return $came;
}

=item wait_for($condition, $seconds)

Calls the function until it returns true, with growing pauses of up to 0.25 s.
Returns false at the time limit.

=cut

sub wait_for
{
	my ($condition, $seconds) = @_;
	my $end = time() + ($seconds || $TIMEOUT);
	my $pause = 0.01;

	while (!$condition->())
	{
		return 0 if time() > $end;
		usleep($pause * 1_000_000);
		$pause = $pause * 1.5 > 0.25 ? 0.25 : $pause * 1.5;
	}
	return 1;
}

=item tables_equal($source, $target, $table, $test_name, target => $other_name)

One test: both sides hold the same rows, compared by column name as text under
pinned settings.  Shows up to ten rows that only one side has.

=cut

sub tables_equal
{
	my ($source, $target, $table, $test_name, %options) = @_;
	my $there = $options{target} || $table;
	my $columns = sql($source, <<"SQL");
SELECT string_agg(format('"%s"', replace(attname, '"', '""')), ', ' ORDER BY attname)
FROM pg_attribute WHERE attrelid = @{[ _literal($table) ]}::regclass AND attnum > 0 AND NOT attisdropped
SQL
	my $same = _digest($source, $table, $columns) eq _digest($target, $there, $columns);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($same, $test_name || "$table is equal on both sides");
	_show_difference($source, $table, $target, $there, $columns) if !$same;
	return $same;
}

# _rows is the query of a table's rows as texts; of children by inheritance, none.
sub _rows
{
	my ($node, $table, $columns) = @_;
	my $name = sql($node, "SELECT format('%I.%I', n.nspname, c.relname), c.relkind FROM pg_class c "
		  . "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = "
		  . _literal($table) . '::regclass');
	my ($quoted, $kind) = $name =~ /^(.*)\|(.)$/s;
	my $only = $kind eq 'p' ? '' : 'ONLY';
	return "SELECT ROW($columns)::text AS r FROM $only $quoted";
}

sub _digest
{
	my ($node, $table, $columns) = @_;
	my $rows = _rows($node, $table, $columns);
	return sql($node,
		"$PINNED SELECT count(*), md5(string_agg(md5(r), '' ORDER BY md5(r) COLLATE \"C\")) FROM ($rows) x");
}

=item my $text = table_image($node, $table, $columns)

All rows of a table as text, ordered; $columns as written in SQL.

=cut

sub table_image
{
	my ($node, $table, $columns) = @_;
	my $rows = _rows($node, $table, $columns);
	return sql($node, "$PINNED SELECT r FROM ($rows) x ORDER BY r COLLATE \"C\"");
}

sub _show_difference
{
	my ($source, $table, $target, $there, $columns) = @_;
	my (%source, %target);
	$source{$_}++ for split /\n/, table_image($source, $table, $columns);
	$target{$_}++ for split /\n/, table_image($target, $there, $columns);
	my @gone = grep { ($source{$_} || 0) > ($target{$_} || 0) } sort keys %source;
	my @extra = grep { ($target{$_} || 0) > ($source{$_} || 0) } sort keys %target;
	diag(scalar(@gone) . ' rows of the source are missing on the target, '
		  . scalar(@extra) . ' rows of the target are not on the source');
	diag("only source: $_") for grep { defined } @gone[0 .. 4];
	diag("only target: $_") for grep { defined } @extra[0 .. 4];
	diag(_state($source));
	return;
}

=item my %state = copy_state($source)

State of each tagged table by name, as the view tables has it.

=cut

sub copy_state
{
	my ($source) = @_;
	return map { split /\|/, $_, 2 }
	  split /\n/, sql($source, "SELECT relation::text, state FROM migrate_tiers.tables ORDER BY 1");
}

=item my @pids = worker_pids($node, $kind)

Process ids of our workers; $kind is 'sync' or 'copy', both if left out.

=cut

sub worker_pids
{
	my ($node, $kind) = @_;
	my $types = join ', ', map { "'migrate_tiers $_'" } ($kind ? $kind : ('sync', 'copy'));
	return split /\n/, MigrateTiers::Psql::run($node, 'postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type IN ($types) ORDER BY pid");
}

=item my $session = session($node, %options)

A psql that stays connected: $session->query_safe($sql), $session->query_until,
$session->quit (see PostgreSQL::Test::BackgroundPsql).

=cut

sub session
{
	my ($node, %options) = @_;
	return $node->background_psql($options{dbname} || $DATABASE,
		on_error_stop => exists $options{on_error_stop} ? $options{on_error_stop} : 1);
}

=item finish(@nodes) and finish({ crashes => 1 }, @nodes)

Stops the nodes and checks in their logs that nothing crashed and nothing
leaked: one test a node.  A test that kills processes says crashes => 1.

=back

=cut

sub finish
{
	my (@nodes) = @_;
	my $options = ref $nodes[0] eq 'HASH' ? shift @nodes : {};
	my $leak = qr/WARNING:.*(?:leak|still referenced|was not closed)/;
	my $crash = qr/PANIC:|TRAP:|was terminated by signal/;
	my $bad = $options->{crashes} ? $leak : qr/$leak|$crash/;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $node (@nodes)
	{
		$node->stop('fast');
		my @found = grep { /$bad/ } split /\n/, slurp_file($node->logfile);
		is(join("\n", @found), '', $node->name . ' neither crashed nor leaked');
	}
	return;
}

1;
