-- HNSW indexes: what they are, what a probe of them costs and finds, and their building, swapping and dropping.

-- name: hnsw_indexes
-- Every HNSW index on a column of these tables, with its parameters, size, validity and the vector's dimensions.
SELECT indexed.relname::text AS name, indexed.oid::bigint AS oid, owner.relname::text AS table_name,
       attribute.attname::text AS column_name, kind.typname::text AS type_name, attribute.atttypmod AS dimensions,
       class.opcname::text AS operator_class, index.indisvalid AND index.indisready AS valid,
       pg_relation_size(indexed.oid) AS size_bytes,
       coalesce((SELECT option_value::int FROM pg_options_to_table(indexed.reloptions) WHERE option_name = 'm'), 16)
           AS m,
       coalesce((SELECT option_value::int FROM pg_options_to_table(indexed.reloptions)
                 WHERE option_name = 'ef_construction'), 64) AS ef_construction,
       index.indpred IS NOT NULL AS partial, obj_description(indexed.oid, 'pg_class') AS comment,
       (SELECT space.spcname::text FROM pg_tablespace AS space WHERE space.oid = indexed.reltablespace) AS tablespace,
       EXISTS (SELECT FROM pg_stat_progress_create_index AS progress
               WHERE progress.index_relid = indexed.oid) AS being_built,
       (SELECT build.rows FROM kg_ops.index_build AS build WHERE build.index_name = indexed.relname
        ORDER BY build.built_at DESC LIMIT 1) AS rows_at_build
FROM pg_index AS index
JOIN pg_class AS indexed ON indexed.oid = index.indexrelid
JOIN pg_am AS method ON method.oid = indexed.relam AND method.amname = 'hnsw'
JOIN pg_class AS owner ON owner.oid = index.indrelid
JOIN pg_attribute AS attribute ON attribute.attrelid = owner.oid AND attribute.attnum = index.indkey[0]
JOIN pg_type AS kind ON kind.oid = attribute.atttypid
JOIN pg_opclass AS class ON class.oid = index.indclass[0]
WHERE owner.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND owner.relname = ANY (%(tables)s)
ORDER BY owner.relname, indexed.relname;

-- name: count_vectors
-- Rows that an index on this column holds.
SELECT count({column}) FROM {table};

-- name: count_unindexed
-- Rows that a cosine index does not hold: without a vector, and with one of length zero.
SELECT count(*) FILTER (WHERE {column} IS NULL), count(*) FILTER (WHERE {extension}.vector_norm({column}) = 0)
FROM {table};

-- name: set_local
-- Set one parameter until the transaction's end.
SELECT set_config(%(name)s, %(value)s, true);

-- name: sample_probes
-- Stored vectors, to be asked for again: the same ones each time, spread over the table; zero vectors are left out.
SELECT id, {column}::text, {language}
FROM (SELECT * FROM {table} WHERE {column} IS NOT NULL ORDER BY md5(id::text) LIMIT 3 * %(wanted)s + 10) AS candidates
WHERE {extension}.vector_norm({column}) > 0
ORDER BY md5(id::text)
LIMIT %(wanted)s;

-- name: exact_neighbours
-- The distances of the nearest rows in the exact order: the sum keeps every index out of it. The probe's own row and
-- zero vectors (whose cosine distance is not a number) do not count.
SELECT distance
FROM (SELECT id, {column} OPERATOR ({extension}.<=>) %(probe)s AS distance FROM {table}
      WHERE {column} IS NOT NULL {condition}
      ORDER BY ({column} OPERATOR ({extension}.<=>) %(probe)s) + 0 LIMIT %(limit)s) AS nearest
WHERE id <> %(id)s AND distance <> 'NaN'
ORDER BY distance;

-- name: index_neighbours
-- The nearest rows by cosine distance, as a search asks for them.
SELECT id, {column} OPERATOR ({extension}.<=>) %(probe)s AS distance FROM {table} {condition}
ORDER BY {column} OPERATOR ({extension}.<=>) %(probe)s LIMIT %(limit)s;

-- name: hide_index
-- Make the planner of this transaction pass over indexes. Only ever in a transaction that is rolled back; superusers.
UPDATE pg_index SET indisvalid = false WHERE indexrelid = ANY (%(oids)s::oid[]);

