"""check: reads only, and says what stands in the way with the words that remove it."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from datetime import timedelta
from functools import partial

import pytest
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.errors import ConnectionFailed
from tasks.core.postgres.connections import Connection, Vector, connect, describe
from tasks.core.schema import server_checks
from tasks.core.schema.check import ADVISORY, check
from tasks.core.schema.extension import has_hnsw, known_bugs
from tasks.core.schema.report import run_check
from tasks.core.schema.server_checks import Patience
from tasks.core.settings import Settings
from tasks.core.vectors import advice
from tests.integration.checking import failing, found, make_tables, role
from tests.processes import quickest

__all__ = ["role"]  # fixtures


AT_ONCE = Patience(waiting=timedelta(0), idle=timedelta(0))


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
    assert check(settings).ok
    assert quickest(lambda: check(settings)) < 1


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


def test_a_server_without_pgvector_is_told_the_package(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the catalog answers is made up: no server at hand lacks it."""
    monkeypatch.setattr(server_checks, "vector_extension", lambda _: Vector(None, None, None))
    report = check(settings)
    said = found(report, "pgvector")
    assert said.startswith("failed: the server has no pgvector (install its package (postgresql-")
    assert "on Supabase: Dashboard, Extensions" in said
    assert found(report, "schema").startswith("skipped: pgvector failed")
    assert not report.ok


def test_clients_older_than_the_server_are_told_what_to_install(conn: Connection, settings: Settings) -> None:
    newer = dataclasses.replace(describe(conn), major=99)
    result = run_check("client tools", partial(server_checks.check_tools, newer, settings))
    assert (result.status, "99" in result.detail, "99" in result.remedy) == ("failed", True, True), result
