/*
 * tick.c
 *	  What the worker does: ticks of both directions, in turn, and its deaths.
 *
 * A tick of a direction, as src/sync has it:
 *	 1. begins: one snapshot of the sender; keys of its queue that the mark does not have
 *		and that are not void; their rows as of that snapshot
 *	 2. writes them on the receiver, key by key, which takes the locks of rows
 *	 3. looks, with a fresh snapshot, for unsent entries of these keys in the receiver's
 *		queue; when there are some that were not decided about: rolls back, decides, goes to 2
 *	 4. records: losers are kept, entries of the receiver whose row lost or is equal are void
 *	 5. commits data, records and mark in one transaction of the receiver
 *	 6. ends the sender's transaction
 * The worker may die between any two of them.
 */
#include "model.h"
#include "tick.h"

static void begin(const State *state, int way);
static bool may_begin(const State *state, int way);
static void pass_void(const State *state, int way, Set seen);
static void look(const State *state, int way);
static void record(const State *state, int way);
static void commit(const State *state, int way, const char *who);
static void set_rows(State *next, int way);
static void void_entries(State *next, int way);
static void note(State *next, int side, Set keys, int time);
static void store_mark(State *next, int way);
static void forget(State *next, int side, Set seen);
static void end(const State *state, int way);
static void die(const State *state, int way);
static void resolve_limbo(const State *state, int way);

static const char *const way_names[] = {"forward", "reverse"};

/* tick_steps emits every step of the worker. */
void
tick_steps(const State *state)
{
	for (int way = S; way <= T; way++)
	{
		switch (state->tick[way].at)
		{
			case IDLE:
				begin(state, way);
				break;
			case WRITE:
				tick_write(state, way);
				break;
			case LOOK:
				look(state, way);
				break;
			case DECIDE:
				tick_decide(state, way);
				break;
			case RECORD:
				record(state, way);
				break;
			case COMMIT:
				commit(state, way, way_names[way]);
				break;
			case MARK:
			case END:
				end(state, way);
				break;
			case LIMBO:
				resolve_limbo(state, way);
				break;
		}
		die(state, way);
	}
}

/* begin takes the snapshot of the sender. */
static void
begin(const State *state, int way)
{
	Set seen = committed(state, way) & ~state->mark[way];
	State next = *state;
	Tick *tick = &next.tick[way];

	if (seen == 0 || !may_begin(state, way))
		return;
	if (unsent(state, way, seen, -1) == 0)
	{
		pass_void(state, way, seen);
		return;
	}
	tick->at = WITHOUT(LOOK_BEFORE_LOCK) ? LOOK : WRITE;
	tick->snapshot = seen | state->mark[way];
	for (int key = 0; key < bound.keys; key++)
	{
		if (unsent(state, way, seen, key) == 0)
			continue;
		tick->keys |= BIT(key);
		for (int i = 0; i < TXS; i++)
			if (HAS(seen, i) && HAS(state->tx[i].keys & ~state->tx[i].voided, key))
				tick->captured |= BIT(key);
		/* A row that was only truncated is gone, whatever the snapshot shows: its key is not asked for. */
		tick->row[key] = HAS(tick->captured, key) ? state->side[way].row[key] : ABSENT;
		tick->past[key] = state->side[way].past[key];
	}
	if (WITHOUT(MARK_AHEAD))
		store_mark(&next, way);
	emit(&next, true, "%s: begins with a snapshot that sees %s", way_names[way], set_name(seen));
}

/* may_begin says whether no other tick is under way, not even one of a worker that died. */
static bool
may_begin(const State *state, int way)
{
	int other = state->tick[!way].at;

	return other == IDLE || WITHOUT(TICKS_AT_ONCE) || (other == LIMBO && WITHOUT(NO_SESSION_LOCK));
}

