"""Verbs around backups: backup, backups, restore-drill, prune."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli import render
from flows.cli.answer import answer
from flows.cli.options import (
    Apply,
    BackupFormat,
    DrillBackupId,
    EnvironmentName,
    Json,
    KeepId,
    ListedId,
    Output,
    Remote,
    UnkeepId,
    Verbose,
    VerifyBackups,
)
from flows.cli.remote import answer_from_worker

if TYPE_CHECKING:
    from tasks.core.documents import BackupDocument, DrillDocument, PruneDocument, ReportDocument
    from tasks.core.settings import Settings


def backup(
    environment: EnvironmentName,
    form: BackupFormat = "as-set",
    remote: Remote = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Back the database up, and prove the backup by restoring it."""
    if remote:
        return answer_from_worker(Output(json, verbose), "backup", environment, lambda _: {"form": form})

    def work() -> BackupDocument:
        from flows.cli.engine import engine
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        check_store(settings)
        with engine() as running:
            from flows.backup import backup

            running.ready(settings.environment)
            return backup(environment=settings.environment, form=form)

    return answer(Output(json, verbose), work, render.backup)


def backups(
    environment: EnvironmentName,
    backup: ListedId = None,
    verify: VerifyBackups = False,
    keep: KeepId = None,
    unkeep: UnkeepId = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """List the backups in the store, and which of them are proved; or read them back, or mark one to be kept."""
    output = Output(json, verbose)
    if verify and keep is None and unkeep is None:
        return answer(output, lambda: _verified(environment, backup), render.report)
    return answer(output, lambda: _listed(environment, keep, unkeep, verify or backup is not None), render.backups)


def _verified(environment: str, backup: str | None) -> ReportDocument:
    from tasks.core.settings import load_settings

    settings = load_settings(environment)
    from tasks.core.backup.readback import verify_backups
    from tasks.core.documents import ReportDocument

    return ReportDocument.of(settings.environment, verify_backups(settings, backup))


def _listed(environment: str, keep: str | None, unkeep: str | None, stray: bool) -> list[BackupDocument]:
    """All backups, or the one whose mark was changed."""
    from tasks.core.settings import load_settings

    settings = load_settings(environment)
    from tasks.core.backup.library import backups, find, mark
    from tasks.core.documents import BackupDocument
    from tasks.core.errors import UsageError
    from tasks.core.store.base import open_store

    wanted = [each for each in (keep, unkeep) if each is not None]
    if stray or len(wanted) > 1:
        raise UsageError("one thing at a time", hint="either --verify [ID], or --keep ID, or --unkeep ID")
    store = open_store(settings)
    if wanted:
        found = find(store, settings.environment, wanted[0])
        return [BackupDocument.of(mark(store, found, keep=keep is not None))]
    return [BackupDocument.of(each) for each in backups(store, settings.environment)]


def restore_drill(
    environment: EnvironmentName, backup: DrillBackupId = None, json: Json = False, verbose: Verbose = False
) -> int:
    """Restore a backup into a scratch database, compare, and record the proof."""

    def work() -> DrillDocument:
        from flows.cli.engine import engine
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        check_store(settings)
        check_backup(settings, backup)
        with engine() as running:
            from flows.restore_drill import restore_drill

            running.ready(settings.environment)
            return restore_drill(environment=settings.environment, backup=backup or "")

    return answer(Output(json, verbose), work, render.drill)


def check_store(settings: Settings, *, reads: bool = True) -> None:
    """What is malformed about the store is said at once, too, and nothing is asked of it; its identity only for who
    `reads` what is in a backup. Raises SettingsError.
    """
    from tasks.core.backup.encryption import check_identity
    from tasks.core.store.base import open_store

    if reads:
        check_identity(settings.store_identity)
    open_store(settings)


def check_backup(settings: Settings, backup: str | None) -> None:
    """A wrong id is said at once: the flow engine takes seconds to start, and a person would be asked for nothing."""
    if backup is not None:
        from tasks.core.backup.library import check_exists
        from tasks.core.store.base import open_store

        check_exists(open_store(settings), settings.environment, backup)


def prune(environment: EnvironmentName, apply: Apply = False, json: Json = False, verbose: Verbose = False) -> int:
    """Say which backups are kept and which may go, and why; with --apply, delete those."""

    def work() -> PruneDocument:
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        check_store(settings, reads=False)
        if not apply:
            from tasks.core.backup.retention import prune as plan
            from tasks.core.documents import PruneDocument

            return PruneDocument.of(settings.environment, plan(settings, apply=False), applied=False)
        from flows.cli.engine import engine

        with engine() as running:
            from flows.prune import prune

            running.ready(settings.environment)
            return prune(environment=settings.environment, apply=True)

    return answer(Output(json, verbose), work, render.prune)
