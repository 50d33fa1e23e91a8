/*
 * declare.c
 *	  Begins a migration.
 *
 * Who may reach the target is decided as with postgres_fdw: by USAGE on the
 * foreign server, a user mapping of the owner, and a password in it unless the
 * owner is a superuser.  All of it is checked when a migration is declared, as
 * the role that declares it, and again whenever a connection is made.
 */
#include "phase/declare.h"

#include "base/errors.h"
#include "base/spi.h"
#include "base/update.h"
#include "endpoint/endpoint.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/fmgrprotos.h"

static ForeignServer *find_server(const char *name);
static void check_usage(const ForeignServer *server, Oid role);
static void check_wrapper(const ForeignServer *server);
static void check_name_free(const char *name);

/* mt_declare_create declares a migration that the caller will own. */
void
mt_declare_create(const char *name, const char *server_name)
{
	ForeignServer *server = find_server(server_name);
	Oid			owner = GetUserId();
	MtSpiScope	scope;

	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("the name of a migration must not be empty"),
				 errhint("Give it one, as in: SELECT migrate_tiers.create_migration('shop', %s).",
						 quote_literal_cstr(server_name))));
	check_wrapper(server);
	mt_remote_check_options(server->serverid, owner);
	check_name_free(name);
	mt_spi_begin(&scope);
	mt_spi_exec(SPI_OK_INSERT,
				"INSERT INTO migrate_tiers.migration (name, owner, server) VALUES ($1, $2, $3)",
				MT_ARGS(MT_TEXT(name), MT_OID(owner), MT_OID(server->serverid)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

/*
 * mt_declare_set_owner gives a migration to another role, with the checks of its declaration.
 *
 * Its workers take up the change by themselves; a connection to the target that is there stays.
 */
void
mt_declare_set_owner(const MtMigration *migration, const char *role)
{
	MtSpiScope	scope;
	Oid			owner;

	if (role == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a migration cannot be without an owner"),
				 errhint("Name a role: SELECT migrate_tiers.set_option('owner', '...').")));
	owner = get_role_oid(role, false);
	/* The workers become the role, as far as the target is concerned. */
	if (!has_privs_of_role(GetUserId(), owner) || !mt_may_become_role(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("you have not the rights of role \"%s\"", role),
				 errhint("A superuser, or a role that has the rights of both owners, can do it.")));
	check_usage(GetForeignServer(migration->server), owner);
	mt_remote_check_options(migration->server, owner);
	mt_spi_begin(&scope);
	mt_update_latest("UPDATE migrate_tiers.migration SET owner = $2 WHERE id = $1",
					 MT_ARGS(MT_INT4(migration->id), MT_OID(owner)));
	mt_spi_end(&scope);
	mt_migration_invalidate();
}

/* mt_declare_open locks a migration of the caller's and reads it under the lock. */
MtMigration *
mt_declare_open(const char *name)
{
	MtMigration *migration = mt_migration_get_owned(name);

	mt_migration_lock(migration->id);
	return mt_migration_by_id(migration->id, false);
}

/* mt_declare_open_settled refuses while a transition is not complete. */
MtMigration *
mt_declare_open_settled(const char *name)
{
	MtMigration *migration = mt_declare_open(name);

	if (migration->transition != NULL)
		ereport(ERROR,
				(errcode(MT_ERRCODE_WRONG_PHASE),
				 errmsg("migration \"%s\" is in the middle of a transition", migration->name),
				 errdetail("The step under way is: %s.", migration->transition),
				 errhint("Let it end, or finish or undo it with CALL migrate_tiers.advance or migrate_tiers.revert.")));
	return migration;
}

/* find_server finds a foreign server that the caller may use. */
static ForeignServer *
find_server(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, true);

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errhint("Run CREATE SERVER %s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '...', port '...', dbname '...').",
						 quote_identifier(name))));
	check_usage(server, GetUserId());
	return server;
}

static void
check_usage(const ForeignServer *server, Oid role)
{
	if (!DatumGetBool(DirectFunctionCall3(has_server_privilege_id_id, ObjectIdGetDatum(role),
										  ObjectIdGetDatum(server->serverid), CStringGetTextDatum("USAGE"))))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server \"%s\"", server->servername),
				 errhint("Its owner can run GRANT USAGE ON FOREIGN SERVER %s TO %s.",
						 quote_identifier(server->servername), quote_identifier(GetUserNameFromId(role, false)))));
}

/* check_wrapper refuses servers whose options are not those of libpq. */
static void
check_wrapper(const ForeignServer *server)
{
	const char *wrapper = GetForeignDataWrapper(server->fdwid)->fdwname;

	if (strcmp(wrapper, "postgres_fdw") != 0 && strcmp(wrapper, "dblink_fdw") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a PostgreSQL server", server->servername),
				 errdetail("It belongs to the foreign-data wrapper \"%s\".", wrapper),
				 errhint("Declare the target with CREATE SERVER ... FOREIGN DATA WRAPPER postgres_fdw.")));
}

static void
check_name_free(const char *name)
{
	MtSpiScope	scope;
	uint64		found;

	mt_spi_begin(&scope);
	found = mt_spi_exec(SPI_OK_SELECT, "SELECT FROM migrate_tiers.migration WHERE name::text = $1",
						MT_ARGS(MT_TEXT(name)));
	mt_spi_end(&scope);
	if (found > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("migration \"%s\" exists already", name),
				 errhint("Go on with it, or end it with migrate_tiers.drop_migration(%s).",
						 quote_literal_cstr(name))));
}
