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
-- Who holds one of our advisory locks in this database: 1 the operation, 2 a worker.
SELECT activity.pid, activity.usename, activity.application_name, host(activity.client_addr), activity.backend_start,
       left(activity.query, 120)
FROM pg_locks AS held
JOIN pg_stat_activity AS activity USING (pid)
WHERE held.locktype = 'advisory' AND held.granted AND held.classid = 27495 AND held.objid = %(lock)s
  AND held.objsubid = 2 AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND activity.pid <> pg_backend_pid()
ORDER BY activity.backend_start;

-- name: raise_fence
-- A number that no earlier operation had; sessions that still bear an older one may not commit.
UPDATE kg_ops.fence SET number = number + 1 RETURNING number;

-- name: check_fence
-- Whether the operation of that number is still the one; holds the row until commit, so that no other can start.
SELECT count(*) = 1 FROM (SELECT 1 FROM kg_ops.fence WHERE number = %(fence)s FOR SHARE) AS held;

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
