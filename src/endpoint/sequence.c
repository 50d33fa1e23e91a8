/*
 * sequence.c
 *	  Blocks that alter sequences: see sequence.h.
 *
 * ALTER SEQUENCE gives a sequence a new file.  So it is undone with its
 * transaction, setval after it too; and sessions drop what they cached of the old
 * file.  What they have given out lies up to its last value, and the first
 * value of a turn lies beyond.  To alter it is also the only way to lock it:
 * that waits for the transactions that drew a number, and for nothing else.
 */
#include "endpoint/sequence.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

/* The first value of the class beyond p, in the direction of the step. */
#define NEXT(p) \
	"(c + d * (pg_catalog.div(" p " - c, d) + CASE WHEN pg_catalog.mod(" p " - c, d) <> 0" \
	" AND (" p " < c) = (d > 0) THEN 0 ELSE 1 END))"

/* Reads the sequence of that OID; and locks it before. */
#define READ(oid_of) \
	"EXECUTE pg_catalog.format(reading, " oid_of "::pg_catalog.regclass, " oid_of "::pg_catalog.oid) INTO p;\n"
#define LOCK_AND_READ(oid_of, cache_of) \
	"EXECUTE pg_catalog.format('ALTER SEQUENCE %s CACHE %s', " oid_of "::pg_catalog.regclass, " cache_of ");\n" READ(oid_of)

/* clang-format off */

/*
 * A sequence whose turn has begun is left alone, unless somebody set it to a
 * value of the other side's.  START and, where it cycles, the value that it cycles
 * to are of the class, too.
 */
static const char interleave_body[] =
	"  s migrate_tiers.sequence; o pg_catalog.pg_sequence; p record; turn CONSTANT numeric := pg_catalog.sign(d);\n"
	"  known boolean; b numeric; first numeric; a numeric; z numeric;\n"
	"BEGIN\n"
	"SELECT * INTO s FROM migrate_tiers.sequence q WHERE q.migration = m AND q.sequence = this FOR UPDATE;\n"
	"known := FOUND;\n"
	"IF EXISTS (SELECT FROM migrate_tiers.sequence q WHERE q.sequence = this AND (q.migration, q.source) <> (m, partner)) THEN\n"
	"  RAISE object_in_use USING MESSAGE = pg_catalog.format('sequence %s takes turns with another sequence already',\n"
	"    this::pg_catalog.regclass), HINT = 'Give each column a sequence of its own.';\n"
	"END IF;\n"
	"SELECT * INTO STRICT o FROM pg_catalog.pg_sequence q WHERE q.seqrelid = this;\n"
	READ("this")
	"IF known AND NOT s.restored AND o.seqincrement = d AND pg_catalog.mod(p.last_value - c, d) = 0\n"
	"  AND (s.cycle OR beyond IS NULL OR turn * (p.last_value - beyond) >= CASE WHEN p.is_called THEN 0 ELSE 1 END) THEN\n"
	"  RETURN;\n"
	"END IF;\n"
	LOCK_AND_READ("this", "o.seqcache")
	"IF NOT known THEN\n"
	"  INSERT INTO migrate_tiers.sequence AS q (migration, sequence, relation, source, start, increment, minimum, maximum,\n"
	"    cache, cycle, last_value, is_called, begun) VALUES (m, this, tagged, partner, o.seqstart, o.seqincrement, o.seqmin,\n"
	"    o.seqmax, o.seqcache, o.seqcycle, p.last_value, p.is_called, p.last_value) RETURNING * INTO s;\n"
	"END IF;\n"
	/* What it gave out in a turn that was ended by a way back which was not gone to its end. */
	"beyond := turn * GREATEST(turn * beyond, turn * s.handed, turn * p.last_value - CASE WHEN p.is_called THEN 0 ELSE 1 END);\n"
	"a := GREATEST(lowest, s.minimum);\n"
	"z := LEAST(highest, s.maximum);\n"
	"b := " NEXT("beyond") ";\n"
	"IF b NOT BETWEEN a AND z AND s.cycle THEN b := CASE WHEN d > 0 THEN " NEXT("(a - 1)") " ELSE " NEXT("(z + 1)") " END; END IF;\n"
	"IF b NOT BETWEEN a AND z THEN\n"
	"  RAISE sequence_generator_limit_exceeded\n"
	"    USING MESSAGE = pg_catalog.format('sequence %s has no value left for its turn', this::pg_catalog.regclass),\n"
	"    DETAIL = pg_catalog.format('After %s it would step by %s, and it may give out %s to %s.', beyond, d, a, z),\n"
	"    HINT = 'Widen the sequence, and the type of its column, on both sides.';\n"
	"END IF;\n"
	"first := " NEXT("(s.start - turn)") ";\n"
	"IF first NOT BETWEEN s.minimum AND s.maximum THEN first := b; END IF;\n"
	"EXECUTE pg_catalog.format('ALTER SEQUENCE %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s RESTART WITH %s',\n"
	"  this::pg_catalog.regclass, d, CASE WHEN s.cycle AND d > 0 THEN " NEXT("(s.minimum::numeric - 1)") " ELSE s.minimum END,\n"
	"  CASE WHEN s.cycle AND d < 0 THEN " NEXT("(s.maximum::numeric + 1)") " ELSE s.maximum END, first, b);\n"
	"UPDATE migrate_tiers.sequence q SET restored = false, handed = NULL, lapped = NULL, begun = b\n"
	"  WHERE q.migration = m AND q.sequence = this;\n"
	"END";

