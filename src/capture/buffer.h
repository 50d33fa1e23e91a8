/*
 * buffer.h
 *	  The changes that this backend's transaction has noted and not yet written.
 *
 * One buffer a migration.  Notes belong to the subtransaction that made them:
 * when it aborts, they are dropped; when it commits, they are its parent's.
 * Each level's notes are written, if they must be written early, in the name of
 * that level, so that they live and die with it.
 */
#ifndef MT_BUFFER_H
#define MT_BUFFER_H

#include "catalog/queue.h"

/* Notes a change; a key that is still in the buffer is not noted twice. */
extern void mt_buffer_note(int32 migration, int32 relation, MtEntryKind kind, const char *bytes, int length);

/* Registers the transaction callbacks; called once, when the library is loaded. */
extern void mt_buffer_init(void);

#endif							/* MT_BUFFER_H */
