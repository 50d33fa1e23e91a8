/*
 * pipeline.h
 *	  Many statements to the remote endpoint in one round trip.
 */
#ifndef MT_PIPELINE_H
#define MT_PIPELINE_H

#include "endpoint/endpoint.h"

/*
 * A pipeline: statements are queued, sent as the socket takes them, answers
 * read meanwhile.  mt_pipeline_finish waits for all; the first error is raised.
 */
extern void mt_pipeline_begin(MtRemote *remote);
extern void mt_pipeline_query(MtRemote *remote, const char *sql, int nparams, const MtField *params);
extern void mt_pipeline_execute(MtRemote *remote, const char *statement, int nparams, const MtField *params);

/* The same, and gives the rows, in binary form, as mt_remote_stream does; when answers are read. */
extern void mt_pipeline_rows(MtRemote *remote, const char *statement, int nparams, const MtField *params,
							 MtRowFn row_function, void *arg);

extern int64 mt_pipeline_finish(MtRemote *remote);	/* rows affected, together */

/* Ends a pipeline, too: which statement failed first, counted from 0, and how; -1 where none did. */
extern int64 mt_pipeline_failed(MtRemote *remote, int *sqlerrcode);

#endif							/* MT_PIPELINE_H */
