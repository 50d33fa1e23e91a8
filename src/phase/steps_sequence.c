/*
 * steps_sequence.c
 *	  Steps that have sequences take turns, and that end it: see sequence.h.
 *
 * The target's begins when the source's has, since it begins beyond what the
 * source's gave out while it still took every value.  Back, the target's ends
 * first and says how far it came, then the source's goes on from there.
 */
#include "phase/sequence.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/settings.h"
#include "phase/sequence_source.h"

static const MtSequenceUse *find_partner(const List *uses, const MtRelation *relation,
										 const MtSourceSequence *sequence);
static char *describe_each(const MtMigration *migration, const MtRelation *relation,
						   void (*describe)(StringInfo text, const char *name, const MtSourceSequence *sequence),
						   bool target);
static void describe_turn(StringInfo text, const char *name, const MtSourceSequence *sequence);
static void describe_restore(StringInfo text, const char *name, const MtSourceSequence *sequence);
static void describe_reset(StringInfo text, const char *name, const MtSourceSequence *sequence);
static void set_lock_timeout(void);

/* mt_step_interleave_source has the source's sequences of a table take turns. */
void
mt_step_interleave_source(MtTransition *transition, MtRelation *relation)
{
	mt_source_sequences_interleave(transition->migration, relation);
}

/* mt_step_restore_source ends it, with what the target's gave out; these have ended before. */
void
mt_step_restore_source(MtTransition *transition, MtRelation *relation)
{
	mt_source_sequences_restore(mt_source_sequences_prepare(NULL, transition->migration, relation,
															mt_transition_remote(transition), false));
}

/* mt_step_interleave_target has the target's sequences of a table take the other turn. */
void
mt_step_interleave_target(MtTransition *transition, MtRelation *relation)
{
	List	   *sequences = mt_source_sequences(transition->migration, relation);
	List	   *uses = NIL;
	ListCell   *cell;
	int			guc_level = NewGUCNestLevel();

	if (sequences != NIL)
		uses = mt_target_sequence_uses(mt_transition_remote(transition), relation);
	set_lock_timeout();
	foreach(cell, sequences)
	{
		const MtSourceSequence *sequence = (MtSourceSequence *) lfirst(cell);
		MtTurn		turn = {
			.relation = relation->id,
			.sequence = find_partner(uses, relation, sequence)->sequence,
			.source = sequence->use.sequence,
			.begin = sequence->target_begin,
			.step = sequence->step,
			.beyond = mt_source_sequence_beyond(transition->migration, relation, sequence),
			.lowest = sequence->lowest,
			.highest = sequence->highest,
		};

		mt_target_sequence_interleave(mt_transition_remote(transition), transition->migration, &turn);
	}
	AtEOXact_GUC(true, guc_level);
}

/* find_partner finds the target's sequence behind the same column: the only one, or else the one of the same name. */
static const MtSequenceUse *
find_partner(const List *uses, const MtRelation *relation, const MtSourceSequence *sequence)
{
	const MtSequenceUse *partner = NULL;
	const MtSequenceUse *namesake = NULL;
	int			found = 0;
	ListCell   *cell;

	foreach(cell, uses)
	{
		const MtSequenceUse *use = (MtSequenceUse *) lfirst(cell);

		if (strcmp(use->column, sequence->use.column) != 0)
			continue;
		partner = use;
		found++;
		if (strcmp(use->name, sequence->use.name) == 0)
			namesake = use;
	}
	if (found > 1)
		partner = namesake;
	if (partner == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no sequence is behind column %s of target table %s as %s is on the source",
						quote_identifier(sequence->use.column), mt_relation_target_name(relation),
						sequence->use.full_name),
				 errhint("Give the target's column its own sequence; SELECT * FROM migrate_tiers.preflight() compares them.")));
	return partner;
}

/* mt_step_reset_target ends it where the source goes on: the target's are what they were. */
void
mt_step_reset_target(MtTransition *transition, MtRelation *relation)
{
	mt_sequences_restore_target(transition->migration, mt_transition_remote(transition), relation, false);
}

/* mt_step_finish_target ends it where the target goes on: it begins after the furthest value of both. */
void
mt_step_finish_target(MtTransition *transition, MtRelation *relation)
{
	mt_sequences_restore_target(transition->migration, mt_transition_remote(transition), relation, true);
}

