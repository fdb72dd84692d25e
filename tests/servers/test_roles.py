"""Roles and owners: a plain owner of the database, one with limits of its own, and an application that owns nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from psycopg import errors
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.errors import PrivilegeMissing
from tasks.core.operations.plan import preview
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.check import check
from tasks.core.schema.verify import verify
from tasks.core.settings import Settings
from tests.integration.schemas import HAND_RUN
from tests.servers.job import assert_ok, deploy, fill, proved_backup, rollback, rows_in, state
from tests.servers.roles import MakeRole, install_vector, owned, owner, role

__all__ = ["owned", "owner", "role"]  # fixtures


@pytest.fixture
def application(conn: Connection, owner: Address, role: MakeRole) -> Address:
    """Reads and writes the tables of the owner, by default privileges."""
    address = role("app")
    for rights, what in (("SELECT, INSERT, UPDATE, DELETE", "TABLES"), ("USAGE, SELECT", "SEQUENCES")):
        conn.execute(
            SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA public GRANT {} ON {} TO {}").format(
                Identifier(owner.user), SQL(rights), SQL(what), Identifier(address.user)
            )
        )
    return address


def grant(conn: Connection, application: Address) -> None:
    """What an administrator grants by hand, after the tables are there."""
    to = Identifier(application.user)
    conn.execute(SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}").format(to))
    conn.execute(SQL("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}").format(to))


def assert_reads_and_writes(application: Address) -> None:
    with connect(application, purpose="test") as conn, conn.transaction(force_rollback=True):
        conn.execute("INSERT INTO public.code_embeddings (file_path, file_hash) VALUES ('app', 'app')")
        conn.execute("UPDATE public.code_embeddings SET language = 'app' WHERE file_path = 'app'")
        conn.execute("INSERT INTO public.code_patterns (pattern_name, pattern_type, pattern_template, language)"
                     " VALUES ('app', 'app', 'app', 'app')")  # fmt: skip
        assert rows_in(conn) >= 1
        assert conn.execute("DELETE FROM public.code_embeddings WHERE file_path = 'app'").rowcount == 1


@pytest.mark.parametrize("schema", ["public", "extensions"])
def test_a_plain_owner_does_all_of_it(owned: Settings, application: Address, conn: Connection, schema: str) -> None:
    install_vector(conn, schema)
    before = state(owned)
    deploy(owned)
    assert_reads_and_writes(application)
    fill(conn)
    saved, deployed = proved_backup(owned), state(owned)
    conn.execute("DELETE FROM code_embeddings WHERE id > 7")
    replaced = rollback(owned, "restore", saved, yes=True).replaced
    assert (rows_in(conn), state(owned)) == (20, deployed)
    assert_reads_and_writes(application)
    with connect(application, purpose="test") as session, pytest.raises(errors.InsufficientPrivilege):
        rows_in(session, schema=replaced or "")
    rollback(owned, "reset", yes=True)
    assert_reads_and_writes(application)
    assert_ok(verify(owned))
    # What was put back counts as applied, hence it can be reverted, and all of it done again.
    assert rollback(owned, "revert").fingerprint == before
    deploy(owned)
    assert_reads_and_writes(application)
    owners = conn.execute("SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname IN ('public', 'kg_ops')")
    assert owned.address
    assert owners.fetchall() == [(owned.address.user,)]


def test_without_pgvector_the_administrators_statement_is_said(owned: Settings, conn: Connection) -> None:
    vector = next(one for one in check(owned).checks if one.name == "pgvector")
    assert (vector.status, "CREATE EXTENSION vector" in vector.remedy) == ("failed", True)
    with pytest.raises(PrivilegeMissing) as refused:
        preview(owned)
    assert "CREATE EXTENSION vector" in (refused.value.hint or "")
    conn.execute("CREATE EXTENSION vector")  # exactly that
    deploy(owned)


def test_limits_that_the_role_has_by_default_end_nothing(owned: Settings, conn: Connection, tmp_path: Path) -> None:
    install_vector(conn, "extensions")
    assert owned.address
    role = Identifier(owned.address.user)
    for setting in ("statement_timeout = '400ms'", "search_path = pg_catalog", "lock_timeout = '10ms'"):
        conn.execute(SQL("ALTER ROLE {} SET {}").format(role, SQL(setting)))  # type: ignore[arg-type]
    slow = Path(shutil.copytree(owned.migrations, tmp_path / "migrations"))
    (slow / "002_take_time.up.sql").write_text("SELECT pg_sleep(0.6);\n")
    (slow / "002_take_time.down.sql").write_text("SELECT pg_sleep(0.6);\n")
    limited = owned.model_copy(update={"migrations": slow})
    deploy(limited)
    fill(conn)
    saved, deployed = proved_backup(limited), state(limited)
    conn.execute("DELETE FROM code_embeddings")
    rollback(limited, "restore", saved, yes=True)
    assert (rows_in(conn), state(limited)) == (20, deployed)
    assert_ok(verify(limited))


def test_the_application_works_after_adoption(owned: Settings, conn: Connection, role: MakeRole) -> None:
    """Tables that were made by hand, with grants of their own."""
    install_vector(conn)
    application = role("app")
    assert owned.address
    with connect(owned.address, purpose="test") as by_hand:
        by_hand.execute(
            HAND_RUN.read_text(encoding="utf-8").replace("CREATE EXTENSION", "-- CREATE EXTENSION").encode()
        )
        grant(by_hand, application)
        fill(by_hand)
    deploy(owned)
    assert [entry.kind for entry in ledger.entries(conn)] == ["adopted"]
    assert_reads_and_writes(application)
    saved = proved_backup(owned)
    conn.execute("DELETE FROM code_embeddings")
    rollback(owned, "restore", saved, yes=True)
    assert rows_in(conn) == 20
    assert_reads_and_writes(application)
    assert_ok(verify(owned))


def test_grants_made_by_hand_stand_and_outlive_a_restore_of_an_older_backup(
    owned: Settings, conn: Connection, role: MakeRole
) -> None:
    install_vector(conn)
    deploy(owned)
    saved = proved_backup(owned)
    application = role("app")
    assert owned.address
    with connect(owned.address, purpose="test") as by_hand:
        grant(by_hand, application)
    assert_reads_and_writes(application)
    assert_ok(verify(owned))
    rollback(owned, "restore", saved, yes=True)
    assert_reads_and_writes(application)
    assert_ok(verify(owned))
