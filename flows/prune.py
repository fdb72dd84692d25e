"""Seven days of backups: what is kept, what goes, and why."""

from __future__ import annotations

from prefect import flow

from flows.guard import own_environment
from flows.telling import tell_pruned, telling
from tasks.backups import prune_backups
from tasks.core.documents import PruneDocument
from tasks.core.operations.operation import operation
from tasks.core.settings import Environment, load_settings


@flow(name="prune", flow_run_name="prune {environment}")
def prune(environment: Environment, apply: bool = False) -> PruneDocument:
    """Decide over all backups of an environment by its retention.

    Args:
        environment: Which environment's backups.
        apply: Delete what is not kept; otherwise it is a dry run.
    """
    own_environment(environment)
    with telling(environment, "prune"), operation(load_settings(environment), "prune"):
        plan = prune_backups(environment, apply=apply)
    if apply:
        tell_pruned(environment, plan)
    return PruneDocument.of(environment, plan, applied=apply)
