/*
 * ddl_sequence.c
 *	  Sequences that take turns with those of the target are not to be altered.
 *
 * Another increment, another cache or a RESTART would have both sides give out the same
 * numbers.  Our own steps alter them, too: these let the guard pass as anybody may,
 * by migrate_tiers.allow_ddl.  What does not change the numbers passes: a new name, owner or schema,
 * OWNED BY.
 */
#include "capture/ddl_guard.h"

#include "nodes/parsenodes.h"

#include "base/errors.h"
#include "base/settings.h"
#include "base/spi.h"
#include "catalog/migration.h"

/* Sequences in their turn that the command at hand has altered, by themselves or as a part of an identity column. */
static const char altered_query[] =
	"SELECT d.object_identity, m.name::text, m.phase FROM pg_event_trigger_ddl_commands() d"
	" JOIN migrate_tiers.sequence q ON q.sequence = d.objid AND NOT q.restored"
	" JOIN migrate_tiers.migration m ON m.id = q.migration"
	" WHERE d.classid = 'pg_class'::regclass AND d.command_tag = 'ALTER SEQUENCE' LIMIT 1";

static bool alters_numbers(Node *command);

/* mt_ddl_check_sequences refuses a command that changes which numbers such a sequence gives out. */
void
mt_ddl_check_sequences(Node *command)
{
	static SPIPlanPtr plan = NULL;
	char	   *sequence = NULL;
	char	   *migration = NULL;
	MtPhase		phase = MT_SYNCING;
	MtSpiScope	scope;

	if (mt_allow_ddl || !alters_numbers(command))
		return;
	mt_spi_begin(&scope);
	if (mt_spi_exec_kept(&plan, SPI_OK_SELECT, altered_query, MT_NO_ARGS) > 0)
	{
		sequence = mt_spi_text(&scope, 0, 1);
		migration = mt_spi_text(&scope, 0, 2);
		phase = mt_phase_parse(mt_spi_text(&scope, 0, 3));
	}
	mt_spi_end(&scope);
	if (sequence == NULL)
		return;
	ereport(ERROR,
			(errcode(MT_ERRCODE_DDL_REFUSED),
			 errmsg("cannot alter sequence %s while it takes turns with that of the target", sequence),
			 errdetail("Migration \"%s\" has each side give out every second value, so that rows written on both sides never have the same.",
					   migration),
			 errhint("Go back first: %s."
					 " SET migrate_tiers.allow_ddl = on lets it pass; then see to it yourself that both sides differ.",
					 mt_phase_way_back(phase, MT_SYNCING))));
}

static bool
alters_numbers(Node *command)
{
	ListCell   *cell;

	if (IsA(command, AlterTableStmt))
		return true;
	if (!IsA(command, AlterSeqStmt))
		return false;
	foreach(cell, ((AlterSeqStmt *) command)->options)
		if (strcmp(lfirst_node(DefElem, cell)->defname, "owned_by") != 0)
			return true;
	return false;
}
