/*
 * receiver.c
 *	  What a tick does with rows of the receiver: write, and decide.
 */
#include "tick.h"

#include <stdio.h>
#include <string.h>

static void write_key(const State *state, int way, int key);
static void give_up(const State *state, int way, int key);
static void write_unique(const State *state, int way);
static void remove_row(const State *state, int way, int key);
static void insert_row(const State *state, int way, int key);
static void clash(const State *state, int way, int key, int other);
static void decide_linked(State *next, int way);
static bool is_conflict(const State *state, int way, int key);
static int time_of(const State *state, Set txs);
static int winner(const State *next, int way, int sender_time, int receiver_time);

static const char *const way_names[] = {"forward", "reverse"};

/* tick_write writes the next key that is left. */
void
tick_write(const State *state, int way)
{
	const Tick *tick = &state->tick[way];
	Set apply = (tick->keys | tick->linked) & ~tick->loses;
	State next = *state;

	if (bound.unique && (tick->written & apply) != apply)
	{
		write_unique(state, way);
		return;
	}
	for (int key = 0; key < bound.keys; key++)
		if (HAS(apply & ~tick->written, key))
		{
			write_key(state, way, key);
			return;
		}
	next.tick[way].at = WITHOUT(NO_LOOK) || WITHOUT(LOOK_BEFORE_LOCK) ? RECORD : LOOK;
	next.tick[way].written = next.tick[way].removed = 0;
	if (WITHOUT(LOOK_BEFORE_LOCK))
		next.tick[way].written = apply;
	emit(&next, true, "%s: has written", way_names[way]);
}

/* write_key sets one row to what it is in the sender's snapshot: statements act on what is committed now. */
static void
write_key(const State *state, int way, int key)
{
	State next = *state;
	Tick *tick = &next.tick[way];
	Side *to = &next.side[!way];

	if (WITHOUT(READ_LATER) && !tick->decided && HAS(tick->captured, key))
	{
		tick->row[key] = state->side[way].row[key];
		tick->past[key] = state->side[way].past[key];
	}
	if (to->owner[key] != NOBODY && to->row[key] != tick->row[key])
	{
		give_up(state, way, key);
		return;
	}
	tick->written |= BIT(key);
	/* Rows are set only where they differ; one that is absent cannot be locked. */
	if (to->row[key] != tick->row[key])
	{
		to->owner[key] = WORKER + way;
		to->pending[key] = tick->row[key];
	}
	emit(&next, true, "%s: sets %s to %s", way_names[way], key_name(key), value_name(tick->row[key]));
}

/* give_up: nobody waits for us, and we for nobody. */
static void
give_up(const State *state, int way, int key)
{
	State next = *state;

	tick_release(&next, way);
	next.tick[way] = (Tick) {0};
	emit(&next, false, "%s: gives up, %s is locked", way_names[way], key_name(key));
}

/* write_unique deletes what is to change and then inserts: rows may exchange values. */
static void
write_unique(const State *state, int way)
{
	const Tick *tick = &state->tick[way];
	Set apply = (tick->keys | tick->linked) & ~tick->loses;

	for (int key = 0; key < bound.keys; key++)
		if (HAS(apply & ~tick->removed, key))
		{
			remove_row(state, way, key);
			return;
		}
	for (int key = 0; key < bound.keys; key++)
		if (HAS(apply & ~tick->written, key))
		{
			insert_row(state, way, key);
			return;
		}
}

static void
remove_row(const State *state, int way, int key)
{
	State next = *state;
	Tick *tick = &next.tick[way];
	Side *to = &next.side[!way];

	tick->removed |= BIT(key);
	if (to->row[key] != ABSENT && to->row[key] != tick->row[key])
	{
		if (to->owner[key] != NOBODY)
		{
			give_up(state, way, key);
			return;
		}
		to->owner[key] = WORKER + way;
		to->pending[key] = ABSENT;
	}
	emit(&next, true, "%s: deletes %s if it is to change", way_names[way], key_name(key));
}

static void
insert_row(const State *state, int way, int key)
{
	State next = *state;
	Tick *tick = &next.tick[way];
	Side *to = &next.side[!way];
	bool ours = to->owner[key] == WORKER + way;

	tick->written |= BIT(key);
	if (tick->row[key] != ABSENT && (ours || to->row[key] != tick->row[key]))
	{
		if (!ours && (to->owner[key] != NOBODY || to->row[key] != ABSENT))
		{
			give_up(state, way, key);
			return;
		}
		for (int other = 0; other < bound.keys; other++)
		{
			bool our_other = to->owner[other] == WORKER + way;
			bool meets = (our_other ? to->pending : to->row)[other] / 16 == tick->row[key] / 16;

			if (other == key)
				continue;
			if (!our_other && to->owner[other] != NOBODY &&
				(meets || to->pending[other] / 16 == tick->row[key] / 16))
			{
				give_up(state, way, other);
				return;
			}
			if (meets)
			{
				clash(state, way, key, other);
				return;
			}
		}
		to->owner[key] = WORKER + way;
		to->pending[key] = tick->row[key];
	}
	emit(&next, true, "%s: sets %s to %s", way_names[way], key_name(key), value_name(tick->row[key]));
}

