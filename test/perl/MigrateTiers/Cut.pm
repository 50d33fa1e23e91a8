# Cut.pm: transitions that are cut off at a step that they journal, and what has to come of it.
#
#   my $cut = MigrateTiers::Cut->new($source, $target);
#   $cut->cut_each('advance', 'syncing', 'dual_write', 'caller');
#   $cut->all_hit;
#
# At the step (done on the target, not yet committed on the source) one process is killed with SIGKILL: the
# session that called ("caller"), the "worker", or the postmaster of the "source" or of the "target".
# A step called "end" is the end of the transition itself. Which call comes next is drawn by rand.
package MigrateTiers::Cut;

use strict;
use warnings;

use MigrateTiers;
use PostgreSQL::Test::Utils;
use Test::More;

our $END = 'end';

my @phases = qw(planned syncing dual_write read_target target_only finished);
my %place = map { $phases[$_] => $_ } 0 .. $#phases;
my %written = (
	planned => ['source'], syncing => ['source'], dual_write => [qw(source target)],
	read_target => [qw(source target)], target_only => ['target'], finished => ['target']);

# new prepares the source: tables item and part are there on both sides, and the migration is declared.
sub new
{
	my ($class, $source, $target) = @_;
	my $self = bless { source => $source, target => $target, hits => PostgreSQL::Test::Utils::tempdir() . '/hits', writes => 0, share => 1 }, $class;

	sql($source, <<'SQL');
CREATE SCHEMA cut;
CREATE TABLE cut.at (step text, to_phase text, object text, command text);
CREATE FUNCTION cut.cut() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	at cut.at;
	did text := CASE WHEN NEW.outcome IS DISTINCT FROM OLD.outcome THEN 'end'
		WHEN jsonb_array_length(NEW.steps) > jsonb_array_length(OLD.steps) THEN NEW.steps -> -1 ->> 'step' END;
BEGIN
	FOR at IN SELECT * FROM cut.at a WHERE a.step = did AND a.to_phase = NEW.to_phase
		AND (did = 'end' OR a.object IS NOT DISTINCT FROM NEW.steps -> -1 ->> 'object') LOOP
		EXECUTE format('COPY (SELECT) TO PROGRAM %L', replace(at.command, 'BACKEND', pg_backend_pid()::text));
	END LOOP;
	RETURN NEW;
END $$;
CREATE TRIGGER cut BEFORE UPDATE ON migrate_tiers.transition FOR EACH ROW EXECUTE FUNCTION cut.cut();
SQL
	return $self;
}

# steps gives the steps of the way to a phase from where the migration is, each once, with its last table: [name, table].
sub steps
{
	my ($self, $to) = @_;
	return ((map { [ split /\|/, $_, 2 ] } split /\n/, query($self->{source},
		"SELECT step, coalesce(max(object), '') FROM migrate_tiers.plan('$to') GROUP BY step ORDER BY min(number)")), [ $END, '' ]);
}

