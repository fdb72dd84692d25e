-- What is watched after a deploy.

-- name: watch_counters
-- Deadlocks, commits and rollbacks of this database since its statistics began.
SELECT deadlocks, xact_commit, xact_rollback FROM pg_stat_database WHERE datname = current_database();

-- name: watch_probes
-- A few stored vectors, to be asked for again as the application would.
SELECT embedding::text FROM code_embeddings WHERE embedding IS NOT NULL LIMIT 20;

-- name: watch_search
-- The application's search, without what it shows.
SELECT id FROM code_embeddings ORDER BY embedding <=> %(vector)s::vector LIMIT 10;
