/*
 * settings.c
 *	  The settings of the extension: see settings.h.
 */
#include "base/settings.h"

#include <limits.h>

#include "utils/guc.h"

int			mt_lock_timeout = 200;
bool		mt_allow_ddl = false;
int			mt_small_tick = 2048;

static char *session_token;
static char *noted_transactions;

/* mt_settings_define defines every setting; called once, when the library is loaded. */
void
mt_settings_define(void)
{
	DefineCustomIntVariable("migrate_tiers.lock_timeout",
							"How long a statement of ours may queue for a lock on a user's table.",
							"It then gives up, backs off and tries again.",
							&mt_lock_timeout, 200, 1, 60000, PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("migrate_tiers.allow_ddl",
							 "Lets DDL pass that the guard of migrated tables would refuse.",
							 "A table whose rows may have moved unseen is then copied again.",
							 &mt_allow_ddl, false, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("migrate_tiers.small_tick",
							"Number of keys up to which a tick is sent row by row.",
							"Larger ticks go through COPY into a staging table.",
							&mt_small_tick, 2048, 1, 100000, PGC_SUSET, 0, NULL, NULL, NULL);
	/* A target whose server preloads the library has to know what our sessions there set. */
	DefineCustomStringVariable("migrate_tiers.session",
							   "Tells the fence on a target that a session belongs to a migration.",
							   "Set by the workers in their sessions on the target.",
							   &session_token, "", PGC_USERSET, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("migrate_tiers.xid",
							   "Tells capture on a target that a transaction is noted already.",
							   "Set by our triggers on the target, for the transaction.",
							   &noted_transactions, "", PGC_USERSET, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
	MarkGUCPrefixReserved("migrate_tiers");
}

/* mt_lock_timeout_text returns the lock timeout in milliseconds, as text. */
const char *
mt_lock_timeout_text(void)
{
	return psprintf("%dms", mt_lock_timeout);
}
