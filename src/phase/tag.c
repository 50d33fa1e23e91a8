/*
 * tag.c
 *	  Sorts tables into tiers.
 *
 * In phase planned a tag is a note and nothing else, so everything may change.
 * Later the realtime tier is what capture, copy and sync stand on: in syncing a
 * table may join it (retag.h), and after that it stays as it is.
 */
#include "phase/tag.h"

#include "base/errors.h"
#include "base/spi.h"
#include "batch/cron.h"
#include "catalog/batch.h"
#include "catalog/namespace.h"
#include "phase/retag.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

static void check_tier(const char *tier);
static void check_phase(const MtMigration *migration, const char *name, const char *from, const char *to);
static void check_not_elsewhere(const MtMigration *migration, const MtCandidate *candidate,
								const MtRelation *tagged);
static void raise_obstacle(const MtObstacle *obstacle);
static void split_target(const char *target, const MtCandidate *candidate, char **schema, char **name);
static void check_target_free(const MtMigration *migration, Oid relid, const char *schema, const char *name);
static void store_tag(const MtMigration *migration, const MtCandidate *candidate, const char *tier,
					  const char *target_schema, const char *target_name, const MtIdentity *key);
static Datum make_text_array(char **texts, int count);
static List *list_candidates(Oid schema, bool extensions);
static MtTagged *tag_candidate(const MtMigration *migration, Oid relid, const char *tier);

/* mt_tag_table gives a table a tier, and optionally another name on the target. */
void
mt_tag_table(const MtMigration *migration, Oid relid, const char *tier, const char *target)
{
	MtCandidate *candidate;
	MtRelation *tagged;
	MtObstacle *obstacle;
	MtIdentity *key;
	char	   *schema;
	char	   *name;
	bool		retagged;
	bool		realtime;
	bool		joins;

	check_tier(tier);
	candidate = mt_candidate_read(relid);
	obstacle = mt_candidate_obstacle(candidate, tier, &key);
	if (obstacle != NULL)
		raise_obstacle(obstacle);
	tagged = mt_relation_by_relid(relid);
	check_not_elsewhere(migration, candidate, tagged);
	retagged = migration->phase != MT_PLANNED && tagged != NULL && strcmp(tagged->tier, tier) != 0 &&
		strcmp(tagged->tier, "ignored") != 0 && strcmp(tier, "ignored") != 0;
	realtime = strcmp(tier, "realtime") == 0;
	joins = migration->phase == MT_SYNCING && realtime && (tagged == NULL || strcmp(tagged->tier, "ignored") == 0);
	if (retagged)
		mt_retag_check(migration, tagged, realtime);
	else if (!joins)
		check_phase(migration, mt_candidate_name(candidate), tagged ? tagged->tier : NULL, tier);

	schema = tagged ? tagged->target_schema : candidate->schema;
	name = tagged ? tagged->target_name : candidate->name;
	if (target != NULL)
		split_target(target, candidate, &schema, &name);
	check_target_free(migration, relid, schema, name);
	if (candidate->extension != NULL && strcmp(tier, "ignored") != 0)
		ereport(WARNING,
				(errmsg("table %s belongs to extension \"%s\"", mt_candidate_name(candidate),
						candidate->extension),
				 errhint("Where the extension fills it by itself, tag it ignored.")));
	if (tagged != NULL && strcmp(tagged->tier, "batch") == 0 && strcmp(tier, "batch") != 0)
		(void) mt_cron_unschedule(tagged);
	if (retagged && !realtime)
		mt_retag_leave_realtime(migration, tagged);
	store_tag(migration, candidate, tier, schema, name, key);
	if (joins || (retagged && realtime))
	{
		tagged = mt_relation_by_relid(relid);
		mt_retag_check_new(migration, tagged, retagged && mt_batch_has_filled(tagged->id));
		mt_retag_enter_realtime(tagged, joins ? "it is new in the migration" : "it was a batch table");
	}
}

/* mt_tag_schema gives a tier to the tables of a schema that have none and can have it. */
List *
mt_tag_schema(const MtMigration *migration, const char *schema, const char *tier)
{
	Oid			schema_oid;
	List	   *done = NIL;
	ListCell   *cell;

	check_tier(tier);
	check_phase(migration, psprintf("a table of schema %s", quote_identifier(schema)), NULL, tier);
	schema_oid = get_namespace_oid(schema, true);
	if (!OidIsValid(schema_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"%s\" does not exist", schema),
				 errhint("The function migrate_tiers.suggest_tiers() lists your tables with their schemas.")));
	if (strncmp(schema, "pg_", 3) == 0 || strcmp(schema, "information_schema") == 0 ||
		strcmp(schema, "migrate_tiers") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a system schema", schema),
				 errhint("The target has its own. Tag tables of your own schemas.")));
	foreach(cell, list_candidates(schema_oid, strcmp(tier, "ignored") == 0))
		done = lappend(done, tag_candidate(migration, lfirst_oid(cell), tier));
	if (done == NIL)
		ereport(WARNING,
				(errmsg("schema \"%s\" has no table to tag", schema)));
	return done;
}

