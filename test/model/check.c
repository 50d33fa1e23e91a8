/*
 * check.c
 *	  What must be true: the properties, and questions that steps ask of a state.
 *
 * The properties rest on pasts: of each row, the set of transactions that it has
 * come from.  An application's write adds itself; a tick that sets a row takes the sender's
 * past with it.  Two rows are in conflict when neither past holds the other.
 */
#include "model.h"

#include <stdio.h>

static int newest(const State *state, Set txs);

/* touches says whether a transaction left an entry that is about a key. */
bool
touches(const Tx *tx, int key)
{
	return (HAS(tx->keys, key) || tx->truncated) && !HAS(tx->voided, key);
}

/* committed gives the transactions of a side that a snapshot taken now sees. */
Set
committed(const State *state, int side)
{
	Set set = 0;

	for (int i = side * SIDE_TXS; i < (side + 1) * SIDE_TXS; i++)
		if (state->tx[i].stage == COMMITTED)
			set |= BIT(i);
	return set;
}

/* unsent gives those of "seen" that the mark does not have and that touch a key; -1: any key. */
Set
unsent(const State *state, int sender, Set seen, int key)
{
	Set set = 0;

	seen &= OF_SIDE(sender) & ~state->mark[sender];
	for (int i = 0; i < TXS; i++)
		for (int k = 0; k < bound.keys; k++)
			if (HAS(seen, i) && (key < 0 || key == k) && touches(&state->tx[i], k))
				set |= BIT(i);
	return set;
}

/* drained says whether nobody writes and nothing is left to send. */
bool
drained(const State *state)
{
	for (int i = 0; i < TXS; i++)
		if (state->tx[i].stage == ACTIVE)
			return false;
	for (int side = S; side <= T; side++)
		if (state->tick[side].at != IDLE || unsent(state, side, OF_SIDE(side) & committed(state, side), -1))
			return false;
	return true;
}

/* check_drained compares both sides, and looks for every committed write. */
int
check_drained(const State *state)
{
	for (int key = 0; key < bound.keys; key++)
	{
		Set there = state->side[S].past[key] | state->side[T].past[key] | state->kept[key];

		if (state->side[S].row[key] != state->side[T].row[key])
			return DIFFERENT;
		for (int i = 0; i < TXS; i++)
			if (state->tx[i].stage == COMMITTED && i != NOTES(S) && i != NOTES(T) &&
				(HAS(state->tx[i].keys, key) || state->tx[i].truncated) && !HAS(there, i))
				return LOST;
	}
	return FINE;
}

/* check_conflicts looks at the conflicts of a tick that commits. */
void
check_conflicts(State *state, int direction)
{
	const Tick *tick = &state->tick[direction];
	Set source_writes = 0;
	Set target_writes = 0;

	for (int key = 0; key < bound.keys; key++)
	{
		Set source = (direction == S ? tick->past : tick->other_past)[key];
		Set target = (direction == S ? tick->other_past : tick->past)[key];

		if (!HAS(tick->wins | tick->loses, key))
			continue;
		if (tick->row[key] == tick->other[key])
			state->bad = EQUAL_CONFLICT;
		/* A row that clashes with another key's is not in conflict with its own other side. */
		if (!HAS(tick->linked, key) && ((source & ~target) == 0 || (target & ~source) == 0))
			state->bad = FALSE_CONFLICT;
		if (HAS(tick->linked, key))
		{
			source_writes |= source & ~target;
			target_writes |= target & ~source;
			continue;
		}
		/* What both directions would have to say: it rests on the rows alone. */
		if (winner_of(tick->reads_target, newest(state, source & ~target & OF_SIDE(S)),
					  newest(state, target & ~source & OF_SIDE(T)), -1) !=
			(HAS(tick->wins, key) ? direction : !direction))
			state->bad = WRONG_WINNER;
	}
	if ((tick->linked & (tick->wins | tick->loses)) &&
		winner_of(tick->reads_target, newest(state, source_writes & OF_SIDE(S)),
				  newest(state, target_writes & OF_SIDE(T)), -1) !=
			((tick->linked & tick->wins) ? direction : !direction))
		state->bad = WRONG_WINNER;
}

static int
newest(const State *state, Set txs)
{
	int time = 0;

	for (int i = 0; i < TXS; i++)
		if (HAS(txs, i) && state->tx[i].time > time)
			time = state->tx[i].time;
	return time;
}

/* winner_of applies the policy; "receiver" is only asked by mutations. */
int
winner_of(int reads_target, int source_time, int target_time, int receiver)
{
	if (WITHOUT(RECEIVER_WINS) && receiver >= 0)
		return receiver;
	switch (bound.policy)
	{
		case SOURCE:
			return S;
		case TARGET:
			return T;
		case READING_SIDE:
			return reads_target ? T : S;
		default:
			if (WITHOUT(TIE_RECEIVER) && receiver >= 0 && source_time == target_time)
				return receiver;
			return source_time >= target_time ? S : T;
	}
}

const char *
property_name(int bad)
{
	static const char *const names[] = {
		[FINE] = NULL,
		[FALSE_CONFLICT] = "false conflict: one row has come from the other",
		[EQUAL_CONFLICT] = "false conflict: the rows are equal",
		[WRONG_WINNER] = "the other direction would have decided otherwise",
		[LOST] = "a committed write is lost, and nothing was kept of it",
		[DIFFERENT] = "both queues are empty, and the sides differ",
	};

	return names[bad];
}

const char *
key_name(int key)
{
	static const char *const names[] = {"k1", "k2", "k3"};

	return names[key];
}

const char *
value_name(int value)
{
	static char texts[4][40];
	static int turn = 0;
	char *text = texts[turn++ % 4];
	int who = value % 16;

	if (who == ABSENT)
		return "-";
	snprintf(text, sizeof(texts[0]), "%s%s%s", who < OWN ? "" : "value of ",
			 who == OLD ? "old" : who == BOTH ? "both" :
												tx_name(who - OWN),
			 value < 16 ? "" : value < 32 ? " with u = 1" :
											" with u = 2");
	return text;
}

const char *
tx_name(int tx)
{
	static const char *const names[] = {"s1", "s2", "s3", "our notes on S", "t1", "t2", "t3", "our notes on T"};

	return names[tx];
}
