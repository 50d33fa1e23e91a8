/*
 * target_instances.c
 *	  What the target knows of application servers: their reports there, and
 *	  who wrote it when last.
 *
 * Times are told as ages by the target's own clock, so that it does not matter
 * by how much the clocks differ.
 */
#include "endpoint/target.h"

#include "lib/stringinfo.h"

#define AGE(moment) "extract(epoch FROM pg_catalog.clock_timestamp() - " moment ")"

/*
 * mt_target_instances returns a JSON array of {"name", "phase", "reported", "written"}; ages are in seconds.
 *
 * Of writers, those that a mark of the way back (as text; NULL: none) did not see to have ended.
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
		appendStringInfoString(&sql, " UNION ALL SELECT name, phase, " AGE("reported") ", NULL"
																					   " FROM migrate_tiers.instance_report WHERE migration = $1");
	if (rows->values[0][1][0] == 't')
		appendStringInfo(&sql, " UNION ALL SELECT application, NULL, NULL, " AGE("max(committed)") " FROM %s WHERE xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmin($2::pg_catalog.pg_snapshot)"
																								   " GROUP BY application HAVING count(committed) > 0",
						 writers);
	/* What is not there has no use for its parameter. */
	appendStringInfoString(&sql, ") AS j WHERE $1::pg_catalog.uuid IS NOT NULL AND $2::pg_catalog.pg_snapshot IS NOT NULL");
	rows = mt_remote_query(remote, sql.data, MT_PARAMS(migration->ident, since ? since : "1:1:"));
	return rows->values[0][0];
}
