"""A backup that was never restored is a hope: restore it into a scratch database and compare."""

from __future__ import annotations

from prefect import flow

from flows.guard import own_environment
from flows.steps import Steps
from flows.telling import telling
from tasks.backups import prove_backup
from tasks.core.documents import DrillDocument
from tasks.core.settings import Environment


@flow(name="restore-drill", flow_run_name="restore-drill {environment}")
def restore_drill(environment: Environment, backup: str = "") -> DrillDocument:
    """Restore a backup into a scratch database, compare counts and schema with its manifest, and record the proof.

    Args:
        environment: Which environment's backups.
        backup: The backup's id; empty means the newest one.
    """
    own_environment(environment)
    with telling(environment, "restore drill"), Steps(1)("Restore drill"):
        proved = prove_backup(environment, backup)
    return DrillDocument.of(proved)
