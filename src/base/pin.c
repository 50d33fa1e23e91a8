/*
 * pin.c
 *	  Pins settings for a while: see pin.h.
 */
#include "base/pin.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/guc.h"

static const char *const pinned_settings[][2] = {MT_PINNED_SETTINGS(MT_PIN_MEMBER)};

/* mt_pin_begin pins the settings; the level that it returns is for mt_pin_end. */
int
mt_pin_begin(void)
{
	int			guc_level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(pinned_settings); i++)
		(void) set_config_option(pinned_settings[i][0], pinned_settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return guc_level;
}

/* mt_pin_local writes the statements that set them otherwise for a while. */
char *
mt_pin_local(bool pinned)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < lengthof(pinned_settings); i++)
		if (strcmp(pinned_settings[i][0], "search_path") != 0)
			appendStringInfo(&sql, "SET LOCAL %s TO %s; ", pinned_settings[i][0],
							 pinned ? quote_literal_cstr(pinned_settings[i][1]) : "DEFAULT");
	return sql.data;
}

/* mt_pin_end gives the session back what it had. */
void
mt_pin_end(int guc_level)
{
	AtEOXact_GUC(true, guc_level);
}
