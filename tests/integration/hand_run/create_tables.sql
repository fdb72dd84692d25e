-- The way these tables were made before there was a ledger: pasted into psql once, its triggers without a guard.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE IF NOT EXISTS code_embeddings (
    id SERIAL PRIMARY KEY,
    file_path TEXT NOT NULL,
    file_hash TEXT NOT NULL,
    content_preview TEXT,
    embedding vector(1536),
    language TEXT,
    tokens_count INTEGER,
    metadata JSONB DEFAULT '{}',
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    CONSTRAINT unique_file_version UNIQUE (file_path, file_hash)
);
COMMENT ON TABLE code_embeddings IS 'One row for each version of a file';

CREATE TABLE IF NOT EXISTS code_patterns (
    id SERIAL PRIMARY KEY,
    pattern_name TEXT NOT NULL,
    pattern_type TEXT NOT NULL,
    pattern_template TEXT NOT NULL,
    language TEXT NOT NULL,
    frequency INTEGER DEFAULT 1,
    confidence_score FLOAT DEFAULT 0.0,
    examples JSONB DEFAULT '[]',
    metadata JSONB DEFAULT '{}',
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    UNIQUE (pattern_name, language)
);

CREATE TABLE IF NOT EXISTS code_relationships (
    id SERIAL PRIMARY KEY,
    source_file TEXT NOT NULL,
    target_file TEXT NOT NULL,
    relationship_type TEXT NOT NULL,
    source_entity TEXT,
    target_entity TEXT,
    strength FLOAT DEFAULT 1.0,
    metadata JSONB DEFAULT '{}',
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
);

CREATE TABLE IF NOT EXISTS embedding_cache_stats (
    id SERIAL PRIMARY KEY,
    date DATE NOT NULL DEFAULT CURRENT_DATE,
    api_calls_count INTEGER DEFAULT 0,
    cache_hits_count INTEGER DEFAULT 0,
    cache_miss_count INTEGER DEFAULT 0,
    tokens_used INTEGER DEFAULT 0,
    estimated_cost FLOAT DEFAULT 0.0,
    metadata JSONB DEFAULT '{}',
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    UNIQUE (date)
);

CREATE INDEX code_embeddings_embedding_idx ON code_embeddings
    USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64);
CREATE INDEX code_embeddings_file_path_idx ON code_embeddings (file_path);
CREATE INDEX code_embeddings_file_hash_idx ON code_embeddings (file_hash);
CREATE INDEX code_embeddings_language_idx ON code_embeddings (language);
CREATE INDEX code_embeddings_created_at_idx ON code_embeddings (created_at DESC);
CREATE INDEX code_patterns_name_idx ON code_patterns (pattern_name);
CREATE INDEX code_patterns_type_idx ON code_patterns (pattern_type);
CREATE INDEX code_patterns_language_idx ON code_patterns (language);
CREATE INDEX code_patterns_frequency_idx ON code_patterns (frequency DESC);
CREATE INDEX code_patterns_confidence_idx ON code_patterns (confidence_score DESC);
CREATE INDEX code_relationships_source_idx ON code_relationships (source_file);
CREATE INDEX code_relationships_target_idx ON code_relationships (target_file);
CREATE INDEX code_relationships_type_idx ON code_relationships (relationship_type);
CREATE INDEX code_relationships_strength_idx ON code_relationships (strength DESC);
CREATE INDEX code_relationships_both_idx ON code_relationships (source_file, target_file);
CREATE INDEX embedding_cache_stats_date_idx ON embedding_cache_stats (date DESC);

CREATE OR REPLACE FUNCTION update_updated_at_column() RETURNS TRIGGER AS $$
BEGIN
    NEW.updated_at = NOW();
    RETURN NEW;
END;
$$ language 'plpgsql';

CREATE TRIGGER update_code_embeddings_updated_at BEFORE UPDATE ON code_embeddings
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER update_code_patterns_updated_at BEFORE UPDATE ON code_patterns
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER update_code_relationships_updated_at BEFORE UPDATE ON code_relationships
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER update_embedding_cache_stats_updated_at BEFORE UPDATE ON embedding_cache_stats
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
