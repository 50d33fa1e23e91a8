/*
 * sequence.c
 *	  Where our own SQL enters to read where a sequence is.
 *
 * SELECT FROM a sequence goes by its name.  Who owns it may give the name to a
 * view meanwhile, and what that calls would run with our rights.
 */
#include "base/compat.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "catalog/pg_class_d.h"
#include "commands/sequence.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(mt_sequence_position);

PGDLLEXPORT Datum mt_sequence_position(PG_FUNCTION_ARGS);

static void read_position(Relation sequence, Datum *values, bool *nulls);

/* mt_sequence_position is migrate_tiers.sequence_position(sequence). */
Datum
mt_sequence_position(PG_FUNCTION_ARGS)
{
	Relation	sequence = try_relation_open(PG_GETARG_OID(0), AccessShareLock);
	TupleDesc	desc;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "sequence_position does not return a row");
	if (sequence != NULL)
	{
		if (sequence->rd_rel->relkind == RELKIND_SEQUENCE)
			read_position(sequence, values, nulls);
		relation_close(sequence, NoLock);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* read_position reads the one row that a sequence is stored as. It is frozen: every snapshot sees it. */
static void
read_position(Relation sequence, Datum *values, bool *nulls)
{
	TupleTableSlot *slot = table_slot_create(sequence, NULL);
	TableScanDesc scan = table_beginscan(sequence, GetActiveSnapshot(), 0, NULL);

	if (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		values[0] = Int64GetDatum(DatumGetInt64(slot_getattr(slot, SEQ_COL_LASTVAL, &nulls[0])));
		values[1] = slot_getattr(slot, SEQ_COL_CALLED, &nulls[1]);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}
