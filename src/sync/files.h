/*
 * files.h
 *	  Tells whether a tick has read a table that was given another file meanwhile.
 *
 * TRUNCATE gives a table an empty file for everybody at once, whatever snapshot he has.  A tick that waits for whoever
 * truncates, or comes to the table after him, finds no row there although its snapshot has some: the receiver would
 * show a state that the sender never had.  Such a tick is taken again.
 */
#ifndef MT_FILES_H
#define MT_FILES_H

#include "sync/tick.h"

/* Begins to watch, before the snapshot of a tick is taken; locks here what the last tick has found changed. */
extern void mt_files_watch(MtSync *sync);

/* Whether a table of this server whose rows the tick has read was given another file since its snapshot. */
extern bool mt_files_changed(MtSync *sync);

/* The same of the target's tables.  It may be asked in the pipeline that reads them; reading again makes it void. */
extern bool mt_files_target_changed(MtSync *sync);
extern void mt_files_prepare(MtSync *sync);
extern void mt_files_ask(MtSync *sync, List *tables);
extern void mt_files_read_again(MtSync *sync);
extern void mt_files_ask_lock(MtSync *sync);	/* there, as mt_files_watch does here */

#endif							/* MT_FILES_H */
