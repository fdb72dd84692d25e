"""Verbs around backups: backup, backups, restore-drill, prune."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli import render
from flows.cli.answer import answer
from flows.cli.options import Apply, DrillBackupId, EnvironmentName, Json, Output, Verbose

if TYPE_CHECKING:
    from tasks.core.documents import BackupDocument, DrillDocument, PruneDocument


def backup(environment: EnvironmentName, json: Json = False, verbose: Verbose = False) -> int:
    """Back the database up, and prove the backup by restoring it."""

    def work() -> BackupDocument:
        from flows.cli.engine import engine

        with engine() as running:
            from tasks.core.settings import load_settings

            settings = load_settings(environment)
            from flows.backup import backup

            running.ready()
            return backup(environment=settings.environment)

    return answer(Output(json, verbose), work, render.backup)


def backups(environment: EnvironmentName, json: Json = False, verbose: Verbose = False) -> int:
    """List the backups in the store, and which of them are proved."""

    def work() -> list[BackupDocument]:
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        from tasks.core.backup.library import backups
        from tasks.core.documents import BackupDocument
        from tasks.core.store.base import open_store

        return [BackupDocument.of(each) for each in backups(open_store(settings), settings.environment)]

    return answer(Output(json, verbose), work, render.backups)


def restore_drill(
    environment: EnvironmentName, backup: DrillBackupId = None, json: Json = False, verbose: Verbose = False
) -> int:
    """Restore a backup into a scratch database, compare, and record the proof."""

    def work() -> DrillDocument:
        from flows.cli.engine import engine

        with engine() as running:
            from tasks.core.settings import load_settings

            settings = load_settings(environment)
            from flows.restore_drill import restore_drill

            running.ready()
            return restore_drill(environment=settings.environment, backup=backup or "")

    return answer(Output(json, verbose), work, render.drill)


def prune(environment: EnvironmentName, apply: Apply = False, json: Json = False, verbose: Verbose = False) -> int:
    """Say which backups are kept and which may go, and why; with --apply, delete those."""

    def work() -> PruneDocument:
        from tasks.core.settings import load_settings

        if not apply:
            settings = load_settings(environment)
            from tasks.core.backup.retention import prune as plan
            from tasks.core.documents import PruneDocument

            return PruneDocument.of(settings.environment, plan(settings, apply=False), applied=False)
        from flows.cli.engine import engine

        with engine() as running:
            settings = load_settings(environment)
            from flows.prune import prune

            running.ready()
            return prune(environment=settings.environment, apply=True)

    return answer(Output(json, verbose), work, render.prune)
