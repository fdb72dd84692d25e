-- The lock, the fence and the journal of operations.

-- name: try_operation_lock
-- Whether this session now holds the database's operation lock.
SELECT pg_try_advisory_lock(27495, 1);

-- name: try_workers_lock
-- Whether no worker session of an earlier operation is left (exclusive, given back at once).
SELECT pg_try_advisory_lock(27495, 2);

-- name: release_workers_lock
-- Let workers of this operation in.
SELECT pg_advisory_unlock(27495, 2);

-- name: share_workers_lock
-- Marks this session as a worker of the operation for as long as it lives.
SELECT pg_advisory_lock_shared(27495, 2);

-- name: lock_holders
-- Who holds this database's operation lock.
SELECT activity.pid, activity.usename::text, activity.application_name, host(activity.client_addr),
       activity.backend_start, left(activity.query, 120)
FROM pg_locks AS held
JOIN pg_stat_activity AS activity USING (pid)
WHERE held.locktype = 'advisory' AND held.granted AND held.classid = 27495 AND held.objid = 1
  AND held.objsubid = 2 AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND activity.pid <> pg_backend_pid()
ORDER BY activity.backend_start;

-- name: worker_sessions
-- Sessions that work for an operation in this database.
SELECT activity.pid, activity.usename::text, activity.application_name, host(activity.client_addr),
       activity.backend_start, left(activity.query, 120)
FROM pg_locks AS held
JOIN pg_stat_activity AS activity USING (pid)
WHERE held.locktype = 'advisory' AND held.granted AND held.classid = 27495 AND held.objid = 2
  AND held.objsubid = 2 AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND activity.pid <> pg_backend_pid()
ORDER BY activity.backend_start;

-- name: stage_sessions
-- Sessions of a pg_restore that builds tables beside the live ones: it can hold no key of ours, and bears a name.
SELECT pid, usename::text, application_name, host(client_addr), backend_start, left(query, 120)
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'kg stage' AND pid <> pg_backend_pid()
ORDER BY backend_start;

-- name: running_processes
-- Which process, on which machine, holds the lock by which session, for operations that have not said how they ended.
SELECT backend_pid, host, pid FROM kg_ops.operation WHERE state = 'running';

-- name: end_session
-- End one session.
SELECT pg_terminate_backend(%(pid)s);

-- name: raise_fence
-- A number that no earlier operation had; sessions that still bear an older one may not commit.
UPDATE kg_ops.fence SET number = number + 1 RETURNING number;

-- name: check_fence
-- Whether the operation of that number is still the one; holds the row until commit, so that no other can start.
SELECT count(*) = 1 FROM (SELECT 1 FROM kg_ops.fence WHERE number = %(fence)s FOR SHARE) AS held;

-- name: last_change
-- The newest deploy or rollback that has ended, one that was refused aside: nothing was done.
SELECT kind, state, COALESCE(finished_at, started_at), COALESCE((detail ->> 'interrupted')::boolean, false)
FROM kg_ops.operation
WHERE kind IN ('deploy', 'rollback') AND state <> 'running' AND NOT detail ? 'refused'
ORDER BY started_at DESC LIMIT 1;

-- name: begin_operation
-- The operation's row, before anything is done.
INSERT INTO kg_ops.operation (id, kind, environment, fence, started_at, state, host, pid, backend_pid, detail)
VALUES (%(id)s, %(kind)s, %(environment)s, %(fence)s, now(), 'running', %(host)s, %(pid)s, pg_backend_pid(), %(detail)s);

-- name: finish_operation
-- How the operation ended.
UPDATE kg_ops.operation SET state = %(state)s, finished_at = clock_timestamp(), detail = detail || %(detail)s
WHERE id = %(id)s AND state = 'running';

-- name: describe_operation
-- Adds to what is known of an operation under way.
UPDATE kg_ops.operation SET detail = detail || %(detail)s WHERE id = %(id)s;

-- name: write_journal
-- One line of the journal: a step started, done or failed.
INSERT INTO kg_ops.journal (operation, sequence, step, state, at, detail)
SELECT %(operation)s, coalesce(max(sequence), 0) + 1, %(step)s, %(state)s, clock_timestamp(), %(detail)s
FROM kg_ops.journal WHERE operation = %(operation)s;

-- name: unfinished_operations
-- Operations that never said how they ended, oldest first, each with its last journal line.
SELECT operation.id, operation.kind, operation.started_at, operation.host, operation.pid, operation.detail,
       latest.step, latest.state
FROM kg_ops.operation AS operation
LEFT JOIN LATERAL (
    SELECT step, state FROM kg_ops.journal WHERE operation = operation.id ORDER BY sequence DESC LIMIT 1
) AS latest ON true
WHERE operation.state = 'running' AND operation.id <> %(own)s
ORDER BY operation.started_at;

-- name: abandon_operation
-- Marks an operation whose process and sessions are gone.
UPDATE kg_ops.operation SET state = 'abandoned', finished_at = clock_timestamp() WHERE id = %(id)s;

-- name: latest_scripts
-- For each revision, the latest script of it that was begun (apply or revert), and how that came out.
SELECT DISTINCT ON (1) begun.detail ->> 'revision', begun.step, coalesce(ended.state, 'started')
FROM kg_ops.journal AS begun
LEFT JOIN LATERAL (
    SELECT state FROM kg_ops.journal
    WHERE operation = begun.operation AND step = begun.step AND sequence > begun.sequence AND state <> 'started'
    ORDER BY sequence LIMIT 1
) AS ended ON true
WHERE begun.state = 'started' AND begun.step IN ('apply', 'revert') AND begun.detail ? 'revision'
ORDER BY 1, begun.at DESC;

-- name: staging_schemas
-- Schemas that a restore builds tables in: is it in the journal that one of ours was to make it?
SELECT nspname::text, EXISTS (SELECT FROM kg_ops.journal
                              WHERE step = 'stage' AND state = 'started' AND detail ->> 'schema' = nspname)
FROM pg_namespace WHERE nspname ~ '^kg_restore_' ORDER BY 1;

-- name: invalid_indexes
-- Invalid indexes of one schema: did a script of ours name it before it was made, and is it being built now?
SELECT indexed.relname::text,
       EXISTS (SELECT FROM kg_ops.journal
               WHERE step IN ('apply', 'revert') AND state = 'started' AND detail -> 'indexes' ? indexed.relname),
       EXISTS (SELECT FROM pg_stat_progress_create_index AS progress WHERE progress.index_relid = indexed.oid)
FROM pg_index AS index JOIN pg_class AS indexed ON indexed.oid = index.indexrelid
WHERE indexed.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND NOT (index.indisvalid AND index.indisready)
ORDER BY 1;

-- name: index_owed
-- Has the newest reset emptied the tables, and no indexing since come to its end?
SELECT emptied.at IS NOT NULL AND NOT EXISTS (
    SELECT FROM kg_ops.journal WHERE step = 'index' AND state = 'done' AND at > emptied.at)
FROM (SELECT max(at) AS at FROM kg_ops.journal WHERE step = 'truncate' AND state = 'done') AS emptied;

-- name: rollbacks
-- The operations that took something back.
SELECT id FROM kg_ops.operation WHERE kind = 'rollback';
