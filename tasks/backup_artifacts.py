"""What stands on the pages of backups: the table of all, and the history of their drills with its picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tasks.artifacts import leave, picture, table
from tasks.core.backup import library
from tasks.core.backup.manifest import Backup
from tasks.core.backup.pictures import drill_history
from tasks.core.markdown import inline
from tasks.core.progress import size
from tasks.core.settings import Environment, Settings
from tasks.core.store.base import open_store

log = logging.getLogger(__name__)


def store_artifacts(settings: Settings) -> None:
    """Both, of what the store holds now. Looking at it again may fail, and fails nothing."""
    try:
        found = library.read_library(open_store(settings), settings.environment).backups
        backups_artifact(settings.environment, found)
        drills_artifact(settings.environment, found)
    except Exception as error:
        log.warning("the backups could not be shown: %s", type(error).__name__)


def backups_artifact(environment: Environment, backups: Sequence[Backup]) -> None:
    rows = [
        {
            "backup": one.id,
            "proof": f"✅ {one.proof.grade}" if one.proof and one.proved else "⏭ not proved",
            "taken": f"{one.created:%Y-%m-%d %H:%M} UTC",
            "revision": one.manifest.revision or "none",
            "rows": sum(one.manifest.tables.values()),
            "stored": size(one.stored_bytes),
            "restore s": round(one.proof.restore_seconds, 1) if one.proof and one.proved else "",
            "kept": "kept" if one.kept else "",
            "folder": one.manifest.folder,
        }
        for one in reversed(backups)
    ]
    newest = next((one.id for one in reversed(backups) if one.proved), "none")
    said = f"{len(rows)}; the newest that is proved: {newest}"
    table(f"backups-{environment}", f"Backups of {environment}, newest first: {said}", rows)


def drills_artifact(environment: Environment, backups: Sequence[Backup]) -> None:
    lines = [
        f"# Restore drills of {environment}",
        "",
        "| drilled | backup | result | restore | size | rows |",
        "|---|---|---|--:|--:|--:|",
        *(
            f"| {proof.created:%Y-%m-%d %H:%M} | {inline(one.id)} | {proof.grade if proof.ok else 'FAILED'} "
            f"| {proof.restore_seconds:.1f} s | {size(one.stored_bytes)} | {sum(proof.tables.values()):,} |"
            for one, proof in ((one, one.proof) for one in reversed(backups))
            if proof is not None
        ),
        "",
        *picture(drill_history(backups), "restore time and size of each drill"),
    ]
    leave("\n".join(lines), key=f"drill-history-{environment}")
