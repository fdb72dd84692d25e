"""The nightly: a backup that is proved before it counts, and old ones pruned."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from flows.guard import own_environment
from flows.steps import Steps
from flows.telling import tell_backed_up, tell_pruned, telling
from tasks.backups import make_backup, prove_backup, prune_backups
from tasks.core.documents import BackupDocument
from tasks.core.operations.operation import operation
from tasks.core.settings import Environment, load_settings
from tasks.notices import report_nightly


@flow(name="backup", flow_run_name="backup {environment}")
def backup(
    environment: Environment,
    drill: bool = True,
    prune: bool = True,
    form: Literal["as-set", "binary", "portable"] = "as-set",
) -> BackupDocument:
    """Dump, upload, read back, restore somewhere else, compare, prune.

    Args:
        environment: Which environment's database to back up.
        drill: Prove the backup by restoring it.
        prune: Then delete what the retention no longer keeps.
        form: Large vector tables by COPY (binary), all through pg_dump (portable), or as the environment's TOML says.
    """
    own_environment(environment)
    steps = Steps(1 + drill + prune)
    with telling(environment, "backup", "backup-failed"), operation(load_settings(environment), "backup"):
        with steps("Back up"):
            made = make_backup(environment, form)
        if drill:
            with steps("Restore drill"):
                made = prove_backup(environment, made.id)
        if prune:
            with steps("Prune"):
                tell_pruned(environment, prune_backups(environment, apply=True))
    tell_backed_up(environment, made)
    report_nightly(environment)
    return BackupDocument.of(made)
