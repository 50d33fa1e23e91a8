/*
 * compare.c
 *	  Compares a range of keys: see compare.h.
 *
 * The digest of a range comes in parts, by a hash of the key.  Where some
 * differ, the rows of those parts are compared one by one: few rows, whatever the
 * range's size.  If they are many, the range is walked through in pieces, so that
 * memory stays bounded.
 *
 * Sides may sort a text key differently.  A key then is in one range here and in
 * another there, and both ranges look different; but what differs is decided in
 * the end by looking for the key itself, on both sides.  No row is overlooked:
 * here every row is in exactly one range, and there in at least one, since each
 * range begins where another ends.  So rows of the target are counted from those of the
 * source, less what is missing, and with what is extra.
 */
#include "verify/compare.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

/* Rows that are compared one by one in one go. */
#define PULL_ROWS 50000

typedef struct MtPart
{
	int64		rows[2];
	char	   *first[2];		/* sums, as text */
	char	   *second[2];
} MtPart;

typedef struct MtDigest
{
	int			parts;
	MtPart	   *part;
	int64		rows[2];
	int64		doubtful;		/* rows in parts that differ */
	char	   *wanted;			/* a bit a part: 1 for those */
} MtDigest;

static int	choose_parts(int64 expected_rows);
static void read_digest(const MtVerifyTable *table, MtRemote *remote, const MtKeyRange *range, MtDigest *digest);
static void take_side(MtDigest *digest, const MtRows *rows, int side);
static bool is_same(const MtPart *part);
static void find_differences(MtDigest *digest);
static void walk(MtSuspects *suspects, const MtKeyRange *range, const MtDigest *digest);
static char **cut(MtSuspects *suspects, bool target, const MtKeyRange *range, int64 rows);

/* mt_compare_range compares a range. */
void
mt_compare_range(const MtVerifyTable *table, MtRemote *remote, const MtKeyRange *range, int64 expected_rows,
				 MtOutcome *outcome)
{
	MtDigest	digest = {.parts = choose_parts(expected_rows)};
	MtSuspects	suspects = {.table = table, .remote = remote, .outcome = outcome, .context = CurrentMemoryContext};

	read_digest(table, remote, range, &digest);
	if (digest.doubtful > 0)
	{
		if (digest.doubtful <= PULL_ROWS)
			mt_compare_rows(&suspects, range, digest.parts, digest.wanted);
		else
			walk(&suspects, range, &digest);
	}
	outcome->source_rows = digest.rows[0];
	outcome->target_rows = digest.rows[0] - suspects.missing + suspects.extra;
}

/* choose_parts lets a part have about a hundred rows. */
static int
choose_parts(int64 expected_rows)
{
	int			parts = 16;

	while (parts < MT_MAX_PARTS && parts < expected_rows / 128)
		parts *= 2;
	return parts;
}

static void
read_digest(const MtVerifyTable *table, MtRemote *remote, const MtKeyRange *range, MtDigest *digest)
{
	const char **params;
	int			nparams = mt_verify_params(table, range, NULL, &params);
	MtBothRows	both = mt_verify_both(table, remote, mt_verify_sql_digest(table, false, range, digest->parts),
									  mt_verify_sql_digest(table, true, range, digest->parts), nparams, params);

	digest->part = palloc0(sizeof(MtPart) * digest->parts);
	take_side(digest, both.source, 0);
	take_side(digest, both.target, 1);
	find_differences(digest);
}

static void
take_side(MtDigest *digest, const MtRows *rows, int side)
{
	for (int row = 0; row < rows->count; row++)
	{
		char	  **values = rows->values[row];
		MtPart	   *part;
		int			number;

		if (values[0] == NULL)
			mt_compare_refuse_null();
		number = pg_strtoint32(values[0]);

		if (number < 0 || number >= digest->parts)
			elog(ERROR, "part %d of a range is not one of %d", number, digest->parts);
		part = &digest->part[number];
		part->rows[side] = strtoll(values[1], NULL, 10);
		part->first[side] = values[2];
		part->second[side] = values[3];
		digest->rows[side] += part->rows[side];
	}
}

static bool
is_same(const MtPart *part)
{
	return strcmp(part->first[0], part->first[1]) == 0 && strcmp(part->second[0], part->second[1]) == 0;
}

static void
find_differences(MtDigest *digest)
{
	digest->wanted = palloc0(digest->parts + 1);
	for (int i = 0; i < digest->parts; i++)
	{
		const MtPart *part = &digest->part[i];
		bool		same = part->rows[0] == part->rows[1] && (part->rows[0] == 0 || is_same(part));

		digest->wanted[i] = same ? '0' : '1';
		if (!same)
			digest->doubtful += Max(part->rows[0], part->rows[1]);
	}
}

/* walk compares a range piece by piece, as the side that has more rows orders them. */
static void
walk(MtSuspects *suspects, const MtKeyRange *range, const MtDigest *digest)
{
	bool		target = digest->rows[1] > digest->rows[0];
	int64		rows = Max(digest->rows[0], digest->rows[1]);
	int64		step = Max(rows * PULL_ROWS / digest->doubtful, 1);
	MtKeyRange	left = *range;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(context, "migrate_tiers piece of a range", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		MtKeyRange	piece = left;

		piece.high = cut(suspects, target, &left, step);
		if (piece.high == NULL)
			piece.high = range->high;
		MemoryContextSwitchTo(scratch);
		mt_compare_rows(suspects, &piece, digest->parts, digest->wanted);
		MemoryContextSwitchTo(context);
		MemoryContextReset(scratch);
		if (piece.high == range->high)
			break;
		left.low = piece.high;
	}
	MemoryContextDelete(scratch);
}

/* cut finds the key at which a piece of so many rows ends; NULL: at the end. */
static char **
cut(MtSuspects *suspects, bool target, const MtKeyRange *range, int64 rows)
{
	const char **params;
	int			nparams = mt_verify_params(suspects->table, range, psprintf(INT64_FORMAT, rows), &params);
	char	   *sql = mt_verify_sql_cut(suspects->table, target, range);
	MtRows	   *key = target ? mt_remote_query(suspects->remote, sql, nparams, params) :
		mt_verify_local(suspects->table, sql, nparams, params);

	return key->count ? key->values[0] : NULL;
}
