/*
 * gates_instance.c
 *	  Gates that look at application servers: what each reports, and what
 *	  capture saw of it on either side.
 *
 * They read the queue and ask the target themselves, so that what they say is
 * exact; the catalog has what neither may hold any more.
 */
#include "phase/gate.h"

#include "base/spi.h"
#include "catalog/instance.h"
#include "catalog/option.h"
#include "endpoint/target.h"

static const char *here(MtGateScope *scope);
static const char *there(MtGateScope *scope);

/*
 * mt_gate_instances wants every expected instance to report the phase that the migration is in, or a
 * later one; the last report on either side counts, unless the migration has left the phase since, in
 * earnest: servers that were led back have to be led forward again.
 */
void
mt_gate_instances(MtGateScope *scope, MtGate *gate)
{
	const char *phase = mt_phase_name(scope->migration->phase);
	MtSpiScope	spi;
	char	   *missing;
	char	   *expected;
	const char *fine;

	mt_spi_begin(&spi);
	mt_spi_exec(SPI_OK_SELECT,
				"WITH phases AS (SELECT p.name, p.position FROM unnest(ARRAY['planned', 'syncing', 'dual_write', 'read_target',"
				"  'target_only', 'finished']) WITH ORDINALITY AS p (name, position)),"
				" reports AS (SELECT name, reported_phase, reported_at FROM migrate_tiers.instance WHERE migration = $1"
				"  UNION ALL SELECT name, reported_phase, reported_at FROM migrate_tiers.instance_seen WHERE migration = $1"
				"  UNION ALL SELECT name, reported_phase, reported_at FROM migrate_tiers.instances_there($2::jsonb)),"
				" last AS (SELECT DISTINCT ON (name) * FROM reports WHERE reported_phase IS NOT NULL ORDER BY name, reported_at DESC),"
				" wanted AS (SELECT w.position, (SELECT max(t.finished) FROM migrate_tiers.transition AS t"
				"  JOIN phases AS f ON f.name = t.from_phase JOIN phases AS p ON p.name = t.to_phase WHERE t.migration = $1"
				"   AND t.outcome = 'done' AND NOT t.rehearsal AND p.position < f.position AND p.position < w.position) AS back"
				"  FROM phases AS w WHERE w.name = $3)"
				" SELECT string_agg(format(CASE WHEN l.name IS NULL THEN '%1$s has not reported'"
				"  WHEN p.position < w.position THEN '%1$s reports %2$s'"
				"  ELSE '%1$s has not reported since the way back of %3$s' END,"
				"  i.name, l.reported_phase, date_trunc('second', w.back)), '; ' ORDER BY i.name)"
				"  FILTER (WHERE coalesce(p.position, 0) < w.position OR l.reported_at <= w.back),"
				"  count(*)::text"
				" FROM wanted AS w, migrate_tiers.instance AS i LEFT JOIN last AS l USING (name)"
				" LEFT JOIN phases AS p ON p.name = l.reported_phase WHERE i.migration = $1",
				MT_ARGS(MT_INT4(scope->migration->id), MT_TEXT(there(scope)), MT_TEXT(phase)));
	missing = mt_spi_text(&spi, 0, 1);
	expected = mt_spi_text(&spi, 0, 2);
	mt_spi_end(&spi);
	if (strcmp(expected, "0") == 0)
		fine = "no instance is expected: migrate_tiers.expect_instance(name) puts one on the roster";
	else
		fine = psprintf("all instances (%s) report %s", expected, phase);
	mt_gate_decide(gate, missing, fine,
				   psprintf("Configure each for phase %s, and let it call migrate_tiers.report_instance(name, '%s') on either side.",
							phase, phase));
}

