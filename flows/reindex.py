"""Does an HNSW index call for a re-index? The guide's reasons, each with the figure behind it."""

from __future__ import annotations

from prefect import flow

from tasks.core.documents import ReindexDocument
from tasks.core.settings import Environment
from tasks.vectors import advise_reindex


@flow(name="reindex", flow_run_name="reindex {environment}")
def reindex(environment: Environment) -> ReindexDocument:
    """Advise on every HNSW index: growth since its build, latency of real probes, parameters for its size.

    Building the new index beside the old one is not there yet, so nothing is changed.

    Args:
        environment: Which environment's indexes.
    """
    return ReindexDocument.of(environment, advise_reindex(environment))
