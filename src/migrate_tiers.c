/*
 * migrate_tiers.c
 *	  Entry of the library: settings and callbacks.
 *
 * To read the code, follow a migration: phase/ holds the table of phases and
 * the steps of a transition; capture/ notes which keys changed; copy/ moves
 * what was there before; sync/ sends on what was captured; worker/ drives both.
 * catalog/ has one file a table of ours, endpoint/ is a side of the migration,
 * base/ is what everything stands on, and api/ is where SQL enters.
 */
#include "base/compat.h"

#include "miscadmin.h"

#include "base/settings.h"
#include "capture/attach.h"
#include "capture/ddl_guard.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/* _PG_init defines what has to be there before the first call of a function. */
void
_PG_init(void)
{
	mt_settings_define();
	mt_capture_init();
	mt_ddl_init();
	if (process_shared_preload_libraries_in_progress)
		mt_launcher_register();
}
