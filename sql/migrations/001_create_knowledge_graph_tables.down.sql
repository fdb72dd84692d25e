-- Takes back 001: the tables in reverse dependency order, then the trigger function.
-- The extension stays: others may use it.

DROP TABLE IF EXISTS code_relationships;
DROP TABLE IF EXISTS code_patterns;
DROP TABLE IF EXISTS embedding_cache_stats;
DROP TABLE IF EXISTS code_embeddings;

DROP FUNCTION IF EXISTS knowledge_graph_set_updated_at();
