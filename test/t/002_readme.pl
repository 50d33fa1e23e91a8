# What the README says is so: its first migration works as it is written, and
# its lists of options, settings, functions, columns and SQLSTATEs are whole.
use strict;
use warnings;

use FindBin;
use MigrateTiers;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $readme = slurp_file("$root/README.md");
my ($source, $target) = pair(extension => 0);

# The first migration.  Only where the target is differs here.
my $schema = <<'SQL';
CREATE TABLE customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
CREATE TABLE purchase (id bigint PRIMARY KEY, customer bigint REFERENCES customer, price numeric);
CREATE TABLE daily_sales (day date PRIMARY KEY, total numeric);
SQL
sql($_, $schema) for $source, $target;
sql($source, "INSERT INTO customer (name) SELECT 'customer ' || i FROM generate_series(1, 1000) i;
	INSERT INTO purchase SELECT i, i % 1000 + 1, i FROM generate_series(1, 5000) i");

my ($text) = $readme =~ /^## First migration\n.*?^```sql\n(.*?)^```/ms;
like($text, qr/create_migration/, 'the README has a first migration');
cmp_ok(scalar(grep { /;/ } split /\n/, $text), '<=', 10, 'of no more than ten statements');
my ($port, $secret) = ($target->port, secret());
$text =~ s/new\.example\.com/127.0.0.1/;
$text =~ s/'5432'/'$port'/;
$text =~ s/'secret'/'$secret'/;
my ($status, $out, $err) = $source->psql(database(), $text);
is($status, 0, 'it runs to its end') or diag($err);
unlike($out, qr/failure/, 'and preflight finds nothing in the way');
tables_equal($source, $target, $_) for 'customer', 'purchase';
sql($source, "UPDATE customer SET name = 'another' WHERE id = 7");
wait_synced($source);
tables_equal($source, $target, 'customer', 'a change arrives');

# runs($block): the statements of a block run to their end.
sub runs
{
	my ($block) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($failed, undef, $why) = $source->psql(database(), $block, on_error_stop => 1);
	return is($failed, 0, 'runs: ' . ($block =~ /^(.*)$/m)[0]) || diag($why);
}

# The other statements that it shows; the rest of the way ends the migration, and comes last.
my @blocks = grep { !/create_migration/ } $readme =~ /^```sql\n(.*?)^```/msg;
my ($rest) = grep { /advance\('finished'\)/ } @blocks;
runs($_) foreach grep { $_ ne $rest } @blocks;

# says($what, $pattern, @names): one test, every name is in the README so.
sub says
{
	my ($what, $make, @names) = @_;
	my @missing = grep { my $pattern = $make->($_); $readme !~ $pattern } @names;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(@names > 0 && @missing == 0, "$what are in the README") or diag("missing: @missing");
	return;
}

says('options', sub { qr/^\| .*`\Q$_[0]\E`/m },
	split /\n/, sql($source, 'SELECT name FROM migrate_tiers.options'));
foreach my $option (split /\n/, sql($source, 'SELECT name, "default" FROM migrate_tiers.options'))
{
	my ($name, $default) = split /\|/, $option, 2;
	my ($said) = $readme =~ /^\| `\Q$name\E` \| (.*?) \|/m or next;
	is($said, $default, "the default of $name is said");
}
says('settings', sub { qr/^\| `\Q$_[0]\E`/m },
	split /\n/, sql($source, "LOAD 'migrate_tiers'; SELECT name FROM pg_settings WHERE name LIKE 'migrate\\_tiers.%'"));
says('functions', sub { qr/\b\Q$_[0]\E\(/ },
	split /\n/, sql($source, "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'migrate_tiers'::regnamespace
		AND proacl IS NULL AND proname NOT IN ('option_definitions', 'sync_state', 'pending_entries', 'capture')"));
my ($table) = $readme =~ /^## Functions\n(.*?)^## /ms;
my %arguments = map { split /\|/, $_, 2 } split /\n/, sql($source, "SELECT proname, coalesce(array_to_string(proargnames[1:pronargs], ', '), '')
	FROM pg_proc WHERE pronamespace = 'migrate_tiers'::regnamespace");
my @calls = map { /^\| (`.*?`) \|/ ? $1 =~ /`(?:CALL )?(\w+\(.*?\))`/g : () } split /\n/, $table;
# The last one is the migration, which the table says once for all.
my @wrong = grep { my ($name, $said) = /^(\w+)\((.*)\)$/; my $all = $arguments{$name} // '?'; $said ne $all && $said ne $all =~ s/(?:, |^)migration$//r } @calls;
ok(@calls > 20 && @wrong == 0, 'arguments have the names that the README gives them') or diag("wrong: @wrong");
foreach my $view (split /\n/, sql($source, "SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'migrate_tiers'::regnamespace"))
{
	says("columns of $view", sub { qr/`(?:[^`\n]*, )?\Q$_[0]\E[`,]/ },
		split /\n/, sql($source, "SELECT attname FROM pg_attribute WHERE attrelid = 'migrate_tiers.$view'::regclass AND attnum > 0"));
}
says('SQLSTATEs', sub { qr/^\| `$_[0]` \|/m },
	map { s/[', ]//gr } slurp_file("$root/src/base/errors.h") =~ /MAKE_SQLSTATE\((.*?)\)/g);
says('checks of preflight', sub { qr/^\| .*`$_[0]`.* \|/m },
	split /\n/, sql($source, 'SELECT DISTINCT check_name FROM migrate_tiers.preflight()'));

sql($source, "CALL migrate_tiers.advance('syncing')");
sql($source, 'SELECT migrate_tiers.wait_for_sync()');
sql($source, "SELECT migrate_tiers.set_option('quiet_period', '0')");
my ($end) = $rest =~ /^(SELECT migrate_tiers\.drop_migration\(\);\n.*)/ms;
runs(substr($rest, 0, -length $end));
my ($alarm) = grep { /^SELECT migration, phase, transition, stopped/ } @blocks;
is(sql($source, $alarm), '', 'what is finished gives no alarm');
runs($end);
is(sql($_, "SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_tiers'"), 0, 'nothing of it is left') for $source, $target;
tables_equal($source, $target, $_) for 'customer', 'purchase', 'daily_sales';

finish($source, $target);
done_testing();
