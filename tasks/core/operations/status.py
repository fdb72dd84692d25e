"""Am I safe? What each environment's database and store say, in one look that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sql import query
from tasks.core.backup.contents import identity_of
from tasks.core.backup.library import backups
from tasks.core.backup.manifest import Backup
from tasks.core.documents.status import (
    EnvironmentStatus,
    FailedItem,
    ProvedBackup,
    RunningItem,
    StatusDocument,
    WaitingItem,
)
from tasks.core.errors import ConnectionFailed, NotConfigured, OpsError, SettingsError
from tasks.core.operations import journal
from tasks.core.operations.gates import staging_gate
from tasks.core.operations.plan import DeployPlan
from tasks.core.postgres.connections import Connection, connect, database_errors, target
from tasks.core.release.approvals import open_plans
from tasks.core.release.windows import has_windows, next_window
from tasks.core.schema import ledger
from tasks.core.schema.known import readable
from tasks.core.schema.migrations import Migration
from tasks.core.schema.report import CheckResult
from tasks.core.settings import Environment, Settings, load_settings
from tasks.core.store.base import open_store

_NOBODY = UUID(int=0)


@dataclass(frozen=True)
class _Seen:
    """What was found of one environment that answered; `backups` are this database's."""

    entries: Sequence[ledger.Entry]
    pending: tuple[str, ...]
    backups: tuple[Backup, ...]
    others: int  # backups of other databases
    running: tuple[RunningItem, ...]
    waiting: tuple[WaitingItem, ...]
    failed: FailedItem | None
    gate: CheckResult | None  # what staging has proved, where nothing is deployed yet

    @property
    def newest(self) -> Backup | None:
        return next((each for each in reversed(self.backups) if each.proved), None)

    @property
    def dead(self) -> bool:
        return any(not each.alive for each in self.running)


def status(environments: Sequence[Environment]) -> StatusDocument:
    """All at once, so that one that does not answer keeps nobody waiting. Never raises for an environment's fault."""
    with ThreadPoolExecutor(max(1, len(environments))) as pool:
        looks = [pool.submit(copy_context().run, status_of, each) for each in environments]
    found = tuple(each.result() for each in looks)
    return StatusDocument(safe=all(each.fine for each in found), environments=found)


def status_of(environment: Environment) -> EnvironmentStatus:
    """One environment's line; what kept us from looking is the line then."""
    try:
        settings = load_settings(environment)
    except NotConfigured as error:
        return EnvironmentStatus(
            environment=environment, standing="not-configured", verdict=error.message, next=error.hint or ""
        )
    except SettingsError as error:
        return _unsafe(environment, error.message, error.hint or "correct it: nothing runs there until then")
    if settings.address is None and not (settings.home / "postgres").exists():
        never = _nothing_yet(environment, "there is no embedded database yet", f"kg deploy {environment}")
        return never.model_copy(update={"exists": False})
    try:
        return _looked(settings)
    except ConnectionFailed as error:
        return EnvironmentStatus(
            environment=environment, standing="unreachable", verdict=error.message, next=error.hint or ""
        )
    except OpsError as error:
        return EnvironmentStatus(
            environment=environment,
            standing="not-safe",
            verdict=error.message,
            next=error.hint or f"kg check {environment}",
        )


def _looked(settings: Settings) -> EnvironmentStatus:
    now = datetime.now(UTC)
    with (
        connect(target(settings), purpose="status", database=settings.database) as conn,
        database_errors("looking at the database"),
    ):
        seen = _see(conn, settings)
    opening = next_window(settings, now) if has_windows(settings) else None
    verdict = _verdict(settings, seen, now)
    return verdict.model_copy(
        update={
            "revision": seen.entries[-1].revision if seen.entries else None,
            "pending": seen.pending,
            "backup": _proved(seen.newest) if seen.newest else None,
            "windows": has_windows(settings),
            "window_start": opening.start if opening else None,
            "window_end": opening.end if opening else None,
            "running": seen.running,
            "waiting": seen.waiting,
            "failed": seen.failed,
        }
    )


def _see(conn: Connection, settings: Settings) -> _Seen:
    entries = ledger.entries(conn)
    migrations, refused = readable(settings.migrations, entries)
    mine = identity_of(conn)
    stored = backups(open_store(settings), settings.environment)
    ours = tuple(each for each in stored if each.manifest.database.is_same(mine))
    return _Seen(
        entries=entries,
        pending=(
            *(each.label for each in ledger.pending(migrations, entries, out_of_order=settings.deploy.out_of_order)),
            *([f"one that is refused ({refused})"] if refused else []),
        ),
        backups=ours,
        others=len(stored) - len(ours),
        running=_running(conn) if ledger.exists(conn) else (),
        waiting=tuple(
            WaitingItem(
                plan=each.hash,
                state=each.state,
                started_by=each.started_by,
                missing=each.missing,
                scheduled_for=each.scheduled_for,
                expires=each.expires_at,
                deserted=each.deserted(settings),
            )
            for each in open_plans(conn, settings.environment)
        ),
        failed=_failed(conn) if ledger.exists(conn) else None,
        gate=None if entries else staging_gate(conn, settings, _first(settings, migrations)),
    )


