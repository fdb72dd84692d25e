"""The gates before a migration, each shut (with the command that opens it) and open."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.core.addresses import Address
from tasks.core.backup.contents import identity_of
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import write_proof
from tasks.core.backup.manifest import MANIFEST, Backup, Identity, Proof
from tasks.core.errors import Refused
from tasks.core.operations.gates import lasting_gates, pass_gates, proof_gate, staging_gate
from tasks.core.operations.plan import DeployPlan, make_plan
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.report import CheckResult
from tasks.core.settings import Settings, load_settings
from tasks.core.store.base import open_store
from tests.integration.graphs import deploy_graph, with_section
from tests.integration.schemas import MIGRATIONS


@pytest.fixture
def production(settings: Settings) -> Settings:
    """production's own rules on the test's database."""
    address = settings.address
    assert address is not None
    variables = {"PRODUCTION_DB_URL": f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}"}
    loaded = load_settings("production", variables)
    same = {"address": address, "home": settings.home, "store_url": settings.store_url}
    return loaded.model_copy(update=same)


@pytest.fixture
def plan(conn: Connection, production: Settings) -> DeployPlan:
    """One revision is pending: the first one, as a plan sees it."""
    ledger.identity(conn)
    return make_plan(conn, production)


def backed_up(settings: Settings, *, grade: Any = "restorable", good: bool = True, **changes: Any) -> Backup:
    """A real backup whose manifest and proof say what the test wants, checksums and all."""
    made = back_up(settings)
    manifest = made.manifest.model_copy(update=changes).sealed()
    open_store(settings).put(made.key(MANIFEST), [manifest.to_json()])
    proof = Proof(backup=made.id, manifest=manifest.checksum, ok=good, created=datetime.now(UTC), grade=grade,
                  server=manifest.server)  # fmt: skip
    return write_proof(open_store(settings), Backup(manifest=manifest), proof)


def refusal(check: CheckResult) -> str:
    with pytest.raises(Refused) as refused:
        pass_gates([check])
    assert refused.value.exit_status == 3
    return str(refused.value)


def test_without_a_backup(conn: Connection, production: Settings, plan: DeployPlan) -> None:
    said = refusal(proof_gate(conn, production, plan, None))
    assert "migrates only with a proved backup" in said
    assert said.endswith("(kg backup production)")


def test_a_fresh_proved_backup_opens_the_gate(conn: Connection, production: Settings, plan: DeployPlan) -> None:
    backup = backed_up(production)
    for given in (backup, None):  # the deploy's own, or the newest in the store
        check = proof_gate(conn, production, plan, given)
        assert check.status == "ok", check
        assert backup.id in check.detail
        pass_gates([check])


def test_a_backup_that_was_never_restored(conn: Connection, production: Settings, plan: DeployPlan) -> None:
    backup = back_up(production)
    said = refusal(proof_gate(conn, production, plan, None))
    assert "is not proved" in said
    assert f"kg restore-drill production --backup {backup.id}" in said


def test_a_backup_whose_drill_failed(conn: Connection, production: Settings, plan: DeployPlan) -> None:
    assert "is not proved" in refusal(proof_gate(conn, production, plan, backed_up(production, good=False)))


def test_a_backup_that_is_only_readable(conn: Connection, production: Settings, plan: DeployPlan) -> None:
    said = refusal(proof_gate(conn, production, plan, backed_up(production, grade="readable")))
    assert "proved readable on PostgreSQL" in said
    assert "KG_SCRATCH_URL" in said


def test_a_backup_that_is_too_old(conn: Connection, production: Settings, plan: DeployPlan) -> None:
    limit = production.backup.max_backup_age
    now = datetime.now(UTC)
    young = backed_up(production, created=now - limit + timedelta(minutes=5))
    assert proof_gate(conn, production, plan, young).status == "ok"
    old = backed_up(production, created=now - limit - timedelta(minutes=5))
    said = refusal(proof_gate(conn, production, plan, old))
    assert "6.1 h old, and may be 6.0 h (max_backup_age)" in said
    assert "kg backup production" in said


def test_a_backup_of_another_revision(conn: Connection, production: Settings, plan: DeployPlan) -> None:
    said = refusal(proof_gate(conn, production, plan, backed_up(production, revision="007")))
    assert "is of revision 007, the database is at none" in said


def test_a_backup_of_another_database(conn: Connection, production: Settings, plan: DeployPlan) -> None:
    """A clone carries the same id on another system, a sibling has the system and another id: neither counts."""
    mine = identity_of(conn)
    for other in (
        mine.model_copy(update={"system_identifier": "1"}),
        mine.model_copy(update={"uuid": "11111111-1111-4111-8111-111111111111"}),
        Identity(name="elsewhere"),
    ):
        backup = backed_up(production, database=other)
        assert "is of another database" in refusal(proof_gate(conn, production, plan, backup))
        assert "has none of this database" in refusal(proof_gate(conn, production, plan, None))


def test_dev_wants_no_proof(conn: Connection, settings: Settings, plan: DeployPlan) -> None:
    for gate in (proof_gate(conn, settings, plan, None), staging_gate(conn, settings, plan)):
        assert gate.status == "skipped"


@pytest.fixture
def staging(postgres: Address, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """A staging database beside production's, where STAGING_DB_URL leads."""
    name = f"{conn.info.dbname[:50]}_staging"
    conn.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())
    address = postgres.database(name)
    assert address.password is not None
    monkeypatch.setenv("STAGING_DB_URL", f"postgresql://{address.user}@{address.host}:{address.port}/{name}")
    monkeypatch.setenv("STAGING_DB_PASSWORD", address.password.get_secret_value())
    try:
        with connect(address, purpose="test") as opened:
            yield opened
    finally:
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def test_staging_has_applied_nothing(
    conn: Connection, production: Settings, plan: DeployPlan, staging: Connection
) -> None:
    before = staging.execute("SELECT count(*) FROM pg_class").fetchone()
    said = refusal(staging_gate(conn, production, plan))
    assert f"{MIGRATIONS[0].label} is not applied there" in said
    assert said.endswith("(kg deploy staging)")
    assert staging.execute("SELECT count(*) FROM pg_class").fetchone() == before


