/*
 * own_gate.h
 *	  Gates that a person added, and an engineer's word.
 */
#ifndef MT_OWN_GATE_H
#define MT_OWN_GATE_H

#include "phase/gate.h"

/* Adds a gate, or changes it; query NULL: it is confirmed by hand.  The query is tried. */
extern void mt_own_gate_add(const MtMigration *migration, MtPhase to, const char *name, const char *query);
extern bool mt_own_gate_drop(const MtMigration *migration, MtPhase to, const char *name);

/* The gates that were added to a move, each with its state now. */
extern List *mt_own_gates_check(MtGateScope *scope);

/* Notes an engineer's word for a gate that stands between here and a phase next to this. */
extern void mt_gate_confirm(const MtMigration *migration, const char *name, const char *note);

/* A gate that passes when somebody confirmed it since the migration came to its phase. */
extern void mt_gate_confirmed(MtGateScope *scope, MtGate *gate);

#endif							/* MT_OWN_GATE_H */
