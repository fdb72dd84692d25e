-- The application's side: what `kg index` writes and `kg search` reads. All of these run with a search_path that holds
-- our schema and the vector extension's. A row of code_embeddings says in its metadata which trees hold the file
-- ("roots") and which model made its vector ("embedder"); one of code_relationships names its tree ("root").

-- name: application_tables_exist
-- Are the tables that indexing and searching need there?
SELECT to_regclass('code_embeddings') IS NOT NULL AND to_regclass('code_relationships') IS NOT NULL;

-- name: extend_search_path
-- One more schema at the end of the session's search_path.
SELECT set_config('search_path', current_setting('search_path') || ', ' || quote_ident(%(schema)s), false);

-- name: try_index_lock
-- Whether this session is now the only one that indexes into this database. The session's end gives it back.
SELECT pg_try_advisory_lock(27495, 3);

-- name: foreign_embedder
-- A model other than this one that made a vector of the table (`unnamed` where the row does not say), of rows that are not to be
-- embedded again: with `root` those of that tree alone are; no row where there is none.
SELECT coalesce(metadata ->> 'embedder', %(unnamed)s) FROM code_embeddings
WHERE embedding IS NOT NULL AND coalesce(metadata ->> 'embedder', %(unnamed)s) <> %(embedder)s
  AND (%(root)s::text IS NULL OR metadata -> 'roots' IS DISTINCT FROM jsonb_build_array(%(root)s::text))
LIMIT 1;

-- name: indexed_files
-- What is stored of one tree, and whether this model made its vector.
SELECT file_path, file_hash, coalesce(metadata ->> 'embedder' = %(embedder)s, false)
FROM code_embeddings WHERE metadata -> 'roots' ? %(root)s;

-- name: make_incoming_files
-- Where a batch of files lands by COPY before one statement takes it over.
CREATE TEMPORARY TABLE incoming_files (
    file_path text, file_hash text, content_preview text, embedding vector, language text, tokens_count integer
) ON COMMIT DELETE ROWS;

-- name: make_incoming_relationships
CREATE TEMPORARY TABLE incoming_relationships (
    source_file text, target_file text, source_entity text, target_entity text
) ON COMMIT DELETE ROWS;

-- name: copy_incoming_files
COPY incoming_files (file_path, file_hash, content_preview, embedding, language, tokens_count)
FROM STDIN (FORMAT binary);

-- name: copy_incoming_relationships
COPY incoming_relationships (source_file, target_file, source_entity, target_entity) FROM STDIN (FORMAT binary);

-- name: upsert_files
-- Take over the batch. Another tree may hold the same file at the same path: then the row belongs to both.
INSERT INTO code_embeddings AS stored
       (file_path, file_hash, content_preview, embedding, language, tokens_count, metadata)
SELECT file_path, file_hash, content_preview, embedding, language, tokens_count,
       jsonb_build_object('embedder', %(embedder)s::text, 'roots', jsonb_build_array(%(root)s::text))
FROM incoming_files
ON CONFLICT (file_path, file_hash) DO UPDATE
SET content_preview = EXCLUDED.content_preview, embedding = EXCLUDED.embedding, language = EXCLUDED.language,
    tokens_count = EXCLUDED.tokens_count,
    metadata = coalesce(stored.metadata, '{}') || EXCLUDED.metadata || jsonb_build_object('roots',
        (coalesce(stored.metadata -> 'roots', '[]') - %(root)s::text) || jsonb_build_array(%(root)s::text));

-- name: delete_files
-- Remove these versions of files where no other tree holds them.
DELETE FROM code_embeddings AS stored
USING unnest(%(paths)s::text[], %(hashes)s::text[]) AS gone (path, hash)
WHERE stored.file_path = gone.path AND stored.file_hash = gone.hash
  AND stored.metadata -> 'roots' = jsonb_build_array(%(root)s::text);

-- name: disown_files
-- These versions of files are no longer this tree's; another one holds them still.
UPDATE code_embeddings AS stored
SET metadata = jsonb_set(stored.metadata, '{roots}', (stored.metadata -> 'roots') - %(root)s::text)
FROM unnest(%(paths)s::text[], %(hashes)s::text[]) AS gone (path, hash)
WHERE stored.file_path = gone.path AND stored.file_hash = gone.hash AND stored.metadata -> 'roots' ? %(root)s::text;

