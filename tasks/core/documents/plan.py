"""What `kg plan --json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from tasks.core.documents.base import CheckItem, Document, Part
from tasks.core.settings import Environment

if TYPE_CHECKING:
    from tasks.core.operations.outlook import Outlook
    from tasks.core.schema.hazards import Hazard
    from tasks.core.schema.migrations import Migration
    from tasks.core.schema.observing import Observed


class PlannedLock(Part):
    table: str
    mode: str = Field(description="PostgreSQL's name: AccessExclusiveLock, ...")
    waits: str = Field(description="Who waits while it is held")
    rows: int | None = Field(None, description="Rows of that table, the planner's estimate; null where it has none")
    measured: bool = Field(True, description="Seen in pg_locks; false: PostgreSQL's documented mode of the statement")


class PlannedStatement(Part):
    """A statement of an up script. Only locks on tables that were there before the migration."""

    line: int
    text: str = Field(description="Its beginning, on one line")
    locks: tuple[PlannedLock, ...]

    @classmethod
    def of(cls, statement: Observed, rows: dict[str, int]) -> Self:
        locks = tuple(
            PlannedLock(
                table=one.table, mode=one.mode, waits=one.waits, rows=rows.get(one.table), measured=one.measured
            )
            for one in statement.locks
        )
        return cls(line=statement.line, text=statement.text, locks=locks)


class PlannedHazard(Part):
    line: int
    column: int
    rule: str
    message: str
    remedy: str

    @classmethod
    def of(cls, hazard: Hazard) -> Self:
        return cls(**{name: getattr(hazard, name) for name in cls.model_fields})


class PlannedMigration(Part):
    revision: str
    name: str
    checksum: str = Field(description="SHA-256 of the up script")
    transactional: bool
    irreversible: bool = Field(description="It has no down script: its way back is a restore")
    statements: tuple[PlannedStatement, ...] = Field(description="As far as they were measured")
    hazards: tuple[PlannedHazard, ...]

    @classmethod
    def of(cls, migration: Migration, outlook: Outlook) -> Self:
        observed = outlook.measured.statements.get(migration.revision, ())
        return cls(
            revision=migration.revision,
            name=migration.name,
            checksum=migration.checksum,
            transactional=migration.transactional,
            irreversible=migration.irreversible,
            statements=tuple(PlannedStatement.of(each, dict(outlook.rows)) for each in observed),
            hazards=tuple(map(PlannedHazard.of, outlook.linted.hazards.get(migration.revision, ()))),
        )


class PlanDocument(Document):
    """`kg plan`."""

    state: Literal["pending", "nothing-pending"]
    environment: Environment
    database: str
    plan: str = Field(description="Hash that names exactly this plan")
    revision: str | None = Field(description="Newest revision in the ledger now")
    target: str | None = Field(description="... and after the deploy")
    pending: tuple[PlannedMigration, ...]
    adopted: tuple[str, ...] = Field(description="Recognised, and recorded without running")
    tolerated: tuple[str, ...] = Field(description="Differences that the adoption would accept")
    unverified: tuple[str, ...] = Field(description="Applied by a deploy that did not live to verify them")
    gates: tuple[CheckItem, ...] = Field(description="What must be proved before it may run; each with its command")
    linter: str = Field(description="Who looked for hazards, or why nobody did")
    locks: str = Field(description="Where the locks were measured, or why they were not")
    fails: str = Field(description="What a migration stumbled over where the locks were measured; empty: nothing")
    rehearsal: str = Field(description="Where the deploy tries it first, and with whose rights")

    @classmethod
    def of(cls, outlook: Outlook) -> Self:
        plan = outlook.plan
        return cls(
            state="nothing-pending" if plan.nothing_pending else "pending",
            environment=plan.environment,
            database=plan.database,
            plan=plan.hash,
            revision=plan.revision or None,
            target=plan.target_revision or None,
            pending=tuple(PlannedMigration.of(each, outlook) for each in plan.pending),
            adopted=tuple(each.revision for each in plan.adopted),
            tolerated=plan.tolerated,
            unverified=plan.unverified,
            gates=tuple(map(CheckItem.of, outlook.gates)),
            linter=outlook.linted.linter if plan.pending else "nothing to look at",
            locks=outlook.measured.where or "nothing to measure",
            fails=outlook.measured.failed,
            rehearsal=outlook.rehearsal if plan.pending else "nothing to rehearse",
        )
