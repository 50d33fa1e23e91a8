/*
 * mark.c
 *	  Sets of ended transactions: see mark.h.
 */
#include "base/mark.h"

#include <ctype.h>

#include "access/subtrans.h"
#include "access/xact.h"
#include "common/int.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

static uint64 widen(TransactionId xid);
static void add_xid(MtMark *mark, int *room, uint64 xid);
static int	compare_xids(const void *a, const void *b);

/* mt_mark_parse reads the text form of pg_snapshot. */
MtMark *
mt_mark_parse(const char *text)
{
	MtMark	   *mark = palloc0(sizeof(MtMark));
	int			room = 8;
	char	   *end;

	mark->xip = palloc(sizeof(uint64) * room);
	mark->xmin = strtou64(text, &end, 10);
	if (*end != ':')
		elog(ERROR, "invalid snapshot \"%s\"", text);
	mark->xmax = strtou64(end + 1, &end, 10);
	if (*end != ':')
		elog(ERROR, "invalid snapshot \"%s\"", text);
	for (end++; *end != '\0';)
	{
		add_xid(mark, &room, strtou64(end, &end, 10));
		if (*end == ',')
			end++;
		else if (*end != '\0')
			elog(ERROR, "invalid snapshot \"%s\"", text);
	}
	qsort(mark->xip, mark->nxip, sizeof(uint64), compare_xids);
	return mark;
}

/* mt_mark_parse_input reads what a person gave as a token. */
MtMark *
mt_mark_parse_input(const char *text)
{
	if (strspn(text, "0123456789:,") != strlen(text) || strchr(text, ':') == strrchr(text, ':') ||
		!isdigit((unsigned char) text[0]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid sync token: \"%s\"", text),
				 errhint("A token is what migrate_tiers.sync_token() returned.")));
	/* The server's own parser checks the rest, and says what is wrong. */
	(void) DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text));
	return mt_mark_parse(text);
}

/* mt_mark_format returns the text form of pg_snapshot. */
char *
mt_mark_format(const MtMark *mark)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":", mark->xmin, mark->xmax);
	for (int i = 0; i < mark->nxip; i++)
		appendStringInfo(&text, "%s" UINT64_FORMAT, i ? "," : "", mark->xip[i]);
	return text.data;
}

/*
 * mt_mark_from_snapshot takes the top-level transactions that a snapshot sees as ended.
 *
 * A standby does not tell subtransactions from them, and has all in one list: nobody asks for a subtransaction.
 */
MtMark *
mt_mark_from_snapshot(Snapshot snapshot)
{
	MtMark	   *mark = palloc0(sizeof(MtMark));
	const TransactionId *running = snapshot->takenDuringRecovery ? snapshot->subxip : snapshot->xip;
	int			count = snapshot->takenDuringRecovery ? snapshot->subxcnt : (int) snapshot->xcnt;
	int			room = count + 1;

	mark->xmin = widen(snapshot->xmin);
	mark->xmax = widen(snapshot->xmax);
	mark->xip = palloc(sizeof(uint64) * room);
	for (int i = 0; i < count; i++)
		add_xid(mark, &room, widen(running[i]));
	qsort(mark->xip, mark->nxip, sizeof(uint64), compare_xids);
	return mark;
}

/*
 * mt_mark_with_subtransactions takes a snapshot with its subtransactions.
 *
 * Where the snapshot overflowed, which subtransactions were running is asked of
 * pg_subtrans, id by id, now: later that knowledge is gone.  Those may be millions; of the ones that an earlier mark
 * of this kind knows as ended nothing is asked.
 */