/* mt_untag_table takes a table out of the migration. */
void
mt_untag_table(const MtMigration *migration, Oid relid)
{
	MtRelation *tagged = mt_relation_by_relid(relid);
	char	   *name = mt_table_name(relid);
	MtSpiScope	scope;

	if (tagged == NULL || tagged->migration != migration->id)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table %s is not tagged in migration \"%s\"", name, migration->name),
				 errhint("The view migrate_tiers.tables shows those that are.")));
	check_phase(migration, name, tagged->tier, NULL);
	(void) mt_cron_unschedule(tagged);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_DELETE, "DELETE FROM migrate_tiers.relation WHERE id = $1",
				MT_ARGS(MT_INT4(tagged->id)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

static void
check_tier(const char *tier)
{
	if (strcmp(tier, "realtime") != 0 && strcmp(tier, "batch") != 0 && strcmp(tier, "ignored") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown tier \"%s\"", tier),
				 errhint("Tiers are realtime, batch and ignored.")));
}

/* check_phase refuses to touch the realtime tier once it is captured; NULL is no tier. */
static void
check_phase(const MtMigration *migration, const char *name, const char *from, const char *to)
{
	bool		leaves = from != NULL && strcmp(from, "realtime") == 0;

	if (migration->phase == MT_PLANNED || (!leaves && (to == NULL || strcmp(to, "realtime") != 0)))
		return;
	ereport(ERROR,
			(errcode(MT_ERRCODE_WRONG_PHASE),
			 errmsg("the tier of %s cannot change in phase %s", name, mt_phase_name(migration->phase)),
			 errdetail("Realtime tables are taken out in phase planned, and added there or, one at a time, in syncing."),
			 migration->phase == MT_FINISHED ?
			 errhint("SELECT migrate_tiers.drop_migration() forgets the migration.") :
			 migration->phase == MT_SYNCING && !leaves ?
			 errhint("Tag one at a time: SELECT migrate_tiers.tag(..., 'realtime').") :
			 migration->phase == MT_SYNCING ?
			 errhint("Tag it batch first, which leaves the others in sync: SELECT migrate_tiers.tag(%s, 'batch').", quote_literal_cstr(name)) :
			 errhint("Go back first: %s.", mt_phase_way_back(migration->phase, leaves ? MT_PLANNED : MT_SYNCING))));
}

static void
check_not_elsewhere(const MtMigration *migration, const MtCandidate *candidate, const MtRelation *tagged)
{
	MtMigration *other;

	if (tagged == NULL || tagged->migration == migration->id)
		return;
	other = mt_migration_by_id(tagged->migration, false);
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("table %s is part of another migration already", mt_candidate_name(candidate)),
			 errdetail("It is tagged %s in migration \"%s\".", tagged->tier, other->name),
			 errhint("Take it out there first: SELECT migrate_tiers.untag(%s, %s).",
					 quote_literal_cstr(mt_candidate_name(candidate)), quote_literal_cstr(other->name))));
}

static void
raise_obstacle(const MtObstacle *obstacle)
{
	ereport(ERROR,
			(errcode(obstacle->sqlstate),
			 errmsg_internal("%s", obstacle->message),
			 errhint("%s", obstacle->hint)));
}

/* split_target reads [schema.]table, with quotes where the parts need them. */
static void
split_target(const char *target, const MtCandidate *candidate, char **schema, char **name)
{
	List	   *parts;

	if (!SplitIdentifierString(pstrdup(target), '.', &parts) || parts == NIL || list_length(parts) > 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a target table: \"%s\"", target),
				 errhint("Write it as in SQL: schema.table, with double quotes around a part that needs them.")));
	*schema = list_length(parts) == 2 ? linitial(parts) : candidate->schema;
	*name = llast(parts);
}

