-- What a build came to, measured when it was done: the next advice and people compare with it.
-- Recall is a share of the ten nearest (0 to 1) over the probes; a build by a migration was not measured.
ALTER TABLE kg_ops.index_build
    ADD COLUMN recall_mean    double precision,
    ADD COLUMN recall_minimum double precision,
    ADD COLUMN p95_ms         double precision,
    ADD COLUMN seconds        double precision;
