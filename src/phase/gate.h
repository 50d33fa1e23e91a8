/*
 * gate.h
 *	  What stands between a migration and a phase.
 *
 * A gate is one predicate, in the table of gate.c; it changes nothing.  What
 * it cannot find out (the target is away) it has not passed.
 */
#ifndef MT_GATE_H
#define MT_GATE_H

#include "catalog/migration.h"
#include "endpoint/endpoint.h"

typedef struct MtGate
{
	const char *name;
	bool		passed;
	char	   *detail;
	char	   *hint;			/* NULL when there is nothing to do */
} MtGate;

/* What the gates of one move share. */
typedef struct MtGateScope
{
	const MtMigration *migration;
	MtPhase		to;
	MemoryContext context;		/* of all that follows: gates are asked from within SPI */
	MtRemote   *remote;			/* opened by the first gate that needs it */
	char	   *here;			/* who wrote the source, as JSON; read by the first gate that needs it */
	char	   *there;			/* what the target knows of instances, likewise */
} MtGateScope;

typedef void (*MtGateCheck)(MtGateScope *scope, MtGate *gate);

/* The gates of a move, each with its state now. */
extern List *mt_gates_check(const MtMigration *migration, MtPhase to);

/* The same as a JSON array, for the journal. */
extern char *mt_gates_json(const List *gates);

/* Refuses unless all have passed; the error lists each that has not, and what to do. */
extern void mt_gates_require(const MtMigration *migration, MtPhase to, const List *gates);

/* Whether a move to that phase has a gate of ours of that name. */
extern bool mt_gate_is_ours(MtPhase to, const char *name);

/* The target's connection of a scope. */
extern MtRemote *mt_gate_remote(MtGateScope *scope);

/* Lets a gate pass where there is no problem. */
extern void mt_gate_decide(MtGate *gate, char *problem, const char *fine, const char *hint);

/* Predicates: of sync (gates_sync.c), of the target (gates_target.c), of instances (gates_instance.c). */
extern void mt_gate_copied(MtGateScope *scope, MtGate *gate);
extern void mt_gate_running(MtGateScope *scope, MtGate *gate);
extern void mt_gate_forward_lag(MtGateScope *scope, MtGate *gate);
extern void mt_gate_reverse_lag(MtGateScope *scope, MtGate *gate);
extern void mt_gate_lag_back(MtGateScope *scope, MtGate *gate);
extern void mt_gate_captured(MtGateScope *scope, MtGate *gate);
extern void mt_gate_forward_drained(MtGateScope *scope, MtGate *gate);
extern void mt_gate_reverse_drained(MtGateScope *scope, MtGate *gate);
extern void mt_gate_verified(MtGateScope *scope, MtGate *gate);
extern void mt_gate_conflicts(MtGateScope *scope, MtGate *gate);
extern void mt_gate_batch_fresh(MtGateScope *scope, MtGate *gate);
extern void mt_gate_rehearsed(MtGateScope *scope, MtGate *gate);
extern void mt_gate_reverse_capture(MtGateScope *scope, MtGate *gate);
extern void mt_gate_clocks(MtGateScope *scope, MtGate *gate);
extern void mt_gate_instances(MtGateScope *scope, MtGate *gate);
extern void mt_gate_source_quiet(MtGateScope *scope, MtGate *gate);
extern void mt_gate_source_subscriptions(MtGateScope *scope, MtGate *gate);
extern void mt_gate_target_quiet(MtGateScope *scope, MtGate *gate);

#endif							/* MT_GATE_H */
