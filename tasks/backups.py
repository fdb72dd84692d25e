"""Tasks on backups: make one, prove one, prune them."""

from __future__ import annotations

from tasks.artifacts import drill_artifact, retention_artifact
from tasks.core.backup import drill as drills
from tasks.core.backup import dump, library, retention
from tasks.core.backup.manifest import Backup
from tasks.core.backup.readback import read_back
from tasks.core.backup.retention import RetentionPlan
from tasks.core.operations.operation import current
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import Environment, load_settings
from tasks.core.store.base import Store, open_store
from tasks.steps import step


@step("back up", retries=2)
def make_backup(environment: Environment) -> Backup:
    """Dump, upload, manifest, and read back. A failed attempt leaves nothing that would be taken for a backup."""
    settings = load_settings(environment)
    with current().step("backup") as outcome:
        backup = dump.back_up(settings, operation=str(current().id))
        outcome["backup"] = backup.id
        tools = tools_for(backup.manifest.tool.pg_dump_major, settings.home)
        read_back(open_store(settings), backup, tools, settings.store_identity)
    current().describe(backup=backup.id)
    return backup


@step("restore drill", retries=1)
def prove_backup(environment: Environment, backup: str) -> Backup:
    """Restore the backup (empty: the newest one) into a scratch database and compare; the proof lies beside it."""
    settings = load_settings(environment)
    chosen = _chosen(open_store(settings), environment, backup)
    proved = chosen.model_copy(update={"proof": drills.drill(settings, chosen)})
    drill_artifact(environment, proved)
    return proved


@step("prune", retries=2)
def prune_backups(environment: Environment, apply: bool) -> RetentionPlan:
    """What the retention keeps and what it deletes; deletes it when `apply`."""
    plan = retention.prune(load_settings(environment), apply=apply, guard=current().guard)
    retention_artifact(environment, plan, applied=apply)
    return plan


def _chosen(store: Store, environment: Environment, backup: str) -> Backup:
    """The backup of that id, or the newest, proved or not: that is the one to be proved next."""
    if not backup and (found := library.backups(store, environment)):
        return found[-1]
    return library.find(store, environment, backup or None)
