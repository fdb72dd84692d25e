-- A deploy that people or clocks are waited for: its plan, what was prepared for it, and who has decided what.
-- At most one of an environment is open; another one that is prepared puts an end to it.
CREATE TABLE kg_ops.plans (
    id                uuid PRIMARY KEY,
    environment       text NOT NULL,
    hash              text NOT NULL,
    state             text NOT NULL DEFAULT 'waiting'
                      CHECK (state IN ('waiting', 'approved', 'scheduled', 'released', 'rejected', 'expired',
                                       'superseded', 'abandoned')),
    started_by        text NOT NULL,
    required          integer NOT NULL,
    flow_run          text,
    backup            text,
    predicted_seconds double precision NOT NULL,
    document          text NOT NULL,
    detail            jsonb NOT NULL DEFAULT '{}',
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at        timestamptz NOT NULL,
    scheduled_for     timestamptz,
    ended_at          timestamptz
);
CREATE UNIQUE INDEX plans_open_idx ON kg_ops.plans (environment) WHERE state IN ('waiting', 'approved', 'scheduled');

-- One decision a name. On an open-source Prefect server names are attested, not authenticated.
CREATE TABLE kg_ops.approvals (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    plan       uuid NOT NULL REFERENCES kg_ops.plans (id),
    decision   text NOT NULL CHECK (decision IN ('approve', 'reject')),
    name       text NOT NULL,
    note       text NOT NULL DEFAULT '',
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX approvals_name_idx ON kg_ops.approvals (plan, lower(name));

-- How a revision came to be let in: its plan's hash, who approved it, in which window, or who overrode that and why.
ALTER TABLE kg_ops.ledger ADD COLUMN release jsonb;
