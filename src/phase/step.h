/*
 * step.h
 *	  The table of moves between phases, and the steps that each consists of.
 *
 * A step does one thing on one side, and its inverse; it is idempotent, since one
 * that was cut off is run again.  A move forward runs its steps in order, a move
 * back runs the inverses in the opposite order: going back is the same table.
 */
#ifndef MT_STEP_H
#define MT_STEP_H

#include "catalog/relation.h"
#include "endpoint/endpoint.h"

/* A transition and its way back, gone for practice. */
typedef struct MtRehearsal
{
	MemoryContext context;
	List	   *barred;			/* of its transitions; the jobs that fill these tables do not move with the phase */
} MtRehearsal;

typedef struct MtTransition
{
	MtMigration *migration;		/* as it was when the transition began, but for its queue */
	MtPhase		from;
	MtPhase		to;
	int32		id;				/* of its row in the journal */
	bool		undoing;		/* one that was cut off: back to where it came from */
	bool		target_lost;	/* the target could not be told of a way back: it is not gone forward again */
	MtRemote   *remote;			/* opened by the first step that needs it */
	List	   *relations;		/* MtRelation, the realtime tables */
	List	   *barred;			/* ids of batch tables that nobody pushes until it, or its rehearsal, has ended */
	MtRehearsal *rehearsal;		/* that it is a part of; NULL: in earnest */
	MemoryContext context;
} MtTransition;

typedef struct MtStep
{
	const char *name;
	bool		per_table;		/* once for each realtime table; relation is NULL otherwise */
	const char *side;			/* where it acts: source, target, both */
	void (*run)(MtTransition *transition, MtRelation *relation);
	void (*undo)(MtTransition *transition, MtRelation *relation);
	/* What it would run, for plan(); inverse: what its undo would. */
	char *(*describe)(const MtMigration *migration, const MtRelation *relation, bool inverse);
} MtStep;

typedef struct MtMove
{
	MtPhase		from;
	MtPhase		to;
	const MtStep *steps;
	int			count;
	bool		final;			/* goes one way only: it is finished, never undone */
} MtMove;

/* The move between two phases, whichever way it is gone; NULL when there is none, and the call that could be meant. */
extern const MtMove *mt_move_find(MtPhase one, MtPhase other);
extern const char *mt_move_hint(MtPhase phase, bool advance);

/* The target's connection of a transition; a broken one is opened again.  At first only another server's is refused. */
extern MtRemote *mt_transition_remote(MtTransition *transition);
extern void mt_transition_meet_target(MtTransition *transition);

/* Steps of each move: in steps_sync.c, steps_dual.c and steps_last.c. */
extern const MtStep mt_steps_sync[];
extern const int mt_steps_sync_count;
extern const MtStep mt_steps_dual[];
extern const int mt_steps_dual_count;
extern const MtStep mt_steps_read[];
extern const int mt_steps_read_count;
extern const MtStep mt_steps_only[];
extern const int mt_steps_only_count;
extern const MtStep mt_steps_finish[];
extern const int mt_steps_finish_count;

/* Drops the queue, with the marks; no table is captured any more. */
extern void mt_step_drop_queue(MtTransition *transition, MtRelation *relation);

/* Waits for the rows that lost on the target to be kept here. */
extern void mt_step_carry_conflicts(MtTransition *transition, MtRelation *relation);
extern char *mt_step_describe_carry(const MtMigration *migration, const MtRelation *relation, bool inverse);

/* On a way back: tells the target of a phase, or warns where it cannot be told; the source is freed all the same. */
extern void mt_step_publish_back(MtTransition *transition, MtPhase phase);

#endif							/* MT_STEP_H */
