# Catalogs.pm: whether two states of a database are the same, catalog by catalog.
#
#   my $before = catalogs_of($pair, 'source');
#   ...
#   same_catalogs($before, catalogs_of($pair, 'source'), 'nothing is left');
#   nothing_runs($pair, 'nobody');
package MigrateTiers::Catalogs;

use strict;
use warnings;

use Exporter 'import';
use MigrateTiers ();
use Test::More;

our @EXPORT = qw(catalogs_of same_catalogs nothing_runs);

# Each query gives lines that name objects, never OIDs, so that an object that was dropped and made again alike is alike.
my %catalog = (
	pg_class => q{SELECT c.oid::regclass, relkind, relowner::regrole, relacl::text, reloptions::text, relpersistence, relreplident, relrowsecurity, relforcerowsecurity, relispartition,
		pg_get_expr(relpartbound, c.oid), amname, relnatts, relchecks, relhasrules FROM pg_class c LEFT JOIN pg_am a ON a.oid = relam WHERE relkind <> 't' AND c.relname !~ '^pg_toast'},
	pg_attribute => q{SELECT attrelid::regclass, attname, atttypid::regtype, attnotnull, attidentity, attgenerated, attstattarget, attacl::text, attstorage, attisdropped, attoptions::text
		FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relkind <> 't' AND relname !~ '^pg_toast' AND attnum > 0},
	pg_attrdef => q{SELECT adrelid::regclass, adnum, pg_get_expr(adbin, adrelid) FROM pg_attrdef},
	pg_index => q{SELECT indexrelid::regclass, pg_get_indexdef(indexrelid), indisunique, indisprimary, indisexclusion, indimmediate, indisclustered, indisvalid, indisready, indislive, indisreplident FROM pg_index WHERE indrelid::regclass::text !~ 'pg_toast'},
	pg_constraint => q{SELECT conrelid::regclass, conname, contype, pg_get_constraintdef(oid), condeferrable, condeferred, convalidated, coninhcount, conislocal FROM pg_constraint},
	pg_trigger => q{SELECT tgrelid::regclass, CASE WHEN tgisinternal THEN '(internal)' ELSE tgname END, tgfoid::regproc, tgenabled, tgtype, tgdeferrable, tginitdeferred FROM pg_trigger},
	pg_event_trigger => q{SELECT evtname, evtevent, evtenabled FROM pg_event_trigger},
	pg_proc => q{SELECT oid::regprocedure, proowner::regrole, proacl::text, prosecdef FROM pg_proc},
	pg_namespace => q{SELECT nspname, nspowner::regrole, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'},
	pg_type => q{SELECT oid::regtype, typtype, typowner::regrole FROM pg_type WHERE oid::regtype::text !~ 'pg_toast'},
	pg_rewrite => q{SELECT ev_class::regclass, rulename, ev_enabled FROM pg_rewrite},
	pg_policy => q{SELECT polrelid::regclass, polname FROM pg_policy},
	pg_depend => q{SELECT pg_describe_object(classid, objid, objsubid), pg_describe_object(refclassid, refobjid, refobjsubid), deptype, count(*) FROM pg_depend
		WHERE classid <> 'pg_trigger'::regclass OR NOT EXISTS (SELECT FROM pg_trigger t WHERE t.oid = objid AND tgisinternal) GROUP BY 1, 2, 3},
	pg_shdepend => q{SELECT pg_describe_object(classid, objid, objsubid), pg_describe_object(refclassid, refobjid, 0), deptype FROM pg_shdepend WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())},
	pg_description => q{SELECT pg_describe_object(classoid, objoid, objsubid), description FROM pg_description WHERE objoid >= 16384},
	pg_operator => q{SELECT oid::regoperator FROM pg_operator WHERE oid >= 16384},
	pg_cast => q{SELECT castsource::regtype, casttarget::regtype FROM pg_cast WHERE oid >= 16384},
	pg_sequence => q{SELECT seqrelid::regclass, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle FROM pg_sequence},
	pg_publication_rel => q{SELECT prpubid, prrelid::regclass FROM pg_publication_rel},
	pg_statistic_ext => q{SELECT stxrelid::regclass, stxname, stxkeys::text FROM pg_statistic_ext},
	pg_default_acl => q{SELECT defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype, defaclacl::text FROM pg_default_acl},
	pg_extension => q{SELECT extname, extversion FROM pg_extension},
	pg_db_role_setting => q{SELECT setrole::regrole, setconfig::text FROM pg_db_role_setting},
	pg_replication_slots => q{SELECT slot_name FROM pg_replication_slots},
	pg_init_privs => q{SELECT pg_describe_object(classoid, objoid, objsubid) FROM pg_init_privs WHERE objoid >= 16384},
	pg_seclabels => q{SELECT * FROM pg_seclabels},
	pg_authid => q{SELECT rolname, rolsuper, rolinherit, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil FROM pg_authid},
	pg_auth_members => q{SELECT roleid::regrole, member::regrole, admin_option FROM pg_auth_members},
	pg_parameter_acl => q{SELECT parname, paracl::text FROM pg_parameter_acl},
	pg_database => q{SELECT datname, datconnlimit, datallowconn, datacl::text FROM pg_database},
	pg_foreign_server => q{SELECT srvname, srvowner::regrole, srvoptions::text FROM pg_foreign_server},
	pg_user_mappings => q{SELECT srvname, usename FROM pg_user_mappings},
	pg_subscription => q{SELECT subname FROM pg_subscription},
	pg_largeobject_metadata => q{SELECT oid FROM pg_largeobject_metadata},
	pg_prepared_xacts => q{SELECT gid FROM pg_prepared_xacts});

# catalogs_of reads the catalogs of a side of a pair.
sub catalogs_of
{
	my ($pair, $side) = @_;
	my $read = "${side}_pinned";
	return { map { $_ => [ sort split /\n/, $pair->$read("SET search_path = ''; $catalog{$_}") ] } keys %catalog };
}

# same_catalogs compares two states of the catalogs of a side: one test, and what came or went.
sub same_catalogs
{
	my ($before, $after, $name) = @_;
	my $good = 1;
	for my $catalog (sort keys %catalog)
	{
		my %n;
		$n{$_}++ for @{ $before->{$catalog} };
		$n{$_}-- for @{ $after->{$catalog} };
		for my $line (sort grep { $n{$_} } keys %n)
		{
			$good = 0;
			diag(($n{$line} > 0 ? 'gone' : 'left') . " in $catalog: $line");
		}
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($good, $name);
}

# nothing_runs: two tests, that no process of ours is on the source, and no session or advisory lock on the target.
sub nothing_runs
{
	my ($pair, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($pair->wait_until(source => q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'migrate_tiers%'}), "$name: no worker");
	return ok($pair->wait_until(target => q{SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'test')
		+ (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') = 0}), "$name: no connection, and no lock");
}

1;
