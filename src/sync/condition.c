/*
 * condition.c
 *	  The condition of a truncated partition: see condition.h.
 *
 * The bound of a partition is what a CHECK constraint may be, of immutable functions.  Anything else would
 * run here with the rights of the table's owner: statements, subqueries, functions that do something.
 */
#include "sync/condition.h"

#include "access/table.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/rel.h"

static void check(Relation relation, const char *condition);
static Node *parse(const char *condition);
pg_noreturn static void refuse(const char *table, const char *condition, const char *why);
static bool is_of_text(const ErrorData *error);

/* mt_condition_check refuses what is no bound of a partition of the table. */
void
mt_condition_check(const MtTable *table, const char *condition)
{
	MemoryContext context = CurrentMemoryContext;
	Relation	relation = table_open(table->relation->relid, AccessShareLock);

	PG_TRY();
	{
		check(relation, condition);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!is_of_text(error))
			PG_RE_THROW();
		FlushErrorState();
		refuse(RelationGetRelationName(relation), condition, error->message);
	}
	PG_END_TRY();
	table_close(relation, NoLock);
}

static void
check(Relation relation, const char *condition)
{
	ParseState *state = make_parsestate(NULL);
	Node	   *bound = parse(condition);

	if (bound == NULL)
		refuse(RelationGetRelationName(relation), condition, "it is not a single expression");
	state->p_sourcetext = condition;
	addNSItemToQuery(state, addRangeTableEntryForRelation(state, relation, AccessShareLock, NULL, false, true),
					 false, true, true);
	bound = coerce_to_boolean(state, transformExpr(state, bound, EXPR_KIND_CHECK_CONSTRAINT), "CHECK");
	assign_expr_collations(state, bound);
	/* Planned, since defaults of arguments are functions, too. */
	if (contain_mutable_functions((Node *) expression_planner((Expr *) bound)))
		refuse(RelationGetRelationName(relation), condition, "its functions are not immutable");
	free_parsestate(state);
}

/* parse reads the text as one expression; NULL where it is something else. */
static Node *
parse(const char *condition)
{
	RawStmt    *raw = linitial_node(RawStmt, raw_parser(condition, RAW_PARSE_PLPGSQL_EXPR));
	SelectStmt *select = castNode(SelectStmt, raw->stmt);
	SelectStmt *bare = makeNode(SelectStmt);
	ResTarget  *target;

	/* Such text may be a whole SELECT, but for the word. */
	bare->targetList = select->targetList;
	if (!equal(select, bare) || list_length(select->targetList) != 1)
		return NULL;
	target = linitial_node(ResTarget, select->targetList);
	if (target->name != NULL ||
		(IsA(target->val, ColumnRef) && IsA(linitial(((ColumnRef *) target->val)->fields), A_Star)))
		return NULL;
	return target->val;
}

static void
refuse(const char *table, const char *condition, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a queue holds a condition that is no bound of a partition of table \"%s\"", table),
			 errdetail("The condition is: %s (%s).", condition, why),
			 errhint("Find out who wrote it, delete it from the queue, and compare the table: migrate_tiers.verify.")));
}

/* is_of_text says whether an error is of what was read, not of the server that reads it. */
static bool
is_of_text(const ErrorData *error)
{
	int			class = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return class == ERRCODE_FEATURE_NOT_SUPPORTED || class == ERRCODE_DATA_EXCEPTION ||
		class == ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR);
}
