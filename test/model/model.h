/*
 * model.h
 *	  The two-queue protocol of two-way phases as a state machine: the words.
 *
 * A state is everything that decides what can happen next: committed rows, row
 * locks, transactions with what they captured, marks, and where the worker is.
 * A step is one thing that nobody can divide: a statement, a commit, a look with one
 * snapshot.  explore.c tries every order of steps.
 *
 * All members are bytes, so that states are compared with memcmp.  What is marked
 * "ghost" only serves the properties (check.c); no step depends on it.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stdint.h>

#define KEYS		3 /* most keys of the one table */
#define SIDE_TXS	4 /* transactions of a side; the last one is our own notes */
#define TXS			(2 * SIDE_TXS)
#define NOTES(side) ((side) *SIDE_TXS + SIDE_TXS - 1)

enum
{
	S,
	T
}; /* source, target; also forward (sent by S) and reverse (sent by T) */

typedef uint8_t Set; /* of transactions or of keys, one bit each */

#define BIT(i)		  (1u << (i))
#define HAS(set, i)	  (((set) >> (i)) & 1)
#define OF_SIDE(side) (0x0Fu << ((side) *SIDE_TXS))

/* A row's value: 0 absent; else who wrote it, and from 16 on the value of a second unique key. */
enum
{
	ABSENT,
	OLD,
	BOTH,
	OWN
};

/* Who holds the lock of a row. */
enum
{
	NOBODY,
	WORKER = 100,
	APP = 1
};

typedef struct
{
	uint8_t row[KEYS]; /* committed */
	uint8_t owner[KEYS]; /* NOBODY, APP + transaction, WORKER + direction */
	uint8_t pending[KEYS]; /* what the owner has made of the row */
	Set past[KEYS]; /* ghost: the writes that the committed row has come from */
} Side;

enum
{
	UNBORN,
	ACTIVE,
	COMMITTED,
	ABORTED
};

typedef struct
{
	uint8_t stage;
	uint8_t ops;
	Set keys; /* entries of the queue: kind key */
	uint8_t truncated; /* entry of the queue: kind TRUNCATE, which is about every key */
	Set voided; /* keys of which the entries are void: cancelled, deleted or spared */
	uint8_t time; /* of commit, for last_write */
	uint8_t began; /* for the mutation that takes another time */
} Tx;

enum
{
	IDLE,
	WRITE,
	LOOK,
	DECIDE,
	RECORD,
	COMMIT,
	MARK,
	END,
	LIMBO
};

typedef struct
{
	uint8_t at; /* IDLE ... */
	Set snapshot; /* the sender's transactions that the tick sees */
	Set keys; /* of the tick */
	Set captured; /* those of them with an entry of their own, not only by TRUNCATE */
	Set linked; /* keys that clash by the second unique key: one decision */
	uint8_t row[KEYS]; /* the sender's, as of the snapshot */
	Set past[KEYS]; /* ghost */
	Set known; /* the receiver's transactions that the last look found unsent */
	uint8_t decided; /* about "known" */
	Set loses; /* keys whose row loses against the receiver's */
	Set wins; /* ... wins; both are conflicts */
	Set equal;
	uint8_t other[KEYS]; /* the receiver's row that was decided about */
	Set other_past[KEYS]; /* ghost */
	Set removed; /* keys deleted, where rows are replaced */
	Set written;
	Set cancel; /* transactions of which entries are void from now on */
	uint8_t reads_target; /* the phase by which it was decided */
} Tick;

enum
{
	FINE,
	FALSE_CONFLICT,
	EQUAL_CONFLICT,
	WRONG_WINNER,
	LOST,
	DIFFERENT
};

typedef struct
{
	Side side[2];
	Tx tx[TXS];
	Set mark[2]; /* by sender: transactions that the receiver has, as the worker knows it */
	Set stored[2]; /* the same as the receiver has it */
	Set published[2]; /* the same as a copy elsewhere has it, behind the commit */
	Tick tick[2];
	Set kept[KEYS]; /* ghost: the pasts of rows kept as losers */
	uint8_t clock;
	uint8_t crashes; /* left */
	uint8_t reads_target; /* phase read_target */
	uint8_t bad; /* ghost: the property that the last step broke */
} State;

enum
{
	SOURCE,
	TARGET,
	LAST_WRITE,
	READING_SIDE
};

typedef struct
{
	const char *name;
	int keys;
	int txs[2]; /* of the applications of each side */
	int ops; /* statements of a transaction */
	bool same; /* an application may write the same value on both sides */
	bool truncates;
	bool unique; /* there is a second unique key, of two values */
	bool rollbacks;
	int crashes;
	uint8_t policy;
} Bound;

/* The checks of the protocol that can be taken out, one at a time: see mutations in main.c. */
enum
{
	NO_MUTATION,
	NO_LOOK,
	LOOK_BEFORE_LOCK,
	MARK_BEHIND,
	MARK_AHEAD,
	MARK_HIGHEST,
	NO_CANCEL_WINNER,
	NO_CANCEL_EQUAL,
	CANCEL_BY_KEY,
	CANCEL_FOR_EVER,
	FORGET_EARLY,
	TICKS_AT_ONCE,
	ECHO_APPLY,
	STALE_MARK,
	NO_SESSION_LOCK,
	EQUAL_IS_CONFLICT,
	LOSER_DROPPED,
	RECEIVER_WINS,
	TIE_RECEIVER,
	TIME_OF_START,
	NO_SPARE,
	SPARE_ALONE,
	TRUNCATE_UNSEEN,
	NO_LINK,
	NO_NOTE,
	JOINED_UNREAD,
	READ_LATER
};

extern Bound bound;
extern int mutation;

#define WITHOUT(what) (mutation == (what))

/* explore.c: takes a successor; "fair" is false for a step that gives up and may be repeated for ever. */
extern void emit(const State *next, bool fair, const char *format, ...) __attribute__((format(printf, 3, 4)));

typedef struct
{
	long states;
	long edges;
	const char *broken; /* or NULL */
	int steps; /* of the shortest way there */
} Result;

extern Result explore(bool show);

/* apps.c, tick.c: every step that can happen next */
extern void apps_steps(const State *state);
extern void tick_steps(const State *state);

/* check.c */
extern bool touches(const Tx *tx, int key);
extern Set committed(const State *state, int side);
extern Set unsent(const State *state, int sender, Set seen, int key);
extern bool drained(const State *state);
extern void check_conflicts(State *state, int direction);
extern int check_drained(const State *state);
extern const char *property_name(int bad);
extern int winner_of(int reads_target, int source_time, int target_time, int receiver);
extern const char *key_name(int key);
extern const char *value_name(int value);
extern const char *tx_name(int tx);

#endif /* MODEL_H */
