/*
 * main.c
 *	  Which bounds are explored, and which checks of the protocol are taken out.
 *
 *	  model                 every bound with every policy; fails if a property is broken
 *	  model large           the same for bounds that take minutes and some GB of memory
 *	  model mutations       each mutation; fails if one is not found
 *	  model show MUTATION   the shortest way to what it breaks
 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int explore_all(bool large);
static int explore_mutations(bool show, const char *only);
static bool find_mutation(int number, bool show);

Bound bound;
int mutation = NO_MUTATION;

static const char *const policies[] = {"source", "target", "last_write", "reading_side"};

enum
{
	ONE_KEY,
	TWO_STATEMENTS,
	TWO_KEYS,
	TWO_KEYS_MORE,
	TRUNCATE,
	TRUNCATE_TWO,
	UNIQUE,
	UNIQUE_THREE,
	LARGE
};

static const Bound bounds[] = {
	[ONE_KEY] = {"one key", .keys = 1, .txs = {2, 2}, .ops = 1, .same = true, .crashes = 1},
	[TWO_STATEMENTS] = {"two statements", .keys = 1, .txs = {2, 1}, .ops = 2, .same = true, .crashes = 1},
	[TWO_KEYS] = {"two keys", .keys = 2, .txs = {1, 1}, .ops = 2, .crashes = 1},
	[TWO_KEYS_MORE] = {"two keys, more writers", .keys = 2, .txs = {2, 1}, .ops = 1, .crashes = 1},
	[TRUNCATE] = {"truncate", .keys = 1, .txs = {2, 2}, .ops = 1, .truncates = true, .crashes = 1},
	[TRUNCATE_TWO] = {"truncate two keys", .keys = 2, .txs = {1, 1}, .ops = 2, .truncates = true, .crashes = 0},
	[UNIQUE] = {"second unique key", .keys = 2, .txs = {1, 1}, .ops = 2, .unique = true, .crashes = 0},
	[UNIQUE_THREE] = {"second unique key, three rows", .keys = 3, .txs = {1, 1}, .ops = 1, .unique = true, .crashes = 1},
	[LARGE] = {"one key, two crashes", .keys = 1, .txs = {2, 2}, .ops = 1, .same = true, .crashes = 2},
	{"one key, three and two", .keys = 1, .txs = {3, 2}, .ops = 1, .crashes = 1},
	{"two keys, two and two", .keys = 2, .txs = {2, 2}, .ops = 1, .crashes = 1},
	{"truncate, two and one", .keys = 2, .txs = {2, 1}, .ops = 1, .truncates = true, .crashes = 1},
	{"unique, two and one", .keys = 2, .txs = {2, 1}, .ops = 1, .unique = true, .crashes = 1},
	{"unique, three rows, two each", .keys = 3, .txs = {1, 1}, .ops = 2, .unique = true, .crashes = 0},
};

static const struct
{
	int number;
	const char *name;
	int bound; /* the first that may show it */
	const char *what;
} mutations[] = {
	{NO_LOOK, "no_look", ONE_KEY, "the tick does not look into the receiver's queue"},
	{LOOK_BEFORE_LOCK, "look_before_lock", ONE_KEY, "it looks before its writes have locked the rows, not after"},
	{MARK_BEHIND, "mark_behind", ONE_KEY, "the mark is stored by a transaction of its own, after the data"},
	{MARK_AHEAD, "mark_ahead", ONE_KEY, "the mark is stored by a transaction of its own, before the data"},
	{MARK_HIGHEST, "mark_highest", TWO_KEYS_MORE, "the mark is the highest id that was seen, not a snapshot"},
	{NO_CANCEL_WINNER, "no_cancel_winner", ONE_KEY, "entries of a row that lost stay in the receiver's queue"},
	{NO_CANCEL_EQUAL, "no_cancel_equal", ONE_KEY, "entries of a row that is equal stay in the receiver's queue"},
	{CANCEL_BY_KEY, "cancel_by_key", ONE_KEY, "all entries of the key are void, not those that were decided about"},
	{CANCEL_FOR_EVER, "cancel_for_ever", ONE_KEY, "what is void has no snapshot: later entries of the key are void, too"},
	{FORGET_EARLY, "forget_early", ONE_KEY, "what is void is forgotten by the mark that the worker has in memory"},
	{TICKS_AT_ONCE, "ticks_at_once", ONE_KEY, "both directions tick at the same time"},
	{ECHO_APPLY, "echo_apply", ONE_KEY, "what the worker applies is captured"},
	{STALE_MARK, "stale_mark", ONE_KEY, "after a crash R is read from its copy on the target"},
	{NO_SESSION_LOCK, "no_session_lock", ONE_KEY, "a new worker does not wait for the session of the one that died"},
	{EQUAL_IS_CONFLICT, "equal_is_conflict", ONE_KEY, "rows are not compared"},
	{LOSER_DROPPED, "loser_dropped", ONE_KEY, "the row that loses is not kept"},
	{RECEIVER_WINS, "receiver_wins", ONE_KEY, "the receiver wins, whichever side that is"},
	{TIE_RECEIVER, "tie_receiver", ONE_KEY, "at equal times the receiver wins"},
	{TIME_OF_START, "time_of_start", ONE_KEY, "last_write goes by when transactions began"},
	{NO_SPARE, "no_spare", TRUNCATE, "a TRUNCATE of the receiver is not voided for a row that was set"},
	{SPARE_ALONE, "spare_alone", TRUNCATE, "a TRUNCATE is not voided for a key that has entries of its own, too"},
	{TRUNCATE_UNSEEN, "truncate_unseen", TRUNCATE, "a look does not count a TRUNCATE as a delete of every key"},
	{NO_LINK, "no_link", UNIQUE, "a clash of the second unique key is tried again as it was"},
	{NO_NOTE, "no_note", UNIQUE, "keys that lose by a clash are not noted on the receiver"},
	{JOINED_UNREAD, "joined_unread", UNIQUE, "rows that a clash brings into the tick are deleted, and not set"},
	{READ_LATER, "read_later", ONE_KEY, "rows are read after the snapshot that gave the keys"},
};

