"""The guide's --check-only, as a flow: what stands in the way of a deploy, and what to do about it. Read-only."""

from __future__ import annotations

from prefect import flow

from flows.guard import own_environment
from flows.telling import tell_old_proof
from tasks.artifacts import report_artifact
from tasks.core.documents import ReportDocument
from tasks.core.schema.check import check as check_now
from tasks.core.settings import Environment, load_settings


@flow(name="check", flow_run_name="check {environment}")
def check(environment: Environment) -> ReportDocument:
    """Look at server, extension, privileges, ledger, locks, store and proofs; change nothing.

    Without the engine: `kg check ENVIRONMENT`.

    Args:
        environment: Which environment's database and store to look at.
    """
    own_environment(environment)
    report = check_now(load_settings(environment))
    tell_old_proof(environment, report)
    report_artifact(f"check-{environment}", f"Check of {environment}", report)
    return ReportDocument.of(environment, report)
