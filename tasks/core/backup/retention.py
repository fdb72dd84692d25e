"""Which backups go. The decision is pure and gives a reason for each; only `prune` touches the store.

Age is counted back from the newest proved backup, not from today: when nights fail, or the clock runs ahead, the
window stands still, and what is good stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sql import query
from tasks.core.backup.contents import identity_of
from tasks.core.backup.library import Library, read_library, sweepable
from tasks.core.backup.manifest import KEEP, MANIFEST, PROOF, Backup, Identity
from tasks.core.backup.replaced import drop_replaced, find_replaced, find_replaced_databases, reason_to_keep
from tasks.core.errors import StoreError
from tasks.core.postgres.connections import Connection, connect, database_errors, target
from tasks.core.progress import note
from tasks.core.schema import ledger
from tasks.core.settings import RetentionSettings, Settings
from tasks.core.store.base import Store, open_store

CLOCK_TOLERANCE = timedelta(minutes=10)
LEFTOVER_AGE = timedelta(days=1)
LEAP = timedelta(days=31)  # nothing for so long, and then a backup: rather a clock set wrong than a pause


class Decision(NamedTuple):
    """What happens to a backup (or to a killed one's remains), and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class RetentionPlan:
    """`sweep` names remains: folders without a manifest and unfinished uploads; `replaced` schemas of the database.
    `problems` are left alone. `stored_bytes` has the size of each that is named in the others, where it is known.
    """

    keep: tuple[Decision, ...]
    delete: tuple[Decision, ...]
    sweep: tuple[Decision, ...] = ()
    replaced: tuple[Decision, ...] = ()
    problems: tuple[Decision, ...] = ()
    stored_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """What the database says: who it is, its ledger's revisions, when the newest was deployed, and which backups
    (id -> why) something under way refers to.
    """

    database: Identity
    revisions: frozenset[str] = frozenset()
    deployed: datetime | None = None
    protected: Mapping[str, str] = field(default_factory=dict)


def plan(
    backups: Sequence[Backup], policy: RetentionSettings, now: datetime, standing: Standing, *, hold: str = ""
) -> RetentionPlan:
    """Keep or delete, each with its reason, in the order of `backups`. `hold` is a reason to delete nothing at all."""
    own = sorted(
        (b for b in backups if b.manifest.database.is_same(standing.database)), key=lambda b: (b.created, b.id)
    )
    hold = hold or _reason_to_hold(own, policy, now)
    needed = _needed(own, policy, standing)
    keep, delete = [], []
    for backup in backups:
        if backup not in own:
            keep.append(Decision(backup.id, f"of another database ({backup.manifest.database.name})"))
        elif reason := needed.get(backup.id) or hold or _recent(backup, own, policy, now):
            keep.append(Decision(backup.id, reason))
        else:
            word = "" if backup.proved else ", never proved"
            delete.append(Decision(backup.id, f"older than {policy.days} days{word}"))
    sizes = {backup.id: backup.stored_bytes for backup in backups}
    return RetentionPlan(tuple(keep), tuple(delete), stored_bytes=sizes)


def prune(settings: Settings, *, apply: bool, guard: Callable[[Connection], None] | None = None) -> RetentionPlan:
    """What would go, and with `apply` does. Raises DatabaseError, StoreError; a run that was cut short is completed
    by the next, and what it had begun to delete is no longer listed as a backup. `guard` is asked before replaced
    tables are dropped for good.
    """
    store = open_store(settings)
    standing, drift = _standing(settings)
    library = read_library(store, settings.environment)
    now = datetime.now(UTC)
    hold = f"the clocks of this machine and of the database differ by {drift}" if drift > timedelta(hours=1) else ""
    decided = plan(library.backups, settings.retention, now, standing, hold=hold)
    problems = tuple(Decision(problem.name, problem.reason) for problem in library.problems)
    # An upload can be under way as long as a dump may take.
    before = now - max(LEFTOVER_AGE, 2 * settings.backup.dump_timeout)
    remains = () if hold else tuple(_remains(store, settings.environment, library, before))
    sizes = {each.id: sum(entry.size for entry in each.entries) for each in library.leftovers}
    decided = replace(decided, sweep=remains, problems=problems, stored_bytes={**decided.stored_bytes, **sizes})
    decided = _with_locked(store, settings.environment, decided, now)
    with connect(target(settings), purpose="prune", database=settings.database) as conn:
        decided = _with_replaced(conn, decided, library, settings.retention, standing.database, hold, now)
        if apply:
            _apply(store, settings.environment, decided, library)
            for decision in decided.replaced:
                drop_replaced(conn, decision.id, guard)
    return decided


def _with_locked(store: Store, environment: str, decided: RetentionPlan, now: datetime) -> RetentionPlan:
    """What an object lock holds stays: a delete would only hide it, or fail."""
    keep, delete = list(decided.keep), []
    for decision in decided.delete:
        until = store.locked_until(f"{environment}/{decision.id}/{MANIFEST}")
        if until and until > now:
            keep.append(Decision(decision.id, f"locked in the store until {until:%Y-%m-%d %H:%M} UTC"))
        else:
            delete.append(decision)
    return replace(decided, keep=tuple(keep), delete=tuple(delete))


def _with_replaced(
    conn: Connection,
    decided: RetentionPlan,
    library: Library,
    policy: RetentionSettings,
    database: Identity,
    hold: str,
    now: datetime,
) -> RetentionPlan:
    own = [backup for backup in library.backups if backup.manifest.database.is_same(database)]
    keep, drop, sizes = list(decided.keep), [], dict(decided.stored_bytes)
    for each in (*find_replaced(conn), *find_replaced_databases(conn)):
        reason = hold or reason_to_keep(each, own, policy, now)
        sizes[each.label] = each.size_bytes
        if reason:
            keep.append(Decision(each.label, reason))
        else:
            drop.append(Decision(each.label, f"{each.what}, older than {policy.replaced_days} days"))
    return replace(decided, keep=tuple(keep), replaced=tuple(drop), stored_bytes=sizes)


def _reason_to_hold(own: Sequence[Backup], policy: RetentionSettings, now: datetime) -> str:
    """Why nothing at all may go; empty when something may."""
    proved = [backup for backup in own if backup.proved]
    if not proved:
        return "no backup of this database is proved"
    if own[-1].created > now + CLOCK_TOLERANCE:
        return f"backup {own[-1].id} is from the future: the clock may be wrong"
    before = [backup for backup in own if backup.created < proved[-1].created]
    if before and proved[-1].created - before[-1].created > max(2 * timedelta(days=policy.days), LEAP):
        return f"backup {proved[-1].id} follows after a long gap: the clock may have jumped"
    return ""


def _needed(own: Sequence[Backup], policy: RetentionSettings, standing: Standing) -> dict[str, str]:
    """Those that stay at any age. Later entries give the weightier reason."""
    proved = [backup for backup in own if backup.proved]
    needed = {b.id: f"among the {policy.minimum_proved} newest proved" for b in proved[-policy.minimum_proved :]}
    for word, period, count in (("month", "%Y-%m", policy.monthly), ("week", "%G-W%V", policy.weekly)):
        newest_in = {f"{backup.created:{period}}": backup for backup in proved}
        for name in sorted(newest_in)[len(newest_in) - min(count, len(newest_in)) :]:
            needed[newest_in[name].id] = f"the newest proved of the {word} {name}"
    newest_of = {backup.manifest.revision: backup for backup in proved}  # ascending: the newest one stays
    for revision, backup in newest_of.items():
        if revision in standing.revisions:
            needed[backup.id] = f"the newest proved of revision {revision}"
    if standing.deployed:
        before = [backup for backup in proved if backup.created <= standing.deployed]
        needed |= {backup.id: "the newest proved before the newest deploy" for backup in before[-1:]}
    needed |= {backup.id: "the newest proved" for backup in proved[-1:]}
    needed |= standing.protected
    return needed | {backup.id: "marked to be kept" for backup in own if backup.kept}


def _recent(backup: Backup, own: Sequence[Backup], policy: RetentionSettings, now: datetime) -> str:
    newest = max(found.created for found in own if found.proved)
    if backup.created >= min(now, newest) - timedelta(days=policy.days):
        return f"not older than {policy.days} days"
    newer = sum(found.proved and found.created > backup.created for found in own)
    return "" if newer >= policy.minimum_proved else f"fewer than {policy.minimum_proved} newer ones are proved"


def _standing(settings: Settings) -> tuple[Standing, timedelta]:
    """What the database says, and how far its clock is from ours."""
    with (
        connect(target(settings), purpose="prune", database=settings.database) as conn,
        database_errors("reading what prune must keep"),
    ):
        row = conn.execute(query("server_clock")).fetchone()
        assert row
        drift = abs(datetime.now(UTC) - row[0])
        if not ledger.exists(conn):
            return Standing(identity_of(conn)), drift
        entries = ledger.entries(conn)
        protected = {id_: f"an unfinished {kind} refers to it" for id_, kind in conn.execute(query("referred_backups"))}
        newest = max(entries, key=lambda entry: entry.applied_at, default=None)
        if newest and newest.backup:
            protected.setdefault(newest.backup, "the one before the newest deploy")
        standing = Standing(
            identity_of(conn),
            frozenset(entry.revision for entry in entries),
            newest.applied_at if newest else None,
            protected,
        )
    return standing, drift


def _remains(store: Store, environment: str, library: Library, before: datetime) -> Iterable[Decision]:
    for leftover in library.leftovers:
        if all(entry.modified < before for entry in leftover.entries):
            yield Decision(leftover.id, "has no manifest: never finished, or half deleted")
    for name in sweepable(store.unfinished(f"{environment}/", before), environment):
        yield Decision(name, "an upload that was never finished")


def _apply(store: Store, environment: str, decided: RetentionPlan, library: Library) -> None:
    """The manifest goes first: a half-deleted backup is none."""
    objects = {backup.id: [found.name for found in backup.manifest.objects] for backup in library.backups}
    for decision in decided.delete:
        if store.exists(f"{environment}/{decision.id}/{KEEP}"):
            note(f"backup {decision.id} was marked to be kept meanwhile")
            continue
        for name in (MANIFEST, PROOF, *objects[decision.id]):
            store.delete(f"{environment}/{decision.id}/{name}")
        note(f"deleted backup {decision.id}: {decision.reason}")
    leftovers = {leftover.id: leftover for leftover in library.leftovers}
    for decision in decided.sweep:
        if leftover := leftovers.get(decision.id):
            for entry in leftover.entries:
                store.delete(entry.key)
        else:
            store.discard(decision.id)
        note(f"swept {decision.id}: {decision.reason}")
    still = [decision.id for decision in decided.delete if store.exists(f"{environment}/{decision.id}/{MANIFEST}")]
    if still:
        raise StoreError(f"{store.url} still has {still[0]} after deleting it", hint="is the object locked?")
