"""kg_ops: installed once however many try, refused with the administrator's statement, and kept true."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest
from psycopg import errors
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.errors import OpsError, PrivilegeMissing, Refused
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema import ledger
from tasks.core.schema.migrations import Migration, load_migrations
from tasks.core.settings import CHECKOUT

VERSIONS = [(number,) for number, _ in enumerate((CHECKOUT / "sql" / "kg_ops").glob("*.sql"), start=1)]


@pytest.fixture
def migration() -> Migration:
    return load_migrations(CHECKOUT / "sql" / "migrations")[0]


@pytest.fixture
def plain_role(conn: Connection) -> Iterator[str]:
    name = f"plain_{uuid.uuid4().hex[:8]}"
    conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(Identifier(name)))
    yield name
    conn.execute(SQL("DROP OWNED BY {}").format(Identifier(name)))
    conn.execute(SQL("DROP ROLE {}").format(Identifier(name)))


def as_role(conn: Connection, name: str) -> None:
    conn.execute(SQL("SET ROLE {}").format(Identifier(name)))


def test_nothing_is_there_before_it_is_asked_for(conn: Connection) -> None:
    assert not ledger.exists(conn)
    assert ledger.entries(conn) == ()
    assert ledger.identity(conn, make=False) is None
    assert not ledger.exists(conn)


def test_an_administrators_statement_names_the_role_that_lacks_the_right(conn: Connection, plain_role: str) -> None:
    """SET ROLE has made it another than the address's."""
    ledger.ensure(conn)
    as_role(conn, plain_role)
    with pytest.raises(PrivilegeMissing, match=f"role {plain_role} may not read the ledger") as refused:
        ledger.history(conn)
    assert f'GRANT SELECT ON kg_ops.ledger TO "{plain_role}"' in (refused.value.hint or "")
    conn.execute("RESET ROLE")


def test_ensure_is_idempotent_and_the_identity_stays(conn: Connection) -> None:
    ledger.ensure(conn)
    made = ledger.identity(conn)
    ledger.ensure(conn)
    assert ledger.identity(conn) == made
    assert ledger.identity(conn, make=False) == made
    assert conn.execute("SELECT number FROM kg_ops.version ORDER BY 1").fetchall() == VERSIONS
    assert conn.execute("SELECT number FROM kg_ops.fence").fetchall() == [(0,)]


def test_an_identity_that_is_there_is_read_in_a_read_only_transaction(conn: Connection) -> None:
    made = ledger.identity(conn)
    with conn.transaction():
        conn.execute("SET TRANSACTION READ ONLY")
        assert ledger.identity(conn) == made


def test_ensure_is_safe_when_many_race(database: Address) -> None:
    identities, failures, gate = set(), [], threading.Barrier(6)

    def install() -> None:
        with connect(database, purpose="race") as mine:
            gate.wait()
            try:
                identities.add(ledger.identity(mine))
            except OpsError as error:
                failures.append(error)

    threads = [threading.Thread(target=install) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(identities) == 1


def test_a_role_without_the_privilege_is_told_the_administrator_s_statement(conn: Connection, plain_role: str) -> None:
    as_role(conn, plain_role)
    with pytest.raises(PrivilegeMissing) as caught:
        ledger.ensure(conn)
    assert "GRANT CREATE ON DATABASE" in str(caught.value.hint)
    assert conn.info.dbname in str(caught.value.hint)
    conn.execute("RESET ROLE")
    assert not ledger.exists(conn)


def test_a_ledger_that_may_not_be_read_is_not_an_empty_one(conn: Connection, plain_role: str) -> None:
    ledger.ensure(conn)
    as_role(conn, plain_role)
    with pytest.raises(PrivilegeMissing) as caught:
        ledger.entries(conn)
    assert "GRANT SELECT ON kg_ops.ledger" in str(caught.value.hint)
    conn.execute("RESET ROLE")


def test_a_newer_kg_ops_is_refused(conn: Connection) -> None:
    ledger.ensure(conn)
    conn.execute("INSERT INTO kg_ops.version (number) VALUES (99)")
    with pytest.raises(Refused, match=f"has version 99, this program knows {len(VERSIONS)}"):
        ledger.ensure(conn)


def test_an_older_kg_ops_is_brought_to_this_version_with_its_rows(conn: Connection) -> None:
    conn.execute((CHECKOUT / "sql" / "kg_ops" / "001_create_kg_ops.sql").read_bytes())
    conn.execute("INSERT INTO kg_ops.version (number) VALUES (1)")
    made = uuid.uuid4()
    conn.execute("INSERT INTO kg_ops.identity (id) VALUES (%s)", [made])
    ledger.ensure(conn)
    assert conn.execute("SELECT number FROM kg_ops.version ORDER BY 1").fetchall() == VERSIONS
    assert ledger.identity(conn) == made


def test_the_life_of_a_revision(conn: Connection, migration: Migration) -> None:
    ledger.ensure(conn)
    first, second = uuid.uuid4(), uuid.uuid4()
    ledger.record_applied(conn, migration, operation=first, backup="b1", fingerprint="1:abc")
    (entry,) = ledger.entries(conn)
    assert (entry.revision, entry.name) == ("001", "create_knowledge_graph_tables")
    assert (entry.kind, entry.state, entry.operation, entry.backup) == ("applied", "applied", first, "b1")
    assert (entry.checksum, entry.down_checksum) == (migration.checksum, migration.down_checksum)
    assert entry.verified_at is None
    ledger.mark_verified(conn, ["001"])
    assert ledger.entries(conn)[0].verified_at is not None
    ledger.record_reverted(conn, "001", operation=second)
    assert ledger.entries(conn) == ()
    (ended,) = ledger.history(conn)
    assert (ended.state, ended.ended_by) == ("reverted", second)
    assert ended.ended_at is not None
    ledger.record_adopted(conn, migration, tolerated=["index a: found under the name b"])
    assert ledger.entries(conn)[0].tolerated == ("index a: found under the name b",)
    ledger.supersede(conn, ["001"])
    ledger.record_restored(conn, ended, operation=second, backup="b2")
    (restored,) = ledger.entries(conn)
    assert (restored.kind, restored.backup, restored.operation) == ("applied", "b2", second)
    assert [each.state for each in ledger.history(conn)] == ["reverted", "superseded", "applied"]


def test_what_is_applied_cannot_be_applied_again_nor_what_is_not_be_reverted(
    conn: Connection, migration: Migration
) -> None:
    ledger.ensure(conn)
    with pytest.raises(OpsError, match="revision 001 is not applied according to the ledger"):
        ledger.record_reverted(conn, "001")
    ledger.record_applied(conn, migration)
    with pytest.raises(OpsError, match="revision 001 is already in the ledger"):
        ledger.record_applied(conn, migration)


def test_states_are_checked_by_the_database(conn: Connection) -> None:
    ledger.ensure(conn)
    with pytest.raises(errors.CheckViolation):
        conn.execute(
            "INSERT INTO kg_ops.operation (id, kind, environment, fence, state, host, pid, backend_pid)"
            " VALUES (%s, 'deploy', 'dev', 1, 'paused', 'h', 1, 1)",
            [uuid.uuid4()],
        )
