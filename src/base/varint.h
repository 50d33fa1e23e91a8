/*
 * varint.h
 *	  Unsigned integers of seven bits a byte, lowest first.
 */
#ifndef MT_VARINT_H
#define MT_VARINT_H

#include "base/compat.h"

#define MT_VARINT_MAX 5			/* bytes of a 32-bit number */

static inline int
mt_varint_write(char *to, uint32 number)
{
	int			length = 0;

	while (number >= 0x80)
	{
		to[length++] = (char) (number | 0x80);
		number >>= 7;
	}
	to[length++] = (char) number;
	return length;
}

/* Reads a number and moves the pointer on; a number that does not end before "end" is an error. */
static inline uint32
mt_varint_read(const char **from, const char *end)
{
	uint32		number = 0;

	for (int shift = 0; shift < 35; shift += 7)
	{
		unsigned char byte;

		if (*from >= end)
			break;
		byte = (unsigned char) *(*from)++;
		number |= (uint32) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return number;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED), errmsg("a row of the queue cannot be decoded")));
	return 0;
}

#endif							/* MT_VARINT_H */
