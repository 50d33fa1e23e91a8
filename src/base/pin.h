/*
 * pin.h
 *	  Settings under which a value is the same text in every session, and so is
 *	  what the server says of its catalog.
 *
 * What two sessions compare, or one keeps and another reads, is written under
 * these: on the target, in the workers, and wherever code of ours runs in the
 * session of somebody else.
 */
#ifndef MT_PIN_H
#define MT_PIN_H

#include "base/compat.h"

#define MT_PINNED_SETTINGS(PIN) \
	PIN("search_path", "pg_catalog, pg_temp") \
	PIN("DateStyle", "ISO, YMD") \
	PIN("IntervalStyle", "postgres") \
	PIN("TimeZone", "UTC") \
	PIN("extra_float_digits", "3") \
	PIN("bytea_output", "hex") \
	PIN("lc_monetary", "C") \
	PIN("xmloption", "content") \
	PIN("array_nulls", "on") \
	PIN("standard_conforming_strings", "on") \
	PIN("quote_all_identifiers", "off")

/* As a member of an initializer, and as a row of VALUES in SQL. */
#define MT_PIN_MEMBER(name, value) {name, value},
#define MT_PIN_ROW(name, value)	   "('" name "', '" value "'), "

/* Statements that pin them for a transaction, or give it what the server, database or role have; not search_path. */
extern char *mt_pin_local(bool pinned);

/* Sets them in this session until mt_pin_end. */
extern int	mt_pin_begin(void);
extern void mt_pin_end(int guc_level);

#endif							/* MT_PIN_H */
