/*
 * watch.h
 *	  Notices that the declaration of migrations was changed, or a table that sync has open.
 *
 * The server tells of any change to a table's entry in the relation cache, and VACUUM and ANALYZE change it, too.  What
 * sync knows of a table stands in rows of the catalogs that these two do not write, or write in place.
 */
#ifndef MT_WATCH_H
#define MT_WATCH_H

#include "base/compat.h"

#include "nodes/pg_list.h"

extern void mt_watch_begin(void);	/* once a process */

/* Watches these tables (OIDs) instead of those of before; called before they are read, in a transaction. */
extern void mt_watch_tables(List *tables);
extern void mt_watch_no_tables(void);

/* Whether something changed since this was asked last; called outside of a transaction. */
extern bool mt_watch_changed(void);
extern bool mt_watch_servers_changed(void);	/* foreign servers and user mappings; in a transaction, which hears of it */

#endif							/* MT_WATCH_H */
