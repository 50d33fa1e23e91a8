# Tokens are exact on both sides: a wait for one returns when the other side has all that was committed before
# it, and does not wait for what was still under way; what commits late belongs to a later token, although
# its transaction is the older one.
use strict;
use warnings;

use MigrateTiers ();
use MigrateTiers::Pair;
use MigrateTiers::Phases;
use Test::More;

my $pair = MigrateTiers::Pair->new('tokens');
my %other = (source => 'target', target => 'source');
my $row = 0;

$pair->both_sql('CREATE TABLE item (id int PRIMARY KEY, v text); CREATE ROLE app LOGIN; GRANT ALL ON item TO app');
$pair->declare;
$pair->advance;
$pair->sync;
subtest 'the source, one way' => sub { exact('source'); };
ready($pair, 'dual_write');
$pair->advance('dual_write');
subtest 'the source, both ways' => sub { exact('source'); };
subtest 'the target' => sub { exact('target'); refusals(); };
subtest 'a mark that the target was not told' => \&untold;
settle($pair);
$pair->equal('both sides are equal');
$pair->finish;
done_testing();

sub on { my ($side, $sql) = @_; return $pair->can("${side}_sql")->($pair, "SET SESSION AUTHORIZATION app; $sql"); }
sub has { my ($side, $id) = @_; return $pair->can("${side}_sql")->($pair, "SELECT count(*) FROM item WHERE id = $id"); }

# try_on gives the SQLSTATE of what fails on a side, or ''.
sub try_on
{
	my ($side, $sql) = @_;
	my ($status, $out, $err) = $pair->can($side)->($pair)->psql('shop', "\\set VERBOSITY verbose\nSET SESSION AUTHORIZATION app; $sql", on_error_stop => 1);
	return ('', '') if $status == 0;
	return ($err =~ /ERROR:\s+(\w{5}):/ ? $1 : 'none', $err);
}

sub exact
{
	my ($side) = @_;
	my ($late, $early, $prepared) = map { ++$row } 1 .. 3;
	my $open = MigrateTiers::session($pair->can($side)->($pair));

	# A worker that has just come will not write down for some seconds how far it is.
	$pair->source_sql("SELECT migrate_tiers.pause(); SELECT migrate_tiers.resume()");
	$pair->source_sql("SELECT migrate_tiers.wait_for_sync(timeout => '30 s')");
	$open->query_safe("BEGIN; INSERT INTO item VALUES ($late, 'late')");
	on($side, "INSERT INTO item VALUES ($early, 'early')");
	my $token = on($side, 'SELECT migrate_tiers.sync_token()');
	on($side, "SELECT migrate_tiers.wait_for_sync('$token', '30 s')");
	is(has($other{$side}, $early), '1', 'what was committed has arrived');
	is(has($other{$side}, $late), '0', 'what is under way has not, and is not waited for');

	# Nothing is sent now: who waits for the older transaction waits in vain.
	$pair->source_sql('SELECT migrate_tiers.pause()');
	on($side, "SELECT migrate_tiers.wait_for_sync('$token', '30 s')");
	pass('while paused, what has arrived is not waited for');
	$open->query_safe('COMMIT');
	my $later = on($side, 'SELECT migrate_tiers.sync_token()');
	my ($state, $error) = try_on($side, "SELECT migrate_tiers.wait_for_sync('$later', '300 ms')");
	is($state, 'MT006', 'a later one waits for what committed late');
	like($error, qr/HINT:.*migrate_tiers\.status/s, '... and says where to look');
	is((try_on($side, "SELECT migrate_tiers.wait_for_sync(timeout => '300 ms')"))[0], 'MT006', 'so does no token');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	on($side, "SELECT migrate_tiers.wait_for_sync('$later', '30 s')");
	is(has($other{$side}, $late), '1', 'when it returns, that has arrived');

	# A prepared transaction commits as late as it likes.
	on($side, "BEGIN; INSERT INTO item VALUES ($prepared, 'prepared'); PREPARE TRANSACTION 'late'");
	on($side, "SELECT migrate_tiers.wait_for_sync(timeout => '30 s')");
	is(has($other{$side}, $prepared), '0', 'a prepared transaction is not waited for');
	on($side, "COMMIT PREPARED 'late'; SELECT migrate_tiers.wait_for_sync(timeout => '30 s')");
	is(has($other{$side}, $prepared), '1', 'and is, when it is committed');

	# What the waiting transaction itself has written cannot arrive, even where a later one has ended.
	my ($own, $undone, $taken) = map { ++$row } 1 .. 3;
	my $writes = "BEGIN; INSERT INTO item VALUES ($own, 'own'); SAVEPOINT s; INSERT INTO item VALUES ($undone, 'undone'); ROLLBACK TO s";
	is((try_on($side, "$writes; SELECT migrate_tiers.wait_for_sync(timeout => '10 s'); COMMIT"))[0], '', 'a transaction does not wait for itself');
	$open->query_safe("BEGIN; INSERT INTO item VALUES ($taken, 'taken')");
	on($side, "SELECT pg_current_xact_id(); SELECT pg_current_xact_id()");
	$token = $open->query_safe('SELECT migrate_tiers.sync_token()');
	$open->query_safe("SELECT migrate_tiers.wait_for_sync('$token', '10 s')");
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$open->query_safe('COMMIT');
	is((try_on($side, "SELECT migrate_tiers.wait_for_sync('$token', '300 ms')"))[0], 'MT006', 'a token that it took holds what it has written, once that is committed');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	on($side, "SELECT migrate_tiers.wait_for_sync('$token', '30 s')");
	is(has($other{$side}, $taken), '1', '... and waits for it');
	is((try_on($side, "SELECT migrate_tiers.wait_for_sync('nonsense')"))[0], '22P02', 'no token');
	$open->quit;
	return;
}

# The source has everything, and nothing more is written: whoever waits on the target must learn that all the same.
sub untold
{
	$row++;
	my $old = $pair->target_sql('SELECT reverse_mark FROM migrate_tiers.migration');
	on('target', "INSERT INTO item VALUES ($row, 'x'); SELECT migrate_tiers.wait_for_sync(timeout => '30 s')");
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->target_sql("UPDATE migrate_tiers.migration SET reverse_mark = '$old'");
	$pair->source_sql('SELECT migrate_tiers.resume()');
	is((try_on('target', "SELECT migrate_tiers.wait_for_sync(timeout => '10 s')"))[0], '', 'since the worker died in between');

	my $hold = MigrateTiers::session($pair->target);
	$row++;
	$hold->query_safe('BEGIN; SELECT FROM migrate_tiers.migration FOR UPDATE');
	on('target', "INSERT INTO item VALUES ($row, 'x')");
	ok($pair->wait_until(source => "SELECT count(*) = 1 FROM item WHERE id = $row"), 'the source has the row');
	$pair->wait_until(source => q{SELECT reverse_pending = 0 FROM migrate_tiers.status});
	$hold->query_safe('COMMIT');
	$hold->quit;
	is((try_on('target', "SELECT migrate_tiers.wait_for_sync(timeout => '10 s')"))[0], '', 'since it could not be told');
	return;
}

# What only the target has to refuse: there a wait needs a snapshot of each moment.
sub refusals
{
	$row++;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	my ($state) = try_on('target', "INSERT INTO item VALUES ($row, 'x'); BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT migrate_tiers.wait_for_sync()");
	is($state, '25001', 'in a transaction that keeps its snapshot');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	return;
}
