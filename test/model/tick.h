/*
 * tick.h
 *	  Parts of a tick: tick.c has the steps, receiver.c what is done with the rows.
 */
#ifndef TICK_H
#define TICK_H

#include "model.h"

/* Writes one key more on the receiver, or goes on to look. */
extern void tick_write(const State *state, int way);

/* Reads the receiver's rows of the keys that it has changed, too, and says which rows win. */
extern void tick_decide(const State *state, int way);

/* Which of "seen" wrote a key on the receiver and are unsent. */
extern Set tick_writers(const State *state, int way, Set seen, int key);

/* Whether one of "seen" left an entry of the key itself, besides a TRUNCATE. */
extern bool tick_has_entry(const State *state, Set seen, int key);

/* Rolls back on the receiver. */
extern void tick_release(State *next, int way);

extern const char *set_name(Set txs);
extern const char *keys_name(Set keys);

#endif /* TICK_H */
