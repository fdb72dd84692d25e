-- name: kg_ops_version
-- Which version of schema kg_ops is installed; no row where it has none. (Only asked where the table exists.)
SELECT max(number) FROM kg_ops.version

-- name: kg_ops_exists
-- Does kg_ops exist, as a schema and with its version table? (From the catalog: to_regclass would ask for USAGE.)
SELECT count(*) > 0, count(c.oid) > 0
FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'version'
WHERE n.nspname = 'kg_ops'

-- name: lock_kg_ops_installation
-- Until the transaction's end nobody else installs kg_ops.
SELECT pg_advisory_xact_lock(%(key)s)

-- name: record_kg_ops_version
INSERT INTO kg_ops.version (number) VALUES (%(number)s)

-- name: make_identity
-- The database's own id, unless it has one.
INSERT INTO kg_ops.identity (id) VALUES (%(id)s) ON CONFLICT (single) DO NOTHING

-- name: identity
SELECT id FROM kg_ops.identity

-- name: ledger_history
-- Every row that the ledger ever had, oldest first.
SELECT revision, name, checksum, down_checksum, kind, state, operation, backup, tolerated, fingerprint, applied_at,
       verified_at, ended_at, ended_by
FROM kg_ops.ledger
ORDER BY id

-- name: record_revision
INSERT INTO kg_ops.ledger (revision, name, checksum, down_checksum, kind, operation, backup, tolerated, fingerprint)
VALUES (%(revision)s, %(name)s, %(checksum)s, %(down_checksum)s, %(kind)s, %(operation)s, %(backup)s, %(tolerated)s,
        %(fingerprint)s)

-- name: end_revisions
-- The applied rows of these revisions become 'reverted' or 'superseded'.
UPDATE kg_ops.ledger SET state = %(state)s, ended_at = clock_timestamp(), ended_by = %(operation)s
WHERE state = 'applied' AND revision = ANY (%(revisions)s)
RETURNING revision

-- name: mark_verified
UPDATE kg_ops.ledger SET verified_at = clock_timestamp()
WHERE state = 'applied' AND revision = ANY (%(revisions)s)

-- name: session_settings
-- The session's present values of what a migration's session sets, where this server knows them.
SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%(names)s)

-- name: set_migration_setting
-- Sets one setting, for the transaction or the session; no row where this server has none of that name.
SELECT set_config(name, %(value)s, %(local)s) FROM pg_settings WHERE name = %(name)s

-- name: schema_of_extension
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = %(name)s

-- name: blockers_of
-- For whom does this backend wait: process, role, since when, and what it runs or ran last.
SELECT a.pid, coalesce(a.usename, '?'), coalesce(a.state, 'background'),
       coalesce(a.xact_start, a.query_start, a.backend_start),
       coalesce(regexp_replace(left(a.query, 200), '\s+', ' ', 'g'), '')
FROM unnest(pg_blocking_pids(%(pid)s)) AS blocker (pid)
JOIN pg_stat_activity a ON a.pid = blocker.pid
ORDER BY 4

-- name: end_idle_blocker
-- Ends a session that is still idle in the transaction that began at that time, and has been for so many seconds.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %(pid)s AND xact_start = %(since)s AND state LIKE 'idle in transaction%%'
  AND clock_timestamp() - state_change >= make_interval(secs => %(seconds)s)

-- name: unfinished_indexes
-- Which indexes of the schema are invalid or not ready: left by a concurrent build that failed or still runs.
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND NOT (i.indisvalid AND i.indisready)
ORDER BY 1
