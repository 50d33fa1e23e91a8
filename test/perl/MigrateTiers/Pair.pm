# Pair.pm: a source and a target with one migration, and the question whether
# they hold the same.
#
#   my $pair = MigrateTiers::Pair->new('ways');     # two clusters, no extension yet
#   $pair->both_sql('CREATE TABLE item (id int PRIMARY KEY)');
#   $pair->declare;                                 # extension, server, migration "m", tags schema public
#   $pair->advance;
#   $pair->sync;
#   $pair->equal('the copy');                       # every table of schema public
#
# The comparison is made here and not by the extension: it is the oracle.  It
# reads every column by name under pinned settings, so that neither the order
# of columns nor a hostile default of a role hides a difference.
package MigrateTiers::Pair;

use strict;
use warnings;

use MigrateTiers ();
use Test::More;

# What a session of the oracle runs under, whatever role and database say.
my $PINNED = join ' ', map { "-c $_" } (
	'search_path=pg_catalog,public', 'DateStyle=ISO,YMD', 'TimeZone=UTC', 'IntervalStyle=postgres',
	'extra_float_digits=1', 'bytea_output=hex', 'statement_timeout=0', 'lock_timeout=0',
	'idle_in_transaction_session_timeout=0', 'default_transaction_read_only=off',
	'default_transaction_isolation=read\\ committed', 'row_security=off', 'standard_conforming_strings=on',
	'xmloption=content', 'lc_monetary=C', 'client_min_messages=warning', 'session_replication_role=origin',
	'max_parallel_workers_per_gather=0', 'array_nulls=on', 'transform_null_equals=off', 'quote_all_identifiers=off',
	'idle_session_timeout=0', 'default_transaction_deferrable=off');

