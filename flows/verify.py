"""Is the database what its revision says? Compared with what the migrations make on that very server, and probed."""

from __future__ import annotations

from prefect import flow

from flows.guard import own_environment
from tasks.artifacts import report_artifact
from tasks.core.documents import ReportDocument
from tasks.core.operations.verification import remedy_for, verify_environment
from tasks.core.settings import Environment, load_settings


@flow(name="verify", flow_run_name="verify {environment}")
def verify(environment: Environment, probes: bool = True) -> ReportDocument:
    """Compare the schema with the expected one and probe it; whatever is written is rolled back.

    Without the engine: `kg verify ENVIRONMENT`.

    Args:
        environment: Which environment's database to verify.
        probes: Also insert, search and update in a transaction that is rolled back.
    """
    own_environment(environment)
    report = verify_environment(load_settings(environment), probes=probes)
    report_artifact(f"verify-{environment}", f"Verification of {environment}", report)
    return ReportDocument.of(environment, report, remedy=remedy_for(report, environment))