/* mt_sequences_restore_target gives the target's sequences of a table their settings again. */
void
mt_sequences_restore_target(const MtMigration *migration, MtRemote *remote, const MtRelation *relation, bool goes_on)
{
	MtRows	   *turns = mt_target_sequence_turns(remote, migration, relation);

	for (int row = 0; row < turns->count; row++)
	{
		char	   *lapped = NULL;
		char	   *given = goes_on ? mt_source_sequence_given(atooid(turns->values[row][1]), &lapped) : NULL;

		mt_target_sequence_restore(remote, migration, atooid(turns->values[row][0]), goes_on, given, lapped);
	}
}

/* mt_step_finish_source ends it on the source, where nobody draws numbers any more. */
void
mt_step_finish_source(MtTransition *transition, MtRelation *relation)
{
	mt_source_sequences_restore(mt_source_sequences_prepare(NULL, transition->migration, relation, NULL, false));
}

/* mt_step_forget_sequences forgets what the target's sequences were, when both sides have their own settings again. */
void
mt_step_forget_sequences(MtTransition *transition, MtRelation *relation)
{
	mt_target_sequences_forget(mt_transition_remote(transition), transition->migration);
}

/* mt_step_describe_source describes what the source's sequences become. */
char *
mt_step_describe_source(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return describe_each(migration, relation, inverse ? describe_restore : describe_turn, false);
}

/* mt_step_describe_target describes what the target's sequences become. */
char *
mt_step_describe_target(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return describe_each(migration, relation, inverse ? describe_reset : describe_turn, true);
}

/* mt_step_describe_finish_target describes what the target's sequences are at the end. */
char *
mt_step_describe_finish_target(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return describe_each(migration, relation, describe_restore, true);
}

/* mt_step_describe_finish_source describes what the source's sequences are at the end. */
char *
mt_step_describe_finish_source(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return describe_each(migration, relation, describe_restore, false);
}

/* mt_step_describe_forget describes what is cleaned up on the way back. */
char *
mt_step_describe_forget(const MtMigration *migration, const MtRelation *relation, bool inverse)
{
	return pstrdup(inverse ? "DELETE FROM migrate_tiers.sequence, where the target's sequences are noted as they were" : "nothing");
}

/* describe_each puts together what happens to each sequence of a table, or to its partner on the target. */
static char *
describe_each(const MtMigration *migration, const MtRelation *relation,
			  void (*describe)(StringInfo text, const char *name, const MtSourceSequence *sequence), bool target)
{
	StringInfoData text;
	ListCell   *cell;

	initStringInfo(&text);
	foreach(cell, mt_source_sequences(migration, relation))
	{
		MtSourceSequence *sequence = (MtSourceSequence *) lfirst(cell);
		const char *name = sequence->use.full_name;

		if (target)
		{
			name = psprintf("(the sequence behind %s.%s)", mt_relation_target_name(relation),
							quote_identifier(sequence->use.column));
			sequence->begin = sequence->target_begin;
		}
		if (text.len > 0)
			appendStringInfoString(&text, "; ");
		describe(&text, name, sequence);
	}
	return text.len > 0 ? text.data : pstrdup("nothing: no sequence is behind a column of the table");
}

static void
describe_turn(StringInfo text, const char *name, const MtSourceSequence *sequence)
{
	appendStringInfo(text, "ALTER SEQUENCE %s INCREMENT BY %s RESTART WITH (the next of %s and every %s from there)",
					 name, sequence->step, sequence->begin, sequence->step);
}

static void
describe_restore(StringInfo text, const char *name, const MtSourceSequence *sequence)
{
	appendStringInfo(text, "ALTER SEQUENCE %s with the settings it had; setval to the furthest value of both sides", name);
}

static void
describe_reset(StringInfo text, const char *name, const MtSourceSequence *sequence)
{
	appendStringInfo(text, "ALTER SEQUENCE %s with the settings and the value it had", name);
}

/* set_lock_timeout bounds the waits of plain queries until the caller's level of settings ends. */
static void
set_lock_timeout(void)
{
	(void) set_config_option("lock_timeout", mt_lock_timeout_text(), PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}
