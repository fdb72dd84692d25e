"""Verbs that look at or change the database: check, plan, verify, deploy, rollback, recover."""

from __future__ import annotations

import sys
from getpass import getuser
from typing import TYPE_CHECKING

from flows.cli import render
from flows.cli.answer import answer
from flows.cli.backups import check_backup
from flows.cli.confirm import confirm
from flows.cli.options import (
    BackupId,
    EnvironmentName,
    Json,
    NoProbes,
    Now,
    Output,
    Reason,
    SalvageRows,
    StarterName,
    StrategyName,
    StrategyOption,
    Terminate,
    TerminateIdleBlockers,
    Verbose,
    WholeDatabase,
    Yes,
)
from tasks.core.errors import UsageError

if TYPE_CHECKING:
    from tasks.core.documents import (
        DeployDocument,
        PlanDocument,
        RecoverDocument,
        ReportDocument,
        RollbackDocument,
    )
    from tasks.core.operations.plan import DeployPlan
    from tasks.core.settings import Settings

PREVIEW_LINES = 12


def check(environment: EnvironmentName, json: Json = False, verbose: Verbose = False) -> int:
    """Say whether a deploy could go well. Reads only.

    Versions, pgvector, privileges, tables against the ledger, pending migrations, who blocks whom, invalid indexes,
    the store, the last proved backup and its age.
    """

    def work() -> ReportDocument:
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        from tasks.core.documents import ReportDocument
        from tasks.core.schema.check import check

        return ReportDocument.of(settings.environment, check(settings))

    return answer(Output(json, verbose), work, render.report)


def plan(environment: EnvironmentName, json: Json = False, verbose: Verbose = False) -> int:
    """Say what a deploy would run, what it locks, what is dangerous about it, and which gates are shut. Reads only.

    The locks are measured on a scratch database; the deploy's own rehearsal measures them again on real data.
    """

    def work() -> PlanDocument:
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        from tasks.core.documents import PlanDocument
        from tasks.core.operations.outlook import outlook

        return PlanDocument.of(outlook(settings))

    return answer(Output(json, verbose), work, render.plan)


def verify(
    environment: EnvironmentName, no_probes: NoProbes = False, json: Json = False, verbose: Verbose = False
) -> int:
    """Compare the database with what its migrations say, and try it out.

    The live probes (duplicates refused, similarity search, triggers, indexes) write and roll back.
    """

    def work() -> ReportDocument:
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        from tasks.core.documents import ReportDocument
        from tasks.core.operations.verification import remedy_for, verify_environment

        report = verify_environment(settings, probes=not no_probes)
        return ReportDocument.of(settings.environment, report, remedy=remedy_for(report, settings.environment))

    return answer(Output(json, verbose), work, render.report)