/*
 * Nothing given out in its turn: it is where it was.  One that cycled is ahead
 * of one that did not, whatever their values.
 */
static const char restore_body[] =
	"  s migrate_tiers.sequence; p record; turn numeric; own numeric; lap boolean; last numeric; called boolean;\n"
	"BEGIN\n"
	"FOR s IN SELECT q.* FROM migrate_tiers.sequence q JOIN pg_catalog.pg_class k ON k.oid = q.sequence AND k.relkind = 'S'\n"
	"  WHERE NOT q.restored AND (%s) ORDER BY q.sequence LOOP\n";

static const char restore_loop[] =
	LOCK_AND_READ("s.sequence", "s.cache")
	"turn := pg_catalog.sign(s.increment::numeric);\n"
	"own := CASE WHEN p.is_called THEN p.last_value WHEN p.last_value <> s.begun THEN p.last_value - turn END;\n"
	"lap := s.cycle AND turn * own < turn * s.begun;\n"
	"last := own;\n"
	"IF own IS NULL OR (other_lapped, turn * other) > (lap, turn * own) THEN last := other; END IF;\n"
	"IF NOT s.cycle AND s.is_called AND turn * s.last_value > turn * last THEN last := s.last_value; END IF;\n"
	"called := true;\n"
	"IF last IS NULL OR NOT keep THEN\n"
	"  last := s.last_value;\n"
	"  called := s.is_called;\n"
	"ELSIF last NOT BETWEEN s.minimum AND s.maximum THEN\n"
	"  called := (last > s.maximum) = (turn > 0);\n"
	"  last := LEAST(GREATEST(last, s.minimum), s.maximum);\n"
	"END IF;\n"
	"EXECUTE pg_catalog.format('ALTER SEQUENCE %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s RESTART WITH %s',\n"
	"  s.sequence::pg_catalog.regclass, s.increment, s.minimum, s.maximum, s.start, s.cache,\n"
	"  CASE WHEN s.cycle THEN 'CYCLE' ELSE 'NO CYCLE' END, last);\n"
	"PERFORM pg_catalog.setval(s.sequence::pg_catalog.regclass, last::bigint, called);\n"
	"UPDATE migrate_tiers.sequence q SET restored = true, handed = own, lapped = lap WHERE q.sequence = s.sequence;\n"
	"END LOOP;\n";
/* clang-format on */

static void append_reading(StringInfo body, bool on_source);
static void append_constant(StringInfo body, const char *name, const char *type, const char *value);

/* mt_sequence_interleave_sql returns the block that has a sequence take turns. */
char *
mt_sequence_interleave_sql(bool on_source, const MtTurn *turn)
{
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfo(&body, "DECLARE\n  m CONSTANT migrate_tiers.sequence.migration%%TYPE := %s;\n", turn->migration);
	appendStringInfo(&body, "  this CONSTANT oid := %u; partner CONSTANT oid := %u; tagged CONSTANT integer := %d;\n",
					 turn->sequence, turn->source, turn->relation);
	append_constant(&body, "c CONSTANT", "numeric", turn->begin);
	append_constant(&body, "d CONSTANT", "numeric", turn->step);
	append_constant(&body, "lowest CONSTANT", "numeric", turn->lowest);
	append_constant(&body, "highest CONSTANT", "numeric", turn->highest);
	append_constant(&body, "beyond", "numeric", turn->beyond);
	append_reading(&body, on_source);
	appendStringInfoString(&body, interleave_body);
	return body.data;
}

/* mt_sequence_restore_sql returns the block that gives sequences back what they were. */
char *
mt_sequence_restore_sql(bool on_source, const char *condition, bool keep, const char *other, const char *other_lapped,
						bool forget)
{
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfoString(&body, "DECLARE\n");
	append_constant(&body, "keep CONSTANT", "boolean", keep ? "t" : "f");
	append_constant(&body, "other CONSTANT", "numeric", other);
	append_constant(&body, "other_lapped CONSTANT", "boolean", other_lapped ? other_lapped : "f");
	append_reading(&body, on_source);
	appendStringInfo(&body, restore_body, condition);
	appendStringInfoString(&body, restore_loop);
	if (forget)
		appendStringInfo(&body, "DELETE FROM migrate_tiers.sequence q WHERE %s;\n", condition);
	appendStringInfoString(&body, "END");
	return body.data;
}

/*
 * append_reading says how the block reads a sequence.  On the source it runs with the rights of the extension's owner:
 * under the name there may be a view by now, whose code would have them, so there it is the OID that counts.
 */
static void
append_reading(StringInfo body, bool on_source)
{
	append_constant(body, "reading CONSTANT", "text",
					on_source ? "SELECT last_value, is_called FROM migrate_tiers.sequence_position(%2$s)" :
						"SELECT last_value, is_called FROM %1$s");
}

static void
append_constant(StringInfo body, const char *name, const char *type, const char *value)
{
	appendStringInfo(body, "  %s %s := %s;\n", name, type, value ? quote_literal_cstr(value) : "NULL");
}
