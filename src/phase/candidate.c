/*
 * candidate.c
 *	  Decides which relation can have which tier.
 *
 * The reasons are returned and not raised: tag() raises the first, tag_schema()
 * lists them beside the tables that could be tagged.
 */
#include "phase/tag.h"

#include "base/spi.h"
#include "catalog/pg_class_d.h"
#include "miscadmin.h"
#include "utils/acl.h"

static MtObstacle *obstacle_of_kind(const MtCandidate *candidate, const char *tier);
static MtObstacle *obstacle_of_place(const MtCandidate *candidate);
static MtObstacle *obstacle_of_chunks(const MtCandidate *candidate);
static MtObstacle *obstacle_of_realtime(const MtCandidate *candidate, MtIdentity **key);
static bool is_system(const MtCandidate *candidate);
static MtObstacle *make_obstacle(int sqlstate, char *message, char *hint);

/* mt_candidate_read reads what decides about a relation's tier. */
MtCandidate *
mt_candidate_read(Oid relid)
{
	MtCandidate *candidate = palloc0(sizeof(MtCandidate));
	MtSpiScope	scope;
	uint64		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_SELECT,
						"SELECT n.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relowner,"
						" (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid"
						"  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0"
						"  AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' LIMIT 1),"
						" CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::text END,"
						" EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = 'ts_insert_blocker')"
						" OR EXISTS (SELECT FROM pg_inherits i JOIN pg_class k ON k.oid = i.inhrelid"
						"  WHERE i.inhparent = c.oid AND k.relnamespace = to_regnamespace('_timescaledb_internal'))"
						" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
						MT_ARGS(MT_OID(relid)));
	if (found > 0)
	{
		candidate->relid = relid;
		candidate->schema_oid = (Oid) mt_spi_int8(0, 1);
		candidate->schema = mt_spi_text(&scope, 0, 2);
		candidate->name = mt_spi_text(&scope, 0, 3);
		candidate->kind = mt_spi_text(&scope, 0, 4)[0];
		candidate->persistence = mt_spi_text(&scope, 0, 5)[0];
		candidate->owner = (Oid) mt_spi_int8(0, 6);
		candidate->extension = mt_spi_text(&scope, 0, 7);
		candidate->root = mt_spi_text(&scope, 0, 8);
		candidate->hypertable = mt_spi_bool(0, 9);
	}
	mt_spi_end(&scope);
	if (found == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid),
				 errhint("Give the name of a table, as in: SELECT migrate_tiers.tag('public.orders', 'realtime').")));
	return candidate;
}

/* mt_candidate_name names a relation for an error or a hint. */
char *
mt_candidate_name(const MtCandidate *candidate)
{
	return quote_qualified_identifier(candidate->schema, candidate->name);
}

/* mt_candidate_obstacle says why a relation cannot have a tier, or returns NULL. */
MtObstacle *
mt_candidate_obstacle(const MtCandidate *candidate, const char *tier, MtIdentity **key)
{
	MtObstacle *obstacle = obstacle_of_kind(candidate, tier);

	*key = NULL;
	if (obstacle == NULL)
		obstacle = obstacle_of_place(candidate);
	if (obstacle == NULL && strcmp(tier, "ignored") != 0)
		obstacle = obstacle_of_chunks(candidate);
	if (obstacle == NULL && strcmp(tier, "realtime") == 0)
		obstacle = obstacle_of_realtime(candidate, key);
	return obstacle;
}

static MtObstacle *
obstacle_of_kind(const MtCandidate *candidate, const char *tier)
{
	char	   *name = mt_candidate_name(candidate);

	if (is_system(candidate))
		return make_obstacle(ERRCODE_WRONG_OBJECT_TYPE, psprintf("%s is a system table", name),
							 pstrdup("The target has its own. Tag tables of your own schemas."));
	switch (candidate->kind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			return NULL;
		case RELKIND_MATVIEW:
			if (strcmp(tier, "realtime") != 0)
				return NULL;
			return make_obstacle(ERRCODE_WRONG_OBJECT_TYPE,
								 psprintf("materialized view %s cannot be realtime", name),
								 psprintf("It can be pushed as a snapshot: SELECT migrate_tiers.tag(%s, 'batch').",
										  quote_literal_cstr(name)));
		case RELKIND_VIEW:
			return make_obstacle(ERRCODE_WRONG_OBJECT_TYPE, psprintf("%s is a view", name),
								 pstrdup("Tag the tables that it reads, and create the view on the target."));
		case RELKIND_FOREIGN_TABLE:
			return make_obstacle(ERRCODE_WRONG_OBJECT_TYPE, psprintf("%s is a foreign table", name),
								 pstrdup("Its rows are elsewhere already: create the foreign table on the target."));
		default:
			return make_obstacle(ERRCODE_WRONG_OBJECT_TYPE, psprintf("%s is not a table", name),
								 pstrdup("Tiers are of tables, partitioned tables and materialized views."));
	}
}

