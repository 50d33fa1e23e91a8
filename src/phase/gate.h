/*
 * gate.h
 *	  What stands between a migration and a phase.
 */
#ifndef MT_GATE_H
#define MT_GATE_H

#include "catalog/migration.h"

typedef struct MtGate
{
	const char *name;
	bool		passed;
	char	   *detail;
	char	   *hint;
} MtGate;

/* The gates of a move, each with its state now; changes nothing. */
extern List *mt_gates_check(const MtMigration *migration, MtPhase to);

/* The same as a JSON array, for the journal. */
extern char *mt_gates_json(const List *gates);

/* Refuses unless all have passed; the error lists each that has not, and what to do. */
extern void mt_gates_require(const MtMigration *migration, MtPhase to, const List *gates);

#endif							/* MT_GATE_H */