/* check_target_free refuses two sources for one table of the target. */
static void
check_target_free(const MtMigration *migration, Oid relid, const char *schema, const char *name)
{
	char	   *other = NULL;
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	if (mt_spi_exec(SPI_OK_SELECT,
					"SELECT r.relation::regclass FROM migrate_tiers.relation r"
					" JOIN migrate_tiers.migration m ON m.id = r.migration"
					" WHERE m.server = $1 AND r.relation <> $2 AND r.tier <> 'ignored'"
					" AND r.target_schema::text = $3 AND r.target_name::text = $4",
					MT_ARGS(MT_OID(migration->server), MT_OID(relid), MT_TEXT(schema), MT_TEXT(name))) > 0)
		other = mt_spi_text(&scope, 0, 1);
	mt_spi_end(&scope);
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("target table %s has a source already", quote_qualified_identifier(schema, name)),
				 errdetail("It is filled from table %s.", other),
				 errhint("Give one of them another table: SELECT migrate_tiers.tag(..., target => 'schema.table').")));
}

static void
store_tag(const MtMigration *migration, const MtCandidate *candidate, const char *tier,
		  const char *target_schema, const char *target_name, const MtIdentity *key)
{
	Datum		columns = make_text_array(key ? key->columns : NULL, key ? key->ncolumns : 0);
	Datum		operators = make_text_array(key ? key->operators : NULL, key ? key->ncolumns : 0);
	MtSpiScope	scope;

	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.relation AS r"
				" (migration, relation, tier, state, target_schema, target_name, key_columns, key_operators)"
				" VALUES ($1, $2, $3, CASE WHEN $3 = 'batch' THEN 'waiting' ELSE 'planned' END, $4, $5, $6::name[], $7)"
				" ON CONFLICT (relation) DO UPDATE SET tier = excluded.tier, state = excluded.state,"
				"  tagged = CASE WHEN r.tier = excluded.tier THEN r.tagged ELSE excluded.tagged END,"
				"  target_schema = excluded.target_schema, target_name = excluded.target_name,"
				"  key_columns = excluded.key_columns, key_operators = excluded.key_operators",
				MT_ARGS(MT_INT4(migration->id), MT_OID(candidate->relid), MT_TEXT(tier),
						MT_TEXT(target_schema), MT_TEXT(target_name),
						{TEXTARRAYOID, columns, false}, {TEXTARRAYOID, operators, false}));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

static Datum
make_text_array(char **texts, int count)
{
	Datum	   *items = palloc(sizeof(Datum) * (count + 1));

	for (int i = 0; i < count; i++)
		items[i] = CStringGetTextDatum(texts[i]);
	return PointerGetDatum(construct_array(items, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* list_candidates lists what of a schema can have a tier; extensions look after their own tables. */
static List *
list_candidates(Oid schema, bool extensions)
{
	List	   *candidates = NIL;
	MtSpiScope	scope;
	uint64		count;

	mt_spi_begin(&scope);
	count = mt_spi_exec(SPI_OK_SELECT,
						"SELECT c.oid FROM pg_class c WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'm')"
						" AND NOT c.relispartition AND ($2 OR NOT EXISTS (SELECT FROM pg_depend d"
						"  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0"
						"  AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'))"
						" ORDER BY c.relname",
						MT_ARGS(MT_OID(schema), MT_BOOL(extensions)));
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(scope.caller);

		candidates = lappend_oid(candidates, (Oid) mt_spi_int8(row, 1));
		MemoryContextSwitchTo(spi);
	}
	mt_spi_end(&scope);
	return candidates;
}

/* tag_candidate tags one relation of a schema, or notes why not. */
static MtTagged *
tag_candidate(const MtMigration *migration, Oid relid, const char *tier)
{
	MtTagged   *done = palloc0(sizeof(MtTagged));
	MtCandidate *candidate = mt_candidate_read(relid);
	MtRelation *tagged = mt_relation_by_relid(relid);
	MtObstacle *obstacle;
	MtIdentity *key;

	done->relid = relid;
	if (tagged != NULL)
	{
		done->tier = tagged->tier;
		done->note = tagged->migration == migration->id ? pstrdup("tagged before") :
			psprintf("part of migration %s", mt_migration_by_id(tagged->migration, false)->name);
		return done;
	}
	obstacle = mt_candidate_obstacle(candidate, tier, &key);
	if (obstacle != NULL)
	{
		done->note = psprintf("%s. %s", obstacle->message, obstacle->hint);
		return done;
	}
	check_target_free(migration, relid, candidate->schema, candidate->name);
	store_tag(migration, candidate, tier, candidate->schema, candidate->name, key);
	done->tier = tier;
	return done;
}
