-- The knowledge graph: four tables, their indexes, and a trigger each that keeps updated_at true.
-- Names no schema: the search_path decides. Re-runnable, and runs by itself with `psql -f`.

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE IF NOT EXISTS code_embeddings (
    id              serial PRIMARY KEY,
    file_path       text NOT NULL,
    file_hash       text NOT NULL,
    content_preview text,
    embedding       vector(1536),
    language        text,
    tokens_count    integer,
    created_at      timestamptz DEFAULT now(),
    updated_at      timestamptz DEFAULT now(),
    metadata        jsonb DEFAULT '{}'::jsonb,
    UNIQUE (file_path, file_hash)
);

CREATE INDEX IF NOT EXISTS code_embeddings_embedding_idx ON code_embeddings
    USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64);
CREATE INDEX IF NOT EXISTS code_embeddings_file_path_idx ON code_embeddings (file_path);
CREATE INDEX IF NOT EXISTS code_embeddings_file_hash_idx ON code_embeddings (file_hash);
CREATE INDEX IF NOT EXISTS code_embeddings_language_idx ON code_embeddings (language);
CREATE INDEX IF NOT EXISTS code_embeddings_created_at_idx ON code_embeddings (created_at DESC);

CREATE TABLE IF NOT EXISTS code_patterns (
    id               serial PRIMARY KEY,
    pattern_name     text NOT NULL,
    pattern_type     text NOT NULL,
    pattern_template text NOT NULL,
    language         text NOT NULL,
    frequency        integer DEFAULT 1,
    confidence_score double precision DEFAULT 0.0,
    examples         jsonb DEFAULT '[]'::jsonb,
    metadata         jsonb DEFAULT '{}'::jsonb,
    created_at       timestamptz DEFAULT now(),
    updated_at       timestamptz DEFAULT now(),
    UNIQUE (pattern_name, language)
);

CREATE INDEX IF NOT EXISTS code_patterns_pattern_name_idx ON code_patterns (pattern_name);
CREATE INDEX IF NOT EXISTS code_patterns_pattern_type_idx ON code_patterns (pattern_type);
CREATE INDEX IF NOT EXISTS code_patterns_language_idx ON code_patterns (language);
CREATE INDEX IF NOT EXISTS code_patterns_frequency_idx ON code_patterns (frequency DESC);
CREATE INDEX IF NOT EXISTS code_patterns_confidence_idx ON code_patterns (confidence_score DESC);

CREATE TABLE IF NOT EXISTS code_relationships (
    id                serial PRIMARY KEY,
    source_file       text NOT NULL,
    target_file       text NOT NULL,
    relationship_type text NOT NULL,
    source_entity     text,
    target_entity     text,
    strength          double precision DEFAULT 1.0,
    metadata          jsonb DEFAULT '{}'::jsonb,
    created_at        timestamptz DEFAULT now(),
    updated_at        timestamptz DEFAULT now()
);

CREATE INDEX IF NOT EXISTS code_relationships_source_file_idx ON code_relationships (source_file);
CREATE INDEX IF NOT EXISTS code_relationships_target_file_idx ON code_relationships (target_file);
CREATE INDEX IF NOT EXISTS code_relationships_type_idx ON code_relationships (relationship_type);
CREATE INDEX IF NOT EXISTS code_relationships_strength_idx ON code_relationships (strength DESC);
CREATE INDEX IF NOT EXISTS code_relationships_source_target_idx ON code_relationships (source_file, target_file);

CREATE TABLE IF NOT EXISTS embedding_cache_stats (
    id               serial PRIMARY KEY,
    date             date NOT NULL DEFAULT current_date,
    api_calls_count  integer DEFAULT 0,
    cache_hits_count integer DEFAULT 0,
    cache_miss_count integer DEFAULT 0,
    tokens_used      integer DEFAULT 0,
    estimated_cost   double precision DEFAULT 0.0,
    metadata         jsonb DEFAULT '{}'::jsonb,
    created_at       timestamptz DEFAULT now(),
    updated_at       timestamptz DEFAULT now(),
    UNIQUE (date)
);

CREATE INDEX IF NOT EXISTS embedding_cache_stats_date_idx ON embedding_cache_stats (date DESC);

-- Its search_path is its own, so that no caller's can change what it calls.
CREATE OR REPLACE FUNCTION knowledge_graph_set_updated_at() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog
AS $function$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$function$;

-- Dropped and made again, since CREATE OR REPLACE TRIGGER came with PostgreSQL 14 only.
DROP TRIGGER IF EXISTS code_embeddings_set_updated_at ON code_embeddings;
CREATE TRIGGER code_embeddings_set_updated_at BEFORE UPDATE ON code_embeddings
    FOR EACH ROW EXECUTE FUNCTION knowledge_graph_set_updated_at();
DROP TRIGGER IF EXISTS code_patterns_set_updated_at ON code_patterns;
CREATE TRIGGER code_patterns_set_updated_at BEFORE UPDATE ON code_patterns
    FOR EACH ROW EXECUTE FUNCTION knowledge_graph_set_updated_at();
DROP TRIGGER IF EXISTS code_relationships_set_updated_at ON code_relationships;
CREATE TRIGGER code_relationships_set_updated_at BEFORE UPDATE ON code_relationships
    FOR EACH ROW EXECUTE FUNCTION knowledge_graph_set_updated_at();
DROP TRIGGER IF EXISTS embedding_cache_stats_set_updated_at ON embedding_cache_stats;
CREATE TRIGGER embedding_cache_stats_set_updated_at BEFORE UPDATE ON embedding_cache_stats
    FOR EACH ROW EXECUTE FUNCTION knowledge_graph_set_updated_at();

-- Supabase serves every table of an exposed schema to its API roles: there, and only there, row level security shuts
-- the tables to all but service_role. Elsewhere it would hide every row from an application role that is no owner.
DO $roles$
DECLARE
    table_name text;
BEGIN
    IF (SELECT count(*) FROM pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role')) = 3 THEN
        FOREACH table_name IN ARRAY
            ARRAY ['code_embeddings', 'code_patterns', 'code_relationships', 'embedding_cache_stats']
        LOOP
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', table_name);
            EXECUTE format('DROP POLICY IF EXISTS %I ON %I', table_name || '_service_role', table_name);
            EXECUTE format(
                'CREATE POLICY %I ON %I FOR ALL TO service_role USING (true) WITH CHECK (true)',
                table_name || '_service_role', table_name);
        END LOOP;
    END IF;
END
$roles$;
