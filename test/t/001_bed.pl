# The test bed itself: two clusters, a foreign server that works, a comparison
# that tells a difference.
use strict;
use warnings;

use MigrateTiers;
use PostgreSQL::Test::Utils;
use Test::More;

my ($source, $target) = pair();

# Columns in another order on the target, texts that depend on settings.
sql($source,
	"CREATE TABLE item (id int PRIMARY KEY, name text, price float8, at timestamptz)");
sql($target,
	"CREATE TABLE item (at timestamptz, price float8, name text, id int PRIMARY KEY)");
my $rows = "INSERT INTO item (id, name, price, at)
	SELECT i, 'Käse ' || i, i / 3.0, '2024-01-01 00:00+00'::timestamptz + i * interval '1 s'
	FROM generate_series(1, 1000) i ORDER BY";
sql($source, "$rows i");
sql($target, "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; $rows -i");
tables_equal($source, $target, 'item', 'rows in another order and other columns are equal');

sql($target, "UPDATE item SET price = price + 1e-12 WHERE id = 7");
isnt(
	MigrateTiers::_digest($source, 'item', 'id, price'),
	MigrateTiers::_digest($target, 'item', 'id, price'),
	'one last digit that differs is seen');

sql($source, "CREATE FOREIGN TABLE there (id int) SERVER new_db OPTIONS (table_name 'item')");
is(sql($source, 'SELECT count(*) FROM there'), '1000', 'the foreign server leads to the target');

sql_fails($source, 'SELECT 1 / 0', '22012', qr/division by zero/, 'an error is known by its SQLSTATE');

my $psql = sql($source, '\! echo $PPID');
kill 'KILL', $psql;
MigrateTiers::wait_for(sub { !-e "/proc/$psql/fd/0" });
isnt(sql($source, '\! echo $PPID'), $psql, 'a psql that is gone is replaced');

unlike(slurp_file($_->logfile), qr/\Q@{[ secret() ]}\E/, $_->name . ' logged no password')
  for $source, $target;

finish($source, $target);
done_testing();
