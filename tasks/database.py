"""Tasks on the target database: check, plan, migrate, verify."""

from __future__ import annotations

from tasks.artifacts import report_artifact
from tasks.core.backup.manifest import Backup
from tasks.core.errors import OpsError, Refused, VerificationFailed
from tasks.core.operations.migrate import Migrated, migrate, our_fingerprint
from tasks.core.operations.operation import current
from tasks.core.operations.plan import DeployPlan, agree, expected_of, make_plan
from tasks.core.operations.rollback import RolledBack
from tasks.core.postgres.connections import connect, target
from tasks.core.progress import note
from tasks.core.schema import check, ledger, verify
from tasks.core.schema.verify import Report
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
        raise OpsError("; ".join(f"{item.name}: {item.detail}" for item in barring))
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
    """What is pending. Refused where it is not the plan that was approved."""
    settings = load_settings(environment)
    with connect(target(settings), purpose="plan", database=settings.database) as conn:
        plan = make_plan(conn, settings)
    agree(plan, approved)
    current().describe(plan=plan.hash, revision=plan.revision, pending=[each.label for each in plan.pending])
    return plan


@step("fingerprint")
def read_fingerprint(environment: Environment) -> str:
    """The state of our schema now."""
    settings = load_settings(environment)
    with connect(target(settings), purpose="fingerprint", database=settings.database) as conn:
        return our_fingerprint(conn, settings.database.schema_name, expected_of(conn, settings))


@step("migrate")
def migrate_target(environment: Environment, plan: DeployPlan, backup: Backup | None) -> Migrated:
    """Adopt and apply what is pending: never retried as a whole, since its statements may not be repeatable."""
    settings = load_settings(environment)
    if settings.deploy.require_proof and not (backup and backup.restorable):
        raise Refused(
            f"{environment} migrates only with a backup that is proved restorable",
            hint=f"make one: kg backup {environment}",
        )
    migrated = migrate(current(), plan, backup)
    record_builds(current(), migrated.applied)
    return migrated


@step("verify")
def verify_target(environment: Environment) -> Report:
    """Compare with what the migrations make, probe, and write down that the revisions are verified."""
    return _verify_and_mark(environment)


@step("verify rolled back")
def verify_rolled_back(environment: Environment, undone: RolledBack) -> None:
    """After a rollback the schema is what the remaining revision says; without a revision there is nothing to compare."""
    if undone.nothing or not undone.revision:
        return
    report = verify.verify(load_settings(environment))
    report_artifact(f"verify-{environment}", f"Verification of {environment} after the rollback", report)
    _raise_unless_ok(environment, report)


def _verify_and_mark(environment: Environment) -> Report:
    report = verify.verify(load_settings(environment))
    report_artifact(f"verify-{environment}", f"Verification of {environment}", report)
    _raise_unless_ok(environment, report)
    with current().session("verified") as conn:
        ledger.mark_verified(conn, [entry.revision for entry in ledger.entries(conn) if entry.verified_at is None])
    return report


def _raise_unless_ok(environment: Environment, report: Report) -> None:
    failed = [item for item in report.checks if item.status == "failed"]
    if failed:
        raise VerificationFailed(
            f"{environment} is not what its revision says: "
            + "; ".join(f"{item.name}: {item.detail}" for item in failed),
            hint=f"kg verify {environment} shows all of it",
        )
