# Every way to make a change ends equal on both sides.
#
# The cases run four times: one tick each with the small path, one tick each
# with the large path, all of them in one tick with either.  Folding many
# transactions into a tick is where keys meet that never met before.
use strict;
use warnings;

use FindBin;
use MigrateTiers::Pair;
use Test::More;

my $pair = MigrateTiers::Pair->new('ways', target_conf => 'wal_level = logical');
my $long = 'x' x 60 . 'end';    # 63 bytes
my $odd = qq{Schéma "x" l'été};
(my $odd_q = $odd) =~ s/"/""/g;

my $schema = <<"SQL";
CREATE EXTENSION citext;
CREATE EXTENSION btree_gist;
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE mood AS ENUM ('low', 'mid', 'high');
CREATE DOMAIN code AS text CHECK (VALUE <> '');

CREATE TABLE basic (id int PRIMARY KEY, v text, n int UNIQUE);
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child_cascade (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, v text);
CREATE TABLE grandchild (id int PRIMARY KEY, child int REFERENCES child_cascade ON DELETE CASCADE);
CREATE TABLE child_null (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE child_default (id int PRIMARY KEY, parent int DEFAULT 1 REFERENCES parent ON DELETE SET DEFAULT ON UPDATE SET NULL);
CREATE TABLE child_key (parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, line int, v text, PRIMARY KEY (parent, line));
CREATE TABLE cut_a (id int PRIMARY KEY, v text);
CREATE TABLE cut_b (id int PRIMARY KEY, a int REFERENCES cut_a);
CREATE TABLE cut_c (id bigserial PRIMARY KEY, v text);
CREATE TABLE swap_now (id int PRIMARY KEY, u int NOT NULL UNIQUE, v text);
CREATE TABLE swap_late (id int PRIMARY KEY, u int NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED, v text);
CREATE TABLE swap_part (id int PRIMARY KEY, u int, active boolean);
CREATE UNIQUE INDEX ON swap_part (u) WHERE active;
CREATE UNIQUE INDEX ON swap_part (lower(u::text)) WHERE NOT active;
CREATE TABLE swap_null (id int PRIMARY KEY, u int, UNIQUE NULLS NOT DISTINCT (u));
CREATE TABLE booking (id int PRIMARY KEY, room int, during int4range, EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE TABLE booking_late (id int PRIMARY KEY, room int, during int4range,
    EXCLUDE USING gist (room WITH =, during WITH &&) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE many (id int PRIMARY KEY, v text);
CREATE TABLE wide_key (k text PRIMARY KEY, v text);
CREATE TABLE citext_key (k citext PRIMARY KEY, v text);
CREATE TABLE numeric_key (k numeric PRIMARY KEY, v text);
CREATE TABLE nocase_key (k text COLLATE nocase PRIMARY KEY, v text);
CREATE TABLE float_key (k float8 PRIMARY KEY, v text);
CREATE TABLE char_key (k char(5) PRIMARY KEY, v text);
CREATE TABLE interval_key (k interval PRIMARY KEY, v text);
CREATE TABLE odd_keys (e mood, d code, b bytea, t timestamptz, u uuid, i inet, r int4range, a int[], c "char", o oid, y boolean,
    v text, PRIMARY KEY (e, d, b, t, u, i, r, a, c, o, y));
CREATE TABLE composite_key (a int, b text, c date, v text, PRIMARY KEY (c, a, b));
CREATE TABLE identity_key (a int NOT NULL, b text NOT NULL, v text);
CREATE UNIQUE INDEX identity_key_idx ON identity_key (b, a);
ALTER TABLE identity_key REPLICA IDENTITY USING INDEX identity_key_idx;
CREATE TABLE always_id (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED, v text);
CREATE TABLE generated_aside (a int, copy int GENERATED ALWAYS AS (a) STORED, b int NOT NULL, v text, PRIMARY KEY (copy, a));
CREATE UNIQUE INDEX generated_aside_idx ON generated_aside (b);
ALTER TABLE generated_aside REPLICA IDENTITY USING INDEX generated_aside_idx;
CREATE TABLE dropped (gone int, id int PRIMARY KEY, gone2 text, v text);
ALTER TABLE dropped DROP COLUMN gone, DROP COLUMN gone2;
CREATE TABLE keys_only (a int, b int, PRIMARY KEY (a, b));
CREATE TABLE mother (id int PRIMARY KEY, v text);
CREATE TABLE daughter (extra int, PRIMARY KEY (id)) INHERITS (mother);
CREATE TABLE audited (id int PRIMARY KEY, v text);
CREATE TABLE audit (id int PRIMARY KEY, what text);
CREATE TABLE late (id int PRIMARY KEY, v text);
CREATE TABLE ruled (id int PRIMARY KEY, v text);
CREATE TABLE ruled_log (id int PRIMARY KEY, v text);
CREATE TABLE guarded (id int PRIMARY KEY, v text);
CREATE TABLE toasted (id int PRIMARY KEY, small int, big text);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
CREATE TABLE words (key int, xid text, "new" int, excluded text, "old" int, s int, "order" int, "user" text, op text, PRIMARY KEY (key, xid));
CREATE TABLE "$long" ("$long" int PRIMARY KEY, v text);

CREATE TABLE by_range (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE by_range_1 PARTITION OF by_range FOR VALUES FROM (0) TO (100);
CREATE TABLE by_range_2 (v text, junk int, at int NOT NULL, id int NOT NULL);
ALTER TABLE by_range_2 DROP COLUMN junk;
ALTER TABLE by_range ATTACH PARTITION by_range_2 FOR VALUES FROM (100) TO (200);
CREATE TABLE by_range_default PARTITION OF by_range DEFAULT;
CREATE TABLE by_hash (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE by_hash_0 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE by_hash_1 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE deep (id int, "system_user" text, at int, v text, PRIMARY KEY (id, "system_user", at)) PARTITION BY LIST ("system_user");
CREATE TABLE deep_eu PARTITION OF deep FOR VALUES IN ('eu') PARTITION BY RANGE (at);
CREATE TABLE deep_eu_1 PARTITION OF deep_eu FOR VALUES FROM (0) TO (100);
CREATE TABLE deep_eu_2 PARTITION OF deep_eu FOR VALUES FROM (100) TO (200);
CREATE TABLE deep_us PARTITION OF deep FOR VALUES IN ('us');

CREATE SCHEMA "$odd_q";
CREATE TABLE "$odd_q"."Tâble 'q' ""d"" \\" ("clé ""1""" text, "l'autre" int, "Ünï %s \$1" text, PRIMARY KEY ("l'autre", "clé ""1"""));
SQL

# What only the source has: triggers, rules, roles and functions that write.
my $source_only = <<'SQL';
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit SELECT coalesce(max(id), 0) + 1, TG_OP || ' ' || coalesce(NEW.id, OLD.id) FROM audit;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION audit();
CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.v = 'drop me' THEN RETURN NULL; END IF;
    NEW.v := upper(NEW.v);
    RETURN NEW;
END $$;
CREATE TRIGGER loud BEFORE INSERT OR UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION loud();
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO many VALUES (900000 + NEW.id, 'written at commit') ON CONFLICT (id) DO UPDATE SET v = many.v || '+';
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
CREATE RULE also AS ON INSERT TO ruled DO ALSO INSERT INTO ruled_log VALUES (NEW.id, NEW.v);
CREATE RULE soft AS ON DELETE TO ruled DO INSTEAD UPDATE ruled_log SET v = 'deleted' WHERE id = OLD.id;
CREATE VIEW basic_view AS SELECT id, v FROM basic WHERE id < 100000 WITH CHECK OPTION;
CREATE ROLE app LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO app;
REVOKE ALL ON guarded FROM app;
CREATE FUNCTION write_guarded(i int) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public
    AS $$ INSERT INTO guarded VALUES (i, 'by the definer') ON CONFLICT (id) DO UPDATE SET v = guarded.v || '!' $$;
CREATE PROCEDURE in_steps(n int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..n LOOP
        INSERT INTO many VALUES (910000 + i, 'step ' || i) ON CONFLICT (id) DO UPDATE SET v = many.v || 's';
        IF i % 2 = 0 THEN COMMIT; ELSIF i % 3 = 0 THEN ROLLBACK; END IF;
    END LOOP;
END $$;
SQL

# What only the target has must not act, nor refuse, when rows are applied.
my $target_only = <<'SQL';
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit VALUES (-(random() * 1000000)::int, 'meddled on the target');
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    NEW.v := 'meddled';
    RETURN NEW;
END $$;
CREATE TRIGGER meddle BEFORE INSERT OR UPDATE OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION meddle();
CREATE TRIGGER meddle BEFORE INSERT OR UPDATE OR DELETE ON basic FOR EACH ROW EXECUTE FUNCTION meddle();
CREATE RULE nothing2 AS ON DELETE TO ruled_log DO INSTEAD NOTHING;
SQL

# Tables that go to another place: other name, schema, column order, other partitions.
my $other_source = <<'SQL';
CREATE SCHEMA moved;
CREATE TABLE moved.plain (id int PRIMARY KEY, a text, b int, c date);
CREATE TABLE moved.late_key (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
CREATE TABLE moved.to_parts (id int PRIMARY KEY, v text);
CREATE TABLE moved.from_parts (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE moved.from_parts_0 PARTITION OF moved.from_parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE moved.from_parts_1 PARTITION OF moved.from_parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SQL
my $other_target = <<'SQL';
CREATE SCHEMA "new place";
CREATE TABLE "new place"."Plain ""2""" (junk int, c date, b int, junk2 text, id int PRIMARY KEY, a text);
ALTER TABLE "new place"."Plain ""2""" DROP COLUMN junk, DROP COLUMN junk2;
CREATE TABLE "new place".late_key (id int PRIMARY KEY, v text);
CREATE TABLE "new place".parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE "new place".parts_1 PARTITION OF "new place".parts FOR VALUES FROM (MINVALUE) TO (50);
CREATE TABLE "new place".parts_2 PARTITION OF "new place".parts FOR VALUES FROM (50) TO (MAXVALUE);
CREATE TABLE "new place".whole (id int PRIMARY KEY, v text);
SQL

# The rows that each pass begins with; a change like any other.
my $tables = join ', ', qw(basic parent child_cascade grandchild child_null child_default child_key cut_a cut_b cut_c swap_now swap_late
  swap_part swap_null booking booking_late many wide_key citext_key numeric_key nocase_key float_key char_key interval_key odd_keys
  composite_key identity_key always_id generated_aside dropped keys_only mother audited audit late ruled ruled_log guarded toasted words
  by_range by_hash deep), qq{"$long"}, qq{"$odd_q"."Tâble 'q' ""d"" \\"}, qw(moved.plain moved.late_key moved.to_parts moved.from_parts);
my $reset = <<"SQL";
BEGIN;
TRUNCATE $tables RESTART IDENTITY;
INSERT INTO basic SELECT i, 'v' || i, i FROM generate_series(1, 200) i;
INSERT INTO parent SELECT i, 'p' || i FROM generate_series(1, 20) i;
INSERT INTO child_cascade SELECT i, (i - 1) / 5 + 1, 'c' FROM generate_series(1, 100) i;
INSERT INTO grandchild SELECT i, (i - 1) / 2 + 1 FROM generate_series(1, 200) i;
INSERT INTO child_null SELECT i, (i - 1) / 5 + 1 FROM generate_series(1, 100) i;
INSERT INTO child_default SELECT i, (i - 1) / 5 + 1 FROM generate_series(1, 100) i;
INSERT INTO child_key SELECT (i - 1) / 5 + 1, i, 'l' FROM generate_series(1, 100) i;
INSERT INTO cut_a SELECT i, 'a' FROM generate_series(1, 50) i;
INSERT INTO cut_b SELECT i, i FROM generate_series(1, 50) i;
INSERT INTO cut_c (v) SELECT 'c' || i FROM generate_series(1, 50) i;
INSERT INTO swap_now SELECT i, i * 10, 's' FROM generate_series(1, 30) i;
INSERT INTO swap_late SELECT i, i * 10, 's' FROM generate_series(1, 30) i;
INSERT INTO swap_part SELECT i, i % 10, i <= 10 FROM generate_series(1, 20) i;
INSERT INTO swap_null VALUES (1, NULL), (2, 2), (3, 3);
INSERT INTO booking SELECT i, 1, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 10) i;
INSERT INTO booking_late SELECT i, 1, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 10) i;
INSERT INTO many SELECT i, 'm' FROM generate_series(1, 3000) i;
INSERT INTO wide_key SELECT repeat(chr(64 + i), 100000), 'w' FROM generate_series(1, 5) i;
INSERT INTO citext_key VALUES ('a', '1'), ('B', '2'), ('c', '3');
INSERT INTO numeric_key VALUES (1.0, '1'), (2, '2'), (3.10, '3'), ('NaN', 'n'), (1e30, 'e'), (-0.5, 'm');
INSERT INTO nocase_key VALUES ('a', '1'), ('B', '2'), ('c', '3');
INSERT INTO float_key VALUES (0.0, 'zero'), (0.1, 'tenth'), ('NaN', 'n'), ('Infinity', 'i'), (1e-300, 's'), (1.0/3.0, 't');
INSERT INTO char_key VALUES ('ab', '1'), ('abc  ', '2'), ('', '3');
INSERT INTO interval_key VALUES ('1 day', 'd'), ('1 month', 'm'), ('90 seconds', 's');
INSERT INTO odd_keys SELECT (ARRAY['low','mid','high'])[i % 3 + 1]::mood, 'd' || i, decode(md5(i::text), 'hex'), timestamptz '2001-02-03 04:05:06.789+00' + i * interval '1 day',
    md5(i::text)::uuid, '10.0.0.0/8'::inet + i, int4range(i, i + 5), ARRAY[i, NULL, 2], 'x', i, i % 2 = 0, 'v' FROM generate_series(1, 10) i;
INSERT INTO odd_keys VALUES ('low', 'inf', '', 'infinity', md5('i')::uuid, '::1', 'empty', '{}', '', 0, true, 'v'),
    ('low', 'inf', '', '-infinity', md5('i')::uuid, '::1', '(,)', '{{1,2},{3,4}}', '\\200', 4294967295, true, 'v');
INSERT INTO composite_key SELECT i, 'b' || i % 3, date '2020-01-01' + i % 4, 'v' FROM generate_series(1, 30) i;
INSERT INTO identity_key SELECT i, 'b' || i, 'v' FROM generate_series(1, 10) i;
INSERT INTO always_id (a, v) SELECT i, 'v' FROM generate_series(1, 20) i;
INSERT INTO generated_aside (a, b, v) SELECT i, i * 10, 'v' FROM generate_series(1, 20) i;
INSERT INTO dropped SELECT i, 'v' FROM generate_series(1, 10) i;
INSERT INTO keys_only SELECT i, i FROM generate_series(1, 10) i;
INSERT INTO mother SELECT i, 'm' FROM generate_series(1, 10) i;
INSERT INTO daughter SELECT i, 'd', i FROM generate_series(101, 110) i;
INSERT INTO audited SELECT i, 'a' FROM generate_series(1, 10) i;
INSERT INTO late SELECT i, 'l' FROM generate_series(1, 5) i;
INSERT INTO ruled SELECT i, 'r' FROM generate_series(1, 5) i;
INSERT INTO toasted SELECT i, i, repeat(md5(i::text), 2000) FROM generate_series(1, 5) i;
INSERT INTO words SELECT i, 'x' || i, i, 'e', i, i, i, 'u', 'o' FROM generate_series(1, 5) i;
INSERT INTO "$long" SELECT i, 'l' FROM generate_series(1, 5) i;
INSERT INTO by_range SELECT i, i * 10, 'r' FROM generate_series(1, 30) i;
INSERT INTO by_hash SELECT i, 'h' FROM generate_series(1, 40) i;
INSERT INTO deep SELECT i, CASE WHEN i % 3 = 0 THEN 'us' ELSE 'eu' END, i * 5, 'd' FROM generate_series(1, 30) i;
INSERT INTO "$odd_q"."Tâble 'q' ""d"" \\" SELECT 'é' || i, i, E'\\\\x''"' || i FROM generate_series(1, 5) i;
INSERT INTO moved.plain SELECT i, 'a', i, date '2020-01-01' + i FROM generate_series(1, 100) i;
INSERT INTO moved.late_key SELECT i, 'v' || i FROM generate_series(1, 20) i;
INSERT INTO moved.to_parts SELECT i, 'a' FROM generate_series(1, 100) i;
INSERT INTO moved.from_parts SELECT i, 'a' FROM generate_series(1, 100) i;
COMMIT;
SQL

# A case: name => SQL (run by psql, one script) ; nothing => 1 where it must leave no change.
my @cases = (
	'insert, update, delete' => q{INSERT INTO basic VALUES (1001, 'new', 1001); UPDATE basic SET v = 'changed' WHERE id = 5; DELETE FROM basic WHERE id = 6},
	'an update that changes nothing but a column to null' => q{UPDATE basic SET v = NULL, n = NULL WHERE id = 7},
	'one row a thousand times in one transaction' => q{DO $$BEGIN FOR i IN 1..1000 LOOP UPDATE basic SET v = 'round ' || i WHERE id = 8; END LOOP; END$$},
	'insert and delete of one row in one transaction' => q{BEGIN; INSERT INTO basic VALUES (1002, 'x'); DELETE FROM basic WHERE id = 1002; UPDATE basic SET v = 'seen' WHERE id = 9; COMMIT},
	'delete and insert of one key in one transaction' => q{BEGIN; DELETE FROM basic WHERE id = 10; INSERT INTO basic VALUES (10, 'again', 10); COMMIT},
	'multi-row copy in' => qq{COPY basic (id, v) FROM STDIN;\n1003\tcopied\n1004\t\\N\n1005\tcopied\n\\.\nCOPY many (id) FROM PROGRAM 'seq 100001 106000';\n},
	'merge' => q{MERGE INTO basic b USING (SELECT i AS id, CASE WHEN i < 25 THEN 'del' ELSE 'upd' END AS what FROM generate_series(20, 30) i UNION ALL SELECT 1010, 'ins') s ON b.id = s.id
		WHEN MATCHED AND what = 'del' THEN DELETE WHEN MATCHED THEN UPDATE SET v = 'merged' WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged in')},
	'on conflict do nothing' => q{INSERT INTO basic VALUES (31, 'ignored'), (1011, 'taken') ON CONFLICT DO NOTHING},
	'on conflict do update' => q{INSERT INTO basic VALUES (32, 'up'), (1012, 'in') ON CONFLICT (id) DO UPDATE SET v = excluded.v || ' over ' || basic.v},
	'on conflict do update of the key' => q{INSERT INTO basic VALUES (33, 'moves') ON CONFLICT (id) DO UPDATE SET id = 1033, v = 'moved'},
	'on conflict over the second unique index' => q{INSERT INTO basic VALUES (1034, 'other', 34) ON CONFLICT (n) DO UPDATE SET v = 'kept its key'},
	'update from, delete using, data-modifying with' => q{UPDATE basic b SET v = p.v FROM parent p WHERE p.id = b.id AND b.id BETWEEN 11 AND 15;
		DELETE FROM basic b USING parent p WHERE p.id = b.id AND b.id = 16;
		WITH d AS (DELETE FROM basic WHERE id = 17 RETURNING *), i AS (INSERT INTO basic SELECT id + 2000, v, n FROM d RETURNING id) UPDATE basic SET v = 'cte' WHERE id = 18},
	'a view that is written' => q{INSERT INTO basic_view VALUES (1040, 'view'); UPDATE basic_view SET v = 'through' WHERE id = 40; DELETE FROM basic_view WHERE id = 41},
	'a cursor, where current of' => q{BEGIN; DECLARE c CURSOR FOR SELECT * FROM basic WHERE id BETWEEN 50 AND 53 ORDER BY id FOR UPDATE; FETCH c; FETCH c; UPDATE basic SET v = 'current' WHERE CURRENT OF c; FETCH c; DELETE FROM basic WHERE CURRENT OF c; COMMIT},
	'foreign key: delete' => q{DELETE FROM parent WHERE id IN (3, 4)},
	'foreign key: update' => q{UPDATE parent SET id = 500 WHERE id = 5},
	'foreign key: delete of what was updated in the same transaction' => q{BEGIN; UPDATE parent SET id = 600 WHERE id = 6; DELETE FROM parent WHERE id = 600; COMMIT},
	'truncate alone' => q{TRUNCATE cut_b},
	'truncate, cascading' => q{INSERT INTO cut_b SELECT i, i FROM generate_series(1, 9) i; TRUNCATE cut_a CASCADE},
	'truncate of several tables' => q{INSERT INTO cut_a VALUES (1, 'x'); INSERT INTO cut_b VALUES (1, 1); TRUNCATE cut_a, cut_b, cut_c RESTART IDENTITY},
	'truncate followed by inserts' => q{INSERT INTO cut_c (v) SELECT 'before' FROM generate_series(1, 9); BEGIN; TRUNCATE cut_c; INSERT INTO cut_c (v) VALUES ('after'), ('after 2'); COMMIT},
	'inserts, then truncate' => q{BEGIN; INSERT INTO cut_c (v) VALUES ('lost'); TRUNCATE cut_c; COMMIT},
	'truncate between inserts of one key' => q{BEGIN; INSERT INTO cut_a VALUES (7, 'one'); TRUNCATE cut_a CASCADE; INSERT INTO cut_a VALUES (7, 'two'); UPDATE cut_a SET v = 'three'; COMMIT},
	'truncate rolled back to a savepoint' => q{BEGIN; INSERT INTO cut_a VALUES (8, 'kept'); SAVEPOINT a; TRUNCATE cut_a CASCADE; INSERT INTO cut_a VALUES (9, 'undone'); ROLLBACK TO a; UPDATE cut_a SET v = 'kept too' WHERE id = 7; COMMIT},
	'truncate rolled back' => [ q{BEGIN; TRUNCATE cut_a CASCADE; ROLLBACK}, nothing => 1 ],
	'truncate twice with other transactions between' => q{TRUNCATE cut_c; INSERT INTO cut_c (v) VALUES ('x'); TRUNCATE cut_c; INSERT INTO cut_c (v) VALUES ('y')},
	'truncate of a child by inheritance only' => q{TRUNCATE daughter; INSERT INTO daughter VALUES (150, 'd', 1)},
	'truncate only the mother' => q{TRUNCATE ONLY mother; INSERT INTO mother VALUES (1, 'alone')},
	'truncate of one partition' => q{TRUNCATE by_range_1},
	'truncate of a partition of other column order, then inserts' => q{BEGIN; TRUNCATE by_range_2; INSERT INTO by_range_2 (id, at, v) VALUES (700, 150, 'new'); COMMIT},
	'truncate of a hash partition' => q{TRUNCATE by_hash_1},
	'truncate of a table divided by hash, then of a partition of it' => q{BEGIN; INSERT INTO by_hash VALUES (5000, 'x'); TRUNCATE by_hash; INSERT INTO by_hash SELECT i, 'y' FROM generate_series(5001, 5010) i; TRUNCATE by_hash_1; COMMIT;
		BEGIN; SAVEPOINT a; TRUNCATE by_hash; ROLLBACK TO a; INSERT INTO by_hash SELECT i, 'z' FROM generate_series(6001, 6010) i; TRUNCATE by_hash_0; COMMIT},
	'truncate of a partition that has partitions' => q{TRUNCATE deep_eu},
	'truncate of a partitioned table, then inserts' => q{BEGIN; TRUNCATE deep; INSERT INTO deep VALUES (1, 'eu', 50, 'x'), (2, 'us', 1, 'y'); COMMIT},
	'truncate with copy freeze' => qq{BEGIN; TRUNCATE cut_c;\nCOPY cut_c (id, v) FROM STDIN (FREEZE);\n901\tfrozen\n902\tfrozen\n\\.\nCOMMIT},
	'key update' => q{UPDATE basic SET id = 3000 + id WHERE id BETWEEN 60 AND 65},
	'key swap' => q{BEGIN; UPDATE basic SET id = -1 WHERE id = 70; UPDATE basic SET id = 70 WHERE id = 71; UPDATE basic SET id = 71 WHERE id = -1; COMMIT},
	'key rotation over transactions' => q{UPDATE basic SET id = -1 WHERE id = 72; UPDATE basic SET id = 72 WHERE id = 73; UPDATE basic SET id = 73 WHERE id = 74; UPDATE basic SET id = 74 WHERE id = -1},
	'key shifted in a row' => q{DELETE FROM basic WHERE id = 91; UPDATE basic SET id = id + 10000, n = n + 10000 WHERE id BETWEEN 80 AND 90; UPDATE basic SET id = id - 9999 WHERE id BETWEEN 10080 AND 10090},
	'second unique: swap' => q{BEGIN; UPDATE swap_now SET u = -1 WHERE id = 1; UPDATE swap_now SET u = 10 WHERE id = 2; UPDATE swap_now SET u = 20 WHERE id = 1; COMMIT},
	'second unique: rotation of all' => q{BEGIN; UPDATE swap_now SET u = -u; UPDATE swap_now SET u = 10 + (-u) % 300; COMMIT},
	'second unique: taken over from a deleted row' => q{BEGIN; DELETE FROM swap_now WHERE id = 20; INSERT INTO swap_now VALUES (-20, (SELECT max(u) + 1 FROM swap_now), 'x'); UPDATE swap_now SET u = u + 1 WHERE id = -20; COMMIT},
	'second unique: reused by a smaller key' => q{BEGIN; UPDATE swap_now SET u = 9999 WHERE id = 15; INSERT INTO swap_now SELECT 0, 150, 'took it' WHERE NOT EXISTS (SELECT FROM swap_now WHERE u = 150); COMMIT},
	'second unique deferrable: swap in one statement' => q{UPDATE swap_late SET u = CASE u WHEN 10 THEN 20 ELSE 10 END WHERE u IN (10, 20); UPDATE swap_late SET u = 310 - u WHERE u > 20 AND u < 290},
	'partial and expression unique indexes: swap' => q{BEGIN; UPDATE swap_part SET u = u + 100; UPDATE swap_part SET u = (u + 1) % 10; COMMIT; BEGIN; UPDATE swap_part SET active = NULL WHERE id <= 10; UPDATE swap_part SET active = true WHERE id > 10; UPDATE swap_part SET active = false WHERE id <= 10; COMMIT},
	'unique index with nulls not distinct: null moves' => q{BEGIN; UPDATE swap_null SET u = 99 WHERE id = 1; UPDATE swap_null SET u = NULL WHERE id = 2; UPDATE swap_null SET u = 2 WHERE id = 1; COMMIT},
	'exclusion constraint: exchange' => q{BEGIN; UPDATE booking SET room = 2 WHERE id = 1; UPDATE booking SET during = '[10,20)' WHERE id = 2; UPDATE booking SET during = '[20,30)', room = 1 WHERE id = 1; COMMIT},
	'exclusion constraint: deleted and overlapped' => q{BEGIN; DELETE FROM booking WHERE id = 3; UPDATE booking SET during = '[32,50)' WHERE id = 4; COMMIT},
	'exclusion constraint deferrable: exchange' => q{UPDATE booking_late SET during = int4range(110 - lower(during), 120 - lower(during))},
	'savepoint released' => q{BEGIN; UPDATE basic SET v = 'sp' WHERE id = 100; SAVEPOINT a; UPDATE basic SET v = 'sp' WHERE id = 101; RELEASE a; UPDATE basic SET v = 'sp' WHERE id = 102; COMMIT},
	'savepoint rolled back' => q{BEGIN; UPDATE basic SET v = 'sp2' WHERE id = 100; SAVEPOINT a; UPDATE basic SET v = 'sp2' WHERE id = 101; ROLLBACK TO a; COMMIT},
	'same key before, in and after a savepoint rolled back' => q{BEGIN; SAVEPOINT a; UPDATE basic SET v = 'sp3' WHERE id = 103; ROLLBACK TO a; UPDATE basic SET v = 'sp4' WHERE id = 103; COMMIT},
	'savepoint: parent\'s keys written out early inside, then rolled back' => q{BEGIN; UPDATE many SET v = 'parent' WHERE id <= 20; SAVEPOINT a; UPDATE many SET v = 'undone' WHERE id > 20; ROLLBACK TO a; UPDATE many SET v = 'tail' WHERE id = 21; COMMIT},
	'savepoint: a key written out inside, rolled back, changed again' => q{BEGIN; SAVEPOINT a; UPDATE many SET v = 'undone'; ROLLBACK TO a; UPDATE many SET v = 'again' WHERE id BETWEEN 30 AND 40; COMMIT},
	'savepoints nested, inner released, outer rolled back' => q{BEGIN; UPDATE many SET v = 'n0' WHERE id BETWEEN 50 AND 60; SAVEPOINT a; UPDATE many SET v = 'n1' WHERE id BETWEEN 100 AND 1500; SAVEPOINT b; UPDATE many SET v = 'n2' WHERE id BETWEEN 1400 AND 3000; RELEASE b; ROLLBACK TO a;
		UPDATE many SET v = 'n3' WHERE id BETWEEN 1490 AND 1510; SAVEPOINT c; UPDATE many SET v = 'n4' WHERE id BETWEEN 1 AND 2000; RELEASE c; COMMIT},
	'savepoints nested, inner rolled back, outer released' => q{BEGIN; SAVEPOINT a; UPDATE many SET v = 'o1' WHERE id BETWEEN 1 AND 1500; SAVEPOINT b; UPDATE many SET v = 'o2' WHERE id > 1000; ROLLBACK TO b; RELEASE a; UPDATE many SET v = 'o3' WHERE id IN (1499, 1501); COMMIT},
	'savepoints released inside a transaction rolled back' => [ q{BEGIN; UPDATE many SET v = 'gone'; SAVEPOINT a; UPDATE many SET v = 'gone 2'; RELEASE a; ROLLBACK}, nothing => 1 ],
	'many savepoints' => q{DO $$BEGIN FOR i IN 1..300 LOOP BEGIN UPDATE many SET v = 'block ' || i WHERE id = i; IF i % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END$$},
	'savepoint of its own around each of many keys' => q{DO $$BEGIN FOR i IN 1..60 LOOP BEGIN UPDATE many SET v = 'batch ' || i WHERE id BETWEEN i * 40 AND i * 40 + 200; IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END$$},
	'prepared and committed' => q{BEGIN; UPDATE basic SET v = 'prepared' WHERE id = 110; INSERT INTO basic VALUES (4000, 'prepared'); PREPARE TRANSACTION 'p1'; COMMIT PREPARED 'p1'},
	'prepared, large, with savepoints' => q{BEGIN; UPDATE many SET v = 'prep'; SAVEPOINT a; DELETE FROM many WHERE id BETWEEN 500 AND 700; RELEASE a; SAVEPOINT b; DELETE FROM many WHERE id < 100; ROLLBACK TO b; PREPARE TRANSACTION 'p2'; UPDATE basic SET v = 'between' WHERE id = 111; COMMIT PREPARED 'p2'},
	'prepared and rolled back' => [ q{BEGIN; UPDATE many SET v = 'never'; TRUNCATE basic; PREPARE TRANSACTION 'p3'; ROLLBACK PREPARED 'p3'}, nothing => 1 ],
	'a session in replica role' => q{SET session_replication_role = replica; INSERT INTO basic VALUES (4100, 'replica'); UPDATE basic SET v = 'replica' WHERE id = 120; DELETE FROM basic WHERE id = 121; TRUNCATE cut_c; INSERT INTO cut_c VALUES (5, 'replica'); UPDATE by_range SET v = 'replica' WHERE id = 25},
	'a session in local role' => q{SET session_replication_role = local; UPDATE basic SET v = 'local' WHERE id = 122},
	'a session with row_security off and odd settings' => q{SET row_security = off; SET search_path = ''; SET DateStyle = 'German'; SET default_transaction_isolation = serializable; UPDATE public.basic SET v = 'odd' WHERE id = 123; UPDATE moved.plain SET c = date '2031-12-01' WHERE id = 3},
	'a serializable and a repeatable read transaction' => q{BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE basic SET v = 'ser' WHERE id = 124; COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE basic SET v = 'rr' WHERE id = 125; COMMIT},
	'partitions: through the root' => q{INSERT INTO by_range VALUES (701, 50, 'in'), (702, 199, 'in'), (703, 5000, 'in'); UPDATE by_range SET v = 'up' WHERE id IN (15, 701); DELETE FROM by_range WHERE id = 14},
	'partitions: written directly' => q{INSERT INTO by_range_1 VALUES (710, 60, 'direct'); INSERT INTO by_range_2 (id, at, v) VALUES (711, 160, 'direct'); UPDATE by_range_2 SET v = 'direct up' WHERE id = 13; DELETE FROM by_range_default WHERE id = 25; UPDATE deep_us SET v = 'direct'; INSERT INTO deep_eu_2 VALUES (40, 'eu', 120, 'leaf'); INSERT INTO deep_eu VALUES (41, 'eu', 20, 'middle')},
	'partitions: row moved to another' => q{UPDATE by_range SET at = at + 100 WHERE id = 710; UPDATE by_range SET at = 20 WHERE id = 28; UPDATE deep SET "system_user" = 'us' WHERE id = 40; UPDATE deep SET at = 199 WHERE "system_user" = 'eu' AND id = 41},
	'partitions: row moved there and back' => q{BEGIN; UPDATE by_range SET at = 120 WHERE id = 701; UPDATE by_range SET at = 50, v = 'back' WHERE id = 701; COMMIT},
	'partitions: copy in' => qq{COPY by_range FROM STDIN;\n720\t10\tc\n721\t110\tc\n722\t9999\tc\n\\.\n},
	'partitions: hash' => q{UPDATE by_hash SET id = id + 1000 WHERE id < 10; DELETE FROM by_hash WHERE id BETWEEN 20 AND 25; INSERT INTO by_hash SELECT i, 'more' FROM generate_series(50, 70) i},
	'writers without any privilege on our schema' => q{SET ROLE app; INSERT INTO basic VALUES (4200, 'app'); UPDATE by_range SET v = 'app' WHERE id = 720; DELETE FROM basic WHERE id = 130; TRUNCATE cut_c; DO $$BEGIN FOR i IN 1..3000 LOOP UPDATE many SET v = 'app ' || i WHERE id = i; END LOOP; END$$},
	'a security definer function' => q{SET ROLE app; SELECT write_guarded(1); SELECT write_guarded(2); SELECT write_guarded(1)},
	'triggers that write other tables and change or drop the row' => q{INSERT INTO audited VALUES (200, 'loud'), (201, 'drop me'); UPDATE audited SET v = 'drop me' WHERE id = 1; UPDATE audited SET v = 'x' WHERE id = 2; DELETE FROM audited WHERE id = 3},
	'a deferred trigger that writes at commit' => q{BEGIN; INSERT INTO late VALUES (100, 'l'); UPDATE late SET v = 'l2' WHERE id = 1; COMMIT},
	'rules' => q{INSERT INTO ruled VALUES (100, 'r'); DELETE FROM ruled WHERE id = 1},
	'a procedure that commits and rolls back' => q{CALL in_steps(12)},
	'a generated column in the primary key, another key' => q{INSERT INTO generated_aside (a, b) VALUES (50, 500); UPDATE generated_aside SET a = a + 100 WHERE a < 5; UPDATE generated_aside SET b = b + 1 WHERE a = 7; DELETE FROM generated_aside WHERE a = 8},
	'generated columns and identity' => q{INSERT INTO always_id (a, v) VALUES (5, 'x'); INSERT INTO always_id (id, a) OVERRIDING SYSTEM VALUE VALUES (5000, 6); UPDATE always_id SET a = 100 WHERE id = 1; DELETE FROM always_id WHERE id = 2},
	'dropped columns' => q{INSERT INTO dropped VALUES (100, 'x'); UPDATE dropped SET v = 'y' WHERE id = 1; UPDATE dropped SET id = 200 WHERE id = 2; DELETE FROM dropped WHERE id = 3},
	'nothing but a key' => q{INSERT INTO keys_only VALUES (100, 1); UPDATE keys_only SET b = 5 WHERE a = 1; DELETE FROM keys_only WHERE a = 2; UPDATE keys_only SET b = b WHERE a = 3},
	'inheritance: both tables' => q{INSERT INTO mother VALUES (50, 'm'); INSERT INTO daughter VALUES (50, 'same key below', 1); UPDATE mother SET v = 'both'; DELETE FROM mother WHERE id = 150; UPDATE ONLY mother SET v = 'only' WHERE id = 50},
	'huge keys' => q{INSERT INTO wide_key VALUES (repeat('Ω', 50000), 'w'); UPDATE wide_key SET v = 'w2' WHERE k = repeat('A', 100000); DELETE FROM wide_key WHERE k = repeat('B', 100000); UPDATE wide_key SET k = repeat('Z', 120000) WHERE k = repeat('C', 100000); INSERT INTO wide_key VALUES ('', 'empty')},
	'citext keys' => q{UPDATE citext_key SET k = 'A', v = '1b' WHERE k = 'a'; DELETE FROM citext_key WHERE k = 'b'; INSERT INTO citext_key VALUES ('b', 'lower now'), ('ß', 'x'); UPDATE citext_key SET k = 'C' WHERE k = 'c'; UPDATE citext_key SET k = 'c' WHERE k = 'c'; UPDATE citext_key SET k = 'C' WHERE k = 'c'},
	'numeric keys' => q{UPDATE numeric_key SET k = 1.000 WHERE k = 1; DELETE FROM numeric_key WHERE k = 2; INSERT INTO numeric_key VALUES (2.00, 'two'); UPDATE numeric_key SET v = 'nan' WHERE k = 'NaN'; UPDATE numeric_key SET k = k + 0.00 WHERE k > 3; UPDATE numeric_key SET k = 1.00 WHERE k = 1},
	'keys of a nondeterministic collation' => q{UPDATE nocase_key SET k = 'A' WHERE k = 'a'; DELETE FROM nocase_key WHERE k = 'b'; INSERT INTO nocase_key VALUES ('b', 'lower now'); UPDATE nocase_key SET k = 'C', v = 'x' WHERE k = 'c'},
	'float keys, minus zero' => q{UPDATE float_key SET k = '-0', v = 'minus' WHERE k = 0; UPDATE float_key SET v = 'x' WHERE k IN ('NaN', 'Infinity', 1e-300); DELETE FROM float_key WHERE v = 'tenth'; INSERT INTO float_key VALUES ('-Infinity', 'low'), (0.1 + 0.2, 'sum')},
	'char keys' => q{UPDATE char_key SET v = 'x' WHERE k = 'ab'; UPDATE char_key SET k = ' a' WHERE k = ''; DELETE FROM char_key WHERE k = 'abc'},
	'interval keys that are equal and look different' => q{UPDATE interval_key SET k = '24 hours' WHERE k = '1 day'; DELETE FROM interval_key WHERE k = '1 month'; INSERT INTO interval_key VALUES ('30 days', 'x')},
	'keys of many types' => q{UPDATE odd_keys SET v = 'up' WHERE o::int8 % 2 = 0; DELETE FROM odd_keys WHERE o = 3; UPDATE odd_keys SET a = a || 5, t = t + interval '1 us' WHERE o = 5; UPDATE odd_keys SET e = 'high', i = '1.2.3.4/24', r = '[1,)' WHERE d = 'inf'},
	'keys of several columns' => q{UPDATE composite_key SET v = 'up' WHERE a < 5; UPDATE composite_key SET b = b || 'x' WHERE a BETWEEN 5 AND 8; DELETE FROM composite_key WHERE a BETWEEN 9 AND 12; UPDATE composite_key SET c = c + 1 WHERE a > 25},
	'a replica identity index in place of a primary key' => q{UPDATE identity_key SET v = 'up' WHERE a = 1; UPDATE identity_key SET a = 100 WHERE a = 2; DELETE FROM identity_key WHERE a = 3; INSERT INTO identity_key VALUES (50, 'b', 'x')},
	'unchanged toasted values' => q{UPDATE toasted SET small = small + 1; UPDATE toasted SET big = reverse(big) WHERE id = 2; UPDATE toasted SET big = NULL WHERE id = 3; UPDATE toasted SET id = 100 WHERE id = 4},
	'columns named like words of ours' => q{UPDATE words SET "new" = "old" + 1, excluded = 'x', s = 9 WHERE key = 1; DELETE FROM words WHERE key = 2; UPDATE words SET xid = 'z' WHERE key = 3},
	'names of 63 bytes' => qq{INSERT INTO "$long" VALUES (100, 'x'); UPDATE "$long" SET v = 'y' WHERE "$long" = 1; UPDATE "$long" SET "$long" = 200 WHERE "$long" = 2; DELETE FROM "$long" WHERE "$long" = 3},
	'odd names' => qq{INSERT INTO "$odd_q"."Tâble 'q' ""d"" \\" VALUES ('ñ', 100, 'x'); UPDATE "$odd_q"."Tâble 'q' ""d"" \\" SET "Ünï %s \$1" = 'y' WHERE "l'autre" = 1; UPDATE "$odd_q"."Tâble 'q' ""d"" \\" SET "clé ""1""" = '"' WHERE "l'autre" = 2; DELETE FROM "$odd_q"."Tâble 'q' ""d"" \\" WHERE "l'autre" = 3},
	'a target of other name and column order' => q{INSERT INTO moved.plain VALUES (500, 'x', 1, NULL); UPDATE moved.plain SET b = b + 1, c = NULL WHERE id < 20; UPDATE moved.plain SET id = 600 WHERE id = 20; DELETE FROM moved.plain WHERE id BETWEEN 30 AND 40},
	'a key that is deferrable: swap and shift in one statement' => q{UPDATE moved.late_key SET id = CASE id WHEN 1 THEN 2 ELSE 1 END WHERE id <= 2; UPDATE moved.late_key SET id = id + 1; BEGIN; INSERT INTO moved.late_key VALUES (5, 'twice for a moment'); DELETE FROM moved.late_key WHERE id = 5 AND v <> 'twice for a moment'; COMMIT},
	'a target with other partitions' => q{UPDATE moved.to_parts SET id = id + 200 WHERE id BETWEEN 45 AND 48; DELETE FROM moved.to_parts WHERE id BETWEEN 49 AND 52; UPDATE moved.to_parts SET v = 'x' WHERE id > 95;
		UPDATE moved.from_parts SET id = id + 200 WHERE id BETWEEN 45 AND 48; DELETE FROM moved.from_parts_1 WHERE id BETWEEN 49 AND 60; UPDATE moved.from_parts SET v = 'x' WHERE id > 95},
	'a hash partition truncated where the target has none' => q{TRUNCATE moved.from_parts_0},
	'a bulk change over all of a table' => q{UPDATE many SET v = md5(id::text); DELETE FROM many WHERE id % 7 = 0},
	'everything in one transaction' => q{BEGIN; DELETE FROM parent WHERE id = 7; TRUNCATE cut_a, cut_b; INSERT INTO cut_a VALUES (1, 'z'); UPDATE basic SET v = 'all', id = id + 20000, n = NULL WHERE id BETWEEN 140 AND 150; UPDATE by_hash SET v = 'all'; UPDATE many SET v = 'all' WHERE id % 5 = 0; COMMIT},
);

my @schemas = ('public', 'moved', $odd);

$pair->both_sql($schema);
$pair->source_sql($source_only . $other_source);
$pair->target_sql($target_only . $other_target);
$pair->map_table('moved.plain', '"new place"."Plain ""2"""');
$pair->map_table('moved.late_key', '"new place".late_key');
$pair->map_table('moved.to_parts', '"new place".parts');
$pair->map_table('moved.from_parts', '"new place".whole');

$pair->source_sql($reset);
$pair->declare(schemas => [ 'public', $odd ]);
$pair->source_sql(<<'SQL');
REVOKE USAGE ON SCHEMA migrate_tiers FROM PUBLIC;
SELECT migrate_tiers.tag('moved.plain', 'realtime', '"new place"."Plain ""2"""');
SELECT migrate_tiers.tag('moved.late_key', 'realtime', '"new place".late_key');
SELECT migrate_tiers.tag('moved.to_parts', 'realtime', '"new place".parts');
SELECT migrate_tiers.tag('moved.from_parts', 'realtime', '"new place".whole');
SQL
# Whoever has the privilege TRIGGER can take a name of ours first: what is less than ours is made anew.
$pair->source_sql(<<'SQL');
CREATE TRIGGER migrate_tiers_capture AFTER INSERT ON basic FOR EACH ROW EXECUTE FUNCTION migrate_tiers.capture();
CREATE TRIGGER migrate_tiers_capture AFTER INSERT OR UPDATE OF v OR DELETE ON by_range_1 FOR EACH ROW WHEN (false)
    EXECUTE FUNCTION migrate_tiers.capture();
CREATE TRIGGER migrate_tiers_capture_truncate BEFORE TRUNCATE ON by_range_1 EXECUTE FUNCTION migrate_tiers.capture('0');
SQL
$pair->advance;
is($pair->source_sql(<<'SQL'), '', 'every trigger of ours is whole');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'migrate%'
   AND NOT (tgenabled = 'A' AND tgqual IS NULL AND tgattr = '' AND tgtype = CASE tgname WHEN 'migrate_tiers_capture' THEN 29 ELSE 34 END)
SQL
$pair->sync;
$pair->equal('the initial copy', @schemas);

for my $path ([ small => 100000 ], [ large => 1 ])
{
	my ($name, $keys) = @$path;
	$pair->small_tick($keys);
	subtest "a tick each, $name" => sub { run_cases(0); };
	subtest "all in one tick, $name" => sub { run_cases(1); };
}

subtest 'prepared over a restart' => \&prepared_over_restart;
subtest 'a table divided by hash that is truncated as a whole' => \&truncated_whole;
subtest 'new partitions while syncing' => \&new_partitions;
subtest 'written by another library at commit' => \&written_late;
subtest 'a subscription' => \&subscribed;
is($pair->status('stopped'), '', 'nothing is stopped');
$pair->finish;
done_testing();

# truncated_whole counts what a TRUNCATE notes: the rows that its partitions had are not read.
sub truncated_whole
{
	my $pending = q{SELECT count(*), count(*) FILTER (WHERE kind = 'key') FROM migrate_tiers.pending};
	$pair->source_sql(q{INSERT INTO by_hash SELECT i, 'w' FROM generate_series(20001, 20100) i});
	$pair->sync;
	$pair->source_sql('SELECT migrate_tiers.pause()');
	$pair->source_sql('TRUNCATE by_hash');
	like($pair->source_sql($pending), qr/^[1-9]\d*\|0$/, 'no key is noted');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->sync;
	$pair->equal('equal', @schemas);
	return;
}

# run_cases runs all; together: with sending paused, so that one tick takes all.
sub run_cases
{
	my ($together) = @_;
	$pair->source_sql($reset);
	$pair->sync;
	$pair->equal('reset', @schemas) or return;
	$pair->source_sql('SELECT migrate_tiers.pause()') if $together;

	my ($before) = $pair->contents(@schemas);
	my @rest = @cases;
	while (my ($case, $what) = splice @rest, 0, 2)
	{
		my ($sql, %o) = ref $what ? @$what : ($what);
		$pair->source_sql($sql);
		next if $together;
		$pair->sync;
		my ($after) = $pair->contents(@schemas);
		my $nothing = $o{nothing} // 0;
		ok($nothing ? $after eq $before : $after ne $before, "$case: " . ($nothing ? 'no change' : 'a change'))
		  or diag "before:\n$before\nafter:\n$after";
		$pair->equal($case, @schemas) or return;
		$before = $after;
	}
	return unless $together;
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->sync;
	$pair->equal('all together', @schemas);
	return;
}

sub prepared_over_restart
{
	$pair->source_sql(q{BEGIN; UPDATE many SET v = 'over a restart'; INSERT INTO basic VALUES (70000, 'prepared'); PREPARE TRANSACTION 'r1'});
	$pair->source_sql(q{BEGIN; DELETE FROM by_hash; PREPARE TRANSACTION 'r2'});
	$pair->source_sql(q{UPDATE basic SET v = 'meanwhile' WHERE id = 1});
	$pair->sync;
	$pair->source->restart;
	$pair->source_sql('SELECT migrate_tiers.start_workers()');
	$pair->source_sql(q{UPDATE basic SET v = 'after the restart' WHERE id = 2});
	$pair->sync;
	$pair->equal('prepared transactions are open', @schemas);
	$pair->source_sql("COMMIT PREPARED 'r1'");
	$pair->source_sql("ROLLBACK PREPARED 'r2'");
	$pair->sync;
	is($pair->source_sql("SELECT v FROM many LIMIT 1"), 'over a restart', 'the change is there');
	$pair->equal('one committed, one rolled back', @schemas);
	return;
}

sub new_partitions
{
	$pair->target_sql('CREATE TABLE by_range_3 PARTITION OF by_range FOR VALUES FROM (20000) TO (30000)');
	$pair->source_sql('CREATE TABLE by_range_3 PARTITION OF by_range FOR VALUES FROM (20000) TO (30000)');
	$pair->source_sql(q{INSERT INTO by_range VALUES (800, 20001, 'routed'); INSERT INTO by_range_3 VALUES (801, 20002, 'direct'); UPDATE by_range_3 SET v = 'up' WHERE id = 800});
	$pair->sync;
	$pair->equal('rows of a new partition', @schemas);
	$pair->source_sql(q{BEGIN; CREATE TABLE by_range_4 PARTITION OF by_range FOR VALUES FROM (30000) TO (40000); INSERT INTO by_range_4 VALUES (810, 30001, 'same transaction'); COMMIT});
	$pair->sync;
	$pair->equal('a partition made and filled in one transaction', @schemas);
	$pair->source_sql('TRUNCATE by_range_3');
	$pair->sync;
	$pair->equal('a new partition truncated', @schemas);
	$pair->source_sql(q{CREATE TABLE deep_asia PARTITION OF deep FOR VALUES IN ('asia') PARTITION BY RANGE (at); CREATE TABLE deep_asia_1 PARTITION OF deep_asia FOR VALUES FROM (0) TO (100)});
	$pair->target_sql(q{CREATE TABLE deep_asia PARTITION OF deep FOR VALUES IN ('asia')});
	$pair->source_sql(q{INSERT INTO deep_asia_1 VALUES (900, 'asia', 5, 'x'); INSERT INTO deep VALUES (901, 'asia', 6, 'y')});
	$pair->sync;
	$pair->equal('new partitions of partitions', @schemas);
	my ($ok, $state) = $pair->source_try(q{SET ROLE app; INSERT INTO by_range_3 VALUES (802, 20003, 'no right')});
	is($state, '42501', 'a new partition has the privileges it had');
	return;
}

# subscribed has a subscription fill a table: its workers note what a transaction changes together, as others do.
sub subscribed
{
	my $noted = sub { return $pair->source_sql('SELECT count(*) FROM (' . join(' UNION ALL ', map { "TABLE migrate_tiers.queue_1_$_" } 0 .. 2) . ') q'); };

	$pair->target_sql('CREATE DATABASE feed');
	$pair->target_sql(q{CREATE TABLE many (id int PRIMARY KEY, v text); CREATE PUBLICATION feed FOR TABLE many;
		INSERT INTO many SELECT i, 'fed' FROM generate_series(7000001, 7010000) i}, db => 'feed');
	$pair->source_sql('SELECT migrate_tiers.pause()');
	my $before = $noted->();
	$pair->source_sql(q{CREATE SUBSCRIPTION feed CONNECTION '} . $pair->target->connstr('feed') =~ s/'/''/gr . q{' PUBLICATION feed});
	ok($pair->wait_until(source => q{SELECT srsubstate = 'r' FROM pg_subscription_rel}), 'its first copy is done');
	cmp_ok($noted->() - $before, '<', 100, '10,000 rows of a transaction are few rows of the queue');
	$pair->target_sql(q{UPDATE many SET v = 'applied'}, db => 'feed');
	ok($pair->wait_until(source => q{SELECT count(*) = 10000 FROM many WHERE v = 'applied'}), 'an UPDATE is applied');
	cmp_ok($noted->() - $before, '<', 200, 'and noted alike');
	$pair->source_sql('DROP SUBSCRIPTION feed');
	$pair->source_sql('SELECT migrate_tiers.resume()');
	$pair->sync;
	$pair->equal('equal', @schemas);
	return;
}

# written_late has a library write in its callback before the commit, which runs after ours: it was there first.
sub written_late
{
	my $late = sub { my ($id) = @_; return "INSERT INTO basic VALUES ($id, 'late')"; };
	my $with = sub { my ($sql) = @_; return "BEGIN; SET LOCAL late_writer.statement = \$late\$$sql\$late\$;"; };
	my $load = "LOAD '$FindBin::Bin/../late_writer/late_writer';";
	my $nested = q{DO $$BEGIN INSERT INTO basic VALUES (80007, 'late'); BEGIN DELETE FROM basic WHERE id = 80001; RAISE 'back';}
	  . q{ EXCEPTION WHEN raise_exception THEN UPDATE basic SET v = 'late' WHERE id = 81005; END; END$$};

	$pair->source_sql($load . $with->($late->(80001)) . 'COMMIT;'    # the first captured write of the session
		  . $with->($late->(80002)) . q{COMMIT;}
		  . $with->($late->(80003)) . q{INSERT INTO basic VALUES (81003, 'early'); COMMIT;}
		  . $with->($late->(80004)) . q{INSERT INTO basic VALUES (81004, 'early'); ROLLBACK;}
		  . $with->($late->(80005)) . q{INSERT INTO basic VALUES (81005, 'early'); PREPARE TRANSACTION 'late'; COMMIT PREPARED 'late';}
		  . $with->('TRUNCATE cut_a, cut_b') . q{SAVEPOINT s; INSERT INTO basic VALUES (81006, 'early'); COMMIT;}
		  . $with->($nested) . q{COMMIT;});
	$pair->source_sql($load . q{DO $$BEGIN PERFORM set_config('late_writer.statement', 'INSERT INTO basic VALUES (80008, ''late'')', true); COMMIT; END$$});
	$pair->source_sql($load . $with->($late->(80009)) . q{PREPARE TRANSACTION 'late'; COMMIT PREPARED 'late';});
	$pair->sync;
	my $rows = q{SELECT string_agg(concat(id, ' ', v), ', ' ORDER BY id) FROM basic WHERE id BETWEEN 80000 AND 82000};
	is($pair->target_sql($rows), '80001 late, 80002 late, 80003 late, 80005 late, 80007 late, 80008 late, 80009 late, 81003 early, 81005 late, 81006 early', 'all is there');
	$pair->equal('equal', @schemas);
	my $notes = $pair->source_sql(<<'SQL');
BEGIN; UPDATE basic SET v = 'one' WHERE id = 80001; UPDATE basic SET v = 'two' WHERE id = 80002; CREATE TEMP TABLE me AS SELECT pg_current_xact_id() AS xid; COMMIT;
SELECT count(*) FROM me JOIN (TABLE migrate_tiers.queue_1_0 UNION ALL TABLE migrate_tiers.queue_1_1 UNION ALL TABLE migrate_tiers.queue_1_2) q USING (xid)
SQL
	is($notes, '1', 'what is noted in time, in the first transaction of a session, is one row of the queue');
	return;
}