# cut_each cuts a transition off at each of its steps, and finishes or undoes it; then it goes there. One that ends a
# migration is finished only: each next call is cut off at the next step. Kinds are taken in turn. Of a share below 1
# the steps are drawn by rand.
sub cut_each
{
	my ($self, $call, $from, $to, @kinds) = @_;
	my $back = $call eq 'advance' ? 'revert' : 'advance';
	my @steps = $self->steps($to);
	my @drawn = grep { $_->[0] eq $END || rand() < $self->{share} } @steps;

	for my $at (@drawn)
	{
		push @kinds, my $kind = shift @kinds;
		$self->cut($call, $to, $at, $kind);
		next if $to eq 'finished' && $at->[0] ne $END;
		$self->settle($call, $from, $to);
		$self->go($back, $from) if $to ne 'finished' && $self->phase eq $to;
	}
	$self->go($call, $to) if $self->phase ne $to;
	$self->phase_is($to, "from $from to $to");
	my $done = query($self->{source}, "SELECT string_agg(step, ' ' ORDER BY n) FROM (SELECT s ->> 'step' AS step, min(n) AS n
		FROM (SELECT steps FROM migrate_tiers.transition ORDER BY id DESC LIMIT 1) t, jsonb_array_elements(t.steps) WITH ORDINALITY AS e (s, n) GROUP BY 1) x");
	is($done, join(' ', map { $_->[0] } @steps[ 0 .. $#steps - 1 ]), '... did the steps of the plan') if $to ne 'finished';
	$self->{planned}{"$call $to $_->[0]"} = 1 for @drawn;
	return;
}

# cut asks for a transition that is cut off; journal_to: in which half of a rehearsal.
sub cut
{
	my ($self, $call, $to, $at, $kind, $journal_to) = @_;
	my ($step, $object) = @$at;
	my $source = $self->{source};
	my $before = $self->phase;
	my $worker = (worker_pids($source, 'sync'))[0];

	$self->gates($to, $to eq 'finished');
	$kind = 'caller' if $kind eq 'worker' && !$worker;
	# A worker that the transition itself has ended by then, or that is at its very end, cannot be killed any more.  Where its
	# death ends nobody else, the session is still our parent a while later.
	my $instead = 'kill -9 BACKEND';
	my %victim = (caller => 'BACKEND', worker => ($worker // '') . " || $instead; sleep 2; test \$(cut -d \" \" -f 4 /proc/\$\$/stat) -ne BACKEND || $instead", map { $_ => $self->postmaster($_) } qw(source target));
	$journal_to //= $to;
	# The session does not notice at once that a postmaster is gone: it could come to the end, which is never undone.
	my $certain = $to eq 'finished' && $kind =~ /^(?:source|target)$/;
	sql($source, "INSERT INTO cut.at VALUES ('$step', '$journal_to', " . ($object eq '' ? 'NULL' : "'$object'")
		  . ", 'echo $call $journal_to $step >> $self->{hits}; kill -9 $victim{$kind}" . ($certain ? ' BACKEND' : '') . "')");
	my $log = -s $source->logfile;
	my ($status, $out, $err) = $source->psql('shop', "CALL migrate_tiers.$call('$to')");
	$self->recover($kind, $log);
	$self->recover('caller', $log) if $certain && $kind eq 'target';
	sql($source, 'TRUNCATE cut.at; SELECT migrate_tiers.start_workers()');
	my $name = "$call('$to'), $kind killed at $step";
	is($self->hits =~ /([^\n]*)\n\z/ && $1, "$call $journal_to $step", $name) or diag($err);
	isnt($status, 0, '... is cut off') if $certain || $kind eq 'caller';
	isnt($self->under_way, '', '... stays open') if $kind eq 'caller';
	$self->writes_go_on($name, $before, $to);
	return;
}

sub hits { my ($self) = @_; return -e $self->{hits} ? slurp_file($self->{hits}) : ''; }
sub postmaster { my ($self, $side) = @_; return (split /\n/, slurp_file($self->{$side}->data_dir . '/postmaster.pid'))[0]; }

# recover waits until the servers are there again, and starts the one whose postmaster was killed; log: where the
# source's log ended before.
sub recover
{
	my ($self, $kind, $log) = @_;

	if ($kind eq 'source' || $kind eq 'target')
	{
		# The processes that it leaves behind end by themselves; until then it does not start.
		wait_for(sub { $self->{$kind}{_pid} = undef; return $self->{$kind}->start(fail_ok => 1); }, 60)
		  or BAIL_OUT("the $kind does not start");
	}
	else
	{
		# Before it has noticed, it lets in whom it will throw out.
		wait_for(sub { slurp_file($self->{source}->logfile, $log) =~ /all server processes terminated; reinitializing/ })
		  or BAIL_OUT('the source has not noticed the kill');
	}
	wait_until($self->{$_}, 'SELECT true') or BAIL_OUT("the $_ does not come back") for qw(source target);
	return;
}

sub phase { my ($self) = @_; return query($self->{source}, 'SELECT phase FROM migrate_tiers.migration'); }
sub under_way { my ($self) = @_; return query($self->{source}, 'SELECT transition FROM migrate_tiers.migration'); }

# settle finishes what was cut off, or undoes it; also what has done so by itself is there, or back.
sub settle
{
	my ($self, $call, $from, $to) = @_;
	my $undo = $to ne 'finished' && rand() < 0.5;

	if ($self->under_way ne '')
	{
		my ($how, $where) = $undo ? ($call eq 'advance' ? 'revert' : 'advance', $from) : ($call, $to);
		sql_fails($self->{source}, "CALL migrate_tiers.advance('planned')", 'MT003', qr/was cut off/, '... nothing else is done meanwhile') if rand() < 0.1;
		# What goes forward finds the gates closed until a worker that has just come knows the lag.
		$self->gates($where, 1) if $how eq 'advance' && !$undo && $from ne 'planned';
		sql($self->{source}, "CALL migrate_tiers.$how('$where')");
		$self->phase_is($where, $undo ? '... is undone' : '... is finished');
	}
	my $now = $self->phase;
	ok($now eq $from || $now eq $to, "... phase $now");
	$self->writes_go_on("... in phase $now", $now, $now);
	return;
}

# go asks for a transition when its gates are open: a worker that has just come knows no lag yet.
sub go
{
	my ($self, $call, $to) = @_;
	# What the target said last before it was killed may have grown old between the gates and the call.
	for my $again (0 .. 9)
	{
		$self->gates($to);
		last if eval { sql($self->{source}, "CALL migrate_tiers.$call('$to')"); 1 };
		die $@ if $again == 9 || $@ !~ /is not known/;
	}
	return;
}

sub gates
{
	my ($self, $to, $cut_off) = @_;

	return if $self->under_way ne '' && !$cut_off;
	if ($to eq 'dual_write')
	{
		wait_synced($self->{source});
		sql($self->{source}, 'SELECT * FROM migrate_tiers.verify()')
		  if query($self->{source}, q(SELECT NOT passed FROM migrate_tiers.gates('dual_write') WHERE gate = 'verified')) eq 't';
	}
	wait_until($self->{source}, "SELECT bool_and(passed) IS NOT FALSE FROM migrate_tiers.gates('$to')")
	  or die "the gates to $to stay closed: " . query($self->{source}, "SELECT gate, detail FROM migrate_tiers.gates('$to') WHERE NOT passed");
	return;
}

sub phase_is
{
	my ($self, $phase, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(query($self->{source}, 'SELECT phase, transition IS NULL FROM migrate_tiers.migration'), "$phase|t", $name);
}

# writes_go_on writes each side that both phases let applications write.
sub writes_go_on
{
	my ($self, $name, $one, $other) = @_;
	my @failed;

	for my $side (@{ $written{$one} })
	{
		next unless grep { $_ eq $side } @{ $written{$other} };
		my $n = ++$self->{writes};
		my ($status, $out, $err) = $self->{$side}->psql('shop', "INSERT INTO item (name) VALUES ('$side $n');
			INSERT INTO part (at, v) VALUES (1, '$n'); UPDATE item SET name = name || '.' WHERE name = '$side $n'", on_error_stop => 1);
		push @failed, "$side: $err" if $status != 0;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join("\n", @failed), '', "$name: applications go on");
	return;
}

# equal waits until each side has what the other has written, and compares.
sub equal
{
	my ($self, $name) = @_;
	my ($source, $target) = ($self->{source}, $self->{target});

	wait_synced($source);
	sql($target, "SELECT migrate_tiers.wait_for_sync(timeout => '60 s')") if $self->phase ne 'syncing';
	wait_synced($source) if $self->phase ne 'target_only';
	tables_equal($source, $target, $_, "$name: $_ is equal on both sides") for qw(item part);
	is(query($source, 'SELECT count(*) FROM migrate_tiers.conflict'), '0', "$name: nothing collided");
	return;
}

# all_hit: a test that every step of the plans of all transitions that were gone was cut off.
sub all_hit
{
	my ($self) = @_;
	my %hit = map { $_ => 1 } split /\n/, $self->hits;
	my @missed = grep { !$hit{$_} } sort keys %{ $self->{planned} };
	return is(join(', ', @missed), '', scalar(keys %{ $self->{planned} }) . ' steps were cut off, and none was missed');
}

1;
