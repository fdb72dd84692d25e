-- What the operations know about this database, kept in it: ledger (which revisions are applied) and journal (which
-- operation is under way, at which step). Never part of a migration, never compared by the fingerprint.
-- A later version is a file 002_*.sql beside this one; kg_ops.version says which have run here.

CREATE SCHEMA kg_ops;
COMMENT ON SCHEMA kg_ops IS 'Ledger and journal of the knowledge graph''s operations';

CREATE TABLE kg_ops.version (
    number       integer PRIMARY KEY,
    installed_at timestamptz NOT NULL DEFAULT now()
);

-- With the system identifier it tells whose backup a backup is: a clone carries the same id on another system.
-- The id comes from the client, since gen_random_uuid is part of the server from PostgreSQL 13 on only.
CREATE TABLE kg_ops.identity (
    single     boolean PRIMARY KEY DEFAULT true CHECK (single),
    id         uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Raised when an operation starts; a session of an earlier operation finds another number and may not commit.
CREATE TABLE kg_ops.fence (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    number bigint NOT NULL
);
INSERT INTO kg_ops.fence (number) VALUES (0);

CREATE TABLE kg_ops.operation (
    id          uuid PRIMARY KEY,
    kind        text NOT NULL,
    environment text NOT NULL,
    fence       bigint NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    state       text NOT NULL DEFAULT 'running'
                CHECK (state IN ('running', 'done', 'failed', 'rolled-back', 'abandoned')),
    host        text NOT NULL,
    pid         integer NOT NULL,
    backend_pid integer NOT NULL,
    detail      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX operation_running_idx ON kg_ops.operation (started_at) WHERE state = 'running';

CREATE TABLE kg_ops.journal (
    operation uuid NOT NULL REFERENCES kg_ops.operation (id),
    sequence  integer NOT NULL,
    step      text NOT NULL,
    state     text NOT NULL CHECK (state IN ('started', 'done', 'failed')),
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    detail    jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (operation, sequence)
);

-- `operation` (which brought it) and `ended_by` (which took it away) have no foreign key: after a restore the ledger is kept or merged, the journal is not.
CREATE TABLE kg_ops.ledger (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    revision      text NOT NULL,
    name          text NOT NULL,
    checksum      text NOT NULL,
    down_checksum text,
    kind          text NOT NULL CHECK (kind IN ('applied', 'adopted')),
    state         text NOT NULL DEFAULT 'applied' CHECK (state IN ('applied', 'reverted', 'superseded')),
    operation     uuid,
    backup        text,
    tolerated     text[] NOT NULL DEFAULT '{}',
    fingerprint   text,
    applied_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    verified_at   timestamptz,
    ended_at      timestamptz,
    ended_by      uuid
);
CREATE UNIQUE INDEX ledger_applied_idx ON kg_ops.ledger (revision) WHERE state = 'applied';

-- How many rows an index was built over, and with what: advice compares them with what there is now.
CREATE TABLE kg_ops.index_build (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name text NOT NULL,
    rows       bigint NOT NULL,
    parameters jsonb NOT NULL DEFAULT '{}',
    built_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    operation  uuid
);
CREATE INDEX index_build_latest_idx ON kg_ops.index_build (index_name, built_at DESC);