def deploy(
    environment: EnvironmentName,
    yes: Yes = False,
    terminate_idle_blockers: TerminateIdleBlockers = False,
    name: StarterName = "",
    now: Now = False,
    reason: Reason = "",
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Carry the database to the newest revision.

    Check, plan, backup, restore drill, migrate, verify, re-index advice, prune, report. When anything after the
    migration fails, it rolls back. Where the environment asks for approvals or has maintenance windows, it waits for
    them after the drill, or is scheduled.
    """

    def work() -> DeployDocument:
        from flows.cli.engine import engine

        if now and not reason.strip():
            raise UsageError("--now needs --reason TEXT", hint="it is written into the ledger")
        with engine() as running:
            from tasks.core.settings import load_settings

            settings = load_settings(environment)
            # --yes stands for whatever is pending then; a person's yes is for the plan that was shown, and no other.
            approved = "" if yes and json else agreed_plan(settings, yes)
            from flows.deploy import deploy

            running.ready(settings.environment)
            return deploy(
                environment=settings.environment,
                plan=approved,
                terminate_idle_blockers=terminate_idle_blockers,
                started_by=name or _login(),
                now=now,
                reason=reason,
            )

    def partial() -> DeployDocument:
        from tasks.core.documents import DeployDocument

        return DeployDocument(state="failed", environment=environment)

    return answer(Output(json, verbose), work, render.deploy, partial=partial)


def rollback(
    environment: EnvironmentName,
    strategy: StrategyOption = StrategyName.AUTO,
    backup: BackupId = None,
    salvage: SalvageRows = False,
    whole_database: WholeDatabase = False,
    yes: Yes = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Go back to before the last deploy. Rows go only with --yes.

    revert runs the down scripts of what it applied; restore swaps our tables for those of a proved backup; reset
    empties our tables and indexes again; auto reverts, and restores where it must and nothing would be lost.
    """

    def work() -> RollbackDocument:
        from flows.cli.engine import engine
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        check_backup(settings, backup)
        with engine() as running:
            if not yes:
                show_rollback(settings, strategy, backup, salvage=salvage, whole_database=whole_database)
                confirm(f"the rollback of {environment}")
            from flows.rollback import rollback

            running.ready(settings.environment)
            return rollback(
                environment=settings.environment,
                strategy=strategy.value,
                backup=backup or "",
                confirm=settings.environment,
                yes=yes,
                salvage=salvage,
                whole_database=whole_database,
            )

    def partial() -> RollbackDocument:
        from tasks.core.documents import RollbackDocument

        return RollbackDocument(state="failed", environment=environment, strategy=strategy.value)

    return answer(Output(json, verbose), work, render.rollback, partial=partial)


def recover(
    environment: EnvironmentName, terminate: Terminate = False, json: Json = False, verbose: Verbose = False
) -> int:
    """After a crash: finish or undo what the dead run had begun.

    Reads the journal, waits for the dead run's sessions, verifies what was applied and not verified (it stays, or is
    rolled back), and drops what was left lying about. A deploy and a rollback begin with the same.
    """

    def work() -> RecoverDocument:
        from flows.cli.engine import engine

        with engine() as running:
            from tasks.core.settings import load_settings

            settings = load_settings(environment)
            from flows.recover import recover

            running.ready(settings.environment)
            return recover(environment=settings.environment, terminate=terminate)

    return answer(Output(json, verbose), work, render.recover)


def agreed_plan(settings: Settings, yes: bool) -> str:
    """Show what is pending, and ask unless `yes`. The hash of the plan that a person agreed to; else empty."""
    from tasks.core.operations.plan import preview

    plan = preview(settings)
    if plan.nothing_pending:
        return ""
    show_plan(plan)
    if yes or settings.deploy.confirm == "none":
        return ""
    from tasks.core.release.approvals import last_rehearsal

    for line in last_rehearsal(settings, plan):
        _say(line)
    confirm(f"the deploy to {settings.environment}")
    return plan.hash


def show_plan(plan: DeployPlan) -> None:
    """What a deploy would run, on the error stream: the first lines of each pending file."""
    _say(f"{plan.environment} (database {plan.database}) is at revision {plan.revision or 'none'}.")
    for migration in plan.adopted:
        _say(f"Revision {migration.revision} {migration.name} is there already and is adopted without running.")
    for migration in plan.pending:
        lines = migration.sql.splitlines()
        _say(f"\n{migration.up.name} ({len(lines)} lines):\n{'-' * 60}")
        _say("\n".join(lines[:PREVIEW_LINES]))
        _say(f"{'...' if len(lines) > PREVIEW_LINES else ''}\n{'-' * 60}".lstrip("\n"))


def show_rollback(
    settings: Settings,
    strategy: StrategyName,
    backup: str | None,
    *,
    salvage: bool = False,
    whole_database: bool = False,
) -> None:
    """What a rollback would do, on the error stream. Rows at stake stop it later, with their count, without --yes."""
    source = f"backup {backup}" if backup else "the newest proved backup"
    what = {
        StrategyName.AUTO: "revert what the last deploy applied; where that cannot be, restore its backup if nothing "
        "written since would be lost",
        StrategyName.REVERT: "run the down scripts of what the last deploy applied",
        StrategyName.RESTORE: f"swap our tables for those of {source}, keeping the replaced ones until pruned",
        StrategyName.RESET: "empty our tables, keep the schema, and run the environment's index command",
    }[strategy]
    if whole_database:
        what = f"exchange the whole database, everyone's tables, for {source}, and end every session in it"
    if salvage:
        what += "; where a restore is made, rows written since are exported and applied again as far as they fit"
    where = settings.address.label if settings.address else "the embedded server"
    _say(f"This will roll back {settings.environment} ({where}): {what}.")


def _login() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201
