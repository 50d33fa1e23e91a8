/*
 * connect.c
 *	  Opens and closes the remote endpoint.
 *
 * Options come from the foreign server and the owner's user mapping, as with
 * postgres_fdw, and are handed to libpq only: secrets enter no text of ours.
 * The session is pinned, since settings of the role, the database or a proxy
 * must neither end it nor change what a value looks like.
 */
#include "endpoint/remote.h"

#include "commands/defrem.h"
#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "libpq/libpq-be-fe-helpers.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/pin.h"
#include "base/settings.h"
#include "base/spi.h"

typedef struct MtConnectOptions
{
	const char **keywords;
	const char **values;
	int			count;
	bool		has_password;
	bool		password_required;
} MtConnectOptions;

#define PINNED_ROWS MT_PINNED_SETTINGS(MT_PIN_ROW)

/* What libpq is asked for unless server or mapping say otherwise: a cut network is noticed. */
static const char *const connect_defaults[][2] = {
	{"connect_timeout", "10"},
	{"keepalives_idle", "10"},
	{"keepalives_interval", "5"},
	{"keepalives_count", "3"},
	{"tcp_user_timeout", "30000"},
	{"fallback_application_name", "migrate_tiers"},
};

static void collect_options(MtConnectOptions *options, Oid server, Oid role);
static void check_mapping(const ForeignServer *server, Oid role);
static void add_options(MtConnectOptions *options, List *list);
static void add_option(MtConnectOptions *options, const char *keyword, const char *value);
static bool is_libpq_option(const char *keyword);
static bool has_option(const MtConnectOptions *options, const char *keyword);
static uint32 hash_options(const MtConnectOptions *options);
static char *connect_to(MtRemote *remote, const MtConnectOptions *options);
static int	connect_timeout(const MtConnectOptions *options);
static void pin_session(MtRemote *remote, const MtMigration *migration);
static void end_when_alone(MtRemote *remote);
static void check_not_pooled(MtRemote *remote);
static void close_on_reset(void *arg);
static void log_notice(void *arg, const char *message);

/* mt_remote_check_options checks server, mapping and the role's rights without connecting. */
void
mt_remote_check_options(Oid server, Oid role)
{
	MtConnectOptions options = {0};

	collect_options(&options, server, role);
}

/* mt_remote_open connects to a migration's target and pins the session. */
MtRemote *
mt_remote_open(const MtMigration *migration)
{
	MtRemote   *remote = palloc0(sizeof(MtRemote));
	MtConnectOptions options = {0};
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	char	   *problem;

	collect_options(&options, migration->server, migration->owner);
	remote->address = hash_options(&options);
	remote->context = CurrentMemoryContext;
	callback->func = close_on_reset;
	callback->arg = remote;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);

	problem = connect_to(remote, &options);
	if (problem != NULL)
	{
		mt_remote_close(remote);
		ereport(ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to server \"%s\"",
						GetForeignServer(migration->server)->servername),
				 errdetail_internal("%s", problem),
				 errhint("Check the options of the foreign server and the user mapping of \"%s\".",
						 GetUserNameFromId(migration->owner, false))));
	}
	if (options.password_required && !PQconnectionUsedPassword(remote->conn))
	{
		mt_remote_close(remote);
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("A migration whose owner is not a superuser must authenticate with the password of its user mapping, and the target did not ask for one."),
				 errhint("The target's authentication method must be changed, or password_required=false set by a superuser in the user mapping.")));
	}
	PQsetNoticeProcessor(remote->conn, log_notice, NULL);
	check_not_pooled(remote);
	pin_session(remote, migration);
	return remote;
}

/* mt_remote_is_current says whether one that was opened now would lead to where this one does. */
bool
mt_remote_is_current(const MtRemote *remote, const MtMigration *migration)
{
	MtConnectOptions options = {0};

	collect_options(&options, migration->server, migration->owner);
	return hash_options(&options) == remote->address;
}

/* mt_remote_close ends the connection; the endpoint itself goes with its memory context. */
void
mt_remote_close(MtRemote *remote)
{
	if (remote->first_error)
		PQclear(remote->first_error);
	remote->first_error = NULL;
	if (remote->copy_piece)
		PQfreemem(remote->copy_piece);
	remote->copy_piece = NULL;
	if (remote->conn)
		libpqsrv_disconnect(remote->conn);
	remote->conn = NULL;
}

/* mt_remote_version returns the target's version as in server_version_num. */
int
mt_remote_version(const MtRemote *remote)
{
	return PQserverVersion(remote->conn);
}

