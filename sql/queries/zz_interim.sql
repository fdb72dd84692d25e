-- Interim: what the first advice.py asks; gone with it.

-- name: sample_vectors
-- A few stored vectors, as text, to be asked for again.
SELECT {column}::text FROM {table} WHERE {column} IS NOT NULL AND id % greatest((SELECT max(id) FROM {table}) / 40, 1) = 0
LIMIT 20;

-- name: probe_neighbours
-- The ten nearest.
SELECT id FROM {table} ORDER BY {column} OPERATOR ({extension}.<=>) %(probe)s LIMIT 10;
