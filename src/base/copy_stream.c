/*
 * copy_stream.c
 *	  Rows in the form that COPY takes: binary, or text where a column's binary
 *	  form is not portable.  See row.h.
 */
#include "base/row.h"

#include "port/pg_bswap.h"
#include "utils/memutils.h"

/* Bytes that are gathered before they are sent; a longer value is sent by itself. */
#define STREAM_PIECE 65536

static const char binary_signature[11] = {'P', 'G', 'C', 'O', 'P', 'Y', '\n', '\377', '\r', '\n', '\0'};

static void put_binary(MtCopyStream *stream, MtColumn *column, Datum value, bool isnull);
static void put_text(MtCopyStream *stream, MtColumn *column, Datum value, bool isnull);
static void put_bytes(MtCopyStream *stream, const char *bytes, int length);
static void put_int16(MtCopyStream *stream, int16 value);
static void put_int32(MtCopyStream *stream, int32 value);
static void flush(MtCopyStream *stream);

/* mt_copy_stream_begin starts a stream in the current memory context. */
void
mt_copy_stream_begin(MtCopyStream *stream, MtColumns *columns,
					 void (*send)(void *arg, const char *data, int length), void *arg)
{
	memset(stream, 0, sizeof(*stream));
	stream->columns = columns;
	stream->binary = columns->all_binary;
	stream->send = send;
	stream->arg = arg;
	stream->scratch = AllocSetContextCreate(CurrentMemoryContext, "migrate_tiers row", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&stream->buffer);
	enlargeStringInfo(&stream->buffer, STREAM_PIECE + 1024);
	if (stream->binary)
	{
		put_bytes(stream, binary_signature, sizeof(binary_signature));
		put_int32(stream, 0);	/* flags */
		put_int32(stream, 0);	/* length of the header's extension */
	}
}

/* mt_copy_stream_put puts a row in; values are by attribute number of the table. */
void
mt_copy_stream_put(MtCopyStream *stream, const Datum *values, const bool *nulls)
{
	MemoryContext previous = MemoryContextSwitchTo(stream->scratch);

	if (stream->binary)
		put_int16(stream, stream->columns->count);
	for (int i = 0; i < stream->columns->count; i++)
	{
		MtColumn   *column = &stream->columns->columns[i];
		int			at = column->attnum - 1;

		if (stream->binary)
			put_binary(stream, column, values[at], nulls[at]);
		else
		{
			if (i > 0)
				put_bytes(stream, "\t", 1);
			put_text(stream, column, values[at], nulls[at]);
		}
	}
	if (!stream->binary)
		put_bytes(stream, "\n", 1);
	stream->rows++;
	MemoryContextSwitchTo(previous);
	MemoryContextReset(stream->scratch);
}

/* mt_copy_stream_end puts the trailer in and sends what is left. */
void
mt_copy_stream_end(MtCopyStream *stream)
{
	if (stream->binary)
		put_int16(stream, -1);
	flush(stream);
	MemoryContextDelete(stream->scratch);
	pfree(stream->buffer.data);
}

static void
put_binary(MtCopyStream *stream, MtColumn *column, Datum value, bool isnull)
{
	bytea	   *bytes;

	if (isnull)
	{
		put_int32(stream, -1);
		return;
	}
	bytes = SendFunctionCall(&column->send, value);
	put_int32(stream, VARSIZE(bytes) - VARHDRSZ);
	put_bytes(stream, VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ);
}

/* put_text escapes what COPY's text form gives a meaning; runs of plain bytes go as they are. */
static void
put_text(MtCopyStream *stream, MtColumn *column, Datum value, bool isnull)
{
	const char *text;
	const char *plain;

	if (isnull)
	{
		put_bytes(stream, "\\N", 2);
		return;
	}
	text = plain = OutputFunctionCall(&column->output, value);
	for (; *text != '\0'; text++)
	{
		const char *escaped = NULL;

		switch (*text)
		{
			case '\\':
				escaped = "\\\\";
				break;
			case '\t':
				escaped = "\\t";
				break;
			case '\n':
				escaped = "\\n";
				break;
			case '\r':
				escaped = "\\r";
				break;
		}
		if (escaped == NULL)
			continue;
		put_bytes(stream, plain, text - plain);
		put_bytes(stream, escaped, 2);
		plain = text + 1;
	}
	put_bytes(stream, plain, text - plain);
}

static void
put_bytes(MtCopyStream *stream, const char *bytes, int length)
{
	stream->bytes += length;
	if (stream->buffer.len + length > STREAM_PIECE)
	{
		flush(stream);
		while (length > STREAM_PIECE)
		{
			stream->send(stream->arg, bytes, STREAM_PIECE);
			bytes += STREAM_PIECE;
			length -= STREAM_PIECE;
		}
	}
	memcpy(stream->buffer.data + stream->buffer.len, bytes, length);
	stream->buffer.len += length;
}

static void
put_int16(MtCopyStream *stream, int16 value)
{
	uint16		network = pg_hton16((uint16) value);

	put_bytes(stream, (char *) &network, sizeof(network));
}

static void
put_int32(MtCopyStream *stream, int32 value)
{
	uint32		network = pg_hton32((uint32) value);

	put_bytes(stream, (char *) &network, sizeof(network));
}

static void
flush(MtCopyStream *stream)
{
	if (stream->buffer.len > 0)
		stream->send(stream->arg, stream->buffer.data, stream->buffer.len);
	stream->buffer.len = 0;
}