/* clash: the receiver has another row with this value of the second unique key; they are decided as one. */
static void
clash(const State *state, int way, int key, int other)
{
	State next = *state;
	Tick *tick = &next.tick[way];

	tick_release(&next, way);
	if (WITHOUT(NO_LINK))
		*tick = (Tick) {0};
	else
	{
		tick->linked |= BIT(key) | BIT(other);
		tick->at = LOOK;
		tick->decided = 0;
		tick->wins = tick->loses = tick->equal = 0;
		for (int k = 0; k < bound.keys; k++)
			if (HAS(tick->linked & ~tick->keys, k))
			{
				tick->row[k] = WITHOUT(JOINED_UNREAD) ? ABSENT : state->side[way].row[k];
				tick->past[k] = state->side[way].past[k];
			}
	}
	emit(&next, true, "%s: rolls back, %s clashes with %s", way_names[way], key_name(key), key_name(other));
}

/* tick_decide compares the rows of keys that both sides have changed. */
void
tick_decide(const State *state, int way)
{
	State next = *state;
	Tick *tick = &next.tick[way];

	tick->at = WRITE;
	tick->decided = 1;
	tick->reads_target = state->reads_target;
	tick->wins = tick->loses = tick->equal = 0;
	for (int key = 0; key < bound.keys; key++)
	{
		Set writers = tick_writers(state, way, tick->known, key);

		tick->other[key] = tick->other_past[key] = 0;
		if (!HAS(tick->keys | tick->linked, key) || (writers == 0 && !HAS(tick->linked, key)))
			continue;
		tick->other[key] = state->side[!way].row[key];
		tick->other_past[key] = state->side[!way].past[key];
		if (!is_conflict(&next, way, key))
			tick->equal |= BIT(key);
		else if (HAS(tick->linked, key))
			continue;
		else if (winner(&next, way, time_of(state, unsent(state, way, tick->snapshot, key)),
						time_of(state, writers)) == way)
			tick->wins |= BIT(key);
		else
			tick->loses |= BIT(key);
	}
	if (tick->linked)
		decide_linked(&next, way);
	emit(&next, true, "%s: decides: wins %s, loses %s, equal %s", way_names[way], keys_name(tick->wins),
		 keys_name(tick->loses), keys_name(tick->equal));
}

/* decide_linked decides once about all keys that clash with each other. */
static void
decide_linked(State *next, int way)
{
	Tick *tick = &next->tick[way];
	int sender_time = 0;
	int receiver_time = 0;

	for (int key = 0; key < bound.keys; key++)
		if (HAS(tick->linked, key))
		{
			int sent = time_of(next, unsent(next, way, tick->snapshot, key));
			int there = time_of(next, tick_writers(next, way, tick->known, key));

			sender_time = sent > sender_time ? sent : sender_time;
			receiver_time = there > receiver_time ? there : receiver_time;
		}
	if (winner(next, way, sender_time, receiver_time) == way)
		tick->wins |= tick->linked & ~tick->equal;
	else
		tick->loses |= tick->linked & ~tick->equal;
}

static bool
is_conflict(const State *state, int way, int key)
{
	const Tick *tick = &state->tick[way];

	return tick->row[key] != tick->other[key] || WITHOUT(EQUAL_IS_CONFLICT);
}

static int
time_of(const State *state, Set txs)
{
	int time = 0;

	for (int i = 0; i < TXS; i++)
	{
		int of_tx = WITHOUT(TIME_OF_START) ? state->tx[i].began : state->tx[i].time;

		if (HAS(txs, i) && of_tx > time)
			time = of_tx;
	}
	return time;
}

static int
winner(const State *next, int way, int sender_time, int receiver_time)
{
	return winner_of(next->tick[way].reads_target, way == S ? sender_time : receiver_time,
					 way == S ? receiver_time : sender_time, !way);
}

/* tick_writers gives the transactions of the receiver that touch a key. */
Set
tick_writers(const State *state, int way, Set seen, int key)
{
	Set found = unsent(state, !way, seen, key);

	for (int i = 0; i < TXS; i++)
		if (HAS(found, i) && state->tx[i].truncated && !HAS(state->tx[i].keys, key) &&
			(WITHOUT(TRUNCATE_UNSEEN) || (WITHOUT(SPARE_ALONE) && tick_has_entry(state, found, key))))
			found &= ~BIT(i);
	return found;
}

bool
tick_has_entry(const State *state, Set seen, int key)
{
	for (int i = 0; i < TXS; i++)
		if (HAS(seen, i) && HAS(state->tx[i].keys & ~state->tx[i].voided, key))
			return true;
	return false;
}

/* tick_release gives the locks back. */
void
tick_release(State *next, int way)
{
	Side *to = &next->side[!way];

	for (int key = 0; key < bound.keys; key++)
		if (to->owner[key] == WORKER + way)
			to->owner[key] = to->pending[key] = 0;
	next->tick[way].written = next->tick[way].removed = 0;
}

const char *
set_name(Set txs)
{
	static char text[128];

	strcpy(text, txs ? "" : "nothing");
	for (int i = 0; i < TXS; i++)
		if (HAS(txs, i))
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", text[0] ? ", " : "", tx_name(i));
	return text;
}

const char *
keys_name(Set keys)
{
	static char texts[4][32];
	static int turn = 0;
	char *text = texts[turn++ % 4];

	strcpy(text, keys ? "" : "none");
	for (int key = 0; key < bound.keys; key++)
		if (HAS(keys, key))
			snprintf(text + strlen(text), 32 - strlen(text), "%s%s", text[0] ? ", " : "", key_name(key));
	return text;
}