/* pass_void: the worker goes on behind transactions of which all entries are void, and stores nothing. */
static void
pass_void(const State *state, int way, Set seen)
{
	State next = *state;

	if (way == T)
		return;
	next.mark[way] |= seen;
	if (WITHOUT(FORGET_EARLY))
		forget(&next, way, next.mark[way]);
	emit(&next, true, "forward: finds only void entries");
}

/* look: what of the receiver's queue concerns the tick, and was it decided about? */
static void
look(const State *state, int way)
{
	State next = *state;
	Tick *tick = &next.tick[way];
	Set found = 0;

	for (int key = 0; key < bound.keys; key++)
		if (HAS(tick->keys | tick->linked, key))
			found |= tick_writers(state, way, committed(state, !way), key);
	if (found == tick->known && (tick->decided || (found == 0 && tick->linked == 0)))
	{
		tick->at = WITHOUT(LOOK_BEFORE_LOCK) && tick->written != (tick->keys | tick->linked) ? WRITE : RECORD;
		emit(&next, true, "%s: looks, nothing is new", way_names[way]);
		return;
	}
	if (tick->decided)
		tick->linked = 0;
	tick->known = found;
	tick->at = DECIDE;
	tick_release(&next, way);
	emit(&next, true, "%s: looks, finds %s, rolls back to decide", way_names[way], set_name(found));
}

/* record fixes which entries are to be void: those that were decided about, and no later ones. */
static void
record(const State *state, int way)
{
	State next = *state;
	Tick *tick = &next.tick[way];

	tick->cancel = tick->known;
	if (WITHOUT(CANCEL_BY_KEY))
		for (int key = 0; key < bound.keys; key++)
			tick->cancel |= unsent(state, !way, committed(state, !way), key);
	tick->at = COMMIT;
	emit(&next, true, "%s: keeps losers %s, voids entries of %s", way_names[way],
		 keys_name(tick->wins | tick->loses), set_name(tick->wins | tick->equal ? tick->cancel : 0));
}

static void
commit(const State *state, int way, const char *who)
{
	State next = *state;
	Tick *tick = &next.tick[way];

	check_conflicts(&next, way);
	void_entries(&next, way);
	set_rows(&next, way);
	tick->at = WITHOUT(MARK_BEHIND) ? MARK : END;
	if (!WITHOUT(MARK_BEHIND))
		store_mark(&next, way);
	if (state->tick[way].at == LIMBO)
		next.tick[way] = (Tick) {0};
	emit(&next, true, "%s: commits", who);
}

/* set_rows makes the tick's rows the receiver's, and keeps what lost. */
static void
set_rows(State *next, int way)
{
	Tick *tick = &next->tick[way];
	Side *to = &next->side[!way];
	Set noted = 0;
	int time = 0;

	for (int key = 0; key < bound.keys; key++)
	{
		if (HAS(tick->wins, key) && !WITHOUT(LOSER_DROPPED))
			next->kept[key] |= tick->other_past[key];
		if (HAS(tick->loses, key))
			next->kept[key] |= tick->past[key];
		if (HAS(tick->loses & tick->linked, key))
			noted |= BIT(key);
		if (HAS(tick->equal, key))
			next->side[way].past[key] |= tick->other_past[key];
		if (!HAS((tick->keys | tick->linked) & ~tick->loses, key))
			continue;
		if (to->owner[key] == WORKER + way)
		{
			to->row[key] = to->pending[key];
			to->past[key] = tick->past[key];
			if (HAS(tick->equal, key))
				to->past[key] |= tick->other_past[key];
			if (WITHOUT(ECHO_APPLY))
				note(next, !way, BIT(key), 0);
		}
		else
			to->past[key] |= tick->past[key];
	}
	for (int i = 0; i < TXS; i++)
		if (HAS(tick->known, i) && next->tx[i].time > time)
			time = next->tx[i].time;
	if (noted && !WITHOUT(NO_NOTE))
		note(next, !way, noted, time);
	tick_release(next, way);
}

