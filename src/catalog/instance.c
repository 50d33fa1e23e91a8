/*
 * instance.c
 *	  Application servers: see instance.h.
 *
 * What callers say and what the worker saves are rows of two tables: a
 * transaction that has said something and stays open keeps nobody but its like
 * waiting.  A worker that waited for it would send nothing meanwhile.
 *
 * Saving twice changes nothing: a time only ever moves on.  So it does not
 * matter when a worker dies: who comes after it reads the queue from its beginning.
 */
#include "catalog/instance.h"

#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/spi.h"

/* Who has not written for so long, and is not expected, is forgotten. */
#define KEEP_INTERVAL "interval '7 days'"

typedef struct MtSeen
{
	char		name[NAMEDATALEN];	/* hash key, of the application */
	TimestampTz written;
} MtSeen;

struct MtInstances
{
	HTAB	   *seen;
};

static void note_row(void *arg, const MtQueueRow *row);

/* mt_instance_expect puts a name on the roster. */
void
mt_instance_expect(int32 migration, const char *name)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.instance (migration, name) VALUES ($1, $2) ON CONFLICT (migration, name) DO NOTHING",
				MT_ARGS(MT_INT4(migration), MT_TEXT(name)));
	mt_spi_end(&scope);
}

/* mt_instance_forget takes a name off the roster; what capture saw of it stays. */
bool
mt_instance_forget(int32 migration, const char *name)
{
	MtSpiScope	scope;
	bool		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_DELETE,
						"DELETE FROM migrate_tiers.instance WHERE migration = $1 AND name = $2",
						MT_ARGS(MT_INT4(migration), MT_TEXT(name))) > 0;
	mt_spi_end(&scope);
	return found;
}

/* mt_instance_expected returns the names on the roster, as a text[] written as text. */
char *
mt_instance_expected(int32 migration)
{
	MtSpiScope	scope;
	char	   *names;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_SELECT, "SELECT ARRAY(SELECT name FROM migrate_tiers.instance WHERE migration = $1)",
				MT_ARGS(MT_INT4(migration)));
	names = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	return names;
}

/* mt_instance_report notes what an instance says of itself. */
bool
mt_instance_report(int32 migration, const char *name, MtPhase phase)
{
	MtSpiScope	scope;
	bool		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_UPDATE,
						"UPDATE migrate_tiers.instance SET reported_phase = $3, reported_at = clock_timestamp()"
						" WHERE migration = $1 AND name = $2",
						MT_ARGS(MT_INT4(migration), MT_TEXT(name), MT_TEXT(mt_phase_name(phase)))) > 0;
	mt_spi_end(&scope);
	return found;
}

