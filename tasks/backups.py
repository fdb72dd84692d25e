"""Tasks on backups: make one, prove one, prune them."""

from __future__ import annotations

from typing import Literal

from tasks.artifacts import drill_artifact, rehearsal_artifact, retention_artifact
from tasks.backup_artifacts import store_artifacts
from tasks.core.backup import drill as drills
from tasks.core.backup import dump, library, retention
from tasks.core.backup.manifest import Backup, Proof
from tasks.core.backup.readback import read_back
from tasks.core.backup.retention import RetentionPlan
from tasks.core.operations.operation import current
from tasks.core.operations.plan import DeployPlan
from tasks.core.operations.rehearsal import rehearse_on
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.postgres.scratch import Scratch
from tasks.core.postgres.tools import tools_for
from tasks.core.progress import say
from tasks.core.settings import Environment, load_settings
from tasks.core.store.base import Store, open_store
from tasks.steps import step


@step("back up", retries=2)
def make_backup(environment: Environment, form: Literal["as-set", "binary", "portable"] = "as-set") -> Backup:
    """Dump, upload, manifest, and read back. A failed attempt leaves nothing that would be taken for a backup."""
    settings = load_settings(environment)
    if form != "as-set":
        settings = settings.model_copy(update={"backup": settings.backup.model_copy(update={"format": form})})
    with current().step("backup") as outcome:
        backup = dump.back_up(settings, operation=str(current().id))
        outcome["backup"] = backup.id
        tools = tools_for(backup.manifest.tool.pg_dump_major, settings.home)
        read_back(open_store(settings), backup, tools, settings.store_identity)
    current().describe(backup=backup.id)
    rows = sum(backup.manifest.tables.values())
    say(f"{backup.id}: {rows:,} rows of {len(backup.manifest.tables)} tables in {backup.stored_bytes:,} bytes")
    return backup


@step("restore drill", retries=1)
def prove_backup(environment: Environment, backup: str) -> Backup:
    """Restore the backup (empty: the newest one) into a scratch database and compare; the proof lies beside it."""
    settings = load_settings(environment)
    chosen = _chosen(open_store(settings), environment, backup)
    proved = chosen.model_copy(update={"proof": drills.drill(settings, chosen)})
    drill_artifact(environment, proved)
    store_artifacts(settings)
    _say_proved(proved)
    return proved


@step("restore drill and rehearsal", retries=1)
def prove_and_rehearse(environment: Environment, backup: str, plan: DeployPlan) -> tuple[Backup, tuple[Rehearsed, ...]]:
    """Prove this deploy's backup, and try the pending migrations on the copy: what fails there goes no further.

    What they took and locked there becomes part of the plan in the journal.
    """
    settings = load_settings(environment)
    chosen = library.find(open_store(settings), environment, backup)
    rehearsed: list[Rehearsed] = []

    def on_the_copy(scratch: Scratch, proof: Proof) -> None:
        with current().step("rehearsal"):
            rehearsed.extend(rehearse_on(scratch, settings, plan.pending, proof.tables))

    proof = drills.drill(settings, chosen, on_the_copy if plan.pending else None)
    proved = chosen.model_copy(update={"proof": proof})
    drill_artifact(environment, proved)
    store_artifacts(settings)
    if rehearsed:
        current().describe(rehearsal=[each.to_detail() for each in rehearsed])
        rehearsal_artifact(environment, rehearsed)
    _say_proved(proved)
    return proved, tuple(rehearsed)


@step("prune", retries=2)
def prune_backups(environment: Environment, apply: bool) -> RetentionPlan:
    """What the retention keeps and what it deletes; deletes it when `apply`."""
    settings = load_settings(environment)
    plan = retention.prune(settings, apply=apply, guard=current().guard)
    retention_artifact(environment, plan, applied=apply)
    store_artifacts(settings)
    say(f"{len(plan.keep)} kept, {len(plan.delete) + len(plan.sweep)} {'deleted' if apply else 'would go'}")
    return plan


def _chosen(store: Store, environment: Environment, backup: str) -> Backup:
    """The backup of that id, or the newest, proved or not: that is the one to be proved next."""
    if not backup and (found := library.backups(store, environment)):
        return found[-1]
    return library.find(store, environment, backup or None)


def _say_proved(backup: Backup) -> None:
    grade = backup.proof.grade if backup.proof else "unproved"
    missing = backup.proof.unsampled if backup.proof else ()
    but = f", but no content of {', '.join(missing)} compared: this backup holds no sample of it" if missing else ""
    say(f"{backup.id} is {grade}: every row counted, the same fingerprint{but}")
