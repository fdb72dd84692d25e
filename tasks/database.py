"""Tasks on the target database: check, plan, migrate, verify."""

from __future__ import annotations

from tasks.artifacts import report_artifact
from tasks.core.application.health import run_integration
from tasks.core.backup.manifest import Backup
from tasks.core.errors import OpsError, VerificationFailed, WatchFailed
from tasks.core.operations.gates import lasting_gates, pass_gates, proof_gate, staging_gate
from tasks.core.operations.migrate import Migrated, Release, migrate, our_fingerprint
from tasks.core.operations.operation import current
from tasks.core.operations.plan import DeployPlan, agree, expected_of, make_plan
from tasks.core.operations.rollback import RolledBack
from tasks.core.operations.verification import verify_environment
from tasks.core.operations.watching import watch
from tasks.core.postgres.connections import connect, target
from tasks.core.progress import note, say
from tasks.core.schema import check, ledger
from tasks.core.schema.report import CheckResult, Report
from tasks.core.schema.verify import verify
from tasks.core.settings import Environment, load_settings
from tasks.core.vectors.advice import record_builds
from tasks.steps import step


@step("check")
def check_target(environment: Environment) -> Report:
    """The guide's --check-only. What a deploy needs and does not find ends it here, with nothing touched."""
    report = check.check(load_settings(environment))
    report_artifact(f"check-{environment}", f"Check of {environment}", report)
    barring = [item for item in report.checks if item.status == "failed" and item.name not in check.ADVISORY]
    if barring:
        raise OpsError("; ".join(map(str, barring)), hint=f"kg check {environment} shows all of it")
    for item in report.checks:
        if item.status == "note":
            note(f"to be known: {item}")
    say(report.counted)
    return report


@step("verify earlier")
def verify_earlier(environment: Environment) -> tuple[str, ...]:
    """What a deploy that died had applied and not verified is verified now: it stays, or the caller rolls back."""
    settings = load_settings(environment)
    with connect(target(settings), purpose="settle", database=settings.database) as conn:
        unverified = tuple(entry.revision for entry in ledger.entries(conn) if entry.verified_at is None)
    if unverified:
        note(f"an earlier deploy applied {', '.join(unverified)} and did not live to verify it")
        _verify_and_mark(environment)
    return unverified


@step("plan")
def plan_deploy(environment: Environment, approved: str) -> DeployPlan:
    """What is pending. Refused where it is not the approved plan, or a gate is shut that no later step opens."""
    settings = load_settings(environment)
    with connect(target(settings), purpose="plan", database=settings.database) as conn:
        plan = make_plan(conn, settings)
        agree(plan, approved)
        pass_gates(lasting_gates(conn, settings, plan))
    current().describe(plan=plan.hash, revision=plan.revision, pending=[each.label for each in plan.pending])
    ahead = [f"adopt {each.label}" for each in plan.adopted] + [f"apply {each.label}" for each in plan.pending]
    say(", ".join(ahead) or f"nothing is pending at revision {plan.revision}")
    return plan


@step("fingerprint")
def read_fingerprint(environment: Environment) -> str:
    """The state of our schema now."""
    settings = load_settings(environment)
    with connect(target(settings), purpose="fingerprint", database=settings.database) as conn:
        return our_fingerprint(conn, settings.database.schema_name, expected_of(conn, settings))


@step("gates")
def open_gates(environment: Environment, plan: DeployPlan, backup: Backup | None) -> tuple[CheckResult, ...]:
    """Refused where what must be proved is not: a way back, and for production staging's word."""
    settings = load_settings(environment)
    with connect(target(settings), purpose="gates", database=settings.database) as conn:
        gates = (proof_gate(conn, settings, plan, backup), staging_gate(conn, settings, plan))
    report_artifact(f"gates-{environment}", f"Gates of {environment}", Report(gates))
    pass_gates(gates)
    return gates


@step("migrate")
def migrate_target(
    environment: Environment,
    plan: DeployPlan,
    backup: Backup | None,
    terminate_idle_blockers: bool = False,
    release: Release | None = None,
) -> Migrated:
    """Adopt and apply what is pending: never retried as a whole, since its statements may not be repeatable."""
    if release:
        current().describe(release=dict(release.detail))
    migrated = migrate(current(), plan, backup, terminate_idle_blockers=terminate_idle_blockers, release=release)
    record_builds(current(), migrated.applied)
    say(f"now at revision {plan.target_revision}")
    return migrated


@step("verify")
def verify_target(environment: Environment) -> Report:
    """Compare with what the migrations make, probe, ask the application, and write down what is verified."""
    return _verify_and_mark(environment)


@step("watch")
def watch_target(environment: Environment) -> Report:
    """Look on for a while: what gets worse than it may be sends the deploy back."""
    report = watch(load_settings(environment))
    report_artifact(f"watch-{environment}", f"Watch of {environment} after the deploy", report)
    failed = [item for item in report.checks if item.status == "failed"]
    if failed:
        raise WatchFailed(f"{environment} does worse after the migration: {'; '.join(map(str, failed))}")
    note("; ".join(f"{item.name}: {item.detail}" for item in report.checks))
    return report


@step("verify rolled back")
def verify_rolled_back(environment: Environment, undone: RolledBack) -> None:
    """After a rollback the schema is what the remaining revision says; where none remains, nothing is compared."""
    if undone.nothing or not undone.revision:
        return
    report = verify(load_settings(environment))
    report_artifact(f"verify-{environment}", f"Verification of {environment} after the rollback", report)
    further = (
        f"it went back by {undone.strategy}, and what is there differs: kg rollback {environment} --strategy restore "
        "puts our tables back as the newest proved backup has them, and first says what that loses"
    )
    _raise_unless_ok(environment, report, "" if undone.strategy == "restore" else further)


def _verify_and_mark(environment: Environment) -> Report:
    settings = load_settings(environment)
    found = verify_environment(settings)
    # The environment's own tests run only on a database that is what it should be.
    report = Report((*found.checks, run_integration(settings))) if found.ok else found
    report_artifact(f"verify-{environment}", f"Verification of {environment}", report)
    _raise_unless_ok(environment, report)
    with current().session("verified") as conn:
        ledger.mark_verified(conn, [entry.revision for entry in ledger.entries(conn) if entry.verified_at is None])
    say(report.counted)
    return report


def _raise_unless_ok(environment: Environment, report: Report, hint: str = "") -> None:
    failed = [item for item in report.checks if item.status == "failed"]
    if failed:
        raise VerificationFailed(
            f"{environment} is not what its revision says: " + "; ".join(map(str, failed)),
            hint=hint or f"kg verify {environment} shows all of it",
        )
