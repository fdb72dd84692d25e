"""`kg plan`: everything there is to know of a deploy before it starts. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sql import query
from tasks.core.operations.gates import never_proved, proof_gate, staging_gate
from tasks.core.operations.plan import DeployPlan, make_plan
from tasks.core.operations.rehearsal import Measured, measure_locks
from tasks.core.operations.rights import rights_of, whose
from tasks.core.postgres.connections import Connection, connect, describe, target
from tasks.core.schema import ledger
from tasks.core.schema.hazards import Linted, lint
from tasks.core.schema.migrations import load_migrations
from tasks.core.schema.report import CheckResult, ok
from tasks.core.settings import Settings


@dataclass(frozen=True)
class Outlook:
    """The plan, its hazards and locks by revision, and how its gates stand now. `rows`: the planner's estimates;
    `rehearsal`: where the deploy tries it first, and with whose rights.
    """

    plan: DeployPlan
    linted: Linted
    measured: Measured
    gates: tuple[CheckResult, ...]
    rows: Mapping[str, int]
    rehearsal: str


def outlook(settings: Settings) -> Outlook:
    """Raises what `preview` raises: AdoptionRefused, Refused (drift), DatabaseError."""
    with connect(target(settings), purpose="plan", database=settings.database) as conn:
        plan = make_plan(conn, settings)
        server = describe(conn)
        gates = (
            never_proved(settings, plan) or proof_gate(conn, settings, plan, None),
            staging_gate(conn, settings, plan),
        )
        done = {entry.revision for entry in ledger.entries(conn)} | {one.revision for one in plan.adopted}
        rows = _rows(conn, settings.database.schema_name)
        rehearsal = _rehearsal(conn, settings)
    applied = [migration for migration in load_migrations(settings.migrations) if migration.revision in done]
    measured = Measured("", {}) if not plan.pending else measure_locks(settings, server, applied, plan.pending)
    linted = lint(plan.pending, server.major)
    return Outlook(plan, linted, measured, _as_deployed(settings, gates), rows, rehearsal)


def _rehearsal(conn: Connection, settings: Settings) -> str:
    if not (settings.deploy.backup and settings.deploy.drill):
        return f"none: a deploy to {settings.environment} restores no copy to try it on"
    elsewhere = settings.scratch.user if settings.scratch else ""
    return f"on a restored copy, with the rights of {whose(rights_of(conn), elsewhere)}"


def _as_deployed(settings: Settings, gates: tuple[CheckResult, ...]) -> tuple[CheckResult, ...]:
    """A deploy that backs up and drills opens the first gate itself."""
    proof, staging = gates
    if proof.status == "failed" and settings.deploy.backup and settings.deploy.drill:
        proof = ok(proof.name, f"the deploy makes and proves a backup of its own (now: {proof.detail})")
    return proof, staging


def _rows(conn: Connection, schema: str) -> dict[str, int]:
    """By table; -1 (never analysed) is left out."""
    found = conn.execute(query("estimated_rows"), {"schema": schema}).fetchall()
    return {str(name): int(rows) for name, rows in found if rows >= 0}