def _first(settings: Settings, migrations: tuple[Migration, ...]) -> DeployPlan:
    """All there is to do where nothing is deployed; whether it is run or adopted is no matter to a gate."""
    return DeployPlan(settings.environment, target(settings).dbname, "", migrations, (), (), (), "")


def _failed(conn: Connection) -> FailedItem | None:
    last = journal.last_change(conn)
    if last is None or last.state == "done":
        return None
    state = {"rolled-back": "rolled-back", "abandoned": "died"}.get(last.state, "failed")
    return FailedItem(kind=last.kind, state="interrupted" if last.interrupted else state, at=last.at)


def _running(conn: Connection) -> tuple[RunningItem, ...]:
    """The journal's unfinished operations. One at a time holds the lock: the newest, where anybody holds it."""
    unfinished = journal.unfinished(conn, _NOBODY)
    held = bool(conn.execute(query("lock_holders")).fetchall())
    return tuple(
        RunningItem(
            kind=each.kind,
            since=each.started_at,
            host=each.host,
            pid=each.pid,
            step=each.step,
            alive=held and each is unfinished[-1],
        )
        for each in unfinished
    )


def _verdict(settings: Settings, seen: _Seen, now: datetime) -> EnvironmentStatus:
    """The first thing that is not as it should be, in the order in which it would be mended."""
    name = settings.environment
    if seen.dead:
        died = next(each for each in seen.running if not each.alive)
        return _unsafe(name, f"a {died.kind} died at {died.step or 'its start'}", f"kg recover {name}")
    if not seen.entries:
        # A backup of it, or one of another database, makes it no safer: there is nothing of ours in it.
        shut = seen.gate.remedy if seen.gate and seen.gate.status == "failed" else ""
        kept = f"; the store keeps {seen.others} backups of another database" if seen.others else ""
        return _nothing_yet(name, f"nothing is deployed{kept}", shut or f"kg deploy {name}")
    if not seen.backups:
        return _unsafe(name, "there is no backup of this database", f"kg backup {name}")
    if seen.newest is None:
        return _unsafe(name, f"none of {len(seen.backups)} backups was ever restored", f"kg restore-drill {name}")
    if problem := _old_or_foreign(settings, seen.newest, now):
        return _unsafe(name, *problem)
    if not seen.running and seen.entries and seen.entries[-1].verified_at is None:
        return _unsafe(name, f"revision {seen.entries[-1].revision} was never verified", f"kg deploy {name}")
    assert seen.newest.proof is not None
    restores = f"comes back in {seen.newest.proof.restore_seconds:.1f} s from a backup that was restored"
    verdict = f"safe as of {spoken(now - seen.newest.created)} ago: {restores}"
    return EnvironmentStatus(environment=name, standing="safe", verdict=verdict)


def _old_or_foreign(settings: Settings, newest: Backup, now: datetime) -> tuple[str, str] | None:
    """What is wrong with the newest proved backup, and the command; None where it counts."""
    name, age, limit = settings.environment, now - newest.created, settings.backup.max_proof_age
    if age > limit:
        return f"the newest proved backup is {spoken(age)} old, the limit is {spoken(limit)}", f"kg backup {name}"
    if settings.deploy.require_proof and not newest.restorable:
        wanted = f"PostgreSQL {newest.manifest.server.version}, pgvector {newest.manifest.server.pgvector}"
        return (
            f"the newest proved backup was restored on another release than its own ({wanted})",
            f"give KG_SCRATCH_URL a server of that release, then kg restore-drill {name}",
        )
    return None


def _nothing_yet(environment: Environment, verdict: str, command: str) -> EnvironmentStatus:
    return EnvironmentStatus(environment=environment, standing="nothing-yet", verdict=verdict, next=command)


def _unsafe(environment: Environment, verdict: str, command: str) -> EnvironmentStatus:
    return EnvironmentStatus(environment=environment, standing="not-safe", verdict=verdict, next=command)


def _proved(backup: Backup) -> ProvedBackup:
    assert backup.proof is not None
    return ProvedBackup(
        id=backup.id,
        created=backup.created,
        proved_at=backup.proof.created,
        grade=backup.proof.grade,
        restore_seconds=backup.proof.restore_seconds,
        stored_bytes=backup.stored_bytes,
    )


def spoken(span: timedelta) -> str:
    """A length of time in the one unit that says enough."""
    minutes = max(0.0, span.total_seconds() / 60)
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"