/* obstacle_of_place looks at what a table is part of, and whose it is. */
static MtObstacle *
obstacle_of_place(const MtCandidate *candidate)
{
	char	   *name = mt_candidate_name(candidate);

	if (candidate->persistence == RELPERSISTENCE_TEMP)
		return make_obstacle(ERRCODE_INVALID_TABLE_DEFINITION, psprintf("%s is a temporary table", quote_identifier(candidate->name)),
							 pstrdup("It ends with its session and needs no migration."));
	if (candidate->root != NULL)
		return make_obstacle(ERRCODE_WRONG_OBJECT_TYPE, psprintf("%s is a partition", name),
							 psprintf("Tag the partitioned table, which all its partitions follow: SELECT migrate_tiers.tag(%s, ...).",
									  quote_literal_cstr(candidate->root)));
	if (!has_privs_of_role(GetUserId(), candidate->owner))
		return make_obstacle(ERRCODE_INSUFFICIENT_PRIVILEGE, psprintf("must be owner of %s", name),
							 psprintf("Let a member of role %s, or a superuser, own the migration.",
									  quote_identifier(GetUserNameFromId(candidate->owner, false))));
	return NULL;
}

/* obstacle_of_chunks refuses a table whose rows are in others, which copy its triggers and come by no CREATE TABLE. */
static MtObstacle *
obstacle_of_chunks(const MtCandidate *candidate)
{
	char	   *name = mt_candidate_name(candidate);

	if (!candidate->hypertable)
		return NULL;
	return make_obstacle(ERRCODE_FEATURE_NOT_SUPPORTED, psprintf("%s is a hypertable of TimescaleDB", name),
						 psprintf("Its rows are in chunks, which can be neither captured nor pushed. Tag it ignored, and move it by other means: SELECT migrate_tiers.tag(%s, 'ignored').",
								  quote_literal_cstr(name)));
}

static MtObstacle *
obstacle_of_realtime(const MtCandidate *candidate, MtIdentity **key)
{
	char	   *name = mt_candidate_name(candidate);
	char	   *generated;

	if (candidate->persistence == RELPERSISTENCE_UNLOGGED)
		return make_obstacle(ERRCODE_INVALID_TABLE_DEFINITION,
							 psprintf("unlogged table %s cannot be realtime", name),
							 psprintf("A crash empties it. Tag it batch or ignored, or run ALTER TABLE %s SET LOGGED first.",
									  name));
	*key = mt_identity_find(candidate->relid);
	if (*key != NULL)
		return NULL;
	generated = mt_identity_generated(candidate->relid);
	if (generated != NULL)
		return make_obstacle(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
							 psprintf("the key of table %s contains generated column %s", name, quote_identifier(generated)),
							 psprintf("Generated columns are not sent. Name a unique index over NOT NULL columns that are not generated with ALTER TABLE %s REPLICA IDENTITY USING INDEX. Or tag it batch.",
									  name));
	return make_obstacle(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						 psprintf("table %s has no key", name),
						 psprintf("A realtime table needs a primary key, or a unique index over NOT NULL columns chosen with ALTER TABLE %s REPLICA IDENTITY USING INDEX. Or tag it batch.",
								  name));
}

static bool
is_system(const MtCandidate *candidate)
{
	if (strncmp(candidate->schema, "pg_", 3) == 0)
		return candidate->persistence != RELPERSISTENCE_TEMP;
	return strcmp(candidate->schema, "information_schema") == 0 ||
		strcmp(candidate->schema, "migrate_tiers") == 0;
}

static MtObstacle *
make_obstacle(int sqlstate, char *message, char *hint)
{
	MtObstacle *obstacle = palloc(sizeof(MtObstacle));

	obstacle->sqlstate = sqlstate;
	obstacle->message = message;
	obstacle->hint = hint;
	return obstacle;
}
