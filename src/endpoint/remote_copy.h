/*
 * remote_copy.h
 *	  COPY into and out of the remote endpoint.
 */
#ifndef MT_REMOTE_COPY_H
#define MT_REMOTE_COPY_H

#include "endpoint/endpoint.h"

/* COPY ... FROM STDIN: bytes are sent as they come, in pieces of any size. */
extern void mt_remote_copy_begin(MtRemote *remote, const char *sql);
extern void mt_remote_copy_send(MtRemote *remote, const char *data, int length);
extern int64 mt_remote_copy_end(MtRemote *remote);	/* rows, as the command tag says */

/* COPY ... TO STDOUT: the next piece, valid until the one after; 0 at the end, and then the rows that were sent. */
extern void mt_remote_copy_out_begin(MtRemote *remote, const char *sql);
extern int	mt_remote_copy_out_next(MtRemote *remote, const char **data, int64 *rows);

#endif							/* MT_REMOTE_COPY_H */
