/*
 * stage.c
 *	  Reads one piece of a large tick while the target applies the one before:
 *	  see stage.h.
 *
 * A connection does one thing at a time, so a piece goes through these states:
 * read and held here (while the piece before is applied), read and copied (as
 * soon as that is done), applied.  The end of a piece waits for the one before.
 * All is one transaction of the target: a piece that fails takes the tick with it.
 */
#include "sync/stage.h"

#include "endpoint/remote_copy.h"

/* What a piece has at most; and what is held of it, before the target is waited for. */
#define PIECE_ROWS	50000
#define PIECE_BYTES (8 * 1024 * 1024)
#define HELD_BYTES	PIECE_BYTES

/* What is held goes out in slices, so that libpq does not keep it all once more. */
#define SLICE_BYTES 65536

static void end_piece(MtStage *stage);
static void take(void *arg, const char *data, int length);
static void begin_copy(MtStage *stage);
static void apply(MtStage *stage, const char *sql);
static bool settle(MtStage *stage, bool wait);

/* mt_stage_put takes a row. */
void
mt_stage_put(MtStage *stage, const Datum *values, const bool *nulls)
{
	if (!stage->reading)
	{
		mt_copy_stream_begin(&stage->stream, stage->columns, take, stage);
		if (stage->held == NULL && stage->insert != NULL)
			stage->held = palloc(HELD_BYTES);
	}
	stage->reading = true;
	mt_copy_stream_put(&stage->stream, values, nulls);
	if (stage->insert != NULL && (stage->stream.rows >= PIECE_ROWS || stage->stream.bytes >= PIECE_BYTES))
		end_piece(stage);
}

/* mt_stage_end waits until all rows are in, and applied. */
void
mt_stage_end(MtStage *stage)
{
	if (stage->reading)
		end_piece(stage);
	(void) settle(stage, true);
	if (stage->held != NULL)
		pfree(stage->held);
	stage->held = NULL;
}

static void
end_piece(MtStage *stage)
{
	mt_copy_stream_end(&stage->stream);
	if (!stage->copying)
		begin_copy(stage);
	stage->piece_rows = mt_remote_copy_end(stage->remote);
	stage->reading = stage->copying = false;
	stage->rows += stage->piece_rows;
	stage->bytes += stage->stream.bytes;
	if (stage->insert != NULL)
		apply(stage, stage->update ? stage->update : stage->insert);
}

/* take takes bytes of the stream: held while the target applies and there is room, else sent. */
static void
take(void *arg, const char *data, int length)
{
	MtStage    *stage = (MtStage *) arg;

	if (!stage->copying && !settle(stage, false) && length <= HELD_BYTES - stage->held_length)
	{
		memcpy(stage->held + stage->held_length, data, length);
		stage->held_length += length;
		return;
	}
	if (!stage->copying)
		begin_copy(stage);
	mt_remote_copy_send(stage->remote, data, length);
}

/* begin_copy begins the COPY of the piece that is read, as soon as the one before is applied. */
static void
begin_copy(MtStage *stage)
{
	(void) settle(stage, true);
	mt_remote_copy_begin(stage->remote, stage->copy);
	for (int at = 0; at < stage->held_length; at += SLICE_BYTES)
		mt_remote_copy_send(stage->remote, stage->held + at, Min(SLICE_BYTES, stage->held_length - at));
	stage->held_length = 0;
	stage->copying = true;
}

static void
apply(MtStage *stage, const char *sql)
{
	stage->applying = sql;
	mt_remote_send(stage->remote, sql);
}

/* settle says whether the piece before is applied; on request it waits until it is. */
static bool
settle(MtStage *stage, bool wait)
{
	while (stage->applying != NULL)
	{
		bool		updated = stage->applying == stage->update;
		int64		affected;

		if (!wait && !mt_remote_answered(stage->remote))
			return false;
		affected = mt_remote_collect(stage->remote);
		stage->applying = NULL;
		/* Where every row of the piece was there, and differed, none is missing. */
		if (updated && affected < stage->piece_rows)
			apply(stage, stage->insert);
	}
	return true;
}
