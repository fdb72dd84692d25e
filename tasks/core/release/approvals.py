"""Deploys that people are waited for: stored in kg_ops, decided by name, bound to the plan's hash, expiring.

A decision is a row in kg_ops.approvals, whichever way it came: the form of the paused run or `kg approve`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from sql import query
from tasks.core.errors import Refused, UsageError
from tasks.core.notifications.secrets import scrub
from tasks.core.operations.plan import DeployPlan
from tasks.core.postgres.connections import Connection, connect, database_errors, target
from tasks.core.schema import ledger
from tasks.core.settings import Environment, Settings

Choice = Literal["approve", "reject"]
State = Literal["waiting", "approved", "scheduled", "released", "rejected", "expired", "superseded", "abandoned"]
OPEN: tuple[State, ...] = ("waiting", "approved", "scheduled")
MISSED_LOOKS = 3  # of the run that waits; after so many, and a moment for a busy machine, nobody waits any more
A_MOMENT = timedelta(seconds=15)
LONGEST_NAME = 200  # characters
NOBODY = "nobody named"  # who started a deploy that nobody is asked about, from a form that was left empty
# What is drawn as nothing and is no control or format character: fillers, variation selectors, an empty pattern.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


@dataclass(frozen=True)
class Decision:
    decision: Choice
    name: str
    note: str
    decided_at: datetime


@dataclass(frozen=True)
class Waiting:
    """A plan that was stored. `hash` is the plan's; `document` is what the approvers see, Markdown; `detail` what its
    preparation found. An expired one says so in `state`.
    """

    id: UUID
    environment: Environment
    hash: str
    state: State
    started_by: str
    required: int
    flow_run: str | None
    backup: str | None
    predicted_seconds: float
    document: str
    detail: Mapping[str, Any]
    created_at: datetime
    expires_at: datetime
    scheduled_for: datetime | None
    decisions: tuple[Decision, ...]
    silence: timedelta = field(compare=False)  # since its run has looked whether anybody has decided

    def __post_init__(self) -> None:
        read = (each if isinstance(each, Decision) else _decision(each) for each in self.decisions)
        object.__setattr__(self, "decisions", tuple(read))  # the driver hands out JSON

    @property
    def approved_by(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.decisions if each.decision == "approve")

    @property
    def rejected(self) -> Decision | None:
        return next((each for each in self.decisions if each.decision == "reject"), None)

    @property
    def missing(self) -> int:
        """How many more people must agree."""
        return max(0, self.required - len(self.approved_by))

    def deserted(self, settings: Settings) -> bool:
        """People are waited for, and the run that should do so has crashed, was cancelled, or hangs."""
        return self.state == "waiting" and self.silence > MISSED_LOOKS * settings.approvals.poll + A_MOMENT


def waiting(settings: Settings) -> tuple[Waiting, ...]:
    """What waits here for people or for its window, oldest first; nothing where kg_ops knows no plans."""
    with _session(settings) as conn:
        return open_plans(conn, settings.environment)


def open_plans(conn: Connection, environment: Environment) -> tuple[Waiting, ...]:
    row = conn.execute(query("has_plans")).fetchone()
    if not row or not row[0]:
        return ()
    with conn.cursor(row_factory=class_row(Waiting)) as cursor:
        return tuple(cursor.execute(query("open_plans"), {"environment": environment}).fetchall())


def store(
    conn: Connection,
    settings: Settings,
    plan: DeployPlan,
    *,
    started_by: str,
    flow_run: str | None,
    backup: str | None,
    predicted_seconds: float,
    document: str,
    detail: Mapping[str, Any],
) -> Waiting:
    """Keep a prepared plan; whatever else was open in this environment is superseded."""
    made = uuid4()
    values = {
        "id": made,
        "environment": settings.environment,
        "hash": plan.hash,
        "started_by": proper_name(started_by or NOBODY),
        "required": settings.approvals.required,
        "flow_run": flow_run,
        "backup": backup,
        "predicted_seconds": predicted_seconds,
        "document": document,
        "detail": Jsonb(dict(detail)),
        "expire": settings.approvals.expire,
    }
    with conn.transaction():
        conn.execute(query("supersede_plans"), {"environment": settings.environment})
        conn.execute(query("store_plan"), values)
    return _now(conn, made)


def look(settings: Settings, plan: UUID) -> Waiting:
    """How a stored plan stands now."""
    with _session(settings) as conn:
        return _now(conn, plan)


def watch(settings: Settings, plan: UUID) -> Waiting:
    """`look`, by the run that waits: it is written down that it was there."""
    with _session(settings) as conn:
        conn.execute(query("watch_plan"), {"id": plan})
        return _now(conn, plan)


def decide(settings: Settings, plan: UUID, choice: Choice, name: str, note: str = "") -> Waiting:
    """Write down who decided what. Raises Refused where it is the starter, has decided otherwise before, or the plan
    is no longer open; UsageError for an empty name. The same decision again changes nothing.
    """
    name = proper_name(name)
    with _session(settings) as conn, conn.transaction():
        conn.execute(query("lock_plan"), {"id": plan})
        found = _now(conn, plan)
        before = next((each for each in found.decisions if same_name(each.name, name)), None)
        if before and before.decision == choice:
            return found
        _refuse(found, choice, name, before)
        conn.execute(query("record_decision"), {"plan": plan, "decision": choice, "name": name, "note": kept(note)})
        decided = _now(conn, plan)
        if choice == "reject":
            _move(conn, plan, "rejected")
        elif not decided.missing and found.state == "waiting":
            _move(conn, plan, "approved")
        return _now(conn, plan)


def _refuse(found: Waiting, choice: Choice, name: str, before: Decision | None) -> None:
    what = f"plan {found.hash} of {found.environment}"
    if found.state not in OPEN:
        raise Refused(f"{what} is {found.state}: nothing is to be decided", hint="kg approvals shows what waits")
    if before:
        raise Refused(f"{before.name} has decided on {what} already ({before.decision})")
    if choice == "approve" and same_name(name, found.started_by):
        raise Refused(f"{found.started_by} started {what}, and does not count as its approver", hint="somebody else")


def move(settings: Settings, plan: UUID, state: State) -> None:
    """Its new state; a plan that is no longer open keeps the one it has."""
    with _session(settings) as conn:
        _move(conn, plan, state)


def schedule(settings: Settings, plan: UUID, at: datetime, until: datetime) -> None:
    """It waits for the opening from `at` to `until`; its decisions count so long."""
    with _session(settings) as conn:
        conn.execute(query("schedule_plan"), {"id": plan, "at": at, "until": until})


def past_ratios(conn: Connection, environment: Environment) -> tuple[float, ...]:
    """How many times as long as its rehearsal each earlier deploy took, oldest first."""
    from tasks.core.release.prediction import ratio

    rows = conn.execute(query("past_durations"), {"environment": environment}).fetchall()
    return tuple(ratio(actual, rehearsed) for actual, rehearsed in rows if rehearsed is not None)


def last_rehearsal(settings: Settings, plan: DeployPlan) -> tuple[str, ...]:
    """What an earlier run rehearsed of this very plan, a line for each migration; nothing where none did."""
    with _session(settings) as conn:
        if not ledger.exists(conn):
            return ()
        values = {"environment": settings.environment, "plan": plan.hash}
        row = conn.execute(query("last_rehearsal"), values).fetchone()
    return tuple(f"{each['said']} (on {row[0]:%Y-%m-%d %H:%M} UTC)" for each in row[1] if "said" in each) if row else ()


def proper_name(name: str) -> str:
    """As it is kept. Raises UsageError for one that is empty or endless."""
    found = seen(name)
    if not found or len(found) > LONGEST_NAME:
        raise UsageError(
            f"a decision wants a name, of at most {LONGEST_NAME} characters", hint="--name, or the form's field"
        )
    return found


def seen(text: str) -> str:
    """What people see of it, on one line; empty where all of it is invisible."""
    return " ".join(_INVISIBLE.sub("", kept(text)).split())


def kept(text: str) -> str:
    """What somebody typed, as it goes into a ledger: readable, and without a password that slipped in."""
    return scrub(_readable(text), os.environ)


def same_name(one: str, other: str) -> bool:
    """Do people read the same? Case, width, composition and what is invisible make no other person."""
    return _alike(one) == _alike(other)


def _alike(name: str) -> str:
    return " ".join(_INVISIBLE.sub("", _readable(unicodedata.normalize("NFKC", name))).casefold().split())


def _readable(text: str) -> str:
    """Without what a terminal obeys, what turns the direction of reading, and what PostgreSQL keeps in no text."""
    printed = (each for each in text if each in "\n\t" or unicodedata.category(each)[0] != "C")
    return unicodedata.normalize("NFC", "".join(printed)).strip()


def _move(conn: Connection, plan: UUID, state: State) -> None:
    conn.execute(query("move_plan"), {"id": plan, "state": state, "ends": state not in OPEN})


def _now(conn: Connection, plan: UUID) -> Waiting:
    with conn.cursor(row_factory=class_row(Waiting)) as cursor:
        found = cursor.execute(query("plan_now"), {"id": plan}).fetchone()
    if found is None:
        raise Refused(f"no plan {plan} is known here", hint="kg approvals shows what waits")
    return found


def _decision(row: Mapping[str, Any]) -> Decision:
    return Decision(row["decision"], row["name"], row["note"], datetime.fromisoformat(row["decided_at"]))


@contextmanager
def _session(settings: Settings) -> Iterator[Connection]:
    with (
        connect(target(settings), purpose="approvals", database=settings.database) as conn,
        database_errors(f"reading what waits in {settings.environment}"),
    ):
        yield conn
