/*
 * cron.c
 *	  Pushes that pg_cron asks for: see cron.h.
 *
 * The job belongs to the role that scheduled it, and calls push_batch as anybody
 * would.  Its name is kept with the policy, so that it goes with the table.
 */
#include "batch/cron.h"

#include "miscadmin.h"

#include "base/spi.h"
#include "batch/policy.h"

static char *table_name(const MtRelation *relation);
static void check_installed(const MtRelation *relation);
static void show_format(void *arg);

/* mt_cron_schedule registers a job that pushes the table. */
void
mt_cron_schedule(const MtMigration *migration, const MtRelation *relation, const char *schedule)
{
	ErrorContextCallback callback = {error_context_stack, show_format, NULL};
	char	   *job = psprintf("migrate_tiers push %s %d", migration->name, relation->id);
	char	   *command = psprintf("SELECT migrate_tiers.push_batch(%s, %s)", quote_literal_cstr(table_name(relation)),
								   quote_literal_cstr(migration->name));
	MtSpiScope	scope;

	check_installed(relation);
	(void) mt_cron_unschedule(relation);
	mt_spi_begin_as(&scope, GetUserId());
	error_context_stack = &callback;
	mt_spi_exec(SPI_OK_SELECT, "SELECT cron.schedule($1, $2, $3)",
				MT_ARGS(MT_TEXT(job), MT_TEXT(schedule), MT_TEXT(command)));
	error_context_stack = callback.previous;
	mt_spi_end(&scope);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.policy (relation, cron_job) VALUES ($1, $2)"
				" ON CONFLICT (relation) DO UPDATE SET cron_job = excluded.cron_job",
				MT_ARGS(MT_INT4(relation->id), MT_TEXT(job)));
	mt_spi_end(&scope);
}

/* show_format adds to what pg_cron says of a schedule that it cannot parse. */
static void
show_format(void *arg)
{
	errhint("Write it as in '0 3 * * *': minute, hour, day of month, month, day of week.");
}

/* mt_cron_unschedule removes the job of a table. */
bool
mt_cron_unschedule(const MtRelation *relation)
{
	MtSpiScope	scope;
	char	   *job = NULL;

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT,
					"SELECT cron_job FROM migrate_tiers.policy WHERE relation = $1 AND cron_job IS NOT NULL",
					MT_ARGS(MT_INT4(relation->id))) > 0)
		job = mt_spi_text(&scope, 0, 1);
	if (job != NULL)
	{
		mt_spi_exec(SPI_OK_UPDATE, "UPDATE migrate_tiers.policy SET cron_job = NULL WHERE relation = $1",
					MT_ARGS(MT_INT4(relation->id)));
		mt_spi_exec(SPI_OK_SELECT, "SELECT FROM pg_extension WHERE extname = 'pg_cron'", MT_NO_ARGS);
		if (SPI_processed > 0)
			mt_spi_exec(SPI_OK_DELETE, "DELETE FROM cron.job WHERE jobname = $1 AND database = current_database()",
						MT_ARGS(MT_TEXT(job)));
	}
	mt_spi_end(&scope);
	return job != NULL;
}

/* check_installed says which way there is without pg_cron. */
static void
check_installed(const MtRelation *relation)
{
	MtSpiScope	scope;
	bool		installed;

	mt_spi_begin(&scope);
	installed = mt_spi_exec(SPI_OK_SELECT, "SELECT FROM pg_extension WHERE extname = 'pg_cron'", MT_NO_ARGS) > 0;
	mt_spi_end(&scope);
	if (!installed)
	{
		char	   *call = mt_policy_call(relation, "'1 hour'", NULL);

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"pg_cron\" is not installed in this database"),
				 errhint("Our own workers push by an interval: %s.", call)));
	}
}

static char *
table_name(const MtRelation *relation)
{
	return quote_qualified_identifier(relation->schema, relation->name);
}
