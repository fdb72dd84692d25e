"""Verbs that look at or change the database: check, plan, verify, deploy, rollback, recover."""

from __future__ import annotations

from getpass import getuser
from typing import TYPE_CHECKING, Any

from flows.cli import render
from flows.cli.answer import answer
from flows.cli.backups import check_backup, check_store
from flows.cli.confirm import agreed_plan, confirm, say_unseen, show_rollback
from flows.cli.options import (
    BackTo,
    BackupId,
    EnvironmentName,
    Json,
    NoProbes,
    Now,
    Output,
    Reason,
    Remote,
    SalvageRows,
    StarterName,
    StrategyName,
    StrategyOption,
    Terminate,
    TerminateIdleBlockers,
    Verbose,
    WholeDatabase,
    Why,
    Yes,
)
from flows.cli.remote import answer_from_worker
from tasks.core.errors import UsageError

if TYPE_CHECKING:
    from tasks.core.documents import (
        DeployDocument,
        PlanDocument,
        RecoverDocument,
        ReportDocument,
        RollbackDocument,
    )
    from tasks.core.settings import Settings


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
    remote: Remote = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Carry the database to the newest revision.

    Check, plan, backup, restore drill, migrate, verify, re-index advice, prune, report. When anything after the
    migration fails, it rolls back. Where the environment asks for approvals or has maintenance windows, it waits for
    them after the drill, or is scheduled.
    """

    def asked(plan: str) -> dict[str, Any]:
        return {
            "plan": plan,
            "terminate_idle_blockers": terminate_idle_blockers,
            "started_by": name or _login(),
            "now": now,
            "reason": reason,
        }

    def check_reason() -> None:
        if now and not reason.strip():
            raise UsageError("--now needs --reason TEXT", hint="it is written into the ledger")

    def work() -> DeployDocument:
        from flows.cli.engine import engine

        check_reason()
        with engine() as running:
            from tasks.core.settings import load_settings

            settings = load_settings(environment)
            check_store(settings)
            # --yes stands for whatever is pending then; a person's yes is for the plan that was shown, and no other.
            approved = "" if yes and json else agreed_plan(settings, yes)
            from flows.deploy import deploy

            running.ready(settings.environment)
            document: DeployDocument = deploy(environment=settings.environment, **asked(approved))
            return document

    def elsewhere(settings: Settings | None) -> dict[str, Any]:
        check_reason()
        if settings is None and not yes:
            say_unseen(environment)
            confirm(f"the deploy to {environment}")
        return asked("" if settings is None or (yes and json) else agreed_plan(settings, yes))

    if remote:
        return answer_from_worker(Output(json, verbose), "deploy", environment, elsewhere)

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
    to: BackTo = None,
    reason: Why = "",
    remote: Remote = False,
    yes: Yes = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Go back to before the newest deploy, and no further unless --to says so. Rows go only with --yes.

    revert runs the down scripts of what it applied; restore swaps our tables for those of a proved backup; reset
    empties our tables and indexes again; auto reverts, and restores where it must and nothing would be lost.
    """
    asked: dict[str, Any] = {
        "strategy": strategy.value,
        "backup": backup or "",
        "confirm": environment,
        "yes": yes,
        "salvage": salvage,
        "whole_database": whole_database,
        "to": to or "",
        "reason": reason,
    }

    def work() -> RollbackDocument:
        from flows.cli.engine import engine
        from tasks.core.settings import load_settings

        settings = load_settings(environment)
        check_store(settings, reads=strategy is StrategyName.RESTORE)
        check_backup(settings, backup)
        with engine() as running:
            if not yes:
                show_rollback(settings, strategy, backup, salvage=salvage, whole_database=whole_database, to=to)
                confirm(f"the rollback of {environment}")
            from flows.rollback import rollback

            running.ready(settings.environment)
            document: RollbackDocument = rollback(environment=settings.environment, **asked)
            return document

    def elsewhere(settings: Settings | None) -> dict[str, Any]:
        if not yes and settings is None:
            say_unseen(environment)
        elif not yes and settings:
            show_rollback(settings, strategy, backup, salvage=salvage, whole_database=whole_database, to=to)
        if not yes:
            confirm(f"the rollback of {environment}")
        return asked

    if remote:
        return answer_from_worker(Output(json, verbose), "rollback", environment, elsewhere)

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


def _login() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