/* mt_remote_socket returns the descriptor of the connection. */
int
mt_remote_socket(const MtRemote *remote)
{
	return PQsocket(remote->conn);
}

/* mt_remote_usable says whether the connection can take a statement now. */
bool
mt_remote_usable(const MtRemote *remote)
{
	return remote->conn != NULL && !remote->busy && PQstatus(remote->conn) == CONNECTION_OK;
}

static void
close_on_reset(void *arg)
{
	if (arg != NULL)
		mt_remote_close((MtRemote *) arg);
}

/* log_notice keeps a notice of the target out of the session of whoever called. */
static void
log_notice(void *arg, const char *message)
{
	ereport(DEBUG1, (errmsg_internal("target: %s", message)));
}

/* collect_options gathers what libpq is to be told, and refuses what must not be tried. */
static void
collect_options(MtConnectOptions *options, Oid server, Oid role)
{
	ForeignServer *foreign_server = GetForeignServer(server);
	bool		superuser_role = superuser_arg(role);
	UserMapping *mapping;
	int			room;

	check_mapping(foreign_server, role);
	mapping = GetUserMapping(role, server);
	room = list_length(foreign_server->options) + list_length(mapping->options) +
		lengthof(connect_defaults) + 2;
	options->keywords = palloc0(sizeof(char *) * room);
	options->values = palloc0(sizeof(char *) * room);
	options->password_required = !superuser_role;
	add_options(options, foreign_server->options);
	add_options(options, mapping->options);
	for (int i = 0; i < lengthof(connect_defaults); i++)
		if (!has_option(options, connect_defaults[i][0]))
			add_option(options, connect_defaults[i][0], connect_defaults[i][1]);
	add_option(options, "client_encoding", GetDatabaseEncodingName());
	if (options->password_required && !options->has_password)
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("password is required"),
				 errdetail("The user mapping of \"%s\" for server \"%s\" has no password, and the role is not a superuser.",
						   GetUserNameFromId(role, false), foreign_server->servername),
				 errhint("Run ALTER USER MAPPING FOR %s SERVER %s OPTIONS (ADD password '...').",
						 quote_identifier(GetUserNameFromId(role, false)),
						 quote_identifier(foreign_server->servername))));
}

/* check_mapping says which mapping is missing, and how to make it. */
static void
check_mapping(const ForeignServer *server, Oid role)
{
	mt_spi_require_role(role);
	if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role),
							   ObjectIdGetDatum(server->serverid)) &&
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							   ObjectIdGetDatum(server->serverid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" has no user mapping for server \"%s\"",
						GetUserNameFromId(role, false), server->servername),
				 errhint("Run CREATE USER MAPPING FOR %s SERVER %s OPTIONS (user '...', password '...').",
						 quote_identifier(GetUserNameFromId(role, false)),
						 quote_identifier(server->servername))));
}

static void
add_options(MtConnectOptions *options, List *list)
{
	ListCell   *cell;

	foreach(cell, list)
	{
		DefElem    *option = (DefElem *) lfirst(cell);

		if (strcmp(option->defname, "password_required") == 0)
			options->password_required = options->password_required && defGetBoolean(option);
		else if (is_libpq_option(option->defname))
			add_option(options, option->defname, defGetString(option));
	}
}

static void
add_option(MtConnectOptions *options, const char *keyword, const char *value)
{
	if (strcmp(keyword, "client_encoding") == 0 && has_option(options, keyword))
		return;
	if (strcmp(keyword, "password") == 0 && value[0] != '\0')
		options->has_password = true;
	options->keywords[options->count] = keyword;
	options->values[options->count] = value;
	options->count++;
}

/* is_libpq_option tells libpq's options from those that only postgres_fdw has. */
static bool
is_libpq_option(const char *keyword)
{
	PQconninfoOption *known = PQconndefaults();
	bool		found = false;

	if (known == NULL)
		ereport(ERROR, (errcode(ERRCODE_FDW_OUT_OF_MEMORY), errmsg("out of memory")));
	for (PQconninfoOption *option = known; option->keyword != NULL && !found; option++)
		found = strcmp(option->keyword, keyword) == 0;
	PQconninfoFree(known);
	return found && strcmp(keyword, "client_encoding") != 0 && strcmp(keyword, "replication") != 0;
}

static bool
has_option(const MtConnectOptions *options, const char *keyword)
{
	for (int i = 0; i < options->count; i++)
		if (strcmp(options->keywords[i], keyword) == 0)
			return true;
	return false;
}

