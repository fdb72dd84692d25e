"""The second hop of a restore beside: the large tables' rows reach the target as COPY BINARY, and none is lost."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.core.backup import carrying
from tasks.core.backup.dump import back_up
from tasks.core.backup.restore import staged
from tasks.core.errors import DatabaseError, IntegrityError
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tests.integration.graphs import deploy_graph, with_section

TABLES = ("code_embeddings", "code_relationships")


@pytest.fixture
def eager(settings: Settings, conn: Connection) -> Settings:
    """Every table with vectors counts as large; one column is dropped, and the text is not ASCII."""
    deploy_graph(conn, settings)
    conn.execute("ALTER TABLE code_embeddings ADD gone int, ADD twice int GENERATED ALWAYS AS (id * 2) STORED")
    conn.execute("ALTER TABLE code_embeddings DROP gone")
    conn.execute("UPDATE code_embeddings SET content_preview = E'é €\\t\\\\' || id, metadata = '{\"a\": [1, null]}'")
    return with_section(settings, "backup", binary_from_mb=0)


def rows(conn: Connection, schema: str, table: str) -> list[Any]:
    return conn.execute(f"SELECT t::text FROM {schema}.{table} AS t ORDER BY 1".encode()).fetchall()


def schemas(conn: Connection) -> list[Any]:
    return conn.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^kg_restore'").fetchall()


def test_every_row_arrives_and_the_vectors_not_as_text(
    eager: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried: list[tuple[str, int]] = []
    plain = carrying._carry_rows

    def watched(hop: carrying.Hop, stream: Any, crew: Any) -> int:
        carried.append((stream.table.name, plain(hop, stream, crew)))
        return carried[-1][1]

    monkeypatch.setattr(carrying, "_carry_rows", watched)
    backup = back_up(eager)
    with operation(eager, "rollback") as under_way, staged(under_way, backup, backup.manifest.our_tables) as found:
        for table in TABLES:
            assert rows(conn, found.schema, table) == rows(conn, "public", table) != []
        indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = %s AND tablename = ANY (%s)"
        counts = [conn.execute(indexes, (schema, list(TABLES))).fetchone() for schema in (found.schema, "public")]
        assert counts[0] == counts[1] != (0,)
    assert {name for name, _ in carried} == {"code_embeddings"}
    assert sum(number for _, number in carried) == 120
    assert schemas(conn) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("SELECT 1", IntegrityError),
        ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kg stage'", DatabaseError),
    ],
)
def test_a_stream_that_fails_leaves_no_staging_schema(
    eager: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch, change: str, error: type[Exception]
) -> None:
    plain = carrying.copy_in

    def meddled(taker: Connection, *words: Any) -> int:
        copied = plain(taker, *words)
        conn.execute(change.encode())
        return copied - 1 if error is IntegrityError else copied

    monkeypatch.setattr(carrying, "copy_in", meddled)
    backup = back_up(eager)
    with (
        operation(eager, "rollback") as under_way,
        pytest.raises(error),
        staged(under_way, backup, backup.manifest.our_tables),
    ):
        raise AssertionError("it was staged")
    assert schemas(conn) == []
    assert len(rows(conn, "public", "code_embeddings")) == 120