-- name: delete_imports
-- Forget what these files of the tree import.
DELETE FROM code_relationships
WHERE source_file = ANY (%(paths)s) AND relationship_type = 'imports' AND metadata ->> 'root' = %(root)s;

-- name: insert_imports
-- Take over the batch.
INSERT INTO code_relationships
       (source_file, target_file, relationship_type, source_entity, target_entity, metadata)
SELECT source_file, target_file, 'imports', source_entity, target_entity, jsonb_build_object('root', %(root)s::text)
FROM incoming_relationships;

-- name: analyze_application_tables
-- Let the planner know how much there is now.
ANALYZE code_embeddings, code_relationships;

-- name: tune_search
-- For this transaction: read only, and as many candidates as the question is worth. From pgvector 0.8 a scan goes on
-- where a filter leaves too few of them. The planner takes a comparison of two vectors for one of two numbers, and so
-- would read 30,000 rows in 0.3 s rather than ask the index in 3 ms: its two costs are set to what is nearer the truth.
SELECT set_config('transaction_read_only', 'on', true),
       set_config('random_page_cost', '1.1', true), set_config('cpu_operator_cost', '0.025', true),
       set_config('hnsw.ef_search', %(candidates)s, true),
       CASE WHEN %(iterative)s THEN set_config('hnsw.iterative_scan', 'strict_order', true) END;

-- name: nearest_files
-- The files whose vectors are nearest to this one, nearest first.
SELECT file_path, 1 - (embedding <=> %(vector)s::vector) AS similarity, language, content_preview, tokens_count,
       coalesce(metadata ->> 'embedder', %(unnamed)s) AS embedder
FROM code_embeddings
WHERE embedding IS NOT NULL AND (%(language)s::text IS NULL OR language = %(language)s)
ORDER BY embedding <=> %(vector)s::vector
LIMIT %(limit)s;

-- name: any_file_indexed
SELECT EXISTS (SELECT FROM code_embeddings WHERE embedding IS NOT NULL);

-- name: reserve_spending
-- Add what a call may cost to the day's sum, unless that would exceed the limit: the day where it did, else no row. Who
-- comes second waits for the row, and sees what the first one added.
INSERT INTO embedding_cache_stats AS stats (date, estimated_cost, api_calls_count)
SELECT (now() AT TIME ZONE 'UTC')::date, %(cost)s, 0
WHERE %(limit)s::float8 IS NULL OR %(cost)s <= %(limit)s
ON CONFLICT (date) DO UPDATE SET estimated_cost = coalesce(stats.estimated_cost, 0) + %(cost)s
WHERE %(limit)s::float8 IS NULL OR coalesce(stats.estimated_cost, 0) + %(cost)s <= %(limit)s
RETURNING date;

-- name: settle_spending
-- What the call was charged for, in place of what it might have cost.
UPDATE embedding_cache_stats
SET estimated_cost = greatest(0, coalesce(estimated_cost, 0) + %(correction)s),
    tokens_used = coalesce(tokens_used, 0) + %(tokens)s, api_calls_count = coalesce(api_calls_count, 0) + %(calls)s
WHERE date = %(day)s;

-- name: count_cached_embeddings
INSERT INTO embedding_cache_stats AS stats (date, cache_hits_count, cache_miss_count)
VALUES ((now() AT TIME ZONE 'UTC')::date, %(hits)s, %(misses)s)
ON CONFLICT (date) DO UPDATE
SET cache_hits_count = coalesce(stats.cache_hits_count, 0) + %(hits)s,
    cache_miss_count = coalesce(stats.cache_miss_count, 0) + %(misses)s;

-- name: spent_today
-- USD since 00:00 UTC, and how long it is until the next.
SELECT coalesce(sum(estimated_cost), 0),
       date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day' - (now() AT TIME ZONE 'UTC')
FROM embedding_cache_stats WHERE date = (now() AT TIME ZONE 'UTC')::date;