/* mt_instances_create makes a memory of who wrote, in the current memory context. */
MtInstances *
mt_instances_create(void)
{
	MtInstances *instances = palloc(sizeof(MtInstances));
	HASHCTL		control = {.keysize = NAMEDATALEN, .entrysize = sizeof(MtSeen), .hcxt = CurrentMemoryContext};

	instances->seen = hash_create("migrate_tiers instances", 32, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	return instances;
}

/* mt_instances_note remembers who wrote a row of the queue. */
void
mt_instances_note(MtInstances *instances, const MtQueueRow *row)
{
	MtSeen	   *entry;
	char		name[NAMEDATALEN];
	bool		found;

	strlcpy(name, row->application, NAMEDATALEN);
	entry = hash_search(instances->seen, name, HASH_ENTER, &found);
	if (!found || row->committed > entry->written)
		entry->written = row->committed;
}

/* mt_instances_read_queue remembers who wrote any row that is in the queue. */
void
mt_instances_read_queue(MtInstances *instances, const MtMigration *migration)
{
	Snapshot	snapshot;

	if (!OidIsValid(migration->queue[0]))
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(snapshot);
	mt_queue_read(mt_queue_reader_create(migration), snapshot, mt_mark_parse("0:0:"), true, note_row, instances);
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
}

static void
note_row(void *arg, const MtQueueRow *row)
{
	mt_instances_note((MtInstances *) arg, row);
}

/* mt_instances_any says whether anything is remembered. */
bool
mt_instances_any(const MtInstances *instances)
{
	return hash_get_num_entries(instances->seen) > 0;
}

/* mt_instances_save writes what is remembered into the catalog. */
void
mt_instances_save(const MtInstances *instances, int32 migration)
{
	HASH_SEQ_STATUS status;
	MtSeen	   *entry;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	hash_seq_init(&status, instances->seen);
	while ((entry = hash_seq_search(&status)) != NULL)
		mt_spi_exec(SPI_OK_INSERT,
					"INSERT INTO migrate_tiers.instance_seen AS i (migration, name, last_source_write) VALUES ($1, $2, $3)"
					" ON CONFLICT (migration, name) DO UPDATE SET last_source_write = excluded.last_source_write"
					" WHERE coalesce(i.last_source_write, '-infinity') < excluded.last_source_write",
					MT_ARGS(MT_INT4(migration), MT_TEXT(entry->name),
							{TIMESTAMPTZOID, TimestampTzGetDatum(entry->written), false}));
	mt_spi_exec(SPI_OK_DELETE,
				"DELETE FROM migrate_tiers.instance_seen AS s WHERE migration = $1"
				" AND greatest(last_source_write, last_target_write, reported_at) < clock_timestamp() - " KEEP_INTERVAL
				" AND NOT EXISTS (SELECT FROM migrate_tiers.instance AS i WHERE i.migration = $1 AND i.name = s.name)",
				MT_ARGS(MT_INT4(migration)));
	mt_spi_end(&scope);
}

/* mt_instances_clear forgets what was saved. */
void
mt_instances_clear(MtInstances *instances)
{
	HASH_SEQ_STATUS status;
	MtSeen	   *entry;

	hash_seq_init(&status, instances->seen);
	while ((entry = hash_seq_search(&status)) != NULL)
		(void) hash_search(instances->seen, entry->name, HASH_REMOVE, NULL);
}

/* mt_instances_json returns what is remembered as a JSON array. */
char *
mt_instances_json(const MtInstances *instances)
{
	StringInfoData json;
	HASH_SEQ_STATUS status;
	MtSeen	   *entry;
	TimestampTz now = GetCurrentTimestamp();

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	hash_seq_init(&status, instances->seen);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		appendStringInfoString(&json, json.len > 1 ? ", {\"name\": " : "{\"name\": ");
		escape_json(&json, entry->name);
		appendStringInfo(&json, ", \"written\": %.6f}", (double) (now - entry->written) / USECS_PER_SEC);
	}
	appendStringInfoChar(&json, ']');
	return json.data;
}

/* mt_instance_merge takes over what the target knows. */
void
mt_instance_merge(int32 migration, const char *there)
{
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	/* The same moment is computed anew each time: a second more or less is no news. */
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.instance_seen AS i (migration, name, reported_phase, reported_at, last_target_write)"
				" SELECT $1, t.name, max(t.reported_phase), max(t.reported_at), max(t.last_write)"
				" FROM migrate_tiers.instances_there($2::jsonb) AS t GROUP BY t.name"
				" ON CONFLICT (migration, name) DO UPDATE SET"
				" reported_phase = CASE WHEN excluded.reported_at > coalesce(i.reported_at, '-infinity')"
				"  THEN excluded.reported_phase ELSE i.reported_phase END,"
				" reported_at = greatest(i.reported_at, excluded.reported_at),"
				" last_target_write = greatest(i.last_target_write, excluded.last_target_write)"
				" WHERE excluded.reported_at > coalesce(i.reported_at + interval '1 s', '-infinity')"
				"  OR excluded.reported_at > i.reported_at AND excluded.reported_phase <> i.reported_phase"
				"  OR excluded.last_target_write > coalesce(i.last_target_write + interval '1 s', '-infinity')",
				MT_ARGS(MT_INT4(migration), MT_TEXT(there)));
	mt_spi_end(&scope);
}