def test_staging_has_applied_but_not_verified(
    conn: Connection, production: Settings, plan: DeployPlan, staging: Connection
) -> None:
    deploy_graph(staging, production, rows=1)
    assert "is applied there, but not verified" in refusal(staging_gate(conn, production, plan))
    ledger.mark_verified(staging, ["001"])
    check = staging_gate(conn, production, plan)
    assert check.status == "ok", check
    staging.execute("UPDATE kg_ops.ledger SET checksum = repeat('0', 64)")
    said = refusal(staging_gate(conn, production, plan))
    assert "was applied there from another file (sha256 000000000000 there" in said


def test_staging_has_applied_another_file(
    conn: Connection, production: Settings, plan: DeployPlan, staging: Connection
) -> None:
    deploy_graph(staging, production, rows=1)
    ledger.mark_verified(staging, ["001"])
    staging.execute("UPDATE kg_ops.ledger SET checksum = repeat('0', 64)")
    said = refusal(staging_gate(conn, production, plan))
    assert f"{MIGRATIONS[0].label} was applied there from another file (sha256 000000000000 there, " in said
    assert said.endswith("(kg deploy staging)")


def test_what_staging_has_rolled_back_does_not_count(
    conn: Connection, production: Settings, plan: DeployPlan, staging: Connection
) -> None:
    deploy_graph(staging, production, rows=1)
    ledger.mark_verified(staging, ["001"])
    ledger.record_reverted(staging, "001")
    assert "is not applied there" in refusal(staging_gate(conn, production, plan))


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("", "STAGING_DB_URL is not set"),
        ("postgresql://kg@127.0.0.1:1/graph", "nothing listens at 127.0.0.1:1"),
    ],
)
def test_staging_that_cannot_be_asked(
    conn: Connection, production: Settings, plan: DeployPlan, monkeypatch: pytest.MonkeyPatch, url: str, named: str
) -> None:
    monkeypatch.setenv("STAGING_DB_URL", url)
    said = refusal(staging_gate(conn, production, plan))
    assert "cannot be asked whether it has proved these revisions" in said
    assert named in said


def test_production_is_not_its_own_staging(
    conn: Connection, production: Settings, plan: DeployPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = production.address
    assert address is not None
    assert address.password is not None
    monkeypatch.setenv("STAGING_DB_URL", f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}")
    monkeypatch.setenv("STAGING_DB_PASSWORD", address.password.get_secret_value())
    assert "names the production database itself" in refusal(staging_gate(conn, production, plan))


def test_a_deploy_that_does_not_prove_its_own_backup_is_told_before_it_makes_one(
    conn: Connection, production: Settings, plan: DeployPlan
) -> None:
    backed_up(production)  # a proved one in the store does not help: the deploy shows its own
    undrilled = with_section(production, "deploy", drill=False)
    proof, _ = lasting_gates(conn, undrilled, plan)
    said = refusal(proof)
    assert "production.toml asks for a proved backup" in said
    assert "set drill = true" in said
    by_hand = with_section(undrilled, "deploy", backup=False)
    assert lasting_gates(conn, by_hand, plan)[0].status == "ok"
    assert lasting_gates(conn, production, plan)[0].name == "gate: staging"