MtMark *
mt_mark_with_subtransactions(Snapshot snapshot, const MtMark *earlier)
{
	MtMark	   *mark = mt_mark_from_snapshot(snapshot);
	int			room = mark->nxip;
	TransactionId from = earlier ? (TransactionId) earlier->xmax : snapshot->xmin;

	if (snapshot->suboverflowed)
	{
		mark->nxip = 0;
		for (int i = 0; earlier != NULL && i < earlier->nxip; i++)
			if (XidInMVCCSnapshot((TransactionId) earlier->xip[i], snapshot))
				add_xid(mark, &room, earlier->xip[i]);
		for (TransactionId xid = from; TransactionIdPrecedes(xid, snapshot->xmax);)
		{
			if (XidInMVCCSnapshot(xid, snapshot))
				add_xid(mark, &room, widen(xid));
			TransactionIdAdvance(xid);
			CHECK_FOR_INTERRUPTS();
		}
	}
	else
		/* A subtransaction may have begun after xmax was taken; from there on nothing is seen anyway. */
		for (int32 i = 0; i < snapshot->subxcnt; i++)
			if (TransactionIdPrecedes(snapshot->subxip[i], snapshot->xmax))
				add_xid(mark, &room, widen(snapshot->subxip[i]));
	qsort(mark->xip, mark->nxip, sizeof(uint64), compare_xids);
	return mark;
}

/* mt_mark_sees says whether a transaction had ended. */
bool
mt_mark_sees(const MtMark *mark, uint64 xid)
{
	if (xid < mark->xmin)
		return true;
	if (xid >= mark->xmax)
		return false;
	return mark->nxip == 0 ||
		bsearch(&xid, mark->xip, mark->nxip, sizeof(uint64), compare_xids) == NULL;
}

/* mt_mark_sees_tuple_xid says whether the transaction of a tuple header had ended. */
bool
mt_mark_sees_tuple_xid(const MtMark *mark, TransactionId xid)
{
	TransactionId xmin = (TransactionId) mark->xmin;

	if (!TransactionIdIsNormal(xid) || TransactionIdPrecedes(xid, xmin))
		return true;
	return mt_mark_sees(mark, mark->xmin + (uint32) (xid - xmin));
}

/* mt_mark_intersect returns the transactions that are ended in both sets. */
MtMark *
mt_mark_intersect(const MtMark *one, const MtMark *other)
{
	MtMark	   *mark = palloc0(sizeof(MtMark));
	int			room = one->nxip + other->nxip + 1;

	mark->xmin = Min(one->xmin, other->xmin);
	mark->xmax = Min(one->xmax, other->xmax);
	mark->xip = palloc(sizeof(uint64) * room);
	for (int i = 0; i < one->nxip; i++)
		if (one->xip[i] < mark->xmax)
			add_xid(mark, &room, one->xip[i]);
	for (int i = 0; i < other->nxip; i++)
		if (other->xip[i] < mark->xmax && mt_mark_sees(one, other->xip[i]))
			add_xid(mark, &room, other->xip[i]);
	qsort(mark->xip, mark->nxip, sizeof(uint64), compare_xids);
	return mark;
}

/* mt_mark_without returns the set without a transaction. */
MtMark *
mt_mark_without(const MtMark *mark, uint64 xid)
{
	MtMark		others = {.xmin = xid, .xmax = PG_UINT64_MAX, .nxip = 1, .xip = &xid};

	return mt_mark_intersect(mark, &others);
}

/* mt_mark_covers says whether all that is ended in one set is ended in a later one. */
bool
mt_mark_covers(const MtMark *later, const MtMark *earlier)
{
	if (later->xmax < earlier->xmax)
		return false;
	for (int i = 0; i < later->nxip; i++)
		if (mt_mark_sees(earlier, later->xip[i]))
			return false;
	return true;
}

/* widen gives an id of this moment's snapshots its 64 bits. */
static uint64
widen(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return ((uint64) epoch << 32) | xid;
}

static void
add_xid(MtMark *mark, int *room, uint64 xid)
{
	if (mark->nxip >= *room)
	{
		*room = Max(8, *room * 2);
		mark->xip = mark->nxip ? repalloc(mark->xip, sizeof(uint64) * *room) :
			palloc(sizeof(uint64) * *room);
	}
	mark->xip[mark->nxip++] = xid;
}

static int
compare_xids(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return (x > y) - (x < y);
}
