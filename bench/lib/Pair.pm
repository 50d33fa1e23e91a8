# Pair.pm
#	A source and a target cluster with the same tables, and a way to keep them in
#	step: 'ours' (migrate_tiers), 'native' (logical replication), or 'none'.
#	One interface for all, so that each benchmark treats them alike.
package Pair;

use strict;
use warnings;

use Cluster;
use Measure;
use Time::HiRes qw(time);

# Settings that hold for every cluster of every kind.  fsync is off since the
# disk of a test machine says nothing about either method; BENCH_FSYNC=on.
our %settings = (
	fsync => setting('FSYNC', 'off'),
	shared_buffers => setting('SHARED_BUFFERS', '1GB'),
	max_wal_size => '8GB',
	checkpoint_timeout => '1h',
	autovacuum => 'off',
	maintenance_work_mem => '256MB',
	max_worker_processes => 16);

# new makes the clusters of a pair; options: kind, wal_level, source_only.
sub new
{
	my ($class, $kind, %option) = @_;
	my $self = bless { kind => $kind, db => 'bench' }, $class;
	my $level = $option{wal_level} // ($kind eq 'native' ? 'logical' : 'replica');
	my $name = $option{name} // $kind;
	$self->{source} = Cluster->new("$name-source", %settings, wal_level => $level);
	$self->{source}->psql('postgres', "CREATE DATABASE $self->{db}");
	return $self if $option{source_only};
	$self->{target} = Cluster->new("$name-target", %settings);
	$self->{target}->psql('postgres', "CREATE DATABASE $self->{db}");
	return $self;
}

# twin makes another database of the source's cluster, which nothing is done to.
sub twin
{
	my ($self, $kind) = @_;
	my $twin = bless { %$self, kind => $kind, db => "bench_$kind" }, ref $self;
	delete $twin->{target};
	$twin->{source}->psql('postgres', "CREATE DATABASE $twin->{db}");
	return $twin;
}

sub source { my ($self, $sql) = @_; return $self->{source}->psql($self->{db}, $sql) }
sub target { my ($self, $sql) = @_; return $self->{target}->psql($self->{db}, $sql) }

# tpcb fills the source with pgbench's tables.  pgbench_history has no key, so it
# gets an identity column as its primary key, in every kind.
sub tpcb
{
	my ($self, $scale) = @_;
	Cluster::run(undef, "$Cluster::bindir/pgbench", '-i', '-q', '-s', $scale, '-h', '127.0.0.1',
		'-p', $self->{source}{port}, '-U', 'postgres', $self->{db});
	$self->source(
		'ALTER TABLE pgbench_history ADD hid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY');
	return;
}

# copy_schema makes the source's tables on the target, empty.
sub copy_schema
{
	my ($self) = @_;
	my $schema = Cluster::run(undef, "$Cluster::bindir/pg_dump", '-s', '-n', 'public', '-d',
		$self->{source}->conninfo($self->{db}));
	$schema =~ s/^CREATE SCHEMA public;$//m;
	return $self->target($schema);
}

# connect starts to keep the pair in step, and returns when the first copy is in.
sub connect
{
	my ($self) = @_;
	$self->begin;
	$self->wait_copied;
	return;
}

# declare does what comes before the copy: extension, server, migration, tags.
sub declare
{
	my ($self) = @_;
	my $target = $self->{target};
	$self->source(<<SQL);
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
CREATE EXTENSION migrate_tiers;
CREATE SERVER target FOREIGN DATA WRAPPER postgres_fdw
	OPTIONS (host '127.0.0.1', port '$target->{port}', dbname '$self->{db}');
CREATE USER MAPPING FOR CURRENT_USER SERVER target OPTIONS (user 'postgres');
SELECT migrate_tiers.create_migration('bench', 'target');
SELECT migrate_tiers.tag_schema('public', 'realtime');
SQL
	return;
}

sub begin
{
	my ($self) = @_;
	if ($self->{kind} eq 'ours')
	{
		$self->declare;
		$self->source("CALL migrate_tiers.advance('syncing')");
	}
	elsif ($self->{kind} eq 'native')
	{
		my $conninfo = $self->{source}->conninfo($self->{db});
		$self->source('CREATE PUBLICATION bench FOR ALL TABLES');
		$self->target("CREATE SUBSCRIPTION bench CONNECTION '$conninfo' PUBLICATION bench");
	}
	return;
}