/* mt_gate_source_quiet wants no application to have written the source for quiet_period. */
void
mt_gate_source_quiet(MtGateScope *scope, MtGate *gate)
{
	const char *period = mt_option_text(scope->migration->id, "quiet_period");
	MtSpiScope	spi;
	char	   *writers;

	mt_spi_begin(&spi);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT string_agg(format('%s wrote the source %s ago', CASE name WHEN '' THEN 'an instance without application_name'"
				"  ELSE name END, make_interval(secs => round(age))), '; ' ORDER BY age)"
				" FROM (SELECT name, greatest(min(age), 0)::numeric AS age FROM ("
				"  SELECT name, extract(epoch FROM clock_timestamp() - last_source_write)::float8 AS age FROM migrate_tiers.instance_seen"
				"   WHERE migration = $1 AND last_source_write IS NOT NULL UNION ALL"
				"  SELECT name, written FROM jsonb_to_recordset($2::jsonb) AS h (name text, written float8)) AS a GROUP BY name) AS w"
				" WHERE make_interval(secs => age::float8) < $3::interval",
				MT_ARGS(MT_INT4(scope->migration->id), MT_TEXT(here(scope)), MT_TEXT(period)));
	writers = mt_spi_text(&spi, 0, 1);
	mt_spi_end(&spi);
	mt_gate_decide(gate, writers, psprintf("no application has written the source for %s", period),
				   "Let them write the target only, and wait for quiet_period; or set_option('quiet_period', ...).");
}

/* mt_gate_source_subscriptions wants nothing to be applied that the fence would refuse, again and again. */
void
mt_gate_source_subscriptions(MtGateScope *scope, MtGate *gate)
{
	MtSpiScope	spi;
	char	   *writers;

	mt_spi_begin(&spi);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT string_agg(DISTINCT format('subscription %I writes table %s', s.subname, l.srrelid::regclass), '; ')"
				" FROM migrate_tiers.relation AS r"
				" CROSS JOIN LATERAL (SELECT r.relation AS oid UNION SELECT p.relid FROM pg_partition_tree(r.relation) AS p"
				"  UNION SELECT a.relid FROM pg_partition_ancestors(r.relation) AS a) AS t"
				" JOIN pg_subscription_rel AS l ON l.srrelid = t.oid JOIN pg_subscription AS s ON s.oid = l.srsubid"
				" WHERE r.migration = $1 AND r.tier = 'realtime' AND s.subenabled",
				MT_ARGS(MT_INT4(scope->migration->id)));
	writers = mt_spi_text(&spi, 0, 1);
	mt_spi_end(&spi);
	mt_gate_decide(gate, writers, "no subscription writes the source",
				   "Let what it brings come to the target by other means, and run ALTER SUBSCRIPTION ... DISABLE.");
}

/* mt_gate_target_quiet wants no application to have written the target for quiet_period. */
void
mt_gate_target_quiet(MtGateScope *scope, MtGate *gate)
{
	const char *period = mt_option_text(scope->migration->id, "quiet_period");
	MtSpiScope	spi;
	char	   *writers;

	mt_spi_begin(&spi);
	mt_spi_exec(SPI_OK_SELECT,
				"SELECT string_agg(format('%s wrote the target %s ago', CASE name WHEN '' THEN 'an instance without application_name'"
				"  ELSE name END, date_trunc('second', clock_timestamp() - written)), '; ' ORDER BY written DESC)"
				" FROM (SELECT name, max(written) AS written FROM ("
				"  SELECT name, last_target_write AS written FROM migrate_tiers.instance_seen WHERE migration = $1 UNION ALL"
				"  SELECT name, last_write FROM migrate_tiers.instances_there($2::jsonb)) AS a GROUP BY name) AS w"
				" WHERE written > clock_timestamp() - $3::interval",
				MT_ARGS(MT_INT4(scope->migration->id), MT_TEXT(there(scope)), MT_TEXT(period)));
	writers = mt_spi_text(&spi, 0, 1);
	mt_spi_end(&spi);
	mt_gate_decide(gate, writers, psprintf("no application has written the target for %s", period),
				   "Let them write the source only, and wait for quiet_period; or set_option('quiet_period', ...).");
}

/* here returns who wrote the source, as the queue has it now. */
static const char *
here(MtGateScope *scope)
{
	if (scope->here == NULL)
	{
		MtInstances *instances = mt_instances_create();

		mt_instances_read_queue(instances, scope->migration);
		scope->here = MemoryContextStrdup(scope->context, mt_instances_json(instances));
	}
	return scope->here;
}

/* there returns what the target knows of instances now. */
static const char *
there(MtGateScope *scope)
{
	if (scope->there == NULL)
		scope->there = MemoryContextStrdup(scope->context,
										   mt_target_instances(mt_gate_remote(scope), scope->migration, NULL));
	return scope->there;
}
