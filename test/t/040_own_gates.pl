# Gates of one's own: they stand before their phase, run with the rights of who
# added them and can change nothing; an engineer's word holds in its phase only.
use strict;
use warnings;

use MigrateTiers;
use Test::More;

my ($source, $target) = pair();
sql($_, 'CREATE TABLE item (id int PRIMARY KEY, name text); CREATE TABLE todo (what text)') for $source, $target;
migration($source, 'item');
sql($source, q(SELECT migrate_tiers.tag('todo', 'ignored')));

sub gate
{
	my ($to, $gate, $columns) = @_;
	return query($source, "SELECT $columns FROM migrate_tiers.gates('$to') WHERE gate = '$gate'");
}

# A query decides.
sql($source, q(INSERT INTO todo VALUES ('tell everybody');
	SELECT migrate_tiers.add_gate('syncing', 'nothing_to_do',
		'SELECT count(*) = 0, string_agg(what, '', '') FROM public.todo')));
is(gate('syncing', 'nothing_to_do', 'passed, detail'), 'f|tell everybody', 'a gate of mine is one of gates(), with its detail');
sql_fails($source, q(CALL migrate_tiers.advance('syncing')), 'MT001', qr/Gate nothing_to_do: tell everybody/, 'advance names it');
is(query($source, 'SELECT phase, transition IS NULL FROM migrate_tiers.status'), 'planned|t', 'and nothing has begun');