sub wait_copied
{
	my ($self) = @_;
	wait_until("first copy of $self->{kind}", setting('DEADLINE', 1800), sub { $self->copied });
	return;
}

# copied tells whether the first copy of every table is in.
sub copied
{
	my ($self) = @_;
	if ($self->{kind} eq 'native')
	{
		return $self->target("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel") eq 't';
	}
	my $stopped = $self->source('SELECT stopped FROM migrate_tiers.status');
	die "the migration stopped: $stopped\n" if $stopped ne '';
	return $self->source("SELECT bool_and(state = 'syncing') FROM migrate_tiers.tables") eq 't';
}

# pause leaves capture on and stops sending; resume sends again.
sub pause
{
	my ($self) = @_;
	if ($self->{kind} eq 'ours') { $self->source('SELECT migrate_tiers.pause()') }
	else
	{
		$self->target('ALTER SUBSCRIPTION bench DISABLE');
		wait_until('walsender gone', 30,
			sub { $self->source('SELECT count(*) FROM pg_stat_replication') == 0 });
	}
	return;
}

sub resume
{
	my ($self) = @_;
	if ($self->{kind} eq 'ours') { $self->source('SELECT migrate_tiers.resume()') }
	else { $self->target('ALTER SUBSCRIPTION bench ENABLE') }
	return;
}

# sentinel prepares a row whose arrival on the target shows that all before it is in.
sub sentinel
{
	my ($self) = @_;
	$self->source('CREATE TABLE sentinel (id integer PRIMARY KEY, n bigint NOT NULL);'
		  . 'INSERT INTO sentinel VALUES (1, 0)');
	return;
}

# drain resumes, and returns the seconds until the target has all that was
# committed.  The second figure leaves out the wait until native's apply worker
# is started by its launcher, which a busier server would not have.
sub drain
{
	my ($self) = @_;
	my $n = $self->source('UPDATE sentinel SET n = n + 1 RETURNING n');
	my $watch = $self->{target}->session($self->{db});
	my $started;
	my $begin = time;
	$self->resume;
	wait_until("drain of $self->{kind}", setting('DEADLINE', 1800), sub {
			$started //= time if $self->{kind} eq 'ours'
			  || $watch->query('SELECT count(pid) FROM pg_stat_subscription') > 0;
			return $watch->query('SELECT n FROM sentinel') == $n;
		}, 0.005);
	my $end = time;
	$watch->close;
	return ($end - $begin, $end - ($started // $begin));
}

# catch_up waits until the target has all that was committed before.
sub catch_up
{
	my ($self) = @_;
	my $n = $self->source('UPDATE sentinel SET n = n + 1 RETURNING n');
	my $watch = $self->{target}->session($self->{db});
	my $begin = time;
	wait_until("catching up of $self->{kind}", setting('DEADLINE', 1800),
		sub { $watch->query('SELECT n FROM sentinel') eq $n }, 0.005);
	$watch->close;
	return time - $begin;
}

# digest returns count and an order-free digest of each table's rows, to compare sides.
sub digest
{
	my ($self, $side) = @_;
	my $tables = $self->source(<<'SQL');
SELECT string_agg(format('SELECT %L, count(*), sum(hashtextextended(r::text, 0)::numeric) FROM %s r',
						 c.oid::regclass, c.oid::regclass), ' UNION ALL ' ORDER BY relname)
FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
SQL
	return $self->$side("$tables ORDER BY 1");
}

# check_equal dies when a table differs between the sides.
sub check_equal
{
	my ($self) = @_;
	my ($source, $target) = ($self->digest('source'), $self->digest('target'));
	die "$self->{kind}: the sides differ\nsource:\n$source\ntarget:\n$target\n"
	  if $source ne $target;
	return;
}

# worker returns the process id of what brings changes to the target.
sub worker
{
	my ($self) = @_;
	return $self->source(
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'migrate_tiers sync'");
}

1;
