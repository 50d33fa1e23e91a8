/*
 * culprit.c
 *	  Finds the row that a failed tick could not apply, so that its error can name it.
 *
 * The remote does not always say which row it is about: a value that is too long
 * names the column's type, a trigger says whatever it likes, and a statement may
 * hold many rows.  So the failed tick is looked at again, row by row, in a
 * transaction that is rolled back whatever comes of it: the first row that is
 * refused for the same reason is the one.  The error that is raised is always that
 * of the tick itself; what cannot be found is not named, and never guessed.
 *
 * The look costs more than the tick did, so it ends after a while; where applications write the target, whose rows it
 * locks, after a moment.
 */
#include "sync/apply.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/errors.h"
#include "base/spi.h"
#include "endpoint/pipeline.h"
#include "endpoint/statements.h"
#include "sync/merge.h"

/* What goes out before answers are asked for. */
#define WINDOW_ROWS	 256
#define WINDOW_BYTES (1024 * 1024)

#define LONGEST_LOOK_MS				   20000
#define LONGEST_LOOK_BESIDE_WRITERS_MS 500

/* A look under way. */
typedef struct MtLook
{
	MtSync	   *sync;
	MtTable    *table;
	int			sqlerrcode;		/* what is looked for */
	TimestampTz until;
	bool		late;
	/* rows whose statements are on their way: keys, in the memory of the tick */
	int			count;
	const char *keys[WINDOW_ROWS];
	int			lengths[WINDOW_ROWS];
	int64		sent;			/* bytes of them */
} MtLook;

typedef enum MtLookEnd
{
	MT_LOOK_NOTHING,			/* nothing was refused */
	MT_LOOK_FOUND,
	MT_LOOK_OTHER				/* something was refused for another reason, or time is over */
} MtLookEnd;

static bool is_about_rows(int sqlerrcode);
static char *look(MtLook *state, bool replace);
static char *look_at_table(MtLook *state, bool replace, MtLookEnd *end);
static MtLookEnd empty_table(MtLook *state);
static MtLookEnd send_rows(MtLook *state, bool delete_all, bool by_insert, int *culprit);
static char *statement_name(const MtTable *table, bool by_insert);
static void send_row(MtLook *state, bool delete_all, bool by_insert);
static MtLookEnd end_window(MtLook *state, int *culprit);
static char *describe_row(MtLook *state, int culprit);
static char *touched_tables(MtSync *sync);

/* mt_culprit_name adds the row, or else the tables, that the error of a tick is about to its context. */
void
mt_culprit_name(MtSync *sync, ErrorData *error, bool replace)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MtTable    *table = sync->sending;
	char	   *volatile found = NULL;
	MemoryContext error_context;

	if (mt_remote_usable(sync->remote) && is_about_rows(error->sqlerrcode))
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			MtLook		state = {.sync = sync, .table = table, .sqlerrcode = error->sqlerrcode};
			int			longest = sync->merge ? LONGEST_LOOK_BESIDE_WRITERS_MS : LONGEST_LOOK_MS;

			state.until = TimestampTzPlusMilliseconds(mt_clock_now(), longest);
			found = look(&state, replace);
			if (found == NULL && !replace && !state.late)
				found = look(&state, true);
			ReleaseCurrentSubTransaction();
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(context);
			/* Whoever cancels the look cancels the tick; nothing else may hide the tick's own error. */
			if (geterrcode() == ERRCODE_QUERY_CANCELED)
				PG_RE_THROW();
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	if (found == NULL && (table != NULL || is_about_rows(error->sqlerrcode)))
		found = table ? psprintf("table %s", quote_qualified_identifier(table->relation->schema, table->relation->name)) :
			touched_tables(sync);
	if (found == NULL)
		return;
	error_context = error->assoc_context ? error->assoc_context : context;
	MemoryContextSwitchTo(error_context);
	error->context = error->context ? psprintf("applying %s\n%s", found, error->context) : psprintf("applying %s", found);
	MemoryContextSwitchTo(context);
}

/* is_about_rows says whether an error can be one of a row, rather than of the server or the connection. */
static bool
is_about_rows(int sqlerrcode)
{
	if (sqlerrcode == MT_ERRCODE_CONFLICT)
		return false;
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return false;
		default:
			return true;
	}
}

/* look applies the tick row by row until one is refused, and rolls back. */
static char *
look(MtLook *state, bool replace)
{
	MtSync	   *sync = state->sync;
	MtTable    *only = sync->sending;
	MtLookEnd	end = MT_LOOK_NOTHING;
	HASH_SEQ_STATUS status;
	MtTable    *table;
	char	   *found = NULL;

	mt_remote_run(sync->remote, "ROLLBACK");
	mt_remote_run(sync->remote, sync->merge ? "BEGIN; " MT_MERGE_LOCK_TIMEOUT : "BEGIN");
	/* With each key deleted first, what is deferred to the end of the tick can be asked for at once. */
	if (replace)
		mt_remote_run(sync->remote, "SET CONSTRAINTS ALL IMMEDIATE");
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (end != MT_LOOK_NOTHING || !mt_table_touched(table) || (only != NULL && table != only))
			continue;
		state->table = table;
		found = look_at_table(state, replace, &end);
	}
	mt_remote_run(sync->remote, "ROLLBACK");
	return found;
}