/* hash_options hashes what is not secret: a session that a password has opened does not end with it. */
static uint32
hash_options(const MtConnectOptions *options)
{
	uint32		hash = 0;

	for (int i = 0; i < options->count; i++)
		if (strcmp(options->keywords[i], "password") != 0 && strcmp(options->keywords[i], "sslpassword") != 0)
			hash = hash_combine(hash_combine(hash, string_hash(options->keywords[i], SIZE_MAX)),
								string_hash(options->values[i], SIZE_MAX));
	return hash;
}

/* connect_to makes the connection; NULL, or what went wrong. */
static char *
connect_to(MtRemote *remote, const MtConnectOptions *options)
{
	int			timeout = connect_timeout(options);
	char	   *problem = NULL;

	libpqsrv_connect_prepare();
	remote->conn = PQconnectStartParams(options->keywords, options->values, 0);
	if (remote->conn == NULL)
	{
		ReleaseExternalFD();
		ereport(ERROR, (errcode(ERRCODE_FDW_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	PG_TRY();
	{
		problem = mt_remote_wait_connected(remote, timeout);
	}
	PG_CATCH();
	{
		/* At once: the memory that it would go with may stay for a while. */
		mt_remote_close(remote);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return problem;
}

/* connect_timeout returns that option in seconds; as with libpq, 0 and what is below is no limit. */
static int
connect_timeout(const MtConnectOptions *options)
{
	int			timeout = 0;

	for (int i = 0; i < options->count; i++)
		if (strcmp(options->keywords[i], "connect_timeout") == 0)
			timeout = pg_strtoint32(options->values[i]);
	return Max(timeout, 0);
}

/* pin_session makes the session the same whatever role or database have set; a broken network ends it, too. */
static void
pin_session(MtRemote *remote, const MtMigration *migration)
{
	/* First by itself: what follows must not find operators of somebody else's. */
	mt_remote_run(remote, "SET search_path = pg_catalog, pg_temp");
	mt_remote_query(remote,
					"SELECT pg_catalog.set_config(s.name, v.value, false)"
					" FROM (VALUES " PINNED_ROWS
					"('row_security', 'off'), ('statement_timeout', '0'),"
					" ('idle_in_transaction_session_timeout', '0'), ('idle_session_timeout', '0'), ('tcp_user_timeout', '30000'),"
					" ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), ('transaction_timeout', '0'), ('default_transaction_isolation', 'read committed'),"
					" ('default_transaction_read_only', 'off'), ('default_transaction_deferrable', 'off'),"
					" ('transform_null_equals', 'off'), ('default_table_access_method', 'heap'), ('check_function_bodies', 'off'),"
					" ('jit', 'off'), ('synchronous_commit', pg_catalog.replace(pg_catalog.current_setting('synchronous_commit'), 'off', 'local')), ('session_replication_role', 'origin'),"
					" ('lock_timeout', $1)) AS v(name, value)"
					" JOIN pg_catalog.pg_settings AS s ON pg_catalog.lower(s.name) = pg_catalog.lower(v.name)"
					" WHERE s.setting IS DISTINCT FROM v.value",
					MT_PARAMS(mt_lock_timeout_text()));
	mt_remote_query(remote, "SELECT pg_catalog.set_config('migrate_tiers.session', $1, false)",
					MT_PARAMS(migration->token));
	end_when_alone(remote);
}

/*
 * end_when_alone has the server look whether we are still there while it works: it would otherwise not notice
 * before it next sends something, and a worker that was killed would leave an index build behind, with its locks.
 *
 * No cancel request is sent: it would need a connection of its own, to a target that may answer none, and
 * could end the wait of a COMMIT for a synchronous standby.  Some platforms cannot look, and refuse the setting.
 */
static void
end_when_alone(MtRemote *remote)
{
	mt_remote_run(remote,
				  "DO $d$ BEGIN"
				  " PERFORM pg_catalog.set_config(name, '1s', false) FROM pg_catalog.pg_settings"
				  " WHERE name = 'client_connection_check_interval' AND setting <> '1000';"
				  " EXCEPTION WHEN invalid_parameter_value THEN NULL; END $d$");
}

/* check_not_pooled refuses a pooler, which would change the session under us. */
static void
check_not_pooled(MtRemote *remote)
{
	MtRows	   *rows = mt_remote_query(remote, "SELECT pg_catalog.pg_backend_pid()", MT_NO_PARAMS);

	if (atoi(rows->values[0][0]) != PQbackendPID(remote->conn))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the target is reached through a connection pooler"),
				 errdetail("The server process that answers is not the one that was connected to."),
				 errhint("Let the foreign server name the database server itself.")));
}
