"""check: reads only, and says what stands in the way with the words that remove it."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from tasks.core.addresses import Address
from tasks.core.backup.dump import back_up
from tasks.core.backup.library import write_proof
from tasks.core.backup.manifest import Backup, Proof
from tasks.core.errors import ConnectionFailed
from tasks.core.postgres.binaries import wheel
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.scratch import private_cluster
from tasks.core.schema import ledger
from tasks.core.schema.check import ADVISORY, check
from tasks.core.schema.drill_checks import Needs, _elsewhere, _needs, _own
from tasks.core.schema.extension import has_hnsw, known_bugs
from tasks.core.schema.migrations import apply, load_migrations
from tasks.core.schema.report import Report
from tasks.core.schema.server_checks import Patience
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tasks.core.vectors import advice

AT_ONCE = Patience(waiting=timedelta(0), idle=timedelta(0))


def found(report: Report, name: str) -> str:
    return next(
        f"{each.status}: {each.detail}" + (f" ({each.remedy})" if each.remedy else "")
        for each in report.checks
        if each.name == name
    )


def failing(report: Report) -> set[str]:
    return {each.name for each in report.checks if each.status == "failed"}


def make_tables(conn: Connection, settings: Settings, *, record: bool = True) -> None:
    migration = load_migrations(settings.migrations)[0]
    if record:
        ledger.ensure(conn)
        ledger.identity(conn)
    write = (lambda conn: ledger.record_applied(conn, migration)) if record else (lambda conn: None)
    apply(conn, migration, settings.database, write)


@pytest.fixture
def role(conn: Connection, database: Address) -> Iterator[Address]:
    """A role without any privilege, and the address to enter with it."""
    name = f"plain_{uuid.uuid4().hex[:8]}"
    conn.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(Identifier(name)))
    yield database.model_copy(update={"user": name, "password": SecretStr("plain")})
    conn.execute(SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(Identifier(name)))


def test_a_fresh_database_is_ready(conn: Connection, settings: Settings) -> None:
    before = conn.execute("SELECT relname FROM pg_class ORDER BY 1").fetchall()
    report = check(settings)
    assert report.ok, report
    assert found(report, "server").startswith("ok: PostgreSQL ")
    assert found(report, "client tools").startswith("ok: pg_dump ")
    assert "is available, and the first migration creates it" in found(report, "pgvector")
    assert found(report, "schema") == "ok: there is no table of ours: a deploy makes them"
    assert found(report, "migrations") == "ok: no revision, pending: 001_create_knowledge_graph_tables"
    assert found(report, "proved backup") == "skipped: no backup yet: kg backup dev"
    assert found(report, "store").endswith("can be written and read")
    assert conn.execute("SELECT relname FROM pg_class ORDER BY 1").fetchall() == before
    assert conn.execute("SELECT count(*) FROM pg_extension WHERE extname = 'vector'").fetchone() == (0,)


def test_it_answers_within_a_second(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    check(settings)
    began = time.monotonic()
    assert check(settings).ok
    assert time.monotonic() - began < 1


def test_an_applied_revision_is_compared(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    report = check(settings)
    assert report.ok, report
    assert found(report, "schema").startswith("ok: as revision 001 makes it")
    assert found(report, "migrations") == "ok: revision 001, nothing is pending"
    conn.execute("ALTER TABLE code_patterns DROP COLUMN frequency")
    assert found(check(settings), "schema").startswith("failed: column code_patterns.frequency: missing")


def test_tables_without_a_ledger_are_adopted_or_not(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings, record=False)
    assert found(check(settings), "adoption").startswith("ok: the tables are there without a ledger")
    conn.execute("DROP TABLE code_patterns")
    report = check(settings)
    assert found(report, "adoption").startswith("failed: there are tables of ours, but not those of the first revision")
    assert "table code_patterns: missing" in found(report, "adoption")
    assert failing(report) <= ADVISORY, "the plan refuses it, with its own exit status"


def test_a_changed_file_is_named(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    conn.execute("UPDATE kg_ops.ledger SET checksum = repeat('0', 64)")
    assert "has changed since it was applied" in found(check(settings), "migrations")
    conn.execute("UPDATE kg_ops.ledger SET revision = '009'")
    report = check(settings)
    assert "but has no file" in found(report, "migrations")
    assert found(report, "schema").startswith("skipped")


def test_a_role_that_may_nothing_is_told_every_statement(settings: Settings, role: Address, database: Address) -> None:
    report = check(settings.model_copy(update={"address": role}))
    said = found(report, "privileges")
    assert f'GRANT CREATE ON DATABASE "{database.dbname}" TO {role.user}' in said.replace(
        f"DATABASE {database.dbname} ", f'DATABASE "{database.dbname}" '
    )
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {role.user}" in said
    vector = found(report, "pgvector")
    assert vector.startswith("failed: ")
    assert f"a superuser runs once, in database {database.dbname}: CREATE EXTENSION vector" in vector
    assert "SUPERUSER" not in f"{said} {vector}"
    assert found(report, "schema").startswith("skipped: pgvector failed")


def test_a_role_that_may_create_no_scratch_schema_is_told_so(
    conn: Connection, settings: Settings, role: Address
) -> None:
    make_tables(conn, settings, record=False)
    report = check(settings.model_copy(update={"address": role}))
    assert found(report, "schema").startswith("skipped: what it should be cannot be found out: ")
    assert "privileges" in failing(report)


def test_tables_of_another_owner_are_named(
    conn: Connection, settings: Settings, role: Address, database: Address
) -> None:
    make_tables(conn, settings, record=False)
    names = {"database": Identifier(database.dbname), "role": Identifier(role.user)}
    conn.execute(SQL("GRANT CREATE ON DATABASE {database} TO {role}").format(**names))
    conn.execute(SQL("GRANT CREATE ON SCHEMA public TO {role}").format(**names))
    said = found(check(settings.model_copy(update={"address": role})), "privileges")
    assert f"code_patterns belongs to {database.user}: GRANT {database.user} TO {role.user}" in said


def test_a_missing_schema_has_its_statement(settings: Settings) -> None:
    elsewhere = settings.database.model_copy(update={"schema_name": "kg"})
    report = check(settings.model_copy(update={"database": elsewhere}))
    assert "CREATE SCHEMA kg AUTHORIZATION" in found(report, "privileges")


def test_who_blocks_whom_is_said_with_the_remedy(conn: Connection, settings: Settings, database: Address) -> None:
    conn.execute("CREATE TABLE mine (id int)")
    with connect(database, purpose="blocker") as blocker, blocker.transaction():
        blocker.execute("LOCK TABLE mine")
        waiter = threading.Thread(target=lambda: conn.execute("SELECT * FROM mine"))
        waiter.start()
        time.sleep(0.3)
        report = check(settings, patience=AT_ONCE)
        pid = blocker.info.backend_pid
    waiter.join()
    said = found(report, "locks")
    assert re.search(rf"pid {conn.info.backend_pid} \({database.user}\) has waited \d s for pid {pid}", said)
    assert "LOCK TABLE mine" in said
    assert f"SELECT pg_terminate_backend({pid})" in said
    assert f"pid {pid} ({database.user}) for 0 min after" in found(report, "idle in transaction")
    assert failing(report) <= ADVISORY
    assert check(settings).ok


def test_an_invalid_index_is_named(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    conn.execute("CREATE INDEX left_over ON code_patterns (id)")
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'left_over'::regclass")
    assert found(check(settings), "invalid indexes").startswith("failed: left_over: left by a failed concurrent build")


def test_a_role_that_row_security_filters_fails(conn: Connection, settings: Settings, role: Address) -> None:
    conn.execute("CREATE TABLE others (id int); ALTER TABLE others ENABLE ROW LEVEL SECURITY")
    report = check(settings.model_copy(update={"address": role}))
    assert found(report, "row security").startswith(f"failed: rows of others are hidden from role {role.user}")
    assert found(check(settings), "row security").startswith("ok")


def test_a_store_that_cannot_be_written_fails(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    report = check(settings.model_copy(update={"store_url": (tmp_path / "file").as_uri()}))
    assert found(report, "store").startswith("failed: ")
    assert found(report, "proved backup") == "skipped: store failed"


def test_what_a_backup_names_must_be_where_drills_restore(conn: Connection, settings: Settings, role: Address) -> None:
    """As if drills restored into this very server, which has all; then into clusters of our own, built without ICU."""
    conn.execute("CREATE TABLE plain (name text)")
    conn.execute(SQL("ALTER TABLE plain OWNER TO {}").format(Identifier(role.user)))
    assert found(check(settings), "scratch server").startswith("ok: one of our own, PostgreSQL ")
    there = check(settings.model_copy(update={"scratch": settings.address}))
    assert found(there, "scratch server").startswith("ok: KG_SCRATCH_URL (")
    weak = check(settings.model_copy(update={"scratch": role}))
    assert f'ALTER ROLE "{role.user}" CREATEDB' in found(weak, "scratch server")
    off = settings.deploy.model_copy(update={"drill": False})
    assert found(check(settings.model_copy(update={"deploy": off})), "scratch server").startswith("skipped")


def test_what_a_scratch_server_lacks_is_named(
    conn: Connection, settings: Settings, postgres: Address, role: Address, tmp_path: Path
) -> None:
    conn.execute('CREATE TABLE plain (name text COLLATE pg_catalog."C.utf8")')
    conn.execute(SQL("ALTER TABLE plain OWNER TO {}").format(Identifier(role.user)))
    needs = Needs(frozenset({role.user, "postgres"}), frozenset({"vector", "mystery"}), frozenset({("xx-x-icu", "i")}))
    assert _needs(conn).collations == {("C.utf8", "c")}
    assert role.user in _needs(conn).roles
    with private_cluster(tmp_path) as bare, connect(bare, purpose="test") as scratch:
        problems = _elsewhere(needs, scratch)
    assert any(f"no role {role.user}: CREATE ROLE" in each for each in problems)
    assert any("extension mystery, that server has not" in each for each in problems)
    assert any("no collation xx-x-icu" in each for each in problems)
    own = _own(
        Needs(frozenset(), frozenset({"vector", "mystery"}), frozenset({("xx_YY", "c"), ("C.utf8", "c")})), wheel()
    )
    assert [each.partition(",")[0].partition(" is ")[0] for each in own] == ["extension mystery", "collation xx_YY"]


def prove(settings: Settings, backup: Backup, created: datetime) -> None:
    proof = Proof(
        backup=backup.id, manifest=backup.manifest.checksum, ok=True, created=created, grade="restorable"
    )  # fmt: skip
    write_proof(open_store(settings), backup, proof)


def test_the_newest_proof_and_its_age(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    backup = back_up(settings)
    assert found(check(settings), "proved backup") == "failed: none of 1 is proved (kg restore-drill dev)"
    prove(settings, backup, datetime.now(UTC) - timedelta(minutes=5))
    assert found(check(settings), "proved backup") == f"ok: {backup.id}, restorable, proved 5 min ago"
    prove(settings, backup, datetime.now(UTC) - timedelta(days=30))
    report = check(settings)
    assert found(report, "proved backup").endswith("proved 30 days ago, longer than 7 days (kg backup dev)")
    assert failing(report) <= ADVISORY, "a deploy makes a new one"


def test_another_database_s_backup_proves_nothing(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    prove(settings, back_up(settings), datetime.now(UTC))
    conn.execute("UPDATE kg_ops.identity SET id = %s", [uuid.uuid4()])
    report = check(settings)
    name = conn.info.dbname
    assert found(report, "proved backup") == (
        f"failed: the store's only backup is of another database (there {name}, here {name}) (kg backup dev makes "
        "one of this; or is KG_STORE_URL, or the database's address, that of another environment?)"
    )
    assert failing(report) <= ADVISORY, "a deploy makes a new one"


def test_a_read_only_session_is_said(conn: Connection, settings: Settings, database: Address) -> None:
    conn.execute(SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(Identifier(database.dbname)))
    assert "default_transaction_read_only is on" in found(check(settings), "server")


def test_no_connection_is_an_error_and_not_a_check(settings: Settings, database: Address) -> None:
    with pytest.raises(ConnectionFailed):
        check(settings.model_copy(update={"address": database.database("nowhere")}))


@pytest.mark.parametrize(
    ("version", "bugs"),
    [("0.5.1", 2), ("0.6.2", 3), ("0.8.0", 3), ("0.8.1", 3), ("0.8.2", 2), ("0.8.3", 1), ("0.8.4", 0), ("0.8.10", 0)],
)
def test_known_bugs_by_version(version: str, bugs: int) -> None:
    assert len(known_bugs(version)) == bugs
    assert has_hnsw(version)
    assert not has_hnsw("0.4.4")


def test_each_vector_index_has_a_line_of_advice(conn: Connection, settings: Settings) -> None:
    make_tables(conn, settings)
    assert found(check(settings), "re-index advice").startswith(
        "ok: code_embeddings_embedding_idx: 0 vectors, m=16, ef_construction=64: by these it may stay"
    )
    conn.execute("DROP INDEX code_embeddings_embedding_idx")
    conn.execute(
        "CREATE INDEX code_embeddings_embedding_idx ON code_embeddings USING hnsw (embedding vector_cosine_ops)"
        " WITH (m = 4, ef_construction = 16)"
    )
    report = check(settings)
    said = found(report, "re-index advice")
    assert said.startswith("failed: code_embeddings_embedding_idx: 0 vectors, m=4, ef_construction=16; ")
    assert "kg reindex dev --apply builds it with m=16, ef_construction=64" in said
    assert failing(report) - {"schema"} <= ADVISORY


def test_an_index_that_searches_pass_over_is_said_with_the_remedy(
    conn: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner reads a table of thirty rows whole, rightly: here that counts as a large one."""
    make_tables(conn, settings)
    conn.execute(
        "INSERT INTO code_embeddings (file_path, file_hash, embedding)"
        " SELECT n::text, n::text, array_fill(n::real, ARRAY[1536])::vector FROM generate_series(1, 30) AS n; ANALYZE"
    )
    assert found(check(settings), "re-index advice").startswith("ok: ")
    monkeypatch.setattr(advice, "SMALL_TABLE", 10)
    said = found(check(settings), "re-index advice")
    assert "30 vectors, m=16, ef_construction=64; reads the whole table" in said
    assert "SET random_page_cost = 1.1" in said