/* void_entries makes entries of the receiver void, of keys whose row lost or is equal. */
static void
void_entries(State *next, int way)
{
	Tick *tick = &next->tick[way];
	Set keys = (WITHOUT(NO_CANCEL_WINNER) ? 0 : tick->wins) | (WITHOUT(NO_CANCEL_EQUAL) ? 0 : tick->equal);

	for (int i = 0; i < TXS; i++)
		for (int key = 0; key < bound.keys; key++)
		{
			bool dated = HAS(tick->cancel, i) || (WITHOUT(CANCEL_FOR_EVER) && i / SIDE_TXS == !way);

			if (!dated || !HAS(keys, key))
				continue;
			if (WITHOUT(NO_SPARE) && next->tx[i].truncated)
				continue;
			if (WITHOUT(SPARE_ALONE) && next->tx[i].truncated && tick_has_entry(next, tick->cancel, key))
				continue;
			next->tx[i].voided |= BIT(key);
		}
}

/* note puts keys into a side's queue in our own name. */
static void
note(State *next, int side, Set keys, int time)
{
	int number = NOTES(side);
	Tx *tx = &next->tx[number];

	if (tx->stage != COMMITTED || HAS(next->mark[side], number))
	{
		/* An id is used once; what was sent is not told apart any more. */
		*tx = (Tx) {.stage = COMMITTED};
		next->mark[side] &= ~BIT(number);
		next->stored[side] &= ~BIT(number);
		next->published[side] &= ~BIT(number);
	}
	tx->keys |= keys;
	tx->voided &= ~keys;
	tx->time = time;
}

static void
store_mark(State *next, int way)
{
	Set seen = next->tick[way].snapshot;

	if (WITHOUT(MARK_HIGHEST))
		for (int i = TXS - 1; i >= 0; i--)
			if (HAS(seen, i))
				seen |= (BIT(i) - 1) & OF_SIDE(way);
	next->mark[way] |= seen;
	next->stored[way] = next->mark[way];
	if (!WITHOUT(STALE_MARK))
		next->published[way] = next->mark[way];
	forget(next, way, next->stored[way]);
}

/* forget drops notes of what is void for transactions that the mark has passed. */
static void
forget(State *next, int side, Set seen)
{
	for (int i = side * SIDE_TXS; i < (side + 1) * SIDE_TXS; i++)
		if (HAS(seen, i))
			next->tx[i].voided = 0;
}

/* end ends the sender's transaction. */
static void
end(const State *state, int way)
{
	State next = *state;

	if (state->tick[way].at == MARK)
		store_mark(&next, way);
	next.published[way] = next.mark[way];
	next.tick[way] = (Tick) {0};
	emit(&next, true, "%s: %s", way_names[way],
		 state->tick[way].at == MARK ? "stores its mark" : "ends the sender's transaction");
}

/* die: the worker is killed and started again; it knows what the receivers have stored. */
static void
die(const State *state, int way)
{
	State next = *state;
	int at = state->tick[way].at;

	if (state->crashes == 0 || at == LIMBO || (at == IDLE && (way == T || state->mark[way] == state->stored[way])))
		return;
	next.crashes--;
	next.mark[S] = next.stored[S];
	next.mark[T] = WITHOUT(STALE_MARK) ? next.published[T] : next.stored[T];
	if (at == COMMIT && way == S)
	{
		/* The target's session has got COMMIT, and nobody knows when it does it. */
		next.tick[way].at = LIMBO;
		emit(&next, true, "the worker dies; its COMMIT is on the way");
		next.tick[way].at = at;
	}
	tick_release(&next, way);
	next.tick[way] = (Tick) {0};
	emit(&next, true, "the worker dies (%s)", way_names[way]);
}

/* resolve_limbo: a session whose worker has died commits or not, at any time later. */
static void
resolve_limbo(const State *state, int way)
{
	State next = *state;

	commit(state, way, "the session of the worker that died");
	tick_release(&next, way);
	next.tick[way] = (Tick) {0};
	emit(&next, true, "the session of the worker that died: rolls back");
}
