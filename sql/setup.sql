-- The source is the database of the tests; the target is another one of the
-- same cluster, reached through its socket.  The other files stand on this one.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS mt_target;
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION migrate_tiers;
\unset ECHO
SELECT format('CREATE DATABASE mt_target TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
              pg_encoding_to_char(encoding), datcollate, datctype)
  FROM pg_database WHERE datname = current_database() \gexec
SELECT split_part(current_setting('unix_socket_directories'), ',', 1) AS host, current_setting('port') AS port \gset
CREATE SERVER target FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'host', port :'port', dbname 'mt_target');
CREATE USER MAPPING FOR CURRENT_USER SERVER target OPTIONS (user :'USER');
\set ECHO all
RESET client_min_messages;
SELECT srvname FROM pg_foreign_server;
