# The backend that carries out a transition is killed with SIGKILL at each step
# that it journals, in every transition, forward and back: the next call
# finishes it or undoes it, and both sides end equal.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
sql($_, 'CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)') for $source, $target;
migration($source, 'item');
sql($source, q(INSERT INTO item (name) SELECT 'item ' || i FROM generate_series(1, 50) i;
	SELECT migrate_tiers.set_option('quiet_period', '0 s'), migrate_tiers.set_option('max_age', '1 day')));
advance($source, 'syncing');
wait_synced($source);
sql($source, 'SELECT * FROM migrate_tiers.verify()');

# The step that is named kills its own backend, when it is done on the target and not yet committed here.
sql($source, <<'SQL');
CREATE SCHEMA cut;
CREATE TABLE cut.at (step text);
CREATE FUNCTION cut.kill() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.steps -> -1 ->> 'step' IN (SELECT step FROM cut.at) AND jsonb_array_length(NEW.steps) > jsonb_array_length(OLD.steps) THEN
    EXECUTE format('COPY (SELECT) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER cut BEFORE UPDATE ON migrate_tiers.transition FOR EACH ROW EXECUTE FUNCTION cut.kill();
SQL

my $writes = 0;

# Writes on every side that the phase allows.
sub traffic
{
	my $phase = query($source, 'SELECT phase FROM migrate_tiers.status');
	$writes++;
	sql($source, "INSERT INTO item (name) VALUES ('source $writes')") if $phase ne 'target_only';
	sql($target, "INSERT INTO item (name) VALUES ('target $writes')") if $phase ne 'syncing';
	return;
}

# call($call, $to, $step): asks for a transition that is cut off at a step; true when it was.
sub call
{
	my ($call, $to, $step) = @_;
	sql($source, 'SELECT migrate_tiers.start_workers()');
	wait_until($source, "SELECT bool_and(passed) IS NOT FALSE FROM migrate_tiers.gates('$to')")
	  if query($source, 'SELECT transition IS NULL FROM migrate_tiers.status') eq 't';
	sql($source, "INSERT INTO cut.at VALUES ('$step')");
	my ($status, $out, $err) = $source->psql('shop', "CALL migrate_tiers.$call('$to')");
	wait_until($source, 'SELECT true') or BAIL_OUT('the source does not come back');
	wait_until($target, 'SELECT true');
	sql($source, 'TRUNCATE cut.at');
	return 0 if $status == 0;
	like($err, qr/connection to server was lost|server closed the connection/, "$call('$to') is killed at $step");
	isnt(query($source, 'SELECT transition FROM migrate_tiers.status'), '', 'and stays open');
	return 1;
}

# go($call, $to): asks for a transition, when its gates let it: a worker that has just come knows no lag yet.
sub go
{
	my ($call, $to) = @_;
	sql($source, 'SELECT migrate_tiers.start_workers()');
	wait_until($source, "SELECT bool_and(passed) IS NOT FALSE FROM migrate_tiers.gates('$to')")
	  if query($source, 'SELECT transition IS NULL FROM migrate_tiers.status') eq 't';
	sql($source, "CALL migrate_tiers.$call('$to')");
	return;
}

sub settled
{
	my ($phase, $name) = @_;
	is(query($source, 'SELECT phase, transition IS NULL FROM migrate_tiers.status'), "$phase|t", $name);
	return;
}

# cut_each($call, $from, $to): cuts a transition off at each of its steps, and finishes or undoes it in turn.
sub cut_each
{
	my ($call, $from, $to) = @_;
	my $back = $call eq 'advance' ? 'revert' : 'advance';
	my $n = 0;
	foreach my $step (split /\n/, query($source, "SELECT step FROM migrate_tiers.plan('$to') GROUP BY step ORDER BY min(number)"))
	{
		next if !call($call, $to, $step);
		if ($n++ % 2 == 0)
		{
			sql_fails($source, "CALL migrate_tiers.advance('planned')", 'MT003', qr/was cut off/, 'nothing else is done') if $n == 1;
			go($call, $to);
			settled($to, 'it is finished');
			traffic();
			go($back, $from);
		}
		else
		{
			go($back, $from);
			settled($from, 'it is undone');
		}
		traffic();
	}
	cmp_ok($n, '>', 0, "$n steps from $from to $to");
	go($call, $to);
	settled($to, "from $from to $to");
	traffic();
	return;
}

my @phases = ('syncing', 'dual_write', 'read_target', 'target_only');
cut_each('advance', $phases[$_], $phases[ $_ + 1 ]) for 0 .. 2;
cut_each('revert', $phases[$_], $phases[ $_ - 1 ]) for 3, 2, 1;

# Equal, with sequences as they were.
wait_synced($source);
tables_equal($source, $target, 'item');
is(query($source, 'SELECT count(*) FROM migrate_tiers.conflict'), '0', 'nothing collided');
is(query($source, q(SELECT increment_by FROM pg_sequences WHERE schemaname = 'public')), '1', 'the sequence is as it was');
is(query($target, q(SELECT increment_by FROM pg_sequences WHERE schemaname = 'public')), '1', 'on both sides');

# The end can only be gone on with.
go('advance', $_) for @phases[ 1 .. 3 ];
traffic();
sql($source, q(SELECT migrate_tiers.confirm('finished', 'yes')));
foreach my $step (split /\n/, query($source, "SELECT step FROM migrate_tiers.plan('finished') GROUP BY step ORDER BY min(number)"))
{
	ok(call('advance', 'finished', $step), "cut off at $step");
	sql_fails($source, q(CALL migrate_tiers.revert('target_only')), 'MT003', qr/advance\('finished'\) finishes it/, 'no way back');
	sql_fails($source, q(SELECT migrate_tiers.drop_migration()), 'MT003', qr/advance\('finished'\)/, 'nor out of it');
}
advance($source, 'finished');
settled('finished', 'finished');
is(query($_, q(SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname <> 'cut')), '0', 'no trigger is left') for $source, $target;
is(query($target, q(SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_tiers')), '0', 'nor a schema');

finish({ crashes => 1 }, $source, $target);
done_testing();
