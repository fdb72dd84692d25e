"""The main job, with the real engine and a real database: what a deploy does, and what it leaves when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.core.documents import DeployDocument, attached
from tasks.core.errors import AdoptionRefused, MigrationFailed, OpsError, Refused, VerificationFailed
from tasks.core.operations.operation import operation
from tasks.core.operations.recover import recover
from tasks.core.postgres.connections import Connection
from tasks.core.settings import CHECKOUT, Settings
from tests.flows.runs import deploy

HAND_RUN = CHECKOUT / "tests" / "integration" / "hand_run" / "create_tables.sql"

# Makes in the real schema something else than in the scratch schema where the expected form is made, and than in the
# scratch database where it is rehearsed.
DIFFERS = """
ALTER TABLE code_patterns ADD COLUMN reviewed boolean;
DO $$ BEGIN
    IF current_schema() = 'public' AND current_database() LIKE 'test_%' THEN
        DROP INDEX code_patterns_language_idx;
    END IF;
END $$;
"""
# The way back for the part that verification stumbles over as well.
BACK = """
ALTER TABLE code_patterns DROP COLUMN reviewed;
CREATE INDEX IF NOT EXISTS code_patterns_language_idx ON code_patterns (language);
"""


def second_migration(folder: Path, up: str, down: str) -> None:
    (folder / "002_review_patterns.up.sql").write_text(up)
    (folder / "002_review_patterns.down.sql").write_text(down)


def flow_runs() -> list[tuple[str, str, bool]]:
    """Flow name, state, and whether it is a subflow, of the runs in the server, oldest first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_ASC)
        names = {run.flow_id: client.read_flow(run.flow_id).name for run in runs}
        return [(names[run.flow_id], str(run.state_name), run.parent_task_run_id is not None) for run in runs]


def ledger(conn: Connection) -> Sequence[tuple[object, ...]]:
    statement = "SELECT revision, kind, state, verified_at IS NOT NULL FROM kg_ops.ledger ORDER BY id"
    return conn.execute(statement).fetchall()


def test_a_first_deploy_takes_every_step_and_a_second_finds_nothing_pending(dev: Settings, conn: Connection) -> None:
    first = deploy()
    assert first.state == "deployed"
    assert (first.revision, first.applied) == ("001", ("001",))
    assert list(first.seconds) == [
        "Check", "Plan", "Back up", "Restore drill", "Migrate", "Verify", "Re-index advice", "Prune", "Report",
    ]  # fmt: skip
    assert first.backup
    assert first.warnings == ()
    assert first.fingerprint_before != first.fingerprint_after
    assert ledger(conn) == [("001", "applied", "applied", True)]
    second = deploy()
    assert second.state == "nothing-pending"
    assert second.fingerprint_before == second.fingerprint_after == first.fingerprint_after
    assert second.revision == "001"


def test_what_a_script_outside_a_transaction_leaves_is_said_with_the_command(
    dev: Settings, migrations: Path, conn: Connection
) -> None:
    before = deploy().fingerprint_after
    fails = "SELECT 1 / (CASE WHEN current_schema() = 'public' AND current_database() LIKE 'test_%' THEN 0 ELSE 1 END);"
    second_migration(
        migrations,
        f"-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS new_idx ON code_patterns (id);\n{fails}",
        "-- migrate: no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS new_idx;",
    )
    with pytest.raises(MigrationFailed, match="division by zero") as failed:
        deploy()
    said = (
        "dev is at revision 001, with what the script had done: kg recover dev undoes it; the first 1 of its 2 statem"
    )
    assert (failed.value.hint or "").startswith(said)
    with operation(dev, "recover") as held:
        assert recover(held).fingerprint == before


def test_a_deploy_whose_verification_fails_is_rolled_back_and_ends_failed(
    dev: Settings, migrations: Path, conn: Connection
) -> None:
    before = deploy().fingerprint_after
    second_migration(migrations, DIFFERS, BACK)
    seen = len(flow_runs())
    with pytest.raises(VerificationFailed, match="code_patterns_language_idx") as failed:
        deploy()
    document = attached(failed.value)
    assert isinstance(document, DeployDocument)
    assert (document.state, document.rolled_back, document.revision) == ("failed", True, "001")
    assert document.fingerprint_before == document.fingerprint_after == before
    assert flow_runs()[seen:] == [("deploy", "Failed", False), ("rollback", "Completed", True)]
    assert ledger(conn) == [("001", "applied", "applied", True), ("002", "applied", "reverted", False)]
    assert conn.execute("SELECT state FROM kg_ops.operation ORDER BY started_at DESC LIMIT 1").fetchone() == (
        "rolled-back",
    )