# new(name, %options): two clusters with the database "shop".  Options:
# source_conf, target_conf, encoding, as of MigrateTiers::pair.
sub new
{
	my ($class, $name, %o) = @_;
	my $self = bless { db => MigrateTiers::database(), map => {}, encoding => $o{encoding} // 'UTF8', migration => 'm' }, $class;
	@$self{qw(source target)} = MigrateTiers::pair(name => $name, extension => 0, %o);
	return $self;
}

sub source { my $self = shift; return $self->{source}; }
sub target { my $self = shift; return $self->{target}; }

# Runs SQL on a side and returns its output; dies where it fails.
sub source_sql { my ($self, $sql, %o) = @_; return $self->_sql('source', $sql, %o); }
sub target_sql { my ($self, $sql, %o) = @_; return $self->_sql('target', $sql, %o); }

sub _sql
{
	my ($self, $side, $sql, %o) = @_;
	local $ENV{PGOPTIONS} = $o{options} // $self->{options} // '';
	return $self->{$side}->safe_psql($o{db} // $self->{db}, $sql, extra_params => $o{params}) if $o{params};
	return MigrateTiers::Psql::run($self->{$side}, $o{db} // $self->{db}, $sql);
}

# The same under the pinned settings of the oracle.
sub source_pinned { my ($self, $sql) = @_; return $self->_pinned('source', $sql); }
sub target_pinned { my ($self, $sql) = @_; return $self->_pinned('target', $sql); }

sub _pinned
{
	my ($self, $side, $sql) = @_;
	return $self->_sql($side, $sql, options => $self->pinned);
}

# The options themselves, for $pair->{options}: what other sessions run under.
sub pinned { my ($self) = @_; return "$PINNED -c client_encoding=$self->{encoding}"; }

# Runs SQL that may fail on the source: (succeeded, SQLSTATE or '', stderr).
sub source_try
{
	my ($self, $sql) = @_;
	my ($out, $err) = ('', '');
	my $rc = $self->{source}->psql($self->{db}, "\\set VERBOSITY verbose\n$sql",
		stdout => \$out, stderr => \$err, on_error_stop => 1, timeout => 180);
	my ($state) = $err =~ /(?:ERROR|FATAL):\s+([0-9A-Z]{5}):/;
	return ($rc == 0, $state // '', $err, $out);
}

sub both_sql
{
	my ($self, $sql) = @_;
	$self->source_sql($sql);
	$self->target_sql($sql);
	return;
}

# declare(%options): extension, server, mapping and migration.  Options: port
# and server (options) of the foreign server, user and password of the mapping, schemas to tag.
sub declare
{
	my ($self, %o) = @_;
	$self->source_sql('CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE EXTENSION migrate_tiers');
	local $ENV{PGOPTIONS} = $self->{options} // '';
	MigrateTiers::server($self->{source}, $self->{target}, port => $o{port}, options => $o{server});
	MigrateTiers::mapping($self->{source}, map { $_ => $o{$_} } grep { defined $o{$_} } qw(user password role));
	$self->source_sql("SELECT migrate_tiers.create_migration('$self->{migration}', 'new_db')");
	$self->tag_schema($_) for @{ $o{schemas} // ['public'] };
	return;
}

sub tag_schema
{
	my ($self, $schema) = @_;
	$self->source_sql('SELECT migrate_tiers.tag_schema(' . _literal($schema) . ", 'realtime')");
	return;
}

sub set_option
{
	my ($self, $name, $value) = @_;
	$self->source_sql("SELECT migrate_tiers.set_option('$name', '$value')");
	return;
}

# Up to how many keys a tick is sent row by row; 1 makes (nearly) every tick a large one.
sub small_tick
{
	my ($self, $keys) = @_;
	$self->source_sql("LOAD 'migrate_tiers';\nALTER SYSTEM SET migrate_tiers.small_tick = $keys;\nSELECT pg_reload_conf()");
	return;
}

sub advance { my ($self, $to) = @_; $self->source_sql("CALL migrate_tiers.advance('" . ($to // 'syncing') . "')"); return; }
sub revert  { my ($self, $to) = @_; $self->source_sql("CALL migrate_tiers.revert('" . ($to // 'planned') . "')"); return; }

# dual_write: from syncing, with the verification that its gate asks for.
sub dual_write
{
	my ($self) = @_;
	$self->source_sql('SELECT count(*) FROM migrate_tiers.verify()');
	$self->advance('dual_write');
	return;
}

# Waits until all that is committed on the target is on the source; dies where it does not come.
sub sync_back
{
	my ($self, $timeout) = @_;
	$timeout //= 60;
	$self->target_pinned("SELECT migrate_tiers.wait_for_sync(timeout => '$timeout s')");
	return;
}

# Waits until all that is committed on the source is on the target; dies where it does not come.
sub sync
{
	my ($self, $timeout) = @_;
	$timeout //= 60;
	$self->source_pinned("SELECT migrate_tiers.wait_for_sync(timeout => '$timeout s')");
	return;
}

# tables that are compared: [source name, target name], both ready to be put into SQL.
sub map_table { my ($self, $from, $to) = @_; $self->{map}{$from} = $to; return; }

# Tables of the schemas and their columns: [FROM item, name, columns].  Kept
# for the next comparison; a test that changes columns calls forget_tables.
sub forget_tables { my ($self) = @_; delete $self->{tables}; return; }

sub _tables
{
	my ($self, @schemas) = @_;
	return @{ $self->{tables}{"@schemas"} //= [ $self->_read_tables(@schemas) ] };
}

sub _read_tables
{
	my ($self, @schemas) = @_;
	my $list = join ',', map { _literal($_) } @schemas;
	my $rows = $self->source_pinned(<<"SQL");
SELECT format('%s%I.%I', CASE WHEN c.relkind = 'r' THEN 'ONLY ' ELSE '' END, n.nspname, c.relname), format('%I.%I', n.nspname, c.relname),
       (SELECT string_agg(format('"%s"', replace(a.attname, '"', '""')), ', ' ORDER BY a.attname COLLATE "C")
          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ($list) AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
ORDER BY n.nspname, c.relname
SQL
	return map { [ split /\|/, $_, 3 ] } split /\n/, $rows;
}

sub _digest_sql
{
	my ($name, $from, $columns) = @_;
	return 'SELECT ' . _literal($name) . q{, count(*), coalesce(md5(string_agg(r, chr(10) ORDER BY r COLLATE "C")), '')}
	  . " FROM (SELECT ROW($columns)::text AS r FROM $from) x";
}

# contents(schemas): (source, target), each one line a table: name|rows|digest.
sub contents
{
	my ($self, @schemas) = @_;
	@schemas = ('public') unless @schemas;
	my (@source, @target);
	for my $t ($self->_tables(@schemas))
	{
		my ($from, $name, $columns) = @$t;
		my $to = $self->{map}{$name} // $from;
		push @source, _digest_sql($name, $from, $columns);
		push @target, _digest_sql($name, $to, $columns);
	}
	return ($self->source_pinned(join "\nUNION ALL\n", @source),
		$self->target_pinned(join "\nUNION ALL\n", @target));
}

# equal(name, schemas): a test that both sides hold the same rows; shows what differs.
sub equal
{
	my ($self, $name, @schemas) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($source, $target) = $self->contents(@schemas);
	my $same = ok($source eq $target, $name);
	$self->_explain($source, $target, @schemas) unless $same;
	return $same;
}

sub _explain
{
	my ($self, $source, $target, @schemas) = @_;
	@schemas = ('public') unless @schemas;
	my %want = map { /^(.*)\|(\d+\|\w*)$/ ? ($1, $2) : () } split /\n/, $source;
	my %have = map { /^(.*)\|(\d+\|\w*)$/ ? ($1, $2) : () } split /\n/, $target;
	for my $t ($self->_tables(@schemas))
	{
		my ($from, $name, $columns) = @$t;
		next if ($want{$name} // '') eq ($have{$name} // '');
		my $to = $self->{map}{$name} // $from;
		my %s = map { $_ => 1 } split /\n/, $self->source_pinned("SELECT left(ROW($columns)::text, 200) FROM $from");
		my %t = map { $_ => 1 } split /\n/, $self->target_pinned("SELECT left(ROW($columns)::text, 200) FROM $to");
		my @missing = grep { !$t{$_} } sort keys %s;
		my @extra = grep { !$s{$_} } sort keys %t;
		diag "$name ($columns): source $want{$name}, target $have{$name}";
		diag '  only on the source: ' . join(' ; ', splice(@missing, 0, 5)) if @missing;
		diag '  only on the target: ' . join(' ; ', splice(@extra, 0, 5)) if @extra;
	}
	diag 'status: ' . $self->source_sql('SELECT * FROM migrate_tiers.status', params => ['-x']);
	return;
}

# Waits until a query on a side gives "t" (or what is expected); a test fails at the deadline.
sub wait_until
{
	my ($self, $side, $query, %o) = @_;
	my $expected = $o{expected} // 't';
	my $last = '';
	my $came = MigrateTiers::wait_for(
		sub {
			local $ENV{PGOPTIONS} = $self->pinned;
			my ($status, $out, $err) = MigrateTiers::Psql::ask($self->{$side}, $o{db} // $self->{db}, $query);
			$last = $out . $err;
			return $out eq $expected;
		},
		$o{timeout} // 30);
	diag "waited in vain for: $query\nlast answer: $last" unless $came || $o{quiet};
	return $came;
}

# The process of the migration's worker, or '' ; kind is "sync" or "copy".
sub worker_pid
{
	my ($self, $kind) = @_;
	$kind //= 'sync';
	local $ENV{PGOPTIONS} = $self->pinned;
	my ($status, $out) = MigrateTiers::Psql::ask($self->{source}, $self->{db},
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'migrate_tiers $kind' AND datname = current_database() LIMIT 1");
	return $out;
}

sub status
{
	my ($self, $column) = @_;
	return $self->source_sql("SELECT $column FROM migrate_tiers.status", options => $self->pinned);
}

# Stops both and checks their logs; crashes => 1 for a test that kills.
sub finish
{
	my ($self, %o) = @_;
	MigrateTiers::finish(\%o, $self->{source}, $self->{target});
	return;
}

sub _literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

1;