#define COUNT(array) ((int) (sizeof(array) / sizeof((array)[0])))

int
main(int argc, char **argv)
{
	if (argc == 1)
		return explore_all(false);
	if (argc == 2 && strcmp(argv[1], "large") == 0)
		return explore_all(true);
	if (argc == 2 && strcmp(argv[1], "mutations") == 0)
		return explore_mutations(false, NULL);
	if (argc == 3 && strcmp(argv[1], "show") == 0)
		return explore_mutations(true, argv[2]);
	fprintf(stderr, "usage: model [large | mutations | show MUTATION]\n");
	return 2;
}

/* explore_all explores the protocol itself. */
static int
explore_all(bool large)
{
	int broken = 0;

	for (int i = large ? LARGE : 0; i < (large ? COUNT(bounds) : LARGE); i++)
		for (int policy = SOURCE; policy <= READING_SIDE; policy++)
		{
			Result result;

			bound = bounds[i];
			bound.policy = policy;
			result = explore(true);
			printf("%-30s %-13s %9ld states %9ld steps  %s\n", bound.name, policies[policy], result.states,
				   result.edges, result.broken ? result.broken : "ok");
			fflush(stdout);
			broken += result.broken != NULL;
		}
	return broken ? 1 : 0;
}

/* explore_mutations looks for a bound and a policy that show what each mutation breaks. */
static int
explore_mutations(bool show, const char *only)
{
	int missed = 0;

	for (int i = 0; i < COUNT(mutations); i++)
	{
		if (only && strcmp(only, mutations[i].name) != 0)
			continue;
		mutation = mutations[i].number;
		if (!find_mutation(i, show))
		{
			printf("%-18s NOT FOUND: %s\n", mutations[i].name, mutations[i].what);
			missed++;
		}
		fflush(stdout);
	}
	return missed ? 1 : 0;
}

static bool
find_mutation(int number, bool show)
{
	for (int i = mutations[number].bound; i < LARGE; i++)
		for (int policy = SOURCE; policy <= READING_SIDE; policy++)
		{
			Result result;

			bound = bounds[i];
			bound.policy = policy;
			result = explore(show);
			if (!result.broken)
				continue;
			printf("%-18s %s\n%18s found in %d steps (%s, %s): %s\n", mutations[number].name,
				   mutations[number].what, "", result.steps, bound.name, policies[policy], result.broken);
			return true;
		}
	return false;
}