def test_a_migration_that_fails_leaves_nothing_and_needs_no_rollback(
    dev: Settings, migrations: Path, conn: Connection
) -> None:
    before = deploy().fingerprint_after
    second_migration(
        migrations,
        "ALTER TABLE code_patterns ADD COLUMN reviewed boolean;\n\nSELECT 1/(CASE WHEN current_schema() = 'public'"
        " AND current_database() LIKE 'test_%' THEN 0 ELSE 1 END);",
        "ALTER TABLE code_patterns DROP COLUMN reviewed;",
    )
    with pytest.raises(MigrationFailed, match=r"002_review_patterns\.up\.sql:3") as failed:
        deploy()
    document = attached(failed.value)
    assert isinstance(document, DeployDocument)
    assert not document.rolled_back
    assert document.fingerprint_after == before
    assert ledger(conn) == [("001", "applied", "applied", True)]


def test_tables_of_the_hand_run_script_are_adopted(dev: Settings, conn: Connection) -> None:
    conn.execute(HAND_RUN.read_bytes())
    before = conn.execute("SELECT oid FROM pg_class WHERE relname = 'code_embeddings'").fetchone()
    document = deploy()
    assert (document.state, document.adopted, document.applied) == ("deployed", ("001",), ())
    assert document.fingerprint_before == document.fingerprint_after
    assert conn.execute("SELECT oid FROM pg_class WHERE relname = 'code_embeddings'").fetchone() == before
    assert ledger(conn) == [("001", "adopted", "applied", True)]
    assert deploy().state == "nothing-pending"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("DROP TABLE code_relationships", "code_relationships"),
        ("ALTER TABLE code_patterns ALTER COLUMN language TYPE varchar(20)", "code_patterns.language"),
    ],
)
def test_what_is_not_quite_revision_1_is_refused_and_untouched(
    dev: Settings, conn: Connection, change: str, named: str
) -> None:
    conn.execute(HAND_RUN.read_bytes())
    conn.execute(change.encode())
    before = conn.execute("SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                          " ORDER BY 1").fetchall()  # fmt: skip
    with pytest.raises(AdoptionRefused, match=named) as refused:
        deploy()
    assert refused.value.exit_status == 3
    assert conn.execute("SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                        " ORDER BY 1").fetchall() == before  # fmt: skip


def test_another_plan_than_the_approved_one_is_refused(dev: Settings, conn: Connection) -> None:
    with pytest.raises(Refused, match="the plan has changed"):
        deploy(plan="000000000000")
    assert conn.execute("SELECT to_regclass('code_embeddings')").fetchone() == (None,)


def test_a_crash_between_migrate_and_verify_is_verified_by_the_next_deploy(dev: Settings, conn: Connection) -> None:
    deploy()
    conn.execute("UPDATE kg_ops.ledger SET verified_at = NULL")
    assert deploy().state == "nothing-pending"
    assert ledger(conn) == [("001", "applied", "applied", True)]


def test_what_was_applied_but_never_verified_and_is_wrong_is_rolled_back(
    dev: Settings, migrations: Path, conn: Connection
) -> None:
    before = deploy().fingerprint_after
    second_migration(migrations, DIFFERS.replace("IF current_schema()", "IF false AND current_schema()"), BACK)
    deploy()
    conn.execute("UPDATE kg_ops.ledger SET verified_at = NULL WHERE revision = '002'")
    conn.execute("DROP INDEX code_patterns_language_idx")
    with pytest.raises(OpsError) as failed:
        deploy()
    document = attached(failed.value)
    assert isinstance(document, DeployDocument)
    assert document.rolled_back
    assert document.fingerprint_after == before


def test_recover_settles_a_dead_deploy_and_a_second_one_finds_nothing(
    dev: Settings, migrations: Path, conn: Connection
) -> None:
    from flows.recover import recover

    after = deploy().fingerprint_after
    conn.execute("UPDATE kg_ops.ledger SET verified_at = NULL")
    conn.execute("UPDATE kg_ops.operation SET state = 'running', finished_at = NULL")
    done = recover(environment="dev")
    assert (done.state, done.fingerprint, done.revision) == ("recovered", after, "001")
    assert [action.what for action in done.actions] == ["verified"]
    assert [dead.kind for dead in done.dead] == ["deploy"]
    assert recover(environment="dev").state == "nothing-to-recover"
    assert ledger(conn) == [("001", "applied", "applied", True)]
