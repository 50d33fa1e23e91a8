/*
 * apps.c
 *	  What applications do: transactions of one or two statements on either side.
 *
 * Writes take the row's lock until the end of the transaction; who meets a lock
 * waits.  A transaction is seen by snapshots from its commit on, whenever it
 * began.  Capture notes keys in the transaction itself, so they become visible
 * with its rows.  Which statements a transaction has is left open: all are tried.
 */
#include "model.h"

static void begin_or_go_on(const State *state, int side, int number);
static void write_row(const State *state, int side, int number, int key, int value);
static void truncate_table(const State *state, int side, int number);
static bool unique_allows(const Side *rows, int number, int key, int value);
static void commit(const State *state, int side, int number);
static void roll_back(const State *state, int side, int number);

/* apps_steps emits every step of every application. */
void
apps_steps(const State *state)
{
	for (int side = S; side <= T; side++)
		for (int i = 0; i < bound.txs[side]; i++)
		{
			int number = side * SIDE_TXS + i;
			const Tx *tx = &state->tx[number];

			/* Which of two unborn transactions begins makes no difference. */
			if (tx->stage == UNBORN && i > 0 && state->tx[number - 1].stage == UNBORN)
				continue;
			if ((tx->stage == UNBORN || tx->stage == ACTIVE) && tx->ops < bound.ops)
				begin_or_go_on(state, side, number);
			if (tx->stage == ACTIVE)
				commit(state, side, number);
			/* With two statements each, two transactions can wait for each other: the server ends one. */
			if (tx->stage == ACTIVE && (bound.rollbacks || bound.ops > 1))
				roll_back(state, side, number);
		}
}

static void
begin_or_go_on(const State *state, int side, int number)
{
	const Side *rows = &state->side[side];

	for (int key = 0; key < bound.keys; key++)
	{
		int there = rows->row[key];

		if (rows->owner[key] != NOBODY && rows->owner[key] != APP + number)
			continue; /* waits */
		if (rows->owner[key] != NOBODY)
			there = rows->pending[key];
		for (int u = bound.unique ? 1 : 0; u <= (bound.unique ? 2 : 0); u++)
		{
			write_row(state, side, number, key, u * 16 + OWN + number);
			if (bound.same)
				write_row(state, side, number, key, u * 16 + BOTH);
		}
		if (there != ABSENT)
			write_row(state, side, number, key, ABSENT);
	}
	if (bound.truncates)
		truncate_table(state, side, number);
}

static void
write_row(const State *state, int side, int number, int key, int value)
{
	State next = *state;
	Tx *tx = &next.tx[number];

	if (bound.unique && !unique_allows(&state->side[side], number, key, value))
		return;
	next.side[side].owner[key] = APP + number;
	next.side[side].pending[key] = value;
	if (tx->stage == UNBORN)
		tx->began = bound.policy == LAST_WRITE ? state->clock : 0;
	tx->stage = ACTIVE;
	tx->ops++;
	tx->keys |= BIT(key);
	emit(&next, true, "%s: %s %s %s", tx_name(number), value == ABSENT ? "deletes" : "writes", key_name(key),
		 value == ABSENT ? "" : value_name(value));
}

/* unique_allows says whether a value of the second unique key is free; where that is open, the writer waits. */
static bool
unique_allows(const Side *rows, int number, int key, int value)
{
	for (int other = 0; other < bound.keys; other++)
	{
		bool mine = rows->owner[other] == APP + number;

		if (other == key || value == ABSENT)
			continue;
		if (!mine && rows->row[other] / 16 == value / 16)
			return false;
		if (rows->owner[other] != NOBODY && rows->pending[other] / 16 == value / 16)
			return false;
	}
	return true;
}

/* truncate_table empties the table, once nobody else holds a row. */
static void
truncate_table(const State *state, int side, int number)
{
	State next = *state;

	for (int key = 0; key < bound.keys; key++)
	{
		if (next.side[side].owner[key] != NOBODY && next.side[side].owner[key] != APP + number)
			return;
		next.side[side].owner[key] = APP + number;
		next.side[side].pending[key] = ABSENT;
	}
	if (next.tx[number].stage == UNBORN)
		next.tx[number].began = bound.policy == LAST_WRITE ? state->clock : 0;
	next.tx[number].stage = ACTIVE;
	next.tx[number].ops++;
	next.tx[number].truncated = 1;
	emit(&next, true, "%s: truncates", tx_name(number));
}

/* commit makes rows and entries visible at once; with last_write, two commits may have one time. */
static void
commit(const State *state, int side, int number)
{
	for (int step = bound.policy == LAST_WRITE && state->clock > 0 ? 0 : 1; step <= 1; step++)
	{
		State next = *state;
		Side *rows = &next.side[side];

		next.tx[number].stage = COMMITTED;
		if (bound.policy == LAST_WRITE)
			next.tx[number].time = next.clock += step;
		for (int key = 0; key < bound.keys; key++)
			if (rows->owner[key] == APP + number)
			{
				rows->row[key] = rows->pending[key];
				rows->past[key] |= BIT(number);
				rows->owner[key] = rows->pending[key] = 0;
			}
		emit(&next, true, "%s: commits%s", tx_name(number), step ? "" : " at the time of the last commit");
	}
}

static void
roll_back(const State *state, int side, int number)
{
	State next = *state;

	for (int key = 0; key < bound.keys; key++)
		if (next.side[side].owner[key] == APP + number)
			next.side[side].owner[key] = next.side[side].pending[key] = 0;
	next.tx[number] = (Tx) {.stage = ABORTED};
	emit(&next, true, "%s: rolls back", tx_name(number));
}