static char *
look_at_table(MtLook *state, bool replace, MtLookEnd *end)
{
	MtSync	   *sync = state->sync;
	MtTable    *table = state->table;
	bool		by_insert = replace || !table->can_update;
	int			culprit = 0;
	MtSpiScope	scope;
	char	   *found;

	*end = empty_table(state);
	if (*end == MT_LOOK_FOUND)
		return psprintf("a TRUNCATE of table %s",
						quote_qualified_identifier(table->relation->schema, table->relation->name));
	if (*end != MT_LOOK_NOTHING || table->keys == NULL)
		return NULL;
	mt_remote_prepare(sync->remote, table->delete, mt_sql_delete(table->relation, table->columns));
	mt_remote_prepare(sync->remote, statement_name(table, by_insert),
					  by_insert ? mt_sql_insert(table->relation, table->columns, 1) :
						  mt_sql_upsert(table->relation, table->columns, 1));
	mt_spi_begin_table(&scope, sync->migration->owner, table->relation->relid, false);
	if (by_insert)
		*end = send_rows(state, true, by_insert, &culprit);
	if (*end == MT_LOOK_NOTHING)
		*end = send_rows(state, false, by_insert, &culprit);
	mt_spi_end(&scope);
	found = *end == MT_LOOK_FOUND ? describe_row(state, culprit) : NULL;
	return found;
}

/* empty_table does the truncates of a table. */
static MtLookEnd
empty_table(MtLook *state)
{
	MtTable    *table = state->table;
	int			culprit;
	ListCell   *cell;

	mt_pipeline_begin(state->sync->remote);
	foreach(cell, mt_truncation_list(table))
		mt_pipeline_query(state->sync->remote,
						  mt_sql_truncate(table->relation, table->columns,
										  ((MtTruncation *) lfirst(cell))->condition, 0),
						  0, NULL);
	return end_window(state, &culprit);
}

/* send_rows sends a statement a row, in windows; which row of the window was refused goes to "culprit". */
static MtLookEnd
send_rows(MtLook *state, bool delete_all, bool by_insert, int *culprit)
{
	MtKeySet   *keys = state->table->keys;
	MtKeyCursor cursor = {0, 0};
	MtLookEnd	end = MT_LOOK_NOTHING;
	MemoryContext previous = MemoryContextSwitchTo(state->sync->row_context);
	bool		more = true;

	while (more && end == MT_LOOK_NOTHING)
	{
		state->count = 0;
		state->sent = 0;
		mt_pipeline_begin(state->sync->remote);
		while (state->count < WINDOW_ROWS && state->sent < WINDOW_BYTES &&
			   (more = mt_keys_next(keys, &cursor, &state->keys[state->count], &state->lengths[state->count])))
			if (state->sync->merge == NULL ||
				mt_merge_keeps(state->table, state->keys[state->count], state->lengths[state->count]))
				send_row(state, delete_all, by_insert);
		end = end_window(state, culprit);
		MemoryContextReset(state->sync->row_context);
	}
	MemoryContextSwitchTo(previous);
	return end;
}

/* send_row sends one statement for the key at the end of the window, so that numbers of both agree. */
static void
send_row(MtLook *state, bool delete_all, bool by_insert)
{
	MtSync	   *sync = state->sync;
	MtTable    *table = state->table;
	MtField    *fields = palloc(sizeof(MtField) * Max(Max(table->columns->count, table->key.count), 1));
	Datum		key[INDEX_MAX_KEYS];

	mt_key_decode(&table->key, state->keys[state->count], state->lengths[state->count], key);
	if (!delete_all && mt_table_read_row(table, key, fields, &state->sent))
		mt_pipeline_execute(sync->remote, statement_name(table, by_insert), table->columns->count, fields);
	else if (delete_all || !by_insert)
	{
		mt_table_key_fields(table, key, fields);
		mt_pipeline_execute(sync->remote, table->delete, table->key.count, fields);
	}
	else
		return;
	state->count++;
}

/* statement_name names the one statement that sets a row, also where the tick takes two. */
static char *
statement_name(const MtTable *table, bool by_insert)
{
	if (by_insert)
		return table->insert[0];
	return table->in_two ? psprintf("mt_look_%d", table->id) : table->upsert[0];
}

/* end_window waits for the answers of a window. */
static MtLookEnd
end_window(MtLook *state, int *culprit)
{
	int			sqlerrcode = 0;
	int64		failed = mt_pipeline_failed(state->sync->remote, &sqlerrcode);

	CHECK_FOR_INTERRUPTS();
	state->late = mt_clock_now() > state->until;
	*culprit = (int) failed;
	if (failed >= 0)
		return sqlerrcode == state->sqlerrcode ? MT_LOOK_FOUND : MT_LOOK_OTHER;
	return state->late ? MT_LOOK_OTHER : MT_LOOK_NOTHING;
}

static char *
describe_row(MtLook *state, int culprit)
{
	MtTable    *table = state->table;
	Datum		key[INDEX_MAX_KEYS];

	mt_key_decode(&table->key, state->keys[culprit], state->lengths[culprit], key);
	return psprintf("the row of table %s with key %s",
					quote_qualified_identifier(table->relation->schema, table->relation->name),
					mt_table_key_text(table, key));
}

/* touched_tables names the tables of the tick. */
static char *
touched_tables(MtSync *sync)
{
	HASH_SEQ_STATUS status;
	MtTable    *table;
	StringInfoData names;

	initStringInfo(&names);
	hash_seq_init(&status, sync->tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (mt_table_touched(table))
			appendStringInfo(&names, "%s%s", names.len ? ", " : "a tick of table ",
							 quote_qualified_identifier(table->relation->schema, table->relation->name));
	return names.len ? names.data : NULL;
}