# Every gate that fails is listed, with what to do.
sql($source, q(SELECT migrate_tiers.add_gate('syncing', 'signed', NULL)));
sql_fails($source, q(CALL migrate_tiers.advance('syncing')), 'MT001',
	qr/Gate nothing_to_do:.*Gate signed: nobody has confirmed it.*migrate_tiers\.confirm\('signed'/s, 'all that fail are listed');
sql($source, 'DELETE FROM todo');
is(gate('syncing', 'nothing_to_do', 'passed'), 't', 'it passes when its query says so');

# An engineer's word.
sql_fails($source, q(SELECT migrate_tiers.confirm('signed', '  ')), '22023', qr/needs a note/, 'a word needs a note');
sql_fails($source, q(SELECT migrate_tiers.confirm('nothing_to_do', 'x')), '22023', qr/decided by its query/, 'no word overrules a query');
sql_fails($source, q(SELECT migrate_tiers.confirm('nonsense', 'x')), '42704', qr/gates\(\) shows/, 'a gate that is not there');
sql_fails($source, q(SELECT migrate_tiers.confirm('finished', 'x')), '42704', qr/in phase planned/, 'the end is not confirmed at the beginning');
sql($source, q(SELECT migrate_tiers.confirm('signed', 'Anna and Bert have looked')));
like(gate('syncing', 'signed', 'passed, detail'), qr/^t\|confirmed by postgres at .*: Anna and Bert have looked$/, 'a word counts');
advance($source, 'syncing');
wait_synced($source);
is(query($source, q(SELECT g ->> 'passed', g ->> 'detail' LIKE 'confirmed by%' FROM migrate_tiers.transitions t,
		jsonb_array_elements(t.gates) g WHERE g ->> 'gate' = 'signed' AND t.outcome = 'done')),
	'true|t', 'the journal keeps gates as they stood');
is(query($source, q(SELECT count(*), bool_and((s ->> 'started')::timestamptz <= (s ->> 'finished')::timestamptz)
		FROM migrate_tiers.transitions t, jsonb_array_elements(t.steps) s)),
	query($source, q(SELECT jsonb_array_length(steps) || '|t' FROM migrate_tiers.transitions WHERE outcome = 'done')),
	'and the time that each step took');
sql($source, q(SELECT migrate_tiers.add_gate('planned', 'sure', NULL)));
sql_fails($source, q(CALL migrate_tiers.revert('planned')), 'MT001', qr/Gate sure/, 'a gate stands on the way back, too');
sql($source, q(SELECT migrate_tiers.confirm('sure', 'yes')));
revert($source, 'planned');
is(gate('syncing', 'signed', 'passed'), 'f', 'a word is worth nothing when the phase has changed');
sql($source, q(SELECT migrate_tiers.drop_gate('syncing', 'signed'), migrate_tiers.drop_gate('planned', 'sure')));
sql_fails($source, q(SELECT migrate_tiers.drop_gate('syncing', 'signed')), '42704', qr/nobody has added/, 'what is not there is not dropped');

# What is no gate.
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', 'preflight', 'SELECT true')), '42710', qr/another name/, 'the name of one of ours');
sql_fails($source, q(SELECT migrate_tiers.add_gate('sincing', 'x', 'SELECT true')), '22023', qr/unknown phase/, 'no phase');
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', '', 'SELECT true')), '22023', qr/needs a name/, 'no name');
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', 'x', 'SELECT 1')), '22023', qr/boolean/, 'no boolean');
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', 'x', 'SELECT true; SELECT true')), '22023', qr/one SELECT/, 'two statements');
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', 'x', 'SELECT tru')), '42703', qr/tru/, 'an error is told at once');
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', 'x', 'DELETE FROM public.todo RETURNING true')), '0A000', qr/not allowed/, 'a write');
sql($source, q(CREATE FUNCTION public.sneaky() RETURNS boolean LANGUAGE sql VOLATILE AS 'INSERT INTO public.todo VALUES (''x'') RETURNING true'));
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', 'x', 'SELECT public.sneaky()')), '25006', qr/read-only/, 'a write by a function');
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', 'x', 'SELECT set_config(''role'', ''postgres'', false) = ''''')),
	'42501', qr/within security/, 'it cannot become another role');
sql_fails($source, q(SELECT migrate_tiers.add_gate('syncing', 'x', 'SELECT set_config(''transaction_read_only'', ''off'', false) = ''off'' AND public.sneaky()')),
	'25001', qr/read-write mode/, 'nor give itself leave to write');

# It runs with the rights of who added it, whoever asks.
sql($source, q(CREATE ROLE anna; CREATE TABLE secret (a int); INSERT INTO secret VALUES (1); GRANT anna TO postgres;
	ALTER TABLE item OWNER TO anna; GRANT USAGE ON FOREIGN SERVER new_db TO anna; SELECT migrate_tiers.drop_migration()));
mapping($source, role => 'anna');
sql($source, q(SET ROLE anna; SELECT migrate_tiers.create_migration('shop', 'new_db')));
sql_fails($source, q(SET ROLE anna; SELECT migrate_tiers.add_gate('syncing', 'peek', 'SELECT a = 1 FROM public.secret')),
	'42501', qr/permission denied for table secret/, 'anna cannot read it');
sql($source, q(GRANT SELECT ON secret TO anna));
sql($source, q(SET ROLE anna; SELECT migrate_tiers.add_gate('syncing', 'peek', 'SELECT a = 1 FROM public.secret')));
sql($source, q(REVOKE SELECT ON secret FROM anna));
like(gate('syncing', 'peek', 'passed, detail'), qr/^f\|42501: permission denied for table secret/, 'a superuser who asks lends it no rights');
sql($source, q(SELECT migrate_tiers.add_gate('syncing', 'peek', 'SELECT a = 1 FROM public.secret')));
is(gate('syncing', 'peek', 'passed'), 't', 'who changes it gives it other rights');
is(query($source, q(SET statement_timeout = 0; SELECT passed FROM migrate_tiers.gates('syncing') WHERE gate = 'peek'; SHOW transaction_read_only)),
	"t\noff", 'the caller stays as he was');

# A query that takes long can be cancelled, and is no gate that failed.
sql($source, q(SELECT migrate_tiers.add_gate('syncing', 'slow', 'SELECT pg_sleep(a) IS NOT NULL FROM public.secret')));
sql($source, 'UPDATE secret SET a = 1000');
sql_fails($source, q(SET statement_timeout = '500ms'; SELECT * FROM migrate_tiers.gates('syncing')), '57014', qr/statement timeout/,
	'the caller\'s own timeout ends the call');

finish($source, $target);
done_testing();
