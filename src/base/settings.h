/*
 * settings.h
 *	  The settings of the extension: migrate_tiers.<name>.
 *
 * Options of one migration are rows (catalog/option.h); what is here belongs
 * to the server, the database or the session.
 */
#ifndef MT_SETTINGS_H
#define MT_SETTINGS_H

#include "base/compat.h"

extern int	mt_lock_timeout;	/* migrate_tiers.lock_timeout, ms */
extern bool mt_allow_ddl;		/* migrate_tiers.allow_ddl */
extern int	mt_small_tick;		/* migrate_tiers.small_tick, keys */

extern void mt_settings_define(void);

/* Formats mt_lock_timeout as a value for SET lock_timeout. */
extern const char *mt_lock_timeout_text(void);

#endif							/* MT_SETTINGS_H */
