-- name: start_session
-- Dress a fresh session: our time zone, and an end for statements whose client is gone (a setting of 14 and later).
SELECT set_config('TimeZone', 'UTC', false),
       -- A database's default may be another; a snapshot older than a lock would not see who wrote last.
       set_config('default_transaction_isolation', 'read committed', false),
       CASE WHEN current_setting('server_version_num')::int >= 140000
            THEN set_config('client_connection_check_interval', '1s', false) END;

-- name: set_setting
-- Set one parameter for the rest of the session.
SELECT set_config(%(name)s, %(value)s, false);

-- name: describe_server
-- What the server and this database are, and who we are there. The locale's column has had three names since 12.
SELECT current_setting('server_version_num')::int AS version_num,
       pg_encoding_to_char(d.encoding) AS encoding,
       CASE to_jsonb(d) ->> 'datlocprovider'
            WHEN 'i' THEN 'icu:' || COALESCE(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale')
            WHEN 'b' THEN 'builtin:' || (to_jsonb(d) ->> 'datlocale')
            ELSE d.datcollate END AS collation,
       current_database() AS database,
       current_user AS role,
       COALESCE((SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user), false) AS superuser,
       has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS may_read_control
  FROM pg_database d
 WHERE d.datname = current_database();

-- name: system_identifier
-- The number that initdb gave the cluster; copies and standbys share it.
SELECT system_identifier::text FROM pg_control_system();

-- name: vector_extension
-- pgvector: the version installed here, the version that could be, and the schema it lives in.
SELECT (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'vector') AS installed,
       (SELECT a.default_version FROM pg_available_extensions a WHERE a.name = 'vector') AS available,
       (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector') AS schema;

-- name: lock_scratch
-- Say that a scratch database is in use, for as long as this session lives.
SELECT pg_advisory_lock(27495, hashtext(%(name)s));

-- name: abandoned_scratch
-- Scratch databases whose keeper is gone; the lock that told so is ours until the session ends.
SELECT datname
  FROM (SELECT datname FROM pg_database WHERE datname ~ %(pattern)s ORDER BY datname OFFSET 0) AS found
 WHERE pg_try_advisory_lock(27495, hashtext(datname));

-- name: sessions_named
-- Whether there are sessions of these names, in any database.
SELECT 1 FROM pg_stat_activity WHERE application_name = ANY (%(names)s) LIMIT 1;

-- name: end_sessions
-- End every session in a database, as DROP DATABASE ... WITH (FORCE) does from 13 on.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(database)s AND pid <> pg_backend_pid();

-- name: backend_pid
-- Which process of the server serves this session.
SELECT pg_backend_pid();
