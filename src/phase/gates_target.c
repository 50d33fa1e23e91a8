/*
 * gates_target.c
 *	  Gates that ask the target whether it is fit to be written: see gate.h.
 */
#include "phase/gate.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog/relation.h"

/* Times of conflicting writes are compared: the clocks may differ by no more, as in preflight. */
#define CLOCK_LIMIT_US USECS_PER_SEC

/*
 * mt_gate_reverse_capture wants the target to be one where changes can be captured: it takes writes, and
 * the role that we are there owns the tables, which have the columns of the keys.
 */
void
mt_gate_reverse_capture(MtGateScope *scope, MtGate *gate)
{
	StringInfoData sql;
	ListCell   *cell;
	MtRows	   *rows;

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT pg_catalog.string_agg(p.problem, '; ') FROM ("
						   "SELECT 'the server there is in recovery' AS problem WHERE pg_catalog.pg_is_in_recovery()"
						   " UNION ALL SELECT 'schema migrate_tiers there is missing'"
						   " WHERE pg_catalog.to_regnamespace('migrate_tiers') IS NULL"
						   " UNION ALL SELECT CASE WHEN c.oid IS NULL THEN 'table ' || k.name || ' is missing there'"
						   " WHEN NOT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE')"
						   " THEN pg_catalog.format('role %I there does not own table %s', current_user, k.name)"
						   " ELSE pg_catalog.format('table %s there has no column %s of the key', k.name, k.key) END FROM (VALUES (NULL, NULL)");
	foreach(cell, mt_relation_list(scope->migration->id, "realtime"))
	{
		const MtRelation *relation = (const MtRelation *) lfirst(cell);
		const char *name = quote_qualified_identifier(relation->target_schema, relation->target_name);

		for (int i = 0; i < relation->nkeys; i++)
			appendStringInfo(&sql, ", (%s, %s)", quote_literal_cstr(name), quote_literal_cstr(relation->key_columns[i]));
	}
	appendStringInfoString(&sql,
						   ") AS k (name, key) LEFT JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(k.name)"
						   " LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = k.key AND NOT a.attisdropped"
						   " WHERE k.name IS NOT NULL AND (a.attnum IS NULL OR NOT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'))"
						   ") AS p");
	rows = mt_remote_query(mt_gate_remote(scope), sql.data, MT_NO_PARAMS);
	mt_gate_decide(gate, rows->values[0][0], "changes of the target can be captured",
				   "Mend it on the target, then SELECT * FROM migrate_tiers.gates('dual_write').");
}

/* mt_gate_clocks wants the clocks of both servers to agree. */
void
mt_gate_clocks(MtGateScope *scope, MtGate *gate)
{
	MtRemote   *remote = mt_gate_remote(scope);
	TimestampTz before = GetCurrentTimestamp();
	MtRows	   *rows = mt_remote_query(remote,
									   "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8"
									   " - 946684800000000",
									   MT_NO_PARAMS);
	TimestampTz after = GetCurrentTimestamp();
	int64		there = DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(rows->values[0][0])));
	/* It was some moment between before and after. */
	int64		apart = there < before ? before - there : there > after ? there - after :
		0;

	mt_gate_decide(gate,
				   apart <= CLOCK_LIMIT_US ? NULL :
					   psprintf("the clock of the target is %.1f s %s", (double) apart / USECS_PER_SEC,
													  there < before ? "behind" : "ahead"),
				   "the clocks of both servers agree within a second",
				   "Set the clocks right on both servers (NTP): which of two writes was the later one is judged by them.");
}