-- name: copy_sample
-- A small copy of a table's vectors, to build on. Temporary: gone with the session.
CREATE TEMPORARY TABLE {copy} AS
SELECT id, {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY md5(id::text) LIMIT {rows};

-- name: create_index
-- The new index beside the old one. Nobody waits for it; it waits for transactions that are older.
CREATE INDEX {concurrently} {name} ON {table} USING hnsw ({column} {extension}.{operator_class})
WITH (m = {m}, ef_construction = {ef_construction}) {tablespace};

-- name: drop_index
DROP INDEX {concurrently} IF EXISTS {name};

-- name: rename_index
ALTER INDEX {name} RENAME TO {new_name};

-- name: comment_on_index
COMMENT ON INDEX {name} IS {comment};

-- name: build_progress
-- How far the build of a session is, and for whom it waits.
SELECT phase, tuples_done, tuples_total, blocks_done, blocks_total, lockers_done, lockers_total, current_locker_pid
FROM pg_stat_progress_create_index WHERE pid = %(pid)s;

-- name: build_workers
-- Parallel workers of a session's build at this moment; 12 does not say whose they are (leader_pid came with 13).
SELECT count(*) FROM pg_stat_activity AS a
WHERE backend_type = 'parallel worker' AND (to_jsonb(a) ->> 'leader_pid')::int = %(pid)s;

-- name: cancel_session
-- End the statement of another session of ours.
SELECT pg_cancel_backend(%(pid)s);

-- name: older_snapshots
-- Transactions in this database that a concurrent build will wait for when it comes to its last phase, oldest first.
SELECT pid, coalesce(usename::text, ''), coalesce(state, ''), xact_start, left(query, 120)
FROM pg_stat_activity
WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
  AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
  AND backend_type = 'client backend'
ORDER BY xact_start;

-- name: server_memory_settings
-- What this server was given, in bytes and numbers, as the session sees it.
SELECT (SELECT setting::bigint * 1024 FROM pg_settings WHERE name = 'maintenance_work_mem') AS maintenance_work_mem,
       (SELECT setting::bigint * 8192 FROM pg_settings WHERE name = 'shared_buffers') AS shared_buffers,
       (SELECT setting::bigint * 8192 FROM pg_settings WHERE name = 'effective_cache_size') AS effective_cache_size,
       current_setting('max_parallel_maintenance_workers')::int AS max_parallel_maintenance_workers,
       current_setting('max_parallel_workers')::int AS max_parallel_workers,
       current_setting('max_worker_processes')::int AS max_worker_processes,
       current_setting('dynamic_shared_memory_type') AS shared_memory_type,
       pg_has_role('pg_read_server_files', 'MEMBER') AS reads_files;

-- name: read_machine_file
-- The beginning of a file on the server's machine; null where there is none.
SELECT pg_read_file(%(path)s, 0, 1000000, true);

-- name: our_working_indexes
-- Names that re-indexes wrote into the journal before they made an index of that name, with the operation.
SELECT DISTINCT journal.detail ->> 'new', journal.detail ->> 'old'
FROM kg_ops.journal AS journal
JOIN kg_ops.operation AS operation ON operation.id = journal.operation AND operation.kind IN ('reindex', 'deploy')
WHERE journal.step = 're-index' AND journal.detail ? 'new';

-- name: record_index_build
-- Rows an index was built over and with what, to be compared with what there is later.
INSERT INTO kg_ops.index_build (index_name, rows, parameters, operation)
VALUES (%(name)s, %(rows)s, %(parameters)s, %(operation)s);

-- name: record_measured_build
-- Likewise, with what the index was measured to be.
INSERT INTO kg_ops.index_build
       (index_name, rows, parameters, operation, recall_mean, recall_minimum, p95_ms, seconds)
VALUES (%(name)s, %(rows)s, %(parameters)s, %(operation)s, %(recall_mean)s, %(recall_minimum)s, %(p95_ms)s,
        %(seconds)s);

-- name: chosen_parameters
-- The parameters that re-indexes have chosen for indexes, each once. Not the latest alone: a restored table brings
-- back those of its backup.
SELECT DISTINCT index_name, parameters ->> 'm', parameters ->> 'ef_construction'
FROM kg_ops.index_build WHERE parameters ->> 'by' IS NOT NULL;

-- name: analyze_table
ANALYZE {table};

-- name: explain_statement
-- How the server would run it.
EXPLAIN (FORMAT JSON) {statement};

-- name: show_setting
-- What the session really has.
SHOW {name};

-- name: relation_size
-- Bytes on disk.
SELECT pg_relation_size(%(name)s::regclass);
