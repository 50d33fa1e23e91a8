/*
 * own_trigger.h
 *	  A trigger of ours on a table of the source: made, checked and dropped.
 *
 * Whoever has the privilege TRIGGER on a table can give it one of our names
 * before we do.  So a name alone proves nothing: what is not whole is made
 * anew, what runs another function is refused.
 */
#ifndef MT_OWN_TRIGGER_H
#define MT_OWN_TRIGGER_H

#include "base/compat.h"

#include "nodes/pg_list.h"

/* What the triggers of one name have in common. */
typedef struct MtOwnTrigger
{
	const char *name;
	const char *function;		/* in schema migrate_tiers */
	const char *events;			/* when it fires, as in CREATE TRIGGER */
	int16		type;			/* the same and the level, as in pg_trigger.tgtype */
} MtOwnTrigger;

/*
 * Says whether a table has the trigger as it has to be, with these integers as arguments.  Raises
 * ERRCODE_DUPLICATE_OBJECT where another trigger has the name.
 */
extern bool mt_own_trigger_whole(Oid relid, const MtOwnTrigger *trigger, const List *arguments);

/* Makes the trigger, also in place of one that is not whole, and lets it fire in every session. */
extern void mt_own_trigger_make(Oid relid, const MtOwnTrigger *trigger, const List *arguments);

/* Says whether a table has the trigger, whole or not; drops it. */
extern bool mt_own_trigger_exists(Oid relid, const MtOwnTrigger *trigger);
extern void mt_own_trigger_drop(Oid relid, const MtOwnTrigger *trigger);

#endif							/* MT_OWN_TRIGGER_H */
