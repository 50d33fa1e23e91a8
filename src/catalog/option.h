/*
 * option.h
 *	  Options of one migration: rows of migrate_tiers.option_value over the
 *	  defaults of one table in option.c (name, type, default, unit, meaning).
 */
#ifndef MT_OPTION_H
#define MT_OPTION_H

#include "base/compat.h"

#define MT_OPTION_OWNER "owner"

typedef enum MtOptionType
{
	MT_OPTION_BOOL,
	MT_OPTION_INTEGER,			/* int64, also sizes: '64MB' is accepted where the unit is bytes */
	MT_OPTION_INTERVAL,			/* kept as given, read as microseconds */
	MT_OPTION_UUID,				/* or empty */
	MT_OPTION_ENUM,
	MT_OPTION_ROLE				/* not stored with the others: whoever sets options sees to it */
} MtOptionType;

typedef struct MtOptionDef
{
	const char *name;
	MtOptionType type;
	const char *fallback;		/* the default, as text; of a role NULL */
	const char *unit;
	const char *meaning;
	int64		min;
	int64		max;
	const char *const *values;	/* of an enum, NULL-terminated */
} MtOptionDef;

extern const MtOptionDef mt_option_defs[];
extern const int mt_option_count;

extern const char *mt_option_text(int32 migration, const char *name);
extern bool mt_option_bool(int32 migration, const char *name);
extern int64 mt_option_integer(int32 migration, const char *name);
extern int64 mt_option_microseconds(int32 migration, const char *name);

/* Checks the value against the definition and stores it. */
extern void mt_option_set(int32 migration, const char *name, const char *value);

#endif							/* MT_OPTION_H */
