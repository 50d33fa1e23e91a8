/*
 * explore.c
 *	  Tries every order of steps, breadth first: the first way to a broken property is
 *	  a shortest one.
 *
 * Each different state is kept once, with the state it was first reached from.
 * Afterwards the graph is searched for a circle: with none, every order of steps
 * comes to an end.  A step that gives up because of a lock leads back to where it
 * came from and is left out of that: whoever holds the lock goes on.
 */
#include "model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void start(void);
static void add(const State *state);
static uint32_t find(const State *state, bool *found);
static void grow(void);
static bool has_circle(uint32_t *at);
static void enter(uint32_t state, uint32_t *way, uint8_t *left, uint32_t *length, uint8_t *color);
static void expand(uint32_t at);
static void show_way(uint32_t to);

static State *states;
static uint32_t *parents;
static uint32_t *slots;
static uint32_t nstates;
static uint32_t room;
static uint64_t nslots;

static uint32_t parent; /* whose steps are emitted */
static long edges;
static uint32_t *out; /* where fair successors go, or NULL */
static long nout;
static const State *wanted; /* whose text is to be shown, or NULL */
static char text[256];

/* explore runs from every first state; "show" prints the way to what is broken. */
Result
explore(bool show)
{
	Result result = {0};
	uint32_t at;
	int bad = FINE;

	nstates = 0;
	edges = 0;
	if (slots)
		memset(slots, 0, nslots * sizeof(*slots));
	start();
	for (at = 0; at < nstates; at++)
	{
		bad = states[at].bad;
		if (bad == FINE && drained(&states[at]))
			bad = check_drained(&states[at]);
		if (bad != FINE)
			break;
		expand(at);
	}
	result.broken = property_name(bad);
	if (bad == FINE && has_circle(&at))
		result.broken = "the exchange never ends";
	result.states = nstates;
	result.edges = edges;
	if (result.broken)
		for (uint32_t i = at; parents[i] != i; i = parents[i])
			result.steps++;
	if (result.broken && show)
		show_way(at);
	return result;
}

/* start adds the states with each key absent or present, the same on both sides. */
static void
start(void)
{
	for (int present = 0; present < 1 << bound.keys; present++)
	{
		State state;

		memset(&state, 0, sizeof(state));
		if (bound.unique && present == (1 << bound.keys) - 1 && bound.keys > 2)
			continue;
		for (int key = 0; key < bound.keys; key++)
			if (HAS(present, key))
				state.side[S].row[key] = state.side[T].row[key] =
					OLD + (bound.unique ? 16 * (1 + __builtin_popcount(present & ((1 << key) - 1)) % 2) : 0);
		if (bound.unique && __builtin_popcount(present) > 2)
			continue;
		state.crashes = bound.crashes;
		parent = nstates;
		add(&state);
	}
}

/* emit takes a successor of the state that is expanded. */
void
emit(const State *next, bool fair, const char *format, ...)
{
	if (wanted)
	{
		va_list args;

		if (text[0] != '\0' || memcmp(next, wanted, sizeof(State)) != 0)
			return;
		va_start(args, format);
		vsnprintf(text, sizeof(text), format, args);
		va_end(args);
	}
	else if (out)
	{
		bool found;

		if (fair)
			out[nout++] = find(next, &found);
	}
	else
	{
		edges++;
		add(next);
	}
}

static void
expand(uint32_t at)
{
	State state = states[at];

	parent = at;
	apps_steps(&state);
	tick_steps(&state);
	if (bound.policy == READING_SIDE && !state.reads_target)
	{
		State next = state;

		next.reads_target = 1;
		emit(&next, true, "phase read_target begins");
	}
}

static void
add(const State *state)
{
	bool found;
	uint32_t slot;

	if (nstates + 1 >= room || (uint64_t) nstates * 2 >= nslots)
		grow();
	slot = find(state, &found);
	if (found)
		return;
	states[nstates] = *state;
	parents[nstates] = parent;
	slots[slot] = ++nstates;
}

/* find returns the number of a state that is there, else the slot for it. */
static uint32_t
find(const State *state, bool *found)
{
	uint64_t words[sizeof(State) / 8 + 1] = {0};
	uint64_t hash = 0;
	uint64_t slot;

	memcpy(words, state, sizeof(State));
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
	{
		hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u;
		hash ^= hash >> 32;
	}
	for (slot = hash & (nslots - 1); slots[slot]; slot = (slot + 1) & (nslots - 1))
		if (memcmp(&states[slots[slot] - 1], state, sizeof(State)) == 0)
		{
			*found = true;
			return slots[slot] - 1;
		}
	*found = false;
	return (uint32_t) slot;
}

static void
grow(void)
{
	room = room ? room * 2 : 1 << 16;
	states = realloc(states, room * sizeof(*states));
	parents = realloc(parents, room * sizeof(*parents));
	free(slots);
	nslots = (uint64_t) room * 2;
	slots = calloc(nslots, sizeof(*slots));
	if (!states || !parents || !slots)
	{
		fprintf(stderr, "model: out of memory\n");
		exit(2);
	}
	for (uint32_t i = 0; i < nstates; i++)
	{
		bool found;
		uint32_t slot = find(&states[i], &found);

		slots[slot] = i + 1;
	}
}

/*
 * has_circle searches in depth for a way back to a state that is on the way.
 *
 * "out" holds the successors of all states that are on the way, those of the last one on top;
 * "left" says how many each of them has left.
 */
static bool
has_circle(uint32_t *at)
{
	enum
	{
		NEW,
		OPEN,
		DONE
	};
	uint8_t *color = calloc(nstates, 1);
	uint32_t *way = malloc(sizeof(uint32_t) * (nstates + 1));
	uint8_t *left = malloc(nstates + 1);
	uint32_t length = 0;
	bool circle = false;

	out = malloc(sizeof(uint32_t) * (edges + 1));
	nout = 0;
	for (uint32_t first = 0; first < nstates && !circle; first++)
	{
		if (color[first] == NEW)
			enter(first, way, left, &length, color);
		while (length > 0 && !circle)
		{
			uint32_t to;

			if (left[length - 1] == 0)
			{
				color[way[--length]] = DONE;
				continue;
			}
			left[length - 1]--;
			to = out[--nout];
			circle = color[to] == OPEN;
			*at = way[length - 1];
			if (color[to] == NEW)
				enter(to, way, left, &length, color);
		}
	}
	free(color);
	free(way);
	free(left);
	free(out);
	out = NULL;
	return circle;
}

/* enter puts a state on the way, and its successors on top. */
static void
enter(uint32_t state, uint32_t *way, uint8_t *left, uint32_t *length, uint8_t *color)
{
	long before = nout;

	color[state] = 1;
	expand(state);
	way[*length] = state;
	left[(*length)++] = nout - before;
}

/* show_way prints the steps that lead to a state. */
static void
show_way(uint32_t to)
{
	if (parents[to] == to)
	{
		printf("    at first, on both sides:");
		for (int key = 0; key < bound.keys; key++)
			printf(" %s = %s", key_name(key), value_name(states[to].side[S].row[key]));
		printf("\n");
		return;
	}
	show_way(parents[to]);
	wanted = &states[to];
	text[0] = '\0';
	expand(parents[to]);
	wanted = NULL;
	printf("    %s\n", text);
}
