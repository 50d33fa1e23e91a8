/*
 * target_instances.c
 *	  What the target knows of application servers: their reports there, and
 *	  who wrote it when last.
 *
 * Times are told as ages by the target's own clock, so that it does not matter
 * by how much the clocks differ.
 *
 * Any role can report there, under any name, and who writes can call itself
 * anything.  So what is read is bounded: all who are expected, and of others
 * those that were seen last.
 */
#include "endpoint/target.h"

#include "lib/stringinfo.h"

#include "catalog/instance.h"

#define AGE(moment) "extract(epoch FROM pg_catalog.clock_timestamp() - " moment ")"
#define REPORT_AGE	AGE("reported")
#define WRITE_AGE	AGE("max(committed)")

/* The others, of each kind: of reports and of writers. */
#define BOUNDED(name, moment) \
	" ORDER BY " name " = ANY ($3::pg_catalog.text[]) DESC NULLS LAST, " moment " DESC" \
	" LIMIT 1000 + pg_catalog.cardinality($3::pg_catalog.text[]))"

/*
 * mt_target_instances returns a JSON array of {"name", "phase", "reported", "written"}; ages are in seconds.
 *
 * Of writers, those that a mark of the way back (as text; NULL: none) did not see to have ended; what we note there
 * ourselves has no application.
 */
char *
mt_target_instances(MtRemote *remote, const MtMigration *migration, const char *since)
{
	char	   *writers = psprintf("migrate_tiers.writer_%.8s", migration->ident);
	MtRows	   *rows;
	StringInfoData sql;

	rows = mt_remote_query(remote,
						   "SELECT pg_catalog.to_regclass('migrate_tiers.instance_report') IS NOT NULL,"
						   " pg_catalog.to_regclass($1) IS NOT NULL",
						   MT_PARAMS(writers));
	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT coalesce(pg_catalog.jsonb_agg(j), '[]') FROM ("
						   "SELECT NULL::text AS name, NULL::text AS phase, NULL::float8 AS reported, NULL::float8 AS written WHERE false");
	if (rows->values[0][0][0] == 't')
		appendStringInfoString(&sql,
							   " UNION ALL (SELECT name, phase, " REPORT_AGE ", NULL"
							   " FROM migrate_tiers.instance_report WHERE migration = $1" BOUNDED("name", "reported"));
	if (rows->values[0][1][0] == 't')
		appendStringInfo(&sql,
						 " UNION ALL (SELECT application, NULL, NULL, " WRITE_AGE " FROM %s"
						 " WHERE application IS NOT NULL AND xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmin($2::pg_catalog.pg_snapshot)"
						 " GROUP BY application HAVING count(committed) > 0" BOUNDED("application", "max(committed)"),
						 writers);
	/* What is not there has no use for its parameter. */
	appendStringInfoString(&sql, ") AS j WHERE $1::pg_catalog.uuid IS NOT NULL AND $2::pg_catalog.pg_snapshot IS NOT NULL"
								 " AND $3::pg_catalog.text[] IS NOT NULL");
	rows = mt_remote_query(remote, sql.data,
						   MT_PARAMS(migration->ident, since ? since : "1:1:", mt_instance_expected(migration->id)));
	return rows->values[0][0];
}
